//! Housekeeping, the last phase of a pass. Every pass serves connection timers. About once per millisecond it also serves
//! commands, held frames and walks through the tables.
//! An idle worker takes commands at once, because whoever changes services waits for that.

use lvs_core::frame::Frame;
use lvs_core::l3::DeviceId;
use lvs_core::single_writer::SingleWriter;
use lvs_core::tick::Tick;
use lvs_core::verdict::{DropReason, Verdict};

use crate::dpdk::clock;
use crate::worker::Worker;
use crate::worker::capture::{Departure, Kind};
use crate::worker::hold::Held;
use crate::worker::mailbox::{COMMANDS_MAX, Command, ConnDump, CopiedConns, CopyConns, Reply};
use crate::worker::packet_path::PacketPath;

/// Busy passes after which housekeeping is due even within the same millisecond. So a busy worker answers as soon as an
/// idle one.
const BUSY_PASSES_MAX: u32 = 64;

/// The most commands that one pass takes.
const COMMANDS_PER_PASS_MAX: usize = 4;

/// When housekeeping is due.
#[derive(Debug)]
pub(super) struct Pace {
    last: Tick,
    busy_passes: u32,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self {
            last: Tick(0),
            busy_passes: 0,
        }
    }

    /// To be called once per pass. Returns whether housekeeping is due now.
    #[inline]
    pub(super) fn is_due(&mut self, now: Tick, busy: bool) -> bool {
        self.busy_passes += u32::from(busy);
        if now == self.last && self.busy_passes < BUSY_PASSES_MAX {
            return false;
        }
        self.last = now;
        self.busy_passes = 0;
        true
    }
}

impl<P: PacketPath> Worker<P> {
    /// Lets connections expire whose time has come. Returns whether a timer was due.
    #[inline]
    pub(super) fn expire(&mut self, now: Tick) -> bool {
        let is_due = self.path.expire(now);
        if is_due {
            // Templates whose timer was renewed are synced to other directors.
            self.sync_out();
        }
        is_due
    }

    /// See the module. Returns whether there was a command.
    pub(super) fn housekeeping(&mut self, now: Tick) -> bool {
        self.path.housekeeping(now);
        // Their verdicts name the device by which they leave. No frame arrived for them, so this device is not used.
        self.send_generated(DeviceId(0), now);
        self.sync_out();
        if !self.dispatcher.taps.is_empty() {
            self.give_back_taps();
        }
        let mut handled_command = false;
        for _ in 0..COMMANDS_PER_PASS_MAX {
            let Some(command) = self.mailbox.next_command() else {
                break;
            };
            self.handle_command(command, now);
            handled_command = true;
        }
        if !self.dispatcher.hold.is_empty() {
            self.give_up_expired(now);
            let mailbox = &self.mailbox;
            self.dispatcher
                .hold
                .request_neighbours(now, |neighbour| mailbox.request_neighbour(neighbour));
        }
        self.counters.held.set(self.dispatcher.hold.len() as u64);
        handled_command
    }

    /// Handles all commands after a sleep. Whoever saw the worker asleep relies on this happening before the next frame.
    /// Returns whether there was a command.
    #[cold]
    pub(super) fn handle_commands(&mut self) -> bool {
        let now = self.clock.tick_of(clock::cycles());
        for taken in 0..COMMANDS_MAX {
            let Some(command) = self.mailbox.next_command() else {
                return taken > 0;
            };
            self.handle_command(command, now);
        }
        true
    }

    fn handle_command(&mut self, command: Command, now: Tick) {
        match command {
            Command::Publish(snapshot) => {
                let generation = snapshot.generation;
                let retired = self.path.adopt(snapshot);
                self.counters.generation.set(generation);
                self.mailbox.answer(Reply::Retired(retired));
                self.retry_held(now);
            }
            Command::DumpConns(mut dump) => {
                self.dump(&mut dump, now);
                self.mailbox.answer(Reply::ConnDump(dump));
            }
            Command::Explain(mut request) => {
                request.answer = self.path.explain(&request.question, now);
                self.mailbox.answer(Reply::Explained(request));
            }
            Command::ImportSynced(conns) => {
                self.path.import_synced(now, &conns);
                self.mailbox.answer(Reply::ImportedSynced(conns));
            }
            Command::CopyConns(request) => {
                let copied = self.copy_conns(request);
                self.mailbox.answer(Reply::CopiedConns(copied));
            }
            Command::Tap(tap) => {
                if let Err(tap) = self.dispatcher.taps.add(tap) {
                    self.mailbox.answer(Reply::Tap(tap));
                }
            }
            Command::Stop => self.stopped = true,
        }
    }

    /// Returns taps of ended captures, as long as the mailbox can take replies.
    #[cold]
    fn give_back_taps(&mut self) {
        while !self.mailbox.replies.is_full()
            && let Some(tap) = self.dispatcher.taps.take_ended()
        {
            self.mailbox.answer(Reply::Tap(tap));
        }
    }

    fn dump(&self, dump: &mut ConnDump, now: Tick) {
        if let Some(cursor) = dump.cursor {
            dump.cursor = self.path.dump(cursor, now, &mut dump.records);
        }
    }

    /// Queues connections behind those that packets synced out, so that nothing older than its news comes after it. Half of
    /// the queue is left to those.
    fn copy_conns(&mut self, request: CopyConns) -> CopiedConns {
        self.sync_out();
        let queue = &self.mailbox.synced;
        let space = (queue.capacity() / 2).saturating_sub(queue.len());
        let slice = self
            .path
            .copy_conns(request.from, space.min(request.conns_max.into()), |conn| {
                // Only this worker adds to the queue, so there is space.
                let _ = queue.push(conn);
            });
        CopiedConns {
            slice,
            ticket: request.ticket,
        }
    }

    /// Looks at every held frame once, because a new snapshot may know its neighbour.
    fn retry_held(&mut self, now: Tick) {
        for _ in 0..self.dispatcher.hold.len() {
            let Some(mut held) = self.dispatcher.hold.pop() else {
                break;
            };
            match self.path.finish(&mut held.mbuf, held.neighbour) {
                None => {
                    let device = held.neighbour.device;
                    if let Err(mbuf) = self.dispatcher.hold.put_back(held, now) {
                        self.dispatcher.drop_late(device, mbuf, DropReason::HeldQueueFull);
                    }
                }
                Some(Verdict::Drop(DropReason::NeighbourFailed)) => self.give_up(held, now),
                Some(verdict) => self.dispatch_held(held, verdict, now),
            }
        }
    }

    fn give_up_expired(&mut self, now: Tick) {
        while let Some(held) = self.dispatcher.hold.pop_expired(now) {
            self.give_up(held, now);
        }
    }

    /// Ends the wait of a frame whose neighbour is silent.
    fn give_up(&mut self, mut held: Held, now: Tick) {
        let verdict = self.path.give_up(held.neighbour.device, now, &mut held.mbuf);
        self.dispatch_held(held, verdict, now);
    }

    /// Sends a frame that has waited where `verdict` says.
    fn dispatch_held(&mut self, held: Held, verdict: Verdict, now: Tick) {
        let device = held.neighbour.device;
        let frame = held.mbuf.bytes();
        self.tap(Departure::new(device, Kind::Held, verdict, frame), now);
        let awaited = |wait| (self.path.neighbour(wait), now);
        self.dispatcher.dispatch(device, held.mbuf, verdict, awaited);
    }
}

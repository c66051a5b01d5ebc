//! Step 9, between two bursts: timers of connections in every pass; about every millisecond commands, held frames, walks.
//! Commands for a worker that has nothing else to do are taken at once: whoever changes services waits for that.

use lvs_core::frame::Frame;
use lvs_core::l3::DeviceId;
use lvs_core::single_writer::SingleWriter;
use lvs_core::tick::Tick;
use lvs_core::verdict::{DropReason, Verdict};

use crate::dpdk::clock;
use crate::worker::Worker;
use crate::worker::capture::Kind;
use crate::worker::hold::Held;
use crate::worker::mailbox::{COMMANDS_MAX, Command, ConnDump, Reply};
use crate::worker::packet_path::PacketPath;

/// Busy passes after which it is time even within the same millisecond: nobody waits longer for a busy worker's answer
/// than for a quiet one's.
const BUSY_PASSES_MAX: u32 = 64;

/// Commands taken at a time.
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

    /// Once a pass: whether it is due now.
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
    /// Lets connections expire whose time has come; whether there was anything to do.
    #[inline]
    pub(super) fn expire(&mut self, now: Tick) -> bool {
        let is_due = self.path.expire(now);
        if is_due {
            // Templates that stay are told to other directors.
            self.tell();
        }
        is_due
    }

    /// See the module. Whether there were commands.
    pub(super) fn keep_up(&mut self, now: Tick) -> bool {
        self.path.housekeeping(now);
        // They are on their way out: no device of arrival matters.
        self.send_generated(DeviceId(0), now);
        self.tell();
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
            self.dispatcher.hold.ask(now, |neighbour| mailbox.ask(neighbour));
        }
        self.counters.held.set(self.dispatcher.hold.len() as u64);
        handled_command
    }

    /// Behind a rest: whoever saw the worker at rest relies on it that no frame is judged before. Whether there were
    /// commands.
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
            Command::Explain(mut ask) => {
                ask.answer = self.path.explain(&ask.question, now);
                self.mailbox.answer(Reply::Explained(ask));
            }
            Command::TakeOver(conns) => {
                self.path.import_synced(now, &conns);
                self.mailbox.answer(Reply::TakenOver(conns));
            }
            Command::Tap(tap) => {
                if let Err(tap) = self.dispatcher.taps.add(tap) {
                    self.mailbox.answer(Reply::Tap(tap));
                }
            }
            Command::Stop => self.stopped = true,
        }
    }

    /// Taps of captures that are over, as long as there is room for them.
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

    /// Looks at every held frame once: a new snapshot may know its neighbour.
    fn retry_held(&mut self, now: Tick) {
        for _ in 0..self.dispatcher.hold.len() {
            let Some(mut held) = self.dispatcher.hold.pop() else {
                break;
            };
            match self.path.finish(&mut held.mbuf, held.neighbour) {
                None => {
                    let device = held.neighbour.device;
                    if let Err(mbuf) = self.dispatcher.hold.give_back(held, now) {
                        self.dispatcher.lose(device, mbuf, DropReason::HeldQueueFull);
                    }
                }
                Some(Verdict::Drop(DropReason::NeighbourFailed)) => self.give_up(held, now),
                Some(verdict) => {
                    let device = held.neighbour.device;
                    self.tap(device, Kind::Held, verdict, held.mbuf.bytes(), now);
                    self.dispatcher
                        .dispatch(device, held.mbuf, verdict, now, |wait| self.path.neighbour(wait));
                }
            }
        }
    }

    fn give_up_expired(&mut self, now: Tick) {
        while let Some(held) = self.dispatcher.hold.pop_expired(now) {
            self.give_up(held, now);
        }
    }

    /// The neighbour is silent: what becomes of a frame for it.
    fn give_up(&mut self, mut held: Held, now: Tick) {
        let device = held.neighbour.device;
        let verdict = self.path.give_up(device, now, &mut held.mbuf);
        self.tap(device, Kind::Held, verdict, held.mbuf.bytes(), now);
        self.dispatcher
            .dispatch(device, held.mbuf, verdict, now, |wait| self.path.neighbour(wait));
    }
}

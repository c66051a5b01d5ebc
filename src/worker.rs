//! SPINE: the loop of one polling core.
//!
//! In:  its receive queues, frames handed over by other workers, frames injected by the kernel twins.
//! Out: frames transmitted, handed over, punted to a twin, held for a neighbour, or dropped by name.
//! Never: blocks, allocates, locks, logs, or makes a system call, unless it is told to rest when idle ([`idle`]).
//! Every frame is accounted for: received + injected + made = transmitted + punted + dropped + kept (+ held, + in rings).

pub mod assignment;
pub mod capture;
pub mod dispatch;
pub mod handoff;
pub mod hold;
pub mod housekeeping;
pub mod idle;
pub mod mailbox;
pub mod packet_path;
pub mod punt;
mod sampling;
pub mod tx;

use std::sync::Arc;

use lvs_core::capture::FrameEnds;
use lvs_core::counters::WorkerCounters;
use lvs_core::frame::Frame;
use lvs_core::l3::DeviceId;
use lvs_core::limits::BURST_MAX;
use lvs_core::single_writer::SingleWriter;
use lvs_core::stages::Stage;
use lvs_core::tick::Tick;
use lvs_core::verdict::{DropReason, Verdict};

use crate::dpdk::{Burst, Clock, Mempool, RxQueue, clock};
use assignment::WorkerParts;
use capture::Kind;
use dispatch::Dispatcher;
use handoff::{Handoff, Inbox};
use housekeeping::Pace;
use idle::{Idle, Sleeper};
use mailbox::Mailbox;
use packet_path::PacketPath;
use punt::{InjectedFrames, TwinFrame};
use sampling::Sampling;

/// Frames from the twins that a worker transmits in one pass: control traffic is little, a bulk transfer of
/// the host must not hold up the director.
const INJECTED_PER_PASS_MAX: usize = 2 * BURST_MAX;

/// One worker: all it owns. Made on the management core, then moved onto its lcore; it shares no line with another one.
#[repr(align(128))]
pub struct Worker<P: PacketPath> {
    path: P,
    clock: Clock,
    rx: Vec<RxQueue>,
    inbox: Inbox,
    injected: InjectedFrames,
    dispatcher: Dispatcher,
    mailbox: Arc<Mailbox>,
    /// For frames that the path makes.
    pool: Mempool,
    counters: Arc<WorkerCounters>,
    pace: Pace,
    idle: Idle,
    sampling: Sampling,
    burst: Burst,
    verdicts: [Verdict; BURST_MAX],
    stopped: bool,
}

impl<P: PacketPath> Worker<P> {
    /// A worker that decides by `path`.
    pub fn new(parts: WorkerParts, path: P) -> Self {
        let counters = parts.dispatcher.counters();
        Self {
            path,
            clock: parts.clock,
            rx: parts.rx,
            inbox: parts.inbox,
            injected: parts.injected,
            dispatcher: parts.dispatcher,
            mailbox: parts.mailbox,
            pool: parts.pool,
            counters,
            pace: Pace::new(),
            idle: Idle::new(parts.idle, &parts.clock),
            sampling: Sampling::new(),
            burst: Burst::new(),
            verdicts: [Verdict::Punt; BURST_MAX],
            stopped: false,
        }
    }

    /// Polls until [`mailbox::Command::Stop`]; can be called again after it.
    pub fn run(&mut self) {
        self.stopped = false;
        self.idle.begin(&mut self.rx);
        let mut before = clock::cycles();
        self.counters.stages.begin(before);
        while !self.stopped {
            let now = self.clock.tick_of(before);
            self.path.set_us(self.clock.us_of(before));
            let mut busy = self.receive(now);
            busy |= self.take_handoffs(now);
            busy |= self.take_injected(now);
            self.mark(Stage::Dispatch);
            self.dispatcher.flush();
            self.mark(Stage::Transmit);
            if busy && self.sampling.is_due() {
                self.counters.latency.record(clock::cycles().wrapping_sub(before));
            }
            let house = self.pace.is_due(now, busy) || (!busy && self.mailbox.has_command());
            let handled_command = house && self.keep_up(now);
            // Housekeeping serves timers too.
            let worked = house || self.expire(now);
            if busy || !worked {
                self.sleep_if_idle(busy, before);
            } else if handled_command {
                self.idle.stay_awake(before);
            }
            before = self.count_cycles(before, busy, worked);
            self.mark(Stage::Housekeeping);
        }
        self.dispatcher.flush();
    }

    #[inline]
    fn sleep_if_idle(&mut self, busy: bool, began: u64) {
        let sleeper = Sleeper {
            mailbox: &self.mailbox,
            counters: &self.counters,
        };
        if self.idle.after_pass(busy, began, &mut self.rx, sleeper) && self.handle_commands() {
            self.idle.stay_awake(clock::cycles());
        }
    }

    /// Takes one burst from each receive queue to its end.
    fn receive(&mut self, now: Tick) -> bool {
        let mut busy = false;
        for queue in 0..self.rx.len() {
            let Some(rx) = self.rx.get_mut(queue) else { break };
            let device = rx.device();
            rx.receive(&mut self.burst);
            self.mark(Stage::Receive);
            if self.burst.is_empty() {
                continue;
            }
            busy = true;
            self.burst.prefetch();
            let counters = self.counters.device(device);
            counters.rx_packets.add(self.burst.len() as u64);
            counters.rx_bytes.add(self.burst.bytes());
            self.counters.bursts.add(1);
            self.drop_segmented(device);
            self.mark(Stage::Admit);
            self.decide(device, now, Kind::Received, P::process);
        }
        busy
    }

    /// Takes bursts from each other worker. Frames come in the order they were sent; a change of device ends
    /// a burst early, because the path is told one device a burst.
    fn take_handoffs(&mut self, now: Tick) -> bool {
        let mut busy = false;
        // As much of each peer as it may have received in one pass of its own: otherwise, when all are busy,
        // every ring fills however large it is.
        let bursts_per_peer = self.rx.len().max(1);
        for peer in 0..self.inbox.peers_count() {
            for _ in 0..bursts_per_peer {
                if !self.take_burst_of(peer, now) {
                    break;
                }
                busy = true;
            }
        }
        busy
    }

    /// At most [`BURST_MAX`] frames of one peer; `false` when there were none.
    fn take_burst_of(&mut self, peer: usize, now: Tick) -> bool {
        let mut any = false;
        let mut device = DeviceId(0);
        for _ in 0..BURST_MAX {
            let Some(handed) = self.inbox.take(peer) else { break };
            any = true;
            self.counters.handoff_in.add(1);
            match handed {
                Handoff::Transmit { mbuf, to } => self.dispatcher.transmit_own(to, mbuf),
                Handoff::FromHost { mut mbuf, device } => {
                    let verdict = self.path.process_from_host(device, now, true, &mut mbuf);
                    self.tap(device, Kind::FromKernel, verdict, mbuf.bytes(), now);
                    self.dispatcher.dispatch_from_host(device, mbuf, verdict);
                }
                Handoff::Process { mbuf, from } => {
                    if from != device {
                        self.decide(device, now, Kind::Handoff, P::process_handoff);
                        device = from;
                    }
                    // At most BURST_MAX are taken, so there is room.
                    let _ = self.burst.push(mbuf);
                }
            }
        }
        self.decide(device, now, Kind::Handoff, P::process_handoff);
        any
    }

    /// Takes what the kernel sends through its twins.
    fn take_injected(&mut self, now: Tick) -> bool {
        let mut busy = false;
        for _ in 0..INJECTED_PER_PASS_MAX {
            let Some(TwinFrame { mut mbuf, device }) = self.injected.take() else {
                break;
            };
            busy = true;
            let verdict = self.path.process_from_host(device, now, false, &mut mbuf);
            if !matches!(verdict, Verdict::Handoff(_)) {
                self.tap(device, Kind::FromKernel, verdict, mbuf.bytes(), now);
            }
            self.dispatcher.dispatch_from_host(device, mbuf, verdict);
        }
        busy
    }

    /// Asks the path about the burst in hand and sends each frame where it says.
    #[inline]
    fn decide(&mut self, device: DeviceId, now: Tick, kind: Kind, process: Process<P>) {
        let Some(verdicts) = self.verdicts.get_mut(..self.burst.len()) else {
            return;
        };
        if verdicts.is_empty() {
            return;
        }
        if !self.dispatcher.taps.is_empty() {
            self.dispatcher
                .taps
                .stage(clock::cycles(), device, kind, self.burst.as_slice());
        }
        process(&mut self.path, device, now, self.burst.as_mut_slice(), verdicts);
        if !self.dispatcher.taps.is_empty() {
            let conn_of = |ends: &FrameEnds| self.path.conn_of(ends, now);
            self.dispatcher.taps.settle(self.burst.as_slice(), verdicts, conn_of);
        }
        // Almost every burst leaves by one device, as it came.
        let left_together = match verdicts.first() {
            Some(first @ Verdict::Transmit(to)) if verdicts.iter().all(|verdict| verdict == first) => {
                self.dispatcher.transmit_all(*to, &mut self.burst)
            }
            _ => false,
        };
        if !left_together {
            for (mbuf, verdict) in self.burst.drain().zip(verdicts.iter()) {
                self.dispatcher
                    .dispatch(device, mbuf, *verdict, now, |wait| self.path.neighbour(wait));
            }
        }
        self.send_generated(device, now);
        self.tell();
        self.mark(Stage::Dispatch);
    }

    /// Leaves what other directors are to be told with the management core; what it has no room for is counted.
    #[inline]
    fn tell(&mut self) {
        while let Some(conn) = self.path.next_synced() {
            if self.mailbox.synced.push(conn).is_err() {
                self.counters.synced_out_dropped.add(1);
            }
        }
    }

    /// Gives each frame that the path made a buffer, and sends it where its verdict says.
    #[inline]
    fn send_generated(&mut self, device: DeviceId, now: Tick) {
        while let Some((verdict, bytes)) = self.path.next_generated() {
            let Some(mut mbuf) = self.pool.alloc() else {
                self.dispatcher.lose_generated(device, bytes);
                continue;
            };
            if mbuf.append(bytes.len()) {
                mbuf.bytes_mut().copy_from_slice(bytes);
                self.tap(device, Kind::Generated, verdict, mbuf.bytes(), now);
                self.dispatcher
                    .dispatch(device, mbuf, verdict, now, |wait| self.path.neighbour(wait));
            } else {
                self.dispatcher.lose_generated(device, bytes);
            }
        }
    }

    /// Records a frame that leaves without having arrived just now.
    #[inline]
    fn tap(&mut self, device: DeviceId, kind: Kind, verdict: Verdict, frame: &[u8], now: Tick) {
        if !self.dispatcher.taps.is_empty() {
            let conn_of = |ends: &FrameEnds| self.path.conn_of(ends, now);
            self.dispatcher
                .taps
                .leaves(clock::cycles(), device, kind, verdict, frame, conn_of);
        }
    }

    /// Frames in several buffers are larger than any configured MTU; nothing behind here expects them.
    #[inline]
    fn drop_segmented(&mut self, device: DeviceId) {
        if self.burst.as_slice().iter().all(crate::dpdk::Mbuf::is_whole) {
            return;
        }
        let mut whole = Burst::new();
        for mbuf in self.burst.drain() {
            if mbuf.is_whole() {
                let _ = whole.push(mbuf);
            } else {
                self.dispatcher.lose(device, mbuf, DropReason::MultiSegment);
            }
        }
        std::mem::swap(&mut self.burst, &mut whole);
    }

    #[inline]
    fn count_cycles(&self, before: u64, busy: bool, worked: bool) -> u64 {
        let after = clock::cycles();
        let spent = after.wrapping_sub(before);
        if busy {
            self.counters.busy_cycles.add(spent);
        } else {
            self.counters.idle_polls.add(1);
            self.counters.idle_cycles.add(spent);
        }
        if (busy || worked) && spent > self.counters.longest_pass_cycles.get() {
            self.counters.longest_pass_cycles.set(spent);
        }
        after
    }

    /// The end of a step, in builds with the feature `stages`.
    #[inline(always)]
    fn mark(&self, step: Stage) {
        #[cfg(feature = "stages")]
        self.counters.stages.mark(step, clock::cycles());
        #[cfg(not(feature = "stages"))]
        let _ = step;
    }
}

/// [`PacketPath::process`] or [`PacketPath::process_handoff`]; inlined, so no call through a pointer.
type Process<P> = fn(&mut P, DeviceId, Tick, &mut [crate::dpdk::Mbuf], &mut [Verdict]);

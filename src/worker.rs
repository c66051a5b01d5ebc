//! SPINE: the loop of one polling core.
//!
//! One pass has five phases: rx, handoff, inject, tx, housekeeping.
//!
//! In:  its receive queues, frames handed off by other workers, frames injected by the kernel twins.
//! Out: frames transmitted, handed off, punted to a twin, held for a neighbour, or dropped by name.
//! Never: blocks, allocates, locks, logs, or makes a system call, unless its policy lets it sleep when idle ([`idle`]).
//! Every frame is counted: received + injected + generated = transmitted + punted + dropped + consumed (+ held, + in rings).

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
use assignment::WorkerResources;
use capture::{Departure, Kind};
use dispatch::Dispatcher;
use handoff::{Handoff, HandoffReceivers};
use housekeeping::Pace;
use idle::{Idle, SleepRecorder};
use mailbox::Mailbox;
use packet_path::PacketPath;
use punt::{InjectedFrames, TwinFrame};
use sampling::Sampling;

/// Frames from the twins that a worker takes in one pass. Control traffic needs few; a bulk transfer of the host must not
/// delay the director's own traffic.
const INJECTED_PER_PASS_MAX: usize = 2 * BURST_MAX;

/// One worker and all it owns. The management core creates it and moves it onto its lcore. It shares no cache line with
/// another worker.
#[repr(align(128))]
pub struct Worker<P: PacketPath> {
    path: P,
    clock: Clock,
    rx_queues: Vec<RxQueue>,
    handoffs: HandoffReceivers,
    injected: InjectedFrames,
    dispatcher: Dispatcher,
    mailbox: Arc<Mailbox>,
    /// Buffers for frames that the path generates.
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
    /// A worker whose verdicts come from `path`.
    pub fn new(resources: WorkerResources, path: P) -> Self {
        let counters = resources.dispatcher.counters();
        Self {
            path,
            clock: resources.clock,
            rx_queues: resources.rx_queues,
            handoffs: resources.handoffs,
            injected: resources.injected,
            dispatcher: resources.dispatcher,
            mailbox: resources.mailbox,
            pool: resources.pool,
            counters,
            pace: Pace::new(),
            idle: Idle::new(resources.idle, &resources.clock),
            sampling: Sampling::new(),
            burst: Burst::new(),
            verdicts: [Verdict::Punt; BURST_MAX],
            stopped: false,
        }
    }

    /// Polls until [`mailbox::Command::Stop`] arrives. It can be called again after that.
    pub fn run(&mut self) {
        self.stopped = false;
        self.idle.begin(&mut self.rx_queues);
        let mut before = clock::cycles();
        self.counters.stages.begin(before);
        while !self.stopped {
            let now = self.clock.tick_of(before);
            self.path.set_us(self.clock.us_of(before));
            let mut busy = self.rx(now);
            busy |= self.handoff(now);
            busy |= self.inject(now);
            self.mark(Stage::Dispatch);
            self.dispatcher.tx();
            self.mark(Stage::Transmit);
            if busy && self.sampling.is_due() {
                self.counters.latency.record(clock::cycles().wrapping_sub(before));
            }
            let is_due = self.pace.is_due(now, busy) || (!busy && self.mailbox.has_command());
            let handled_command = is_due && self.housekeeping(now);
            // Housekeeping serves timers too.
            let worked = is_due || self.expire(now);
            if busy || !worked {
                self.sleep_if_idle(busy, before);
            } else if handled_command {
                self.idle.stay_awake(before);
            }
            before = self.count_cycles(before, busy, worked);
            self.mark(Stage::Housekeeping);
        }
        self.dispatcher.tx();
    }

    #[inline]
    fn sleep_if_idle(&mut self, busy: bool, began: u64) {
        let recorder = SleepRecorder {
            mailbox: &self.mailbox,
            counters: &self.counters,
        };
        if self.idle.after_pass(busy, began, &mut self.rx_queues, recorder) && self.handle_commands() {
            self.idle.stay_awake(clock::cycles());
        }
    }

    /// Receives one burst from each queue and sends every frame on. Returns whether there was a frame.
    fn rx(&mut self, now: Tick) -> bool {
        let mut busy = false;
        for queue in 0..self.rx_queues.len() {
            let Some(rx) = self.rx_queues.get_mut(queue) else { break };
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

    /// Takes bursts that other workers handed off, in the order in which they were sent. A change of device ends a burst
    /// early, because the path takes one device per burst.
    fn handoff(&mut self, now: Tick) -> bool {
        let mut busy = false;
        // This takes as much from each peer as the peer may have received in one pass. With less, every ring fills up
        // when all workers are busy, however large it is.
        let bursts_per_peer = self.rx_queues.len().max(1);
        for peer in 0..self.handoffs.peers_count() {
            for _ in 0..bursts_per_peer {
                if !self.take_burst_of(peer, now) {
                    break;
                }
                busy = true;
            }
        }
        busy
    }

    /// Takes at most [`BURST_MAX`] frames from one peer. Returns `false` when there was none.
    fn take_burst_of(&mut self, peer: usize, now: Tick) -> bool {
        let mut any = false;
        let mut device = DeviceId(0);
        for _ in 0..BURST_MAX {
            let Some(handoff) = self.handoffs.receive(peer) else {
                break;
            };
            any = true;
            self.counters.handoff_in.add(1);
            match handoff {
                Handoff::Transmit { mbuf, to } => self.dispatcher.transmit_own(to, mbuf),
                Handoff::FromHost { mbuf, device } => self.send_from_host(device, now, true, mbuf),
                Handoff::Process { mbuf, from } => {
                    if from != device {
                        self.decide(device, now, Kind::Handoff, P::process_handoff);
                        device = from;
                    }
                    // At most BURST_MAX frames are taken, so this one fits.
                    let _ = self.burst.push(mbuf);
                }
            }
        }
        self.decide(device, now, Kind::Handoff, P::process_handoff);
        any
    }

    /// Takes the frames that the kernel sends through its twins.
    fn inject(&mut self, now: Tick) -> bool {
        let mut busy = false;
        for _ in 0..INJECTED_PER_PASS_MAX {
            let Some(TwinFrame { mbuf, device }) = self.injected.take() else {
                break;
            };
            busy = true;
            self.send_from_host(device, now, false, mbuf);
        }
        busy
    }

    /// Gets the path's verdict on a frame that the kernel sends through the twin of `device`, and dispatches it.
    fn send_from_host(&mut self, device: DeviceId, now: Tick, is_handoff: bool, mut mbuf: crate::dpdk::Mbuf) {
        let verdict = self.path.process_from_host(device, now, is_handoff, &mut mbuf);
        if !matches!(verdict, Verdict::Handoff(_)) {
            let frame = mbuf.bytes();
            self.tap(Departure::new(device, Kind::FromKernel, verdict, frame), now);
        }
        let awaited = |wait| (self.path.neighbour(wait), now);
        self.dispatcher.dispatch_from_host(device, mbuf, verdict, awaited);
        self.send_generated(device, now);
        self.sync_out();
    }

    /// Gets the path's verdicts on the current burst and dispatches each frame by its verdict.
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
        // Almost every burst leaves as a whole by one device.
        let left_together = match verdicts.first() {
            Some(first @ Verdict::Transmit(to)) if verdicts.iter().all(|verdict| verdict == first) => {
                self.dispatcher.transmit_all(*to, &mut self.burst)
            }
            _ => false,
        };
        if !left_together {
            for (mbuf, verdict) in self.burst.drain().zip(verdicts.iter()) {
                let awaited = |wait| (self.path.neighbour(wait), now);
                self.dispatcher.dispatch(device, mbuf, *verdict, awaited);
            }
        }
        self.send_generated(device, now);
        self.sync_out();
        self.mark(Stage::Dispatch);
    }

    /// Queues changed connections for the management core, which sends them to other directors. When the queue is full
    /// the connection is dropped from it and counted.
    #[inline]
    fn sync_out(&mut self) {
        while let Some(conn) = self.path.next_synced() {
            if self.mailbox.synced.push(conn).is_err() {
                self.counters.synced_out_dropped.add(1);
            }
        }
    }

    /// Copies each frame that the path generated into a buffer and dispatches it by its verdict.
    #[inline]
    fn send_generated(&mut self, device: DeviceId, now: Tick) {
        while let Some((verdict, bytes)) = self.path.next_generated() {
            let Some(mut mbuf) = self.pool.alloc() else {
                self.dispatcher.drop_generated(device, bytes);
                continue;
            };
            if mbuf.append(bytes.len()) {
                mbuf.bytes_mut().copy_from_slice(bytes);
                let frame = mbuf.bytes();
                self.tap(Departure::new(device, Kind::Generated, verdict, frame), now);
                let awaited = |wait| (self.path.neighbour(wait), now);
                self.dispatcher.dispatch(device, mbuf, verdict, awaited);
            } else {
                self.dispatcher.drop_generated(device, bytes);
            }
        }
    }

    /// Records a frame that leaves and did not arrive in the current burst.
    #[inline]
    fn tap(&mut self, departure: Departure<'_>, now: Tick) {
        if !self.dispatcher.taps.is_empty() {
            let conn_of = |ends: &FrameEnds| self.path.conn_of(ends, now);
            self.dispatcher.taps.record(clock::cycles(), departure, conn_of);
        }
    }

    /// Drops frames that span several buffers. They are larger than any configured MTU, and no later stage expects them.
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
                self.dispatcher.drop_late(device, mbuf, DropReason::MultiSegment);
            }
        }
        std::mem::swap(&mut self.burst, &mut whole);
    }

    #[inline]
    fn count_cycles(&self, before: u64, busy: bool, worked: bool) -> u64 {
        let after = clock::cycles();
        let spent = after.wrapping_sub(before);
        self.counters.passes.add(1);
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

    /// Marks the end of a stage, in builds with the feature `stages`.
    #[inline(always)]
    fn mark(&self, stage: Stage) {
        #[cfg(feature = "stages")]
        self.counters.stages.mark(stage, clock::cycles());
        #[cfg(not(feature = "stages"))]
        let _ = stage;
    }
}

/// [`PacketPath::process`] or [`PacketPath::process_handoff`]. The compiler inlines it, so nothing is called by pointer.
type Process<P> = fn(&mut P, DeviceId, Tick, &mut [crate::dpdk::Mbuf], &mut [Verdict]);

//! A whole director without devices: desired services, workers, virtual time. A test gives it frames, one by one or in
//! bursts, and gets an [`Outcome`] for each.
//!
//! Goldens, fuzzing and the path's own tests run on it. It contains no forwarding logic, only what the daemon's worker
//! loop does around the path.

use std::sync::Arc;

use crate::arena::{Arena, LAYOUT_VERSION};
use crate::conn_record::{ConnRecord, DumpCursor};
use crate::counters::WorkerCounters;
use crate::former::{FormerWorker, Plan, Spreading, Survey};
use crate::frame::Frame;
use crate::frame::vec::VecFrame;
use crate::ipvs::conn::table::Recovery;
use crate::ipvs::desired::DesiredServices;
use crate::ipvs::mark::MarkRules;
use crate::ipvs::protocol::Timeouts;
use crate::ipvs::sync::policy::SyncPolicy;
use crate::ipvs::sync::{SyncConn, SyncRoles};
use crate::ipvs::sysctl::Sysctls;
use crate::l3::{DeviceId, L3, NeighbourKey};
use crate::limits::BURST_MAX;
use crate::path;
use crate::rss::RssHash;
use crate::snapshot::Snapshot;
use crate::tick::Tick;
use crate::verdict::{DropReason, Verdict, WorkerId};
use crate::worker_state::{Arrival, WorkerSettings, WorkerState};

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Sent out of this device.
    Transmitted(DeviceId, Vec<u8>),
    /// Given to the kernel twin.
    Punted(Vec<u8>),
    /// Waiting for this neighbour.
    Held(NeighbourKey, Vec<u8>),
    /// The path consumed it; see [`TestDirector::take_generated`].
    Consumed,
    /// Dropped.
    Dropped(DropReason),
}

impl Outcome {
    /// The frame that was sent and the device it left by.
    ///
    /// # Panics
    /// When the frame was not sent.
    pub fn transmitted(self) -> (DeviceId, Vec<u8>) {
        match self {
            Self::Transmitted(device, bytes) => (device, bytes),
            other => panic!("expected a transmitted frame, not {other:?}"),
        }
    }
}

/// See the module.
pub struct TestDirector {
    /// The desired services. Change them through [`Self::change`].
    pub desired: DesiredServices,
    /// The workers.
    pub workers: Vec<WorkerState>,
    /// All workers' counters.
    pub counters: Arc<[Arc<WorkerCounters>]>,
    /// By worker.
    arenas: Vec<Arena>,
    conns_max: usize,
    l3: Arc<L3>,
    timeouts: Timeouts,
    marks: Arc<MarkRules>,
    sysctls: Sysctls,
    sync: SyncRoles,
    sync_policy: SyncPolicy,
    now: Tick,
    /// Microseconds behind `now`.
    now_us: u64,
    generated: Vec<Outcome>,
    /// Frames that one worker handed off to another.
    pub handoffs: u64,
}

/// Capacity of a test's counters, in servers.
const SERVERS_MAX: usize = 1_024;
/// Time between two housekeeping passes when virtual time advances.
const STEP_MS: u32 = 50;

fn counters_of(workers: u8) -> Arc<[Arc<WorkerCounters>]> {
    (0..workers)
        .map(|_| Arc::new(WorkerCounters::new(SERVERS_MAX)))
        .collect()
}

fn settings(id: u8, workers_count: u8, conns_max: usize) -> WorkerSettings {
    WorkerSettings {
        id: WorkerId(id),
        workers_count,
        conns4_max: conns_max,
        conns6_max: conns_max,
        local_port_rest_ms: 60_000,
        secret: [
            0x0123_4567_89AB_CDEF,
            0xFEDC_BA98_7654_3210,
            0x0F1E_2D3C_4B5A_6978,
            0x8796_A5B4_C3D2_E1F0,
        ],
        seed: u64::from(id) + 1,
    }
}

impl TestDirector {
    /// A director with `workers` workers of `conns_max` connections a family each, without services.
    ///
    /// # Panics
    /// Never for arguments that fit memory.
    pub fn new(workers: u8, conns_max: usize, l3: L3) -> Self {
        let bytes = Self::arena_bytes(workers, conns_max);
        Self::in_arenas((0..workers).map(|_| Arena::in_memory(bytes)).collect(), conns_max, l3)
    }

    /// Bytes of memory that a worker of such a director needs.
    pub fn arena_bytes(workers: u8, conns_max: usize) -> usize {
        WorkerState::arena_bytes(&settings(0, workers, conns_max))
    }

    /// The same in memory of the caller's, one arena a worker.
    ///
    /// # Panics
    /// When an arena is too small.
    pub fn in_arenas(mut arenas: Vec<Arena>, conns_max: usize, l3: L3) -> Self {
        let l3 = Arc::new(l3);
        let workers_count = arenas.len() as u8;
        let snapshot = Arc::new(Snapshot {
            l3: Arc::clone(&l3),
            workers_count,
            ..Snapshot::default()
        });
        let counters = counters_of(workers_count);
        let make = |(id, arena): (u8, &mut Arena)| {
            let settings = settings(id, workers_count, conns_max);
            let own = Arc::clone(&counters[usize::from(id)]);
            let mut state = WorkerState::new(settings, arena, Arc::clone(&snapshot), Arc::clone(&counters), own)
                .expect("the arena has the size that was asked for");
            state.set_us(1_000_000);
            state
        };
        let workers = (0..workers_count).zip(&mut arenas).map(make).collect();
        Self {
            desired: DesiredServices::default(),
            workers,
            l3,
            timeouts: Timeouts::default(),
            marks: Arc::default(),
            sysctls: Sysctls::default(),
            sync: SyncRoles::default(),
            sync_policy: SyncPolicy::default(),
            now: Tick(1_000),
            now_us: 1_000_000,
            counters,
            arenas,
            conns_max,
            generated: Vec::new(),
            handoffs: 0,
        }
    }

    /// Another process goes on with what lies in the arenas of this one, with the services that `configure` adds.
    /// Returns what became of the connections.
    ///
    /// # Panics
    /// When the arenas are not believed.
    pub fn restart(&mut self, configure: impl FnOnce(&mut DesiredServices)) -> Recovery {
        let arenas = self.arenas.iter().map(Arena::twin_at_another_address).collect();
        self.take_up(arenas, configure)
    }

    /// The same with what a director like this one left in `arenas`.
    ///
    /// # Panics
    /// When the arenas are not believed.
    pub fn take_up(&mut self, arenas: Vec<Arena>, configure: impl FnOnce(&mut DesiredServices)) -> Recovery {
        self.desired = DesiredServices::default();
        configure(&mut self.desired);
        let count = self.workers.len() as u8;
        self.counters = counters_of(count);
        let snapshot = self.snapshot();
        let mut all = Recovery::default();
        self.workers.clear();
        self.arenas = arenas;
        for (id, arena) in (0..count).zip(&mut self.arenas) {
            let own = Arc::clone(&self.counters[usize::from(id)]);
            let (settings, counters) = (settings(id, count, self.conns_max), Arc::clone(&self.counters));
            let recovered = WorkerState::recover(settings, arena, self.now, Arc::clone(&snapshot), counters, own);
            let (state, recovery) = recovered.expect("the arena of a worker with these settings");
            all += recovery;
            self.workers.push(state);
        }
        self.workers.iter().for_each(WorkerState::publish_recovered);
        all
    }

    /// What lies in the arena of each worker.
    pub fn memory(&self) -> Vec<Vec<u8>> {
        self.arenas.iter().map(Arena::bytes).collect()
    }

    /// What the memory of a worker of this director is read with.
    pub fn settings(&self, worker: u8) -> WorkerSettings {
        settings(worker, self.workers.len() as u8, self.conns_max)
    }

    /// [`Self::restart`] with other workers and tables, whose devices spread flows by `rss` from now on. Returns what became
    /// of the connections, and for how many there was no space.
    ///
    /// # Panics
    /// When the arenas are not believed.
    pub fn restart_as(
        &mut self,
        workers_count: u8,
        conns_max: usize,
        rss: Option<&RssHash>,
        configure: impl FnOnce(&mut DesiredServices),
    ) -> (Recovery, usize) {
        let memory = self.memory();
        self.restart_from((LAYOUT_VERSION, &memory), (workers_count, conns_max), rss, configure)
    }

    /// The same with the memory of another director's workers, which were like this one's, in a layout.
    ///
    /// # Panics
    /// When that memory is not believed.
    pub fn restart_from(
        &mut self,
        (layout, memory): (u32, &[Vec<u8>]),
        (workers_count, conns_max): (u8, usize),
        rss: Option<&RssHash>,
        configure: impl FnOnce(&mut DesiredServices),
    ) -> (Recovery, usize) {
        self.desired = DesiredServices::default();
        configure(&mut self.desired);
        let settings_of = (0..).map(|id| self.settings(id));
        let former: Vec<_> = settings_of
            .zip(memory)
            .map(|(settings, bytes)| FormerWorker::read(layout, bytes, &settings))
            .collect();
        assert!(former.iter().all(Option::is_some), "workers with these settings");
        self.workers.clear();
        self.arenas.clear();
        self.counters = counters_of(workers_count);
        self.conns_max = conns_max;
        let snapshot = self.snapshot_for(workers_count);
        let settings: Vec<_> = (0..workers_count)
            .map(|id| settings(id, workers_count, conns_max))
            .collect();
        let spreading = Spreading::new(&snapshot, &settings[0], rss);
        let surveys: Vec<_> = former
            .iter()
            .flatten()
            .map(|former| Survey::of(former, &spreading, self.now))
            .collect();
        let plan = Plan::new(&former, &surveys, &settings);
        let mut all = Recovery::default();
        for settings in settings {
            let mut arena = Arena::in_memory(WorkerState::arena_bytes(&settings));
            let own = Arc::clone(&self.counters[usize::from(settings.id.0)]);
            let (snapshot, counters) = (Arc::clone(&snapshot), Arc::clone(&self.counters));
            let rehomed = WorkerState::rehome(settings, &mut arena, self.now, snapshot, counters, own, &plan);
            let (mut state, recovery) = rehomed.expect("the arena has the size that was asked for");
            state.set_us(self.now_us as u32);
            if let Some(rss) = rss {
                state.follow_rss(rss.clone());
            }
            all += recovery;
            self.workers.push(state);
            self.arenas.push(arena);
        }
        self.workers.iter().for_each(WorkerState::publish_recovered);
        all.torn += plan.torn;
        (all, plan.no_space)
    }

    /// The time.
    pub const fn now(&self) -> Tick {
        self.now
    }

    /// Changes the desired state and publishes it.
    pub fn change<R>(&mut self, change: impl FnOnce(&mut DesiredServices) -> R) -> R {
        let result = change(&mut self.desired);
        self.publish();
        result
    }

    /// Replaces the mirrored network.
    pub fn set_l3(&mut self, l3: L3) {
        self.l3 = Arc::new(l3);
        self.publish();
    }

    /// Replaces the timeouts.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
        self.publish();
    }

    /// Replaces the classifier.
    pub fn set_marks(&mut self, marks: MarkRules) {
        self.marks = Arc::new(marks);
        self.publish();
    }

    /// The settings.
    pub const fn sysctls(&self) -> &Sysctls {
        &self.sysctls
    }

    /// The timeouts.
    pub const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Replaces the settings.
    pub fn set_sysctls(&mut self, sysctls: Sysctls) {
        self.sysctls = sysctls;
        self.publish();
    }

    /// Starts and stops sync daemons.
    pub fn set_sync(&mut self, sync: SyncRoles) {
        self.sync = sync;
        self.publish();
    }

    /// Replaces what sync daemons sync out and believe.
    pub fn set_sync_policy(&mut self, policy: SyncPolicy) {
        self.sync_policy = policy;
        self.publish();
    }

    /// What the workers sync out, worker by worker, oldest first.
    pub fn take_synced(&mut self) -> Vec<SyncConn> {
        let of = |worker: &mut WorkerState| std::iter::from_fn(|| worker.next_synced()).collect::<Vec<_>>();
        self.workers.iter_mut().flat_map(of).collect()
    }

    /// Gives every worker what another director synced out.
    pub fn import_synced(&mut self, conns: &[SyncConn]) {
        for worker in &mut self.workers {
            path::sync::import::import_synced(worker, self.now, conns);
        }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot_for(self.workers.len() as u8)
    }

    fn snapshot_for(&self, workers_count: u8) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            services: Arc::new(self.desired.build()),
            l3: Arc::clone(&self.l3).with_reroute(self.sysctls.snat_reroute),
            timeouts: self.timeouts,
            marks: Arc::clone(&self.marks),
            sysctls: self.sysctls,
            sync: self.sync,
            sync_policy: self.sync_policy,
            workers_count,
            generation: 0,
        })
    }

    fn publish(&mut self) {
        let snapshot = self.snapshot();
        for worker in &mut self.workers {
            worker.adopt(Arc::clone(&snapshot));
        }
    }

    /// Lets virtual time pass, with housekeeping as the daemon would do it.
    pub fn advance_ms(&mut self, ms: u32) {
        let mut left_ms = ms;
        while left_ms > 0 {
            let step_ms = left_ms.min(STEP_MS);
            left_ms -= step_ms;
            self.advance_us(step_ms * 1_000);
        }
    }

    /// Lets much virtual time pass at once, at most 24 days, with as much housekeeping as it takes to serve all timers.
    pub fn skip_ms(&mut self, ms: u32) {
        self.now_us += u64::from(ms) * 1_000;
        self.now = Tick((self.now_us / 1_000) as u32);
        for worker in &mut self.workers {
            let (mut ctx, families) = worker.context(Arrival::at(DeviceId(0), self.now));
            path::track::expire(&mut ctx, &mut families.v4.table, usize::MAX);
            path::track::expire(&mut ctx, &mut families.v6.table, usize::MAX);
        }
    }

    /// The same by microseconds, as one pass of the daemon's loop: it serves the timers that are due, and does
    /// housekeeping when a millisecond is over.
    pub fn advance_us(&mut self, us: u32) {
        self.now_us += u64::from(us);
        let now = Tick((self.now_us / 1_000) as u32);
        let is_housekeeping_due = now != self.now;
        self.now = now;
        for worker in 0..self.workers.len() {
            self.workers[worker].set_us(self.now_us as u32);
            if is_housekeeping_due {
                path::housekeeping::run(&mut self.workers[worker], self.now);
                self.collect_generated(worker, DeviceId(0));
            } else {
                path::housekeeping::expire(&mut self.workers[worker], self.now);
            }
        }
    }

    /// Virtual microseconds since some start.
    pub const fn now_us(&self) -> u64 {
        self.now_us
    }

    /// One frame that `device` received and worker 0 polled.
    pub fn inject(&mut self, device: DeviceId, frame: &[u8]) -> Outcome {
        self.inject_at(0, device, frame)
    }

    /// One frame that worker `worker` polled.
    ///
    /// # Panics
    /// When there is no such worker.
    pub fn inject_at(&mut self, worker: usize, device: DeviceId, frame: &[u8]) -> Outcome {
        let mut frames = vec![VecFrame::new(frame)];
        self.burst(worker, device, &mut frames).remove(0)
    }

    /// Up to [`BURST_MAX`] frames at once. Their owner finishes frames that were handed off.
    ///
    /// # Panics
    /// When there is no such worker, or more frames than a burst.
    pub fn burst(&mut self, worker: usize, device: DeviceId, frames: &mut [VecFrame]) -> Vec<Outcome> {
        assert!(
            frames.len() <= BURST_MAX,
            "{} frames are more than a burst",
            frames.len()
        );
        let mut verdicts = vec![Verdict::Punt; frames.len()];
        path::process(
            &mut self.workers[worker],
            Arrival::at(device, self.now),
            frames,
            &mut verdicts,
        );
        let mut outcomes = Vec::with_capacity(frames.len());
        self.collect_generated(worker, device);
        for (frame, verdict) in frames.iter_mut().zip(verdicts) {
            outcomes.push(match verdict {
                Verdict::Handoff(owner) => self.handoff(owner, device, frame),
                decided => self.outcome(worker, decided, frame),
            });
        }
        outcomes
    }

    fn handoff(&mut self, owner: WorkerId, device: DeviceId, frame: &mut VecFrame) -> Outcome {
        let mut verdicts = [Verdict::Punt];
        self.handoffs += 1;
        let worker = &mut self.workers[usize::from(owner.0)];
        path::process(
            worker,
            Arrival::handoff(device, self.now),
            std::slice::from_mut(frame),
            &mut verdicts,
        );
        self.collect_generated(usize::from(owner.0), device);
        self.outcome(usize::from(owner.0), verdicts[0], frame)
    }

    /// A frame that the kernel sends through the twin of `device`, given to worker 0.
    pub fn from_host(&mut self, device: DeviceId, bytes: &[u8]) -> Outcome {
        let mut frame = VecFrame::new(bytes);
        let verdict = path::from_host::process(&mut self.workers[0], Arrival::at(device, self.now), &mut frame);
        self.collect_generated(0, device);
        let Verdict::Handoff(owner) = verdict else {
            return self.outcome(0, verdict, &frame);
        };
        let owner = usize::from(owner.0);
        let verdict =
            path::from_host::process(&mut self.workers[owner], Arrival::handoff(device, self.now), &mut frame);
        self.collect_generated(owner, device);
        self.outcome(owner, verdict, &frame)
    }

    /// A frame that worker 0 held, now that its neighbour is known.
    pub fn finish(&mut self, neighbour: NeighbourKey, bytes: &[u8]) -> Outcome {
        let mut frame = VecFrame::new(bytes);
        match path::forward::resolve::finish(&self.workers[0], &mut frame, neighbour) {
            Some(verdict) => self.outcome(0, verdict, &frame),
            None => Outcome::Held(neighbour, bytes.to_vec()),
        }
    }

    /// A frame that worker 0 held in vain for a neighbour on `device`.
    pub fn give_up(&mut self, device: DeviceId, bytes: &[u8]) -> Outcome {
        let mut frame = VecFrame::new(bytes);
        let verdict = path::icmp::undeliverable::give_up(&mut self.workers[0], device, self.now, &mut frame);
        self.outcome(0, verdict, &frame)
    }

    /// What became of the frames that the path generated, oldest first.
    pub fn take_generated(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.generated)
    }

    fn collect_generated(&mut self, worker: usize, device: DeviceId) {
        let mut generated = Vec::new();
        while let Some((verdict, bytes)) = self.workers[worker].next_generated() {
            generated.push((verdict, VecFrame::new(bytes)));
        }
        for (verdict, mut frame) in generated {
            let outcome = match verdict {
                Verdict::Handoff(owner) => self.handoff(owner, device, &mut frame),
                decided => self.outcome(worker, decided, &frame),
            };
            if outcome != Outcome::Consumed {
                self.generated.push(outcome);
            }
        }
    }

    /// All connections of all workers.
    pub fn conns(&self) -> Vec<ConnRecord> {
        let mut all = Vec::new();
        for worker in &self.workers {
            let mut cursor = Some(DumpCursor::V4(0));
            while let Some(from) = cursor {
                let mut chunk = Vec::with_capacity(256);
                cursor = worker.dump(from, self.now, &mut chunk);
                all.append(&mut chunk);
            }
        }
        all
    }

    fn outcome(&self, worker: usize, verdict: Verdict, frame: &VecFrame) -> Outcome {
        match verdict {
            Verdict::Transmit(device) => Outcome::Transmitted(device, frame.bytes().to_vec()),
            Verdict::Punt => Outcome::Punted(frame.bytes().to_vec()),
            Verdict::Hold(wait) => Outcome::Held(self.workers[worker].neighbour(wait), frame.bytes().to_vec()),
            Verdict::Consumed => Outcome::Consumed,
            Verdict::Drop(reason) => Outcome::Dropped(reason),
            Verdict::Handoff(to) => panic!("a frame that was handed off already is handed off to {to:?} again"),
        }
    }
}

//! When the director's next snapshot goes to the workers, who has not got the last one yet, and who still works
//! with an older one.
//!
//! A client that changes something gets its answer when every worker decides about packets by the change
//! ([`changes_arrive`]).
//! Never: more than a share of the management core's time for large snapshots, however many changes come in a row;
//! an answer that hangs on a worker that does not look into its mailbox.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lvs_core::ipvs::service_table::ServiceTable;
use lvs_core::single_writer::SingleWriter;
use lvs_core::snapshot::Snapshot;
use nix::time::{ClockId, clock_gettime};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::Director;
use crate::mgmt::lock::lock;

/// A snapshot that takes at most this long to build is published with every single change.
const PROMPT_MAX: Duration = Duration::from_millis(1);

/// Building larger ones may take this share of the time: the next change after one that took 2 ms to build
/// waits up to 8 ms, so that thousands of changes in a row stay linear.
const PAUSE_FACTOR: u32 = 4;

/// How long an answer waits for workers at most. It does not wait for a worker that sleeps, because such a worker
/// handles its mailbox before it takes a frame.
const PATIENCE: Duration = Duration::from_millis(200);

/// For this time a waiting answer looks without a pause. A worker that polls takes the snapshot up in its next pass.
const KEEN: Duration = Duration::from_micros(100);

/// The pause between two looks of an answer that waits for longer.
const LOOK_PERIOD: Duration = Duration::from_millis(1);

/// What became of the newest snapshot.
#[derive(Debug)]
pub(super) struct Publication {
    /// The snapshot is older than the desired state or the network.
    pub(super) stale: bool,
    /// Not before this.
    not_before: Option<Instant>,
    /// See [`PROMPT_MAX`].
    pub(super) prompt_max: Duration,
    /// The newest snapshot.
    snapshot: Option<Arc<Snapshot>>,
    /// Its generation, 0 for none yet.
    generation: u64,
    /// Workers whose mailbox was full.
    waiting: Vec<usize>,
    /// For each worker, a generation that an answer awaited in vain. No answer waits for the worker again until it has
    /// that generation.
    given_up: Vec<u64>,
    /// Answers that did not wait any longer.
    answered_early: u64,
}

impl Default for Publication {
    fn default() -> Self {
        Self {
            stale: true,
            not_before: None,
            prompt_max: PROMPT_MAX,
            snapshot: None,
            generation: 0,
            waiting: Vec::new(),
            given_up: Vec::new(),
            answered_early: 0,
        }
    }
}

/// Ends when every worker decides about packets by all changes so far. It also ends if waiting makes no sense: a worker
/// is stuck, or so many changes come in a row to so many services that their publication is put off.
pub async fn changes_arrive(director: &Mutex<Director>) {
    let Some(generation) = lock(director).newest_generation() else {
        return;
    };
    let begun = Instant::now();
    loop {
        if lock(director).has_arrived(generation) {
            return;
        }
        let waited = begun.elapsed();
        if waited >= PATIENCE {
            return lock(director).give_up(generation);
        }
        if waited < KEEN {
            yield_now().await;
        } else {
            sleep(LOOK_PERIOD).await;
        }
    }
}

impl Director {
    /// The first snapshot. The workers start with it.
    pub fn first_snapshot(&mut self, workers_count: u8) -> Arc<Snapshot> {
        self.build_snapshot(workers_count)
    }

    /// Publishes what is due, and again where a mailbox was full. To be called every few milliseconds.
    pub fn tick(&mut self, now: Instant) {
        if self.publication.stale {
            self.publish_if_due(now);
        }
        if let Some(snapshot) = self.publication.snapshot.clone() {
            let workers = &self.workers;
            let full = |index: &usize| {
                workers
                    .get(*index)
                    .is_some_and(|worker| !worker.publish(Arc::clone(&snapshot)))
            };
            self.publication.waiting.retain(full);
            if self.publication.waiting.is_empty() {
                // Each worker holds the snapshot that it uses. The last holder frees it.
                self.publication.snapshot = None;
            }
        }
    }

    /// How many answers to changes were given before every worker had the change.
    pub const fn answered_early(&self) -> u64 {
        self.publication.answered_early
    }

    /// The generation of the snapshot that has all changes so far; `None` while its publication is put off.
    fn newest_generation(&self) -> Option<u64> {
        (!self.publication.stale).then_some(self.publication.generation)
    }

    /// Whether every worker that is waited for decides about its next frame by this snapshot or a newer one.
    fn has_arrived(&self, generation: u64) -> bool {
        self.workers.iter().enumerate().all(|(index, worker)| {
            let used = worker.counters().generation.get();
            let given_up = self.publication.given_up.get(index).copied().unwrap_or(0);
            let has_it = || !self.publication.waiting.contains(&index);
            used >= generation || used < given_up || (has_it() && worker.is_asleep())
        })
    }

    fn give_up(&mut self, generation: u64) {
        self.publication.answered_early += 1;
        self.publication.given_up.resize(self.workers.len(), 0);
        for (index, worker) in self.workers.iter().enumerate() {
            if worker.counters().generation.get() < generation {
                log::warn!("worker {index} has not taken up a change after {PATIENCE:?}; it is answered all the same");
                if let Some(given_up) = self.publication.given_up.get_mut(index) {
                    *given_up = generation;
                }
            }
        }
    }

    pub(super) fn publish_soon(&mut self, now: Instant) {
        self.publication.stale = true;
        self.publish_if_due(now);
    }

    fn publish_if_due(&mut self, now: Instant) {
        if self.publication.not_before.is_some_and(|not_before| now < not_before) {
            return;
        }
        let begun = cpu_time();
        let workers_count = u8::try_from(self.workers.len()).unwrap_or(u8::MAX);
        self.publication.snapshot = Some(self.build_snapshot(workers_count));
        self.publication.waiting = (0..self.workers.len()).collect();
        self.publication.stale = false;
        let spent = cpu_time().saturating_sub(begun);
        self.publication.not_before = (spent > self.publication.prompt_max).then(|| now + spent * PAUSE_FACTOR);
        self.tick(now);
    }

    fn build_snapshot(&mut self, workers_count: u8) -> Arc<Snapshot> {
        self.publication.generation += 1;
        self.l3 = Arc::clone(&self.l3).with_reroute(self.desired.sysctls.snat_reroute);
        Arc::new(Snapshot {
            services: self.current_table(),
            l3: Arc::clone(&self.l3),
            timeouts: self.desired.timeouts,
            marks: Arc::clone(&self.desired.marks),
            sysctls: self.desired.sysctls,
            sync: self.sync_roles(),
            sync_policy: self.sync.policy(),
            workers_count,
            generation: self.publication.generation,
        })
    }

    /// The table of the desired services as they are now.
    pub(super) fn current_table(&mut self) -> Arc<ServiceTable> {
        let revision = self.desired.services.revision();
        if self.table_revision != revision {
            self.table = Arc::new(self.desired.services.build());
            self.table_revision = revision;
        }
        Arc::clone(&self.table)
    }
}

/// The CPU time of this thread. A busy machine does not make a snapshot more expensive.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;
    use crate::mgmt::fake_worker::FakeWorker;

    const WEB: &str = r#"{"add_service": {"service": "tcp:192.0.2.1:80"}}"#;
    const MAIL: &str = r#"{"add_service": {"service": "tcp:192.0.2.1:25"}}"#;

    struct Bench {
        director: Mutex<Director>,
        workers: [Arc<FakeWorker>; 2],
        _directory: TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let directory = TempDir::new().unwrap();
            let (mut director, _) = Director::restore(&directory.path().join("journal")).unwrap();
            let workers = [FakeWorker::new(), FakeWorker::new()];
            director.attach(workers.clone().map(|worker| worker as _).to_vec(), Instant::now());
            Self {
                director: Mutex::new(director),
                workers,
                _directory: directory,
            }
        }

        fn apply(&self, action: &str) {
            let action = serde_json::from_str(action).unwrap();
            lock(&self.director).apply(action, Instant::now()).unwrap();
        }

        /// What a worker writes when it takes up the newest snapshot.
        fn take_up(&self, worker: usize) {
            let worker = &self.workers[worker];
            worker.counters.generation.set(worker.snapshot().generation);
        }

        /// At the first look: a machine that stands still meanwhile makes no patience run out.
        async fn is_arrived(&self) -> bool {
            let wait = changes_arrive(&self.director);
            timeout(Duration::ZERO, wait).await.is_ok()
        }
    }

    #[tokio::test]
    async fn an_answer_waits_for_the_slowest_worker_and_no_longer() {
        let bench = Bench::new();
        bench.workers[1].silent.store(true, Ordering::Relaxed);
        bench.apply(WEB);
        assert!(!bench.is_arrived().await);
        bench.take_up(1);
        assert!(bench.is_arrived().await);
        assert_eq!(lock(&bench.director).answered_early(), 0);
    }

    #[tokio::test]
    async fn a_sleeping_worker_that_has_the_change_in_its_mailbox_is_not_waited_for() {
        let bench = Bench::new();
        bench.workers[1].silent.store(true, Ordering::Relaxed);
        bench.workers[1].asleep.store(true, Ordering::Relaxed);
        bench.apply(WEB);
        assert!(
            bench.is_arrived().await,
            "it handles its mailbox before it takes a frame"
        );
        bench.workers[1].mailbox_full.store(true, Ordering::Relaxed);
        bench.apply(MAIL);
        assert!(!bench.is_arrived().await, "it wakes without knowing");
        bench.workers[1].mailbox_full.store(false, Ordering::Relaxed);
        lock(&bench.director).tick(Instant::now());
        assert!(bench.is_arrived().await);
    }

    #[tokio::test]
    async fn a_stuck_worker_delays_one_answer_and_is_awaited_again_once_it_has_caught_up() {
        let bench = Bench::new();
        bench.workers[1].silent.store(true, Ordering::Relaxed);
        bench.apply(WEB);
        let begun = Instant::now();
        changes_arrive(&bench.director).await;
        assert!(begun.elapsed() >= PATIENCE);
        bench.apply(MAIL);
        assert!(bench.is_arrived().await, "it is known to be stuck");
        assert_eq!(lock(&bench.director).answered_early(), 1);
        bench.take_up(1);
        bench.apply(r#"{"delete_service": "tcp:192.0.2.1:25"}"#);
        assert!(!bench.is_arrived().await, "it is awaited again");
    }

    #[tokio::test]
    async fn an_answer_waits_for_a_worker_whose_mailbox_was_full() {
        let bench = Bench::new();
        bench.workers[0].mailbox_full.store(true, Ordering::Relaxed);
        bench.apply(WEB);
        assert!(!bench.is_arrived().await);
        bench.workers[0].mailbox_full.store(false, Ordering::Relaxed);
        lock(&bench.director).tick(Instant::now());
        assert!(bench.is_arrived().await);
    }
}

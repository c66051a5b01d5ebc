//! Whether every worker still makes passes. One that does not forwards nothing, and nobody but its counter says so.
//!
//! In:  the workers' counts of passes, looked at again and again. Out: who stands still, in the log, in reports, and for
//! systemd's watchdog, which is fed only while nobody does.
//! Never: blames a worker for a pause of this thread. When the process or the machine was stopped, no worker could pass.

use std::time::{Duration, Instant};

use lvs_core::config::WorkersConfig;
use lvs_core::single_writer::SingleWriter;

use super::Director;

/// The period of looks.
pub(super) const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// The most that the time between two looks counts. More time passes when this thread could not run, and then the workers
/// perhaps could not either.
const LOOK_MAX: Duration = Duration::from_millis(400);

/// How long a worker may take to its first pass at least. Large tables are touched for the first time meanwhile.
const START_LIMIT: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(super) struct Standstill {
    limit: Duration,
    looked: Option<Instant>,
    /// By worker.
    workers: Vec<Seen>,
}

/// What was seen of a worker.
#[derive(Clone, Debug, Default)]
struct Seen {
    passes: u64,
    /// How long it has made no pass.
    standing: Duration,
}

/// What is new since the last look.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    StandsStill,
    /// After so long.
    GoesOn(Duration),
}

impl Default for Standstill {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(u64::from(WorkersConfig::default().standstill_sec)),
            looked: None,
            workers: Vec::new(),
        }
    }
}

impl Standstill {
    /// Looks at the passes of all workers, by worker. Returns whose standing has changed.
    fn look(&mut self, passes: &[u64], now: Instant) -> Vec<(usize, Change)> {
        let since = self.looked.replace(now).map_or(Duration::ZERO, |looked| {
            now.saturating_duration_since(looked).min(LOOK_MAX)
        });
        self.workers.resize_with(passes.len(), Seen::default);
        let limit = self.limit;
        let seen = self.workers.iter_mut().zip(passes).enumerate();
        seen.filter_map(|(worker, (seen, passes))| Some((worker, seen.change(*passes, since, limit)?)))
            .collect()
    }
}

impl Seen {
    /// Whether it has made no pass for too long.
    fn stands_still(&self, limit: Duration) -> bool {
        let limit = if self.passes == 0 {
            limit.max(START_LIMIT)
        } else {
            limit
        };
        self.standing > limit
    }

    fn change(&mut self, passes: u64, since: Duration, limit: Duration) -> Option<Change> {
        let stood_still = self.stands_still(limit);
        if passes != self.passes {
            self.passes = passes;
            let stood = std::mem::take(&mut self.standing);
            return stood_still.then_some(Change::GoesOn(stood));
        }
        self.standing += since;
        (!stood_still && self.stands_still(limit)).then_some(Change::StandsStill)
    }
}

impl Director {
    /// How long a worker may make no pass before it stands still.
    pub fn set_standstill_limit(&mut self, limit: Duration) {
        self.standstill.limit = limit;
    }

    /// To be called every [`LOOK_PERIOD`].
    pub(super) fn look_for_standstill(&mut self, now: Instant) {
        let passes: Vec<_> = self
            .workers
            .iter()
            .map(|worker| worker.counters().passes.get())
            .collect();
        for (worker, change) in self.standstill.look(&passes, now) {
            let core = self.workers.get(worker).and_then(|worker| worker.lcore());
            let core = core.map_or_else(String::new, |core| format!(" (core {core})"));
            match change {
                Change::StandsStill => log::error!(
                    "worker {worker}{core} stands still: it has made no pass for {:?} and forwards nothing; \
                     what holds it? systemd's watchdog is not fed before it goes on",
                    self.standstill.limit
                ),
                Change::GoesOn(stood) => {
                    log::warn!(
                        "worker {worker}{core} goes on after it stood still for {} s",
                        stood.as_secs()
                    );
                }
            }
        }
    }

    /// Whether a worker stands still.
    pub fn has_standstill(&self) -> bool {
        let Standstill { limit, workers, .. } = &self.standstill;
        workers.iter().any(|seen| seen.stands_still(*limit))
    }

    /// Whether every worker has made its first pass.
    pub fn all_have_begun(&self) -> bool {
        self.workers.iter().all(|worker| worker.counters().passes.get() > 0)
    }

    /// How long a worker has stood still, in milliseconds; 0 while it does not.
    pub(super) fn standstill_ms(&self, worker: usize) -> u64 {
        let Standstill { limit, workers, .. } = &self.standstill;
        let seen = workers.get(worker).filter(|seen| seen.stands_still(*limit));
        seen.map_or(0, |seen| seen.standing.as_millis() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks `count` times, `period` apart, at workers whose passes `passes` counts; all that was reported.
    fn looks(
        watch: &mut Standstill,
        now: &mut Instant,
        count: u32,
        period: Duration,
        mut passes: impl FnMut() -> [u64; 2],
    ) -> Vec<(usize, Change)> {
        let look = |_| {
            *now += period;
            watch.look(&passes(), *now)
        };
        (0..count).flat_map(look).collect()
    }

    #[test]
    fn who_makes_no_pass_for_longer_than_the_limit_is_named_once_and_again_when_it_goes_on() {
        let (mut watch, mut now) = (Standstill::default(), Instant::now());
        let mut others = 1;
        let mut standing = move || {
            others += 1;
            [others, 7]
        };
        let found = looks(&mut watch, &mut now, 26, LOOK_PERIOD, &mut standing);
        assert_eq!(found, [], "5 s are allowed");
        let found = looks(&mut watch, &mut now, 100, LOOK_PERIOD, &mut standing);
        assert_eq!(found, [(1, Change::StandsStill)]);
        let stand = |watch: &Standstill| [0_usize, 1].map(|worker| watch.workers[worker].stands_still(watch.limit));
        assert_eq!(stand(&watch), [false, true]);
        let found = watch.look(&[999, 8], now + LOOK_PERIOD);
        assert_eq!(found, [(1, Change::GoesOn(Duration::from_secs(25)))]);
        assert_eq!(stand(&watch), [false, false]);
    }

    #[test]
    fn a_pause_of_the_whole_process_is_nobodys_standstill() {
        let (mut watch, mut now) = (Standstill::default(), Instant::now());
        assert_eq!(looks(&mut watch, &mut now, 20, LOOK_PERIOD, || [3, 7]), []);
        // Stopped for an hour, or on a machine that was suspended.
        assert_eq!(
            looks(&mut watch, &mut now, 1, Duration::from_secs(3_600), || [3, 7]),
            []
        );
        assert_eq!(looks(&mut watch, &mut now, 1, LOOK_PERIOD, || [4, 8]), []);
        // A clock that does not go forward counts as nothing.
        assert_eq!(watch.look(&[4, 8], now.checked_sub(LOOK_PERIOD).unwrap()), []);
    }

    #[test]
    fn a_worker_gets_more_time_for_its_first_pass() {
        let (mut watch, mut now) = (Standstill::default(), Instant::now());
        assert_eq!(
            looks(&mut watch, &mut now, 301, LOOK_PERIOD, || [0, 1]),
            [(1, Change::StandsStill)]
        );
        assert_eq!(
            looks(&mut watch, &mut now, 1, LOOK_PERIOD, || [0, 1]),
            [(0, Change::StandsStill)]
        );
        let mut watch = Standstill {
            limit: Duration::from_secs(600),
            ..Standstill::default()
        };
        assert_eq!(looks(&mut watch, &mut now, 3_000, LOOK_PERIOD, || [0, 1]), []);
    }
}

//! When the director's next snapshot goes to the workers, and who has not got the last one yet.
//!
//! Never: more than a share of the management core's time for snapshots, however many changes come in a row.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lvs_core::snapshot::Snapshot;
use nix::time::{ClockId, clock_gettime};

/// Building a table may take this share of the time: the next change after one that took 1 ms to build
/// waits up to 4 ms, so that thousands of changes in a row stay linear.
pub(super) const PUBLISH_PAUSE_FACTOR: u32 = 4;

/// What became of the newest snapshot.
#[derive(Debug, Default)]
pub(super) struct Publication {
    /// The snapshot is older than the desired state or the network.
    pub(super) stale: bool,
    /// Not before this.
    pub(super) not_before: Option<Instant>,
    /// The newest snapshot.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// Workers whose mailbox was full.
    pub(super) waiting: Vec<usize>,
}

/// What this thread has worked: a snapshot is not dearer because the machine is busy with something else, and two
/// changes that a scheduler is to see one after the other are not to become one.
pub(super) fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

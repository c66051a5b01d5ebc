//! Waiting for a condition on a machine that does much else beside it.

use std::time::{Duration, Instant};

/// Only a fault makes anybody wait that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the condition comes about. It is looked at again and again.
pub fn wait_until(condition: impl FnMut() -> bool) -> bool {
    comes_about(Duration::from_micros(200), condition)
}

/// Waits until `condition` holds, which may be costly to look at.
///
/// # Panics
/// When it does not come about.
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    let comes = comes_about(Duration::from_millis(20), condition);
    assert!(comes, "not after {PATIENCE:?}: {what}");
}

/// Whether one of five runs takes less than `floor`. With the fault that a test looks for, every run takes at least that
/// long. A busy machine only makes a run longer, so one quick run is enough.
pub fn takes_less_than(floor: Duration, mut run: impl FnMut()) -> bool {
    (0..5).any(|_| {
        let begun = Instant::now();
        run();
        begun.elapsed() < floor
    })
}

fn comes_about(pause: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if condition() {
            return true;
        }
        std::thread::sleep(pause);
    }
    condition()
}

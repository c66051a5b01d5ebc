//! How long a thread asks the kernel to let it wait, as strace saw it. The machine may add to that.

use std::time::Duration;

/// The longest wait among these system calls, one per line. `None` when there is none.
pub fn longest_wait(calls: &str) -> Option<Duration> {
    calls.lines().filter_map(asked_for).max()
}

/// `clock_nanosleep(CLOCK_REALTIME, 0, {tv_sec=0, tv_nsec=1000000}, …`: the first time that a call names.
fn asked_for(call: &str) -> Option<Duration> {
    let number = |name: &str| {
        let digits = call.split_once(name)?.1;
        let end = digits.find(|digit: char| !digit.is_ascii_digit())?;
        digits[..end].parse::<u64>().ok()
    };
    Some(Duration::from_secs(number("tv_sec=")?) + Duration::from_nanos(number("tv_nsec=")?))
}

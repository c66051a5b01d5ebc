//! How long a thread asks the kernel to let it wait, as strace saw it: what the machine adds to that is not the thread's.

use std::time::Duration;

/// The longest wait that is asked for in these system calls, one a line; `None` where there is none.
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

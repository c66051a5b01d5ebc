//! Settings from the environment, read once at their first use.
//!
//! `LVS_IPVS=off` disables the library. `LVS_IPVS_SOCK` is the daemon's socket. `LVS_IPVS_TIMEOUT` (default 0: as long
//! as the daemon lives) and `LVS_IPVS_WAIT` (default 0) are seconds and may have a fraction. `LVS_IPVS_RUN` is the launcher
//! for programs that the library cannot be loaded into.

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
static TIMEOUT_MS: AtomicU32 = AtomicU32::new(0);
static WAIT_MS: AtomicU32 = AtomicU32::new(0);

const SOCKET_DEFAULT: &CStr = c"/run/lvsd/ipvs.sock";
const LAUNCHER_DEFAULT: &CStr = c"/usr/bin/lvs-run";

fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: the name is a C string.
    let value: *const c_char = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: what getenv returns is null or a C string of the environment, which programs do not free.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

/// Converts `12` or `0.5` to milliseconds. `None` for anything else.
fn milliseconds(text: &CStr) -> Option<u32> {
    let mut total: u32 = 0;
    let mut unit: Option<u32> = None;
    if text.is_empty() {
        return None;
    }
    for byte in text.to_bytes() {
        match (*byte, unit) {
            (b'.', None) => unit = Some(100),
            (b'0'..=b'9', None) => {
                let digit = u32::from(*byte - b'0').saturating_mul(1000);
                total = total.saturating_mul(10).saturating_add(digit);
            }
            (b'0'..=b'9', Some(worth)) => {
                total = total.saturating_add(u32::from(*byte - b'0').saturating_mul(worth));
                unit = Some(worth / 10);
            }
            _ => return None,
        }
    }
    Some(total)
}

/// Whether this process uses the daemon at all.
pub(crate) fn enabled() -> bool {
    match STATE.load(Ordering::Acquire) {
        ON => true,
        OFF => false,
        _ => {
            let off = variable(c"LVS_IPVS").is_some_and(|value| value == c"off");
            if let Some(timeout) = variable(c"LVS_IPVS_TIMEOUT").and_then(milliseconds) {
                TIMEOUT_MS.store(timeout, Ordering::Relaxed);
            }
            if let Some(wait) = variable(c"LVS_IPVS_WAIT").and_then(milliseconds) {
                WAIT_MS.store(wait, Ordering::Relaxed);
            }
            STATE.store(if off { OFF } else { ON }, Ordering::Release);
            !off
        }
    }
}

/// How long an answer may take; 0 for as long as the daemon lives.
pub(crate) fn timeout_ms() -> u32 {
    TIMEOUT_MS.load(Ordering::Relaxed)
}

/// How long to try the first connection.
pub(crate) fn wait_ms() -> u32 {
    WAIT_MS.load(Ordering::Relaxed)
}

/// Where the daemon listens.
pub(crate) fn socket_path() -> &'static CStr {
    variable(c"LVS_IPVS_SOCK").unwrap_or(SOCKET_DEFAULT)
}

/// The launcher.
pub(crate) fn launcher() -> &'static CStr {
    variable(c"LVS_IPVS_RUN").unwrap_or(LAUNCHER_DEFAULT)
}

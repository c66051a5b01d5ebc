//! The CPU's time stamp counter as milliseconds and as cycles. No system call after the start.

use lvs_core::tick::Tick;
use nix::time::{ClockId, clock_gettime};

use crate::dpdk::Eal;

/// Reads time for the worker loop. It is `Copy`: all workers share the same zero.
///
/// It counts from the boot of the machine, so that a later process goes on with about the ticks of an earlier one. The
/// counter runs a little faster or slower than the system's clock: `ConnTable::recover` bears ticks that go back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: u64,
    /// Milliseconds from the boot to `zero`, modulo 2³².
    zero_ms: u32,
    /// The same in microseconds.
    zero_us: u32,
    hz: u64,
    // Milliseconds per cycle as a 64-bit fraction, so that each burst needs a multiplication instead of a division.
    ms_per_cycle: u64,
    us_per_cycle: u64,
}

impl Clock {
    /// A clock whose ticks are the milliseconds since the machine booted, modulo 2³² (`CLOCK_BOOTTIME`).
    pub fn start(_eal: &Eal) -> Self {
        // SAFETY: the EAL runs and has calibrated the counter; no other precondition.
        let hz = unsafe { dpdk_sys::rte_get_tsc_hz() };
        let zero_us = since_boot_us();
        Self {
            zero: cycles(),
            zero_ms: (zero_us / 1_000) as u32,
            zero_us: zero_us as u32,
            hz,
            ms_per_cycle: fraction(hz, 1_000),
            us_per_cycle: fraction(hz, 1_000_000),
        }
    }

    /// This instant.
    #[inline]
    pub fn now(&self) -> Tick {
        self.tick_of(cycles())
    }

    /// The instant at which the counter stood at `cycles`.
    #[inline]
    pub fn tick_of(&self, cycles: u64) -> Tick {
        let ms = (u128::from(cycles.wrapping_sub(self.zero)) * u128::from(self.ms_per_cycle)) >> 64;
        Tick(self.zero_ms).plus_ms(ms as u32)
    }

    /// The same in microseconds, modulo 2³².
    #[inline]
    pub fn us_of(&self, cycles: u64) -> u32 {
        let us = (u128::from(cycles.wrapping_sub(self.zero)) * u128::from(self.us_per_cycle)) >> 64;
        self.zero_us.wrapping_add(us as u32)
    }

    /// Cycles per second.
    pub fn hz(&self) -> u64 {
        self.hz
    }

    /// How many cycles `us` microseconds are.
    pub fn cycles_of_us(&self, us: u64) -> u64 {
        self.hz / 1_000_000 * us
    }
}

/// Microseconds since the machine booted, its sleep included.
fn since_boot_us() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux since 2.6.39 has this clock");
    (time.tv_sec() as u64).wrapping_mul(1_000_000) + time.tv_nsec() as u64 / 1_000
}

/// The counter now.
#[inline]
pub fn cycles() -> u64 {
    // SAFETY: reading the time stamp counter has no precondition.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    // SAFETY: as above.
    #[cfg(not(target_arch = "x86_64"))]
    unsafe {
        dpdk_sys::shim_rdtsc()
    }
}

/// `per_sec` / hz as a fraction of 2⁶⁴, rounded up so that a whole number of seconds is never one short.
const fn fraction(hz: u64, per_sec: u64) -> u64 {
    (((per_sec as u128) << 64) / hz as u128 + 1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_cycles_is_a_day_of_milliseconds() {
        for hz in [1_000_000_000, 2_299_998_000, 3_999_999_937] {
            let clock = Clock {
                zero: 7,
                zero_ms: 0,
                zero_us: 0,
                hz,
                ms_per_cycle: fraction(hz, 1_000),
                us_per_cycle: fraction(hz, 1_000_000),
            };
            assert_eq!(clock.tick_of(7), Tick(0));
            assert_eq!(clock.us_of(7 + hz * 3_600), 3_600_000_000);
            assert_eq!(clock.tick_of(7 + hz * 86_400), Tick(86_400_000), "{hz}");
        }
    }

    #[test]
    fn the_tick_wraps_after_49_days() {
        let hz = 2_000_000_000;
        let clock = Clock {
            zero: 0,
            zero_ms: 0,
            zero_us: 0,
            hz,
            ms_per_cycle: fraction(hz, 1_000),
            us_per_cycle: fraction(hz, 1_000_000),
        };
        let wrap = (u64::from(u32::MAX) + 1) * (hz / 1_000);
        assert_eq!(clock.tick_of(wrap + 5 * hz / 1_000), Tick(5));
    }

    #[test]
    fn a_later_clock_goes_on_where_an_earlier_one_is() {
        let hz = 2_000_000_000;
        let earlier = Clock {
            zero: 0,
            zero_ms: u32::MAX - 10,
            zero_us: 7,
            hz,
            ms_per_cycle: fraction(hz, 1_000),
            us_per_cycle: fraction(hz, 1_000_000),
        };
        let zero = 3 * hz;
        let later = Clock {
            zero,
            zero_ms: earlier.tick_of(zero).0,
            zero_us: earlier.us_of(zero),
            ..earlier
        };
        assert_eq!(later.tick_of(zero + hz), earlier.tick_of(zero + hz));
        assert_eq!(later.us_of(zero + hz), earlier.us_of(zero + hz));
    }
}

//! Time on the packet path: milliseconds since the machine booted, wrapping after 49 days.
//!
//! The core never reads a clock; the worker gives `now` with each burst. Differences are computed modulo 2³², so they
//! are right if the two instants are less than 24 days apart. Every timeout is shorter
//! ([`crate::limits::TIMEOUT_MAX_SEC`]).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An instant in milliseconds, modulo 2³².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Tick(pub u32);

impl Tick {
    /// This instant `ms` later.
    #[inline]
    pub const fn plus_ms(self, ms: u32) -> Self {
        Self(self.0.wrapping_add(ms))
    }

    /// Milliseconds from `earlier` to this instant; 0 if `earlier` is later.
    #[inline]
    pub const fn since_ms(self, earlier: Self) -> u32 {
        let difference = self.0.wrapping_sub(earlier.0);
        if difference > u32::MAX / 2 { 0 } else { difference }
    }

    /// Whether `ms` have passed since `earlier`. Of an instant that is yet to come, as 0 may be of a director that starts
    /// late, it says that they have.
    #[inline]
    pub const fn is_past(self, earlier: Self, ms: u32) -> bool {
        !self.reached(earlier) || self.since_ms(earlier) >= ms
    }

    /// Whether this instant is at or after `other`.
    #[inline]
    pub const fn reached(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) <= u32::MAX / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let before = Tick(u32::MAX - 5);
        let after = before.plus_ms(10);
        assert!(after.reached(before) && !before.reached(after));
        assert_eq!(after.since_ms(before), 10);
        assert_eq!(before.since_ms(after), 0);
    }

    #[test]
    fn a_period_is_past_when_its_time_has_passed_or_it_never_began() {
        let began = Tick(u32::MAX - 5);
        assert!(!began.plus_ms(9).is_past(began, 10) && began.plus_ms(10).is_past(began, 10));
        assert!(!Tick(9).is_past(Tick(0), 10) && Tick(1 << 31 | 7).is_past(Tick(0), 10));
    }
}

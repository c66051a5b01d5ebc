//! How often a worker may do something: a token bucket over virtual time.

use crate::tick::Tick;

/// See the module.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    per_sec: u32,
    burst: u32,
    /// Tokens in thousandths, so that milliseconds add whole numbers.
    millitokens: u32,
    refilled: Tick,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens, refilled with `per_sec` tokens a second.
    pub const fn new(per_sec: u32, burst: u32) -> Self {
        Self {
            per_sec,
            burst,
            millitokens: burst * 1_000,
            refilled: Tick(0),
        }
    }

    /// Takes one token if there is one at `now`.
    pub fn take(&mut self, now: Tick) -> bool {
        let elapsed_ms = now.since_ms(self.refilled);
        self.refilled = now;
        let refill = elapsed_ms.saturating_mul(self.per_sec);
        self.millitokens = self.millitokens.saturating_add(refill).min(self.burst * 1_000);
        if self.millitokens < 1_000 {
            return false;
        }
        self.millitokens -= 1_000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_a_burst_and_then_the_rate() {
        let mut bucket = TokenBucket::new(100, 5);
        let taken = (0..10).filter(|_| bucket.take(Tick(0))).count();
        assert_eq!(taken, 5);
        assert!(!bucket.take(Tick(9)));
        assert!(bucket.take(Tick(19)));
        let later = (0..1_000).filter(|_| bucket.take(Tick(100_000))).count();
        assert_eq!(later, 5, "an idle bucket never holds more than its burst");
    }
}

//! Rates from totals: the kernel's 2-second estimator, with the same digits.
//!
//! In: cumulative counters every [`ESTIMATION_PERIOD_SEC`] seconds. Out: what `ipvsadm --rate` shows.
//! Pure: the caller has the clock. Follows Linux ip_vs_est.c `estimation_timer()`, `ip_vs_read_estimator()`.

use serde::{Deserialize, Serialize};

/// Seconds between two samples.
pub const ESTIMATION_PERIOD_SEC: u64 = 2;

/// Cumulative counters of a real server, a service or the director.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets from real servers.
    pub out_packets: u64,
    /// IP bytes from clients.
    pub in_bytes: u64,
    /// IP bytes from real servers.
    pub out_bytes: u64,
}

impl Totals {
    /// The sum of both, modulo 2⁶⁴.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            connections: self.connections.wrapping_add(other.connections),
            in_packets: self.in_packets.wrapping_add(other.in_packets),
            out_packets: self.out_packets.wrapping_add(other.out_packets),
            in_bytes: self.in_bytes.wrapping_add(other.in_bytes),
            out_bytes: self.out_bytes.wrapping_add(other.out_bytes),
        }
    }

    /// What was counted since `earlier`, modulo 2⁶⁴.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            connections: self.connections.wrapping_sub(earlier.connections),
            in_packets: self.in_packets.wrapping_sub(earlier.in_packets),
            out_packets: self.out_packets.wrapping_sub(earlier.out_packets),
            in_bytes: self.in_bytes.wrapping_sub(earlier.in_bytes),
            out_bytes: self.out_bytes.wrapping_sub(earlier.out_bytes),
        }
    }
}

/// Smoothed rates per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Connections per second (`CPS`).
    pub connections_per_sec: u64,
    /// Packets from clients per second (`InPPS`).
    pub in_packets_per_sec: u64,
    /// Packets from real servers per second (`OutPPS`).
    pub out_packets_per_sec: u64,
    /// Bytes from clients per second (`InBPS`: bytes in spite of the name).
    pub in_bytes_per_sec: u64,
    /// Bytes from real servers per second (`OutBPS`).
    pub out_bytes_per_sec: u64,
}

/// Scale of connections and packets: 2¹⁰, halved because a sample covers two seconds.
const COUNT_SHIFT: u32 = 10;
/// Scale of bytes: 2⁵, halved for the same reason.
const BYTES_SHIFT: u32 = 5;

/// Exponentially weighted moving averages (α = ¼) of one set of counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimator {
    last: Totals,
    /// Scaled averages in the order of [`Totals`].
    averages: [u64; 5],
}

impl Estimator {
    /// An estimator with all rates 0 that begins to count at `totals` (`ip_vs_zero_estimator`, `ipvsadm -Z`).
    pub const fn starting_at(totals: Totals) -> Self {
        Self {
            last: totals,
            averages: [0; 5],
        }
    }

    /// Takes a sample of the counters. Call it every [`ESTIMATION_PERIOD_SEC`].
    pub fn sample(&mut self, totals: Totals) {
        let delta = totals.since(self.last);
        self.last = totals;
        let scaled = [
            delta.connections << (COUNT_SHIFT - 1),
            delta.in_packets << (COUNT_SHIFT - 1),
            delta.out_packets << (COUNT_SHIFT - 1),
            delta.in_bytes << (BYTES_SHIFT - 1),
            delta.out_bytes << (BYTES_SHIFT - 1),
        ];
        for (average, rate) in self.averages.iter_mut().zip(scaled) {
            let difference = (rate as i64).wrapping_sub(*average as i64);
            *average = average.wrapping_add_signed(difference >> 2);
        }
    }

    /// The rates after the last sample.
    pub const fn rates(&self) -> Rates {
        let [connections, in_packets, out_packets, in_bytes, out_bytes] = self.averages;
        Rates {
            connections_per_sec: count_per_sec(connections),
            in_packets_per_sec: count_per_sec(in_packets),
            out_packets_per_sec: count_per_sec(out_packets),
            in_bytes_per_sec: bytes_per_sec(in_bytes),
            out_bytes_per_sec: bytes_per_sec(out_bytes),
        }
    }
}

const fn count_per_sec(average: u64) -> u64 {
    average.wrapping_add((1 << (COUNT_SHIFT - 1)) - 1) >> COUNT_SHIFT
}

const fn bytes_per_sec(average: u64) -> u64 {
    average.wrapping_add((1 << (BYTES_SHIFT - 1)) - 1) >> BYTES_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(packets: u64) -> Totals {
        Totals {
            connections: packets,
            in_packets: packets,
            out_packets: packets,
            in_bytes: packets,
            out_bytes: packets,
        }
    }

    /// What a kernel shows for a constant 1000 packets per second that then stop.
    #[test]
    fn a_constant_rate_rises_and_falls_as_the_kernel_shows_it() {
        let mut estimator = Estimator::default();
        let mut count = 0;
        let mut shown = vec![];
        for _tick in 1..=12 {
            count += 2_000;
            estimator.sample(totals(count));
            shown.push(estimator.rates().in_packets_per_sec);
        }
        assert_eq!(
            [shown[0], shown[1], shown[3], shown[7], shown[11]],
            [250, 437, 684, 900, 968]
        );
        let mut falling = vec![];
        for _tick in 1..=30 {
            estimator.sample(totals(count));
            falling.push(estimator.rates().in_packets_per_sec);
        }
        assert_eq!(
            [falling[0], falling[3], falling[7], falling[15], falling[29]],
            [726, 306, 97, 10, 0]
        );
    }

    #[test]
    fn bytes_have_their_own_scale() {
        let mut estimator = Estimator::default();
        for tick in 1..=100 {
            estimator.sample(Totals {
                in_bytes: tick * 3_000_000,
                ..Totals::default()
            });
        }
        let rates = estimator.rates();
        assert_eq!(
            (
                rates.in_bytes_per_sec,
                rates.out_bytes_per_sec,
                rates.connections_per_sec
            ),
            (1_500_000, 0, 0)
        );
    }

    #[test]
    fn zeroing_forgets_the_rate_and_counts_from_here() {
        let mut estimator = Estimator::default();
        estimator.sample(totals(1_000_000));
        estimator = Estimator::starting_at(totals(1_000_000));
        estimator.sample(totals(1_000_000));
        assert_eq!(estimator.rates(), Rates::default());
    }

    #[test]
    fn a_counter_that_wraps_is_no_burst() {
        let mut estimator = Estimator::starting_at(totals(u64::MAX));
        estimator.sample(totals(7));
        assert_eq!(estimator.rates().in_packets_per_sec, 1);
    }
}

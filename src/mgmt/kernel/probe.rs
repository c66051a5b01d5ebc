//! How often the kernel is asked to resolve neighbours.
//!
//! In:  a neighbour somebody wants, and the time.
//! Out: whether to ask now. The kernel repeats its own questions every second, three times.
//! Never: forgets that a scan of a network must not become a storm of ARP.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::Handle;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// One neighbour is asked for once in this time.
const REPEAT: Duration = Duration::from_secs(1);
/// And in the same time at most this many different ones (the kernel's `gc_thresh3` is 1024).
const PER_REPEAT_MAX: usize = 512;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ProbeLimiter {
    asked: HashMap<(u32, IpAddr), Instant>,
}

impl ProbeLimiter {
    /// Whether the kernel may be asked for this neighbour of this interface at `now`.
    pub(super) fn allow(&mut self, key: (u32, IpAddr), now: Instant) -> bool {
        if self.asked.len() >= PER_REPEAT_MAX {
            self.asked.retain(|_, at| now - *at < REPEAT);
        }
        if self.asked.get(&key).is_some_and(|at| now - *at < REPEAT) || self.asked.len() >= PER_REPEAT_MAX {
            return false;
        }
        self.asked.insert(key, now);
        true
    }
}

/// Asks the kernel.
#[derive(Debug)]
pub(super) struct Prober {
    handle: Handle,
    task: AbortHandle,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    pub(super) fn open() -> std::io::Result<Self> {
        let (asking, handle, _) = rtnetlink::new_connection()?;
        let task = tokio::spawn(asking).abort_handle();
        Ok(Self { handle, task })
    }

    /// NTF_USE, as a packet to this neighbour would do: an unknown or failed one is asked for, a stale one
    /// probed (`neigh_add`, `neigh_event_send`).
    pub(super) async fn ask(&self, ifindex: u32, addr: IpAddr) {
        let request = self.handle.neighbours().add(ifindex, addr).replace();
        let asked = request
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .execute()
            .await;
        if let Err(error) = asked {
            log::debug!("kernel mirror: cannot ask for neighbour {addr}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_neighbour_is_asked_for_once_a_second() {
        let mut limiter = ProbeLimiter::default();
        let key = (7, IpAddr::from([192, 0, 2, 1]));
        let start = Instant::now();
        assert!(limiter.allow(key, start));
        assert!(!limiter.allow(key, start + Duration::from_millis(999)));
        assert!(
            limiter.allow((8, key.1), start),
            "the same address on another link is another neighbour"
        );
        assert!(limiter.allow(key, start + REPEAT));
    }

    #[test]
    fn a_scan_of_a_network_is_cut_off_and_recovers() {
        let mut limiter = ProbeLimiter::default();
        let start = Instant::now();
        let scan = |limiter: &mut ProbeLimiter, now| {
            (0..2_000u32)
                .filter(|low| limiter.allow((7, IpAddr::from((0xc612_0000 + low).to_be_bytes())), now))
                .count()
        };
        assert_eq!(scan(&mut limiter, start), PER_REPEAT_MAX);
        assert_eq!(scan(&mut limiter, start + REPEAT / 2), 0);
        assert_eq!(scan(&mut limiter, start + REPEAT), PER_REPEAT_MAX);
    }
}

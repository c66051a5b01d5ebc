//! How many ICMP errors a worker may send: a token bucket over virtual time, and one for each host that they go to.
//!
//! Never: grows; two hosts that meet in a slot forget each other's bucket.
//! Ref: Linux net/ipv4/inetpeer.c `inet_peer_xrlim_allow`, net/ipv4/icmp.c `icmp_global_allow`.

use crate::tick::Tick;
use crate::worker_state::token_bucket::TokenBucket;

/// Errors to one host at once before the pauses begin (`inet_peer_xrlim_allow`, `XRLIM_BURST_FACTOR`).
const PEER_BURST: u32 = 6;
/// Hosts remembered; one that meets another's place begins anew.
const PEERS_MAX: usize = 256;

/// Time saved up for errors to one host.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// Hash of its address; 0 for none.
    hash: u32,
    saved_ms: u32,
    seen: Tick,
}

/// How many errors may be sent: a token bucket over virtual time, and one for each host that they go to.
#[derive(Clone, Debug)]
pub struct IcmpBudget {
    all: TokenBucket,
    peers: Box<[Peer]>,
}

impl IcmpBudget {
    /// A full bucket of `burst` tokens, refilled with `per_sec` tokens a second.
    pub fn new(per_sec: u32, burst: u32) -> Self {
        Self {
            all: TokenBucket::new(per_sec, burst),
            peers: vec![Peer::default(); PEERS_MAX].into_boxed_slice(),
        }
    }

    /// Takes one token if there is one at `now`.
    pub fn take(&mut self, now: Tick) -> bool {
        self.all.take(now)
    }

    /// The same for an error to the host whose address has this hash.
    pub fn take_for(&mut self, now: Tick, hash: u32, pause_ms: u32) -> bool {
        let hash = hash | 1;
        let Some(peer) = self.peers.get_mut(hash as usize / 2 % PEERS_MAX) else {
            return false;
        };
        let full_ms = PEER_BURST.saturating_mul(pause_ms);
        if peer.hash == hash {
            peer.saved_ms = peer.saved_ms.saturating_add(now.since_ms(peer.seen)).min(full_ms);
        } else {
            (peer.hash, peer.saved_ms) = (hash, full_ms);
        }
        peer.seen = now;
        if peer.saved_ms < pause_ms {
            return false;
        }
        peer.saved_ms -= pause_ms;
        self.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_gets_six_errors_at_once_then_one_a_second_and_others_theirs() {
        let mut budget = IcmpBudget::new(1_000, 64);
        let mut to = |host: u32, now: u32| (0..10).filter(|_| budget.take_for(Tick(now), host, 1_000)).count();
        assert_eq!((to(2, 10_000), to(4, 10_000)), (6, 6));
        assert_eq!(to(2, 10_999), 0);
        assert_eq!(to(2, 11_000), 1);
        assert_eq!(to(2, 60_000), 6);
    }
}

//! A packet that cannot go on is answered with an ICMP error, within a budget.
//!
//! In:  the offending packet, the error, the address to speak in the name of.
//! Out: the same buffer as an ICMP packet on its way to the sender, counted under the reason; or a drop
//!      with that reason when the budget is used up or RFC 1122 3.2.2 / RFC 4443 2.4 forbid an answer.

use crate::address::{Address, AddressFamily, Endpoint, FlowKey};
use crate::counters::SingleWriter;
use crate::frame::Frame;
use crate::path::admit;
use crate::path::headers::Headers;
use crate::path::icmp::{self, IcmpError};
use crate::path::resolve::{self, RouteError};
use crate::path::verdict::{DropReason, Verdict};
use crate::tick::Tick;
use crate::wire::ethernet::EthernetHeader;
use crate::wire::icmp as icmp_wire;
use crate::wire::vlan::VlanTag;
use crate::worker_state::Context;

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
    per_sec: u32,
    burst: u32,
    /// Tokens in thousandths, so that milliseconds add whole numbers.
    millitokens: u32,
    refilled: Tick,
    peers: Box<[Peer]>,
}

impl IcmpBudget {
    /// A full bucket of `burst` tokens, refilled with `per_sec` tokens a second.
    pub fn new(per_sec: u32, burst: u32) -> Self {
        Self {
            per_sec,
            burst,
            millitokens: burst * 1_000,
            refilled: Tick(0),
            peers: vec![Peer::default(); PEERS_MAX].into_boxed_slice(),
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

/// Path MTU discovery is not slowed down (`icmpv4_mask_allow`, `icmpv6_mask_allow`).
const fn is_limited_by_host(error: IcmpError) -> bool {
    !matches!(
        error,
        IcmpError::FragmentationNeeded { .. }
            | IcmpError::Relayed {
                kind: icmp_wire::V4_UNREACHABLE,
                code: icmp_wire::V4_CODE_FRAGMENTATION_NEEDED,
                ..
            }
    )
}

fn is_within_budget<A: Address>(ctx: &mut Context<'_>, to: A, error: IcmpError) -> bool {
    if !is_limited_by_host(error) {
        return ctx.icmp_budget.take(ctx.now);
    }
    let pauses = &ctx.snapshot.l3.icmp_pauses;
    let pause_ms = match A::FAMILY {
        AddressFamily::Ipv4 => pauses.v4_ms,
        // As to hosts behind a default route (`icmpv6_xrlim_allow`).
        AddressFamily::Ipv6 => pauses.v6_ms >> 4,
    };
    if pause_ms == 0 {
        return ctx.icmp_budget.take(ctx.now);
    }
    let hash = admit::hash_of_end(ctx, Endpoint::new(to, 0));
    ctx.icmp_budget.take_for(ctx.now, hash, pause_ms)
}

/// See the module.
#[cold]
pub(crate) fn answer<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    headers: &Headers,
    key: &FlowKey<A>,
    frame: &mut F,
    error: IcmpError,
    source: A,
    reason: DropReason,
) -> Verdict {
    if !is_within_budget(ctx, key.src.addr, error) {
        return Verdict::Drop(reason);
    }
    let next_hop = match resolve::route(ctx, key.src.addr.to_ip()) {
        Ok(next_hop) => next_hop,
        Err(RouteError::Local | RouteError::Unreachable | RouteError::Drop(_)) => return Verdict::Drop(reason),
    };
    let identification = ctx.random.next_u32() as u16;
    match icmp::reply(frame, headers, error, source.to_ip(), identification) {
        Ok(()) => {
            ctx.own.icmp_errors.add(1);
            ctx.own.answer_packet(reason);
            if ctx.reassembled != 0 {
                // What stands in the datagram's place now is one packet and leaves as one.
                ctx.reassembled = u16::MAX;
            }
            resolve::depart_from(frame, resolve::L3_OFFSET, A::FAMILY, &next_hop)
        }
        Err(_) => Verdict::Drop(reason),
    }
}

/// Bytes of the IP packet in an answer that is on its way.
pub(crate) fn sent_len(frame: &[u8]) -> usize {
    let l2_len = match frame.get(12..14) {
        Some([0x81, 0]) => EthernetHeader::LEN + VlanTag::LEN,
        _ => EthernetHeader::LEN,
    };
    frame.len().saturating_sub(l2_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_allows_a_burst_and_then_the_rate() {
        let mut budget = IcmpBudget::new(100, 5);
        let taken = (0..10).filter(|_| budget.take(Tick(0))).count();
        assert_eq!(taken, 5);
        assert!(!budget.take(Tick(9)));
        assert!(budget.take(Tick(19)));
        let later = (0..1_000).filter(|_| budget.take(Tick(100_000))).count();
        assert_eq!(later, 5, "an idle bucket never holds more than its burst");
    }

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

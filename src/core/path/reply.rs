//! A packet that cannot go on is answered with an ICMP error, within a budget.
//!
//! In:  the offending packet, the error, the address to speak in the name of.
//! Out: the same buffer as an ICMP packet on its way to the sender, counted under the reason; or a drop
//!      with that reason when the budget is used up or RFC 1122 3.2.2 / RFC 4443 2.4 forbid an answer.

use crate::address::{Address, FlowKey};
use crate::counters::SingleWriter;
use crate::frame::Frame;
use crate::path::headers::Headers;
use crate::path::icmp::{self, IcmpError};
use crate::path::resolve::{self, Obstacle};
use crate::path::verdict::{DropReason, Verdict};
use crate::tick::Tick;
use crate::wire::ethernet::EthernetHeader;
use crate::wire::vlan::VlanTag;
use crate::worker_state::Step;

/// A token bucket over virtual time.
#[derive(Clone, Debug)]
pub struct IcmpBudget {
    per_sec: u32,
    burst: u32,
    /// Tokens in thousandths, so that milliseconds add whole numbers.
    millitokens: u32,
    refilled: Tick,
}

impl IcmpBudget {
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

/// See the module.
#[cold]
pub(crate) fn answer<A: Address, F: Frame>(
    step: &mut Step<'_>,
    headers: &Headers,
    key: &FlowKey<A>,
    frame: &mut F,
    error: IcmpError,
    source: A,
    reason: DropReason,
) -> Verdict {
    if !step.icmp_budget.take(step.now) {
        return Verdict::Drop(reason);
    }
    let way = match resolve::route(step, key.src.addr.to_ip()) {
        Ok(way) => way,
        Err(Obstacle::Local | Obstacle::Unreachable | Obstacle::Drop(_)) => return Verdict::Drop(reason),
    };
    let identification = step.random.next_u32() as u16;
    match icmp::reply(frame, headers, error, source.to_ip(), identification) {
        Ok(()) => {
            step.own.icmp_errors.add(1);
            step.own.answer_packet(reason);
            if step.reassembled != 0 {
                // What stands in the datagram's place now is one packet and leaves as one.
                step.reassembled = u16::MAX;
            }
            resolve::depart_from(frame, resolve::L3_OFFSET, A::FAMILY, &way)
        }
        Err(_) => Verdict::Drop(reason),
    }
}

/// Octets of the IP packet in an answer that is on its way.
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
}

//! A packet that cannot go on is answered with an ICMP error, within a budget.
//!
//! In:  the offending packet, the error, the address to speak in the name of.
//! Out: the same buffer as an ICMP packet on its way to the sender, counted under the reason; or a drop
//!      with that reason when the budget is used up or RFC 1122 3.2.2 / RFC 4443 2.4 forbid an answer.

use crate::address::{Address, AddressFamily, Endpoint};
use crate::frame::Frame;
use crate::l3::fib::RouteQuery;
use crate::packet::{Origin, Packet};
use crate::path::forward::resolve::{self, RouteError};
use crate::path::icmp::build::{self, ErrorMessage, IcmpError};
use crate::path::ownership;
use crate::path::stack::ip_options;
use crate::single_writer::SingleWriter;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet::EthernetHeader;
use crate::wire::icmp as icmp_wire;
use crate::wire::ipv4_options::EchoedOptions;
use crate::wire::vlan::VlanTag;
use crate::worker_state::context::Context;

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
        return ctx.out.icmp_budget.take(ctx.now);
    }
    let pauses = &ctx.snapshot.l3.icmp_pauses;
    let pause_ms = match A::FAMILY {
        AddressFamily::Ipv4 => pauses.v4_ms,
        // As to hosts behind a default route (`icmpv6_xrlim_allow`).
        AddressFamily::Ipv6 => pauses.v6_ms >> 4,
    };
    if pause_ms == 0 {
        return ctx.out.icmp_budget.take(ctx.now);
    }
    let hash = ownership::hash_of_end(ctx, Endpoint::new(to, 0));
    ctx.out.icmp_budget.take_for(ctx.now, hash, pause_ms)
}

/// How a packet is answered.
#[derive(Clone, Copy)]
pub(crate) struct Answer<A: Address> {
    pub(crate) error: IcmpError,
    /// In whose name.
    pub(crate) source: A,
    /// Why, and the reason of the drop when there can be no answer.
    pub(crate) reason: DropReason,
}

/// See the module.
#[cold]
pub(crate) fn send<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    packet: &mut Packet<'_, A, F>,
    answer: &Answer<A>,
) -> Verdict {
    let &Answer { error, source, reason } = answer;
    let sender = packet.key.src.addr;
    if !is_within_budget(ctx, sender, error) {
        return Verdict::Drop(reason);
    }
    let query = RouteQuery {
        tos: resolve::tos_of(packet.frame.bytes(), &packet.headers),
        protocol: match A::FAMILY {
            AddressFamily::Ipv4 => icmp_wire::PROTOCOL_V4,
            AddressFamily::Ipv6 => icmp_wire::PROTOCOL_V6,
        },
        ..RouteQuery::output(sender.to_ip()).from(source.to_ip())
    };
    let next_hop = match resolve::route(ctx, &query) {
        Ok(next_hop) => next_hop,
        Err(RouteError::Local | RouteError::Unreachable | RouteError::Drop(_)) => return Verdict::Drop(reason),
    };
    let options = match error {
        // The kernel repeats the options of the packet that it received, not of the one in that packet.
        IcmpError::Relayed { .. } => Some(EchoedOptions::NONE),
        _ if ip_options::are_there(&packet.headers) => ip_options::echo(ctx, packet, source),
        _ => Some(EchoedOptions::NONE),
    };
    let Some(options) = options else {
        return Verdict::Drop(reason);
    };
    let message = ErrorMessage {
        error,
        source: source.to_ip(),
        identification: ctx.random.next_u32() as u16,
        options,
    };
    match build::icmp_error(packet.frame, &packet.headers, &message) {
        Ok(()) => {
            ctx.own.icmp_errors.add(1);
            ctx.own.answer_packet(reason);
            if let Origin::Reassembled { longest } = &mut packet.origin {
                // What stands in the datagram's place now is one packet and leaves as one.
                *longest = u16::MAX;
            }
            resolve::depart_from(packet.frame, resolve::L3_OFFSET, A::FAMILY, &next_hop)
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

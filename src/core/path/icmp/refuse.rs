//! A packet goes no further: who gets an ICMP error, and in whose name.
//!
//! In:  a packet of a connection that has no route, that is too long or whose TTL is used up; a stray one.
//! Out: the answer to its sender, from the VIP to a client, from the director's own address to a real server.
//! Ref: Linux net/netfilter/ipvs/ip_vs_xmit.c `ensure_mtu_is_adequate`, ip_vs_core.c `ip_vs_out_icmp`.

use crate::address::{Address, AddressFamily};
use crate::frame::Frame;
use crate::ipvs::conn::Direction;
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::real_server::RealServer;
use crate::packet::{Origin, Packet};
use crate::path::forward::{resolve, rewrite, tunnel};
use crate::path::icmp::answer::{self, Answer};
use crate::path::icmp::build::IcmpError;
use crate::verdict::{DropReason, Verdict};
use crate::worker_state::context::Context;

/// The error about a packet longer than `mtu`; `None` when it is sent in pieces instead.
#[cold]
pub(crate) fn too_big_error<A: Address, F>(
    ctx: &Context<'_>,
    packet: &Packet<'_, A, F>,
    mode: ForwardingMode,
    mtu: u16,
) -> Option<IcmpError> {
    let is_pmtu_disc = mode != ForwardingMode::Tunnel || tunnel::is_pmtu_disc(ctx);
    let is_refused = match (A::FAMILY, packet.origin) {
        (AddressFamily::Ipv4, _) => packet.headers.dont_fragment && is_pmtu_disc,
        // No router cuts IPv6; what arrived in pieces may leave in pieces of that length.
        (AddressFamily::Ipv6, Origin::Whole) => true,
        (AddressFamily::Ipv6, Origin::Reassembled { longest }) => longest > mtu,
    };
    is_refused.then_some(IcmpError::FragmentationNeeded { mtu })
}

/// The reason under which a packet is answered, or dropped where no answer may be sent.
const fn reason_of(error: IcmpError) -> DropReason {
    match error {
        IcmpError::PortUnreachable => DropReason::NoConnection,
        IcmpError::HostUnreachable | IcmpError::NetUnreachable | IcmpError::Prohibited => DropReason::NoRoute,
        IcmpError::FragmentationNeeded { .. } => DropReason::MtuExceeded,
        IcmpError::TimeExceeded => DropReason::TtlExpired,
        IcmpError::ReassemblyTimeExceeded => DropReason::FragmentTimeout,
        IcmpError::Relayed { .. } => DropReason::TunnelPath,
    }
}

/// Answers a client's packet in the name of the VIP it was sent to. In DR and TUN the kernel counts that as a
/// packet of the connection, as what leaves from VIP to client is (`ip_vs_out_icmp`).
#[cold]
pub(crate) fn to_client<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    packet: &mut Packet<'_, A, F>,
    server: &RealServer,
    error: IcmpError,
) -> Verdict {
    if matches!(error, IcmpError::FragmentationNeeded { .. }) {
        // Towards servers the kernel looks at the length behind the TTL (`__ip_vs_get_out_rt`); as a router before.
        rewrite::decrement_ttl(packet.frame.bytes_mut(), &packet.headers);
    }
    let answer = Answer {
        error,
        source: packet.key.dst.addr,
        reason: reason_of(error),
    };
    let verdict = answer::send(ctx, packet, &answer);
    if !server.mode.sees_replies() && !matches!(verdict, Verdict::Drop(_)) {
        let sent_len = answer::sent_len(packet.frame.bytes());
        ctx.own.server(server.id).count(Direction::Outbound, sent_len as u64);
    }
    verdict
}

/// Answers a real server's packet that belongs to no connection (`nat_icmp_send`).
#[cold]
pub(crate) fn stray<A: Address, F: Frame>(ctx: &mut Context<'_>, packet: &mut Packet<'_, A, F>) -> Verdict {
    if !ctx.snapshot.l3.is_local(packet.key.dst.addr) {
        if packet.headers.ttl <= 1 {
            return as_router(ctx, packet, IcmpError::TimeExceeded);
        }
        // The stack was about to forward it: what is quoted has been through that.
        rewrite::decrement_ttl(packet.frame.bytes_mut(), &packet.headers);
    }
    as_router(ctx, packet, IcmpError::PortUnreachable)
}

/// Answers a real server's packet of which the client cannot be reached.
#[cold]
pub(crate) fn without_route<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    packet: &mut Packet<'_, A, F>,
    client: A,
) -> Verdict {
    let received = resolve::received_query(ctx, packet, client.to_ip());
    let error = IcmpError::of_router(&ctx.snapshot.l3.decide(&received), A::FAMILY);
    as_router(ctx, packet, error)
}

/// Answers a real server's packet in the name of the director's address on that link.
#[cold]
pub(crate) fn as_router<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    packet: &mut Packet<'_, A, F>,
    error: IcmpError,
) -> Verdict {
    let reason = reason_of(error);
    match ctx.snapshot.l3.source_address::<A>(ctx.device) {
        Some(source) => answer::send(ctx, packet, &Answer { error, source, reason }),
        None => Verdict::Drop(reason),
    }
}

//! A packet goes no further: who is told so by ICMP, and in whose name.
//!
//! In:  a packet of a connection that has no route, that is too long or whose TTL is used up; a stray one.
//! Out: the answer to its sender, from the VIP to a client, from the director's own address to a real server.
//! Ref: Linux net/netfilter/ipvs/ip_vs_xmit.c `ensure_mtu_is_adequate`, ip_vs_core.c `ip_vs_out_icmp`.

use crate::address::FlowKey;
use crate::address::{Address, AddressFamily};
use crate::frame::Frame;
use crate::headers::Headers;
use crate::ipvs::conn::{ConnIndex, Direction};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::real_server::RealServer;
use crate::path::forward::{rewrite, tunnel};
use crate::path::icmp::answer;
use crate::path::icmp::build::IcmpError;
use crate::path::slow_path::Known;
use crate::verdict::{DropReason, Verdict};
use crate::worker_state::context::Context;

/// What the sender of a packet longer than `mtu` is told; `None` when it is sent in pieces instead.
#[cold]
pub(crate) fn too_big_error(ctx: &Context<'_>, headers: &Headers, mode: ForwardingMode, mtu: u16) -> Option<IcmpError> {
    let is_pmtu_disc = mode != ForwardingMode::Tunnel || tunnel::is_pmtu_disc(ctx);
    let must_be_told = match headers.family {
        AddressFamily::Ipv4 => headers.dont_fragment && is_pmtu_disc,
        // No router cuts IPv6; what arrived in pieces may leave in pieces of that length.
        AddressFamily::Ipv6 => ctx.reassembled == 0 || ctx.reassembled > mtu,
    };
    must_be_told.then_some(IcmpError::FragmentationNeeded { mtu })
}

/// Answers a client's packet in the name of the VIP it was sent to. In DR and TUN the kernel counts that as a
/// packet of the connection, as what leaves from VIP to client is (`ip_vs_out_icmp`).
#[cold]
pub(crate) fn to_client<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    packet: &Known<'_, A>,
    frame: &mut F,
    server: &RealServer,
    error: IcmpError,
    reason: DropReason,
) -> Verdict {
    if matches!(error, IcmpError::FragmentationNeeded { .. }) {
        // Towards servers the kernel looks at the length behind the TTL (`__ip_vs_get_out_rt`); as a router before.
        rewrite::decrement_ttl(frame.bytes_mut(), packet.headers);
    }
    let vip = packet.key.dst.addr;
    let verdict = answer::answer(ctx, packet.headers, packet.key, frame, error, vip, reason);
    if !server.mode.sees_replies() && !matches!(verdict, Verdict::Drop(_)) {
        ctx.own
            .server(server.id)
            .count(Direction::Outbound, answer::sent_len(frame.bytes()) as u64);
    }
    verdict
}

/// Tells a real server that its packet belongs to no connection (`nat_icmp_send`).
#[cold]
pub(crate) fn stray<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    headers: &Headers,
    key: &FlowKey<A>,
    frame: &mut F,
) -> Verdict {
    let packet = Known {
        index: ConnIndex(0),
        headers,
        key,
    };
    if !ctx.snapshot.l3.is_local(key.dst.addr) {
        if headers.ttl <= 1 {
            return as_router(ctx, &packet, frame, IcmpError::TimeExceeded, DropReason::TtlExpired);
        }
        // The stack was about to forward it: what is quoted has been through that.
        rewrite::decrement_ttl(frame.bytes_mut(), headers);
    }
    as_router(
        ctx,
        &packet,
        frame,
        IcmpError::PortUnreachable,
        DropReason::NoConnection,
    )
}

/// Answers a real server's packet in the name of the director's address on that link.
#[cold]
pub(crate) fn as_router<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    packet: &Known<'_, A>,
    frame: &mut F,
    error: IcmpError,
    reason: DropReason,
) -> Verdict {
    match ctx.snapshot.l3.source_address::<A>(ctx.device) {
        Some(source) => answer::answer(ctx, packet.headers, packet.key, frame, error, source, reason),
        None => Verdict::Drop(reason),
    }
}

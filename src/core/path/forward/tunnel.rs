//! Stage 7, TUN: into the tunnel to the real server, in pieces where the outer packet is too long for its link.
//!
//! In:  a packet of a connection in tunnel mode. Out: the outer packet on its way.
//! Ref: Linux net/netfilter/ipvs/ip_vs_xmit.c `ip_vs_tunnel_xmit`, net/udp_tunnel.h `udp_flow_src_port`.

pub mod encapsulate;

use std::net::IpAddr;

use crate::address::{Address, AddressFamily};
use crate::frame::Frame;
use crate::ipvs::conn::Conn;
use crate::ipvs::real_server::RealServer;
use crate::ipvs::tunnel_kind::TunnelKind;
use crate::packet::{Origin, Packet};
use crate::path::forward::resolve::{self, NextHop, ToServer};
use crate::path::forward::tunnel::encapsulate::Outer;
use crate::path::fragments::cut;
use crate::path::ownership;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{ipv4, ipv6};
use crate::worker_state::context::Context;

/// First port and number of ports that GUE sends from (kernel: `ip_local_port_range`).
const SRC_PORTS: (u16, u16) = (32_768, 28_232);

/// Bytes that the tunnel to `server` adds to a packet.
#[inline]
pub(crate) const fn overhead(server: &RealServer) -> u16 {
    encapsulate::overhead(server.tunnel, AddressFamily::of(&server.addr))
}

/// Bytes of the longest packet that fits the tunnel to `server` whole.
#[inline]
pub(crate) fn mtu(ctx: &mut Context<'_>, server: &RealServer, next_hop: &NextHop<'_>) -> u16 {
    outer_mtu(ctx, server, next_hop).saturating_sub(overhead(server))
}

/// The director's address towards `server`.
#[inline]
pub(crate) fn source(ctx: &mut Context<'_>, server: IpAddr) -> Option<IpAddr> {
    let l3 = &ctx.snapshot.l3;
    let sources = &mut ctx.l3_memory.cache.sources;
    sources.get_or_look_up(l3, server, || l3.tunnel_source(server))
}

/// Bytes of a packet that a tunnel must carry, or the kernel sends nothing through it (`__ip_vs_get_out_rt`,
/// `__ip_vs_get_out_rt_v6`).
#[inline]
pub(crate) const fn mtu_min(server: &RealServer) -> u16 {
    match server.addr {
        IpAddr::V4(_) => ipv4::MTU_MIN,
        IpAddr::V6(_) => ipv6::MTU_MIN,
    }
}

#[inline]
fn outer_mtu(ctx: &mut Context<'_>, server: &RealServer, next_hop: &NextHop<'_>) -> u16 {
    ctx.l3_memory.path_mtus.towards(server.addr, next_hop.hop.mtu, ctx.now)
}

/// Whether DF of the inner packet is copied and obeyed (sysctl `pmtu_disc`).
#[inline]
pub(crate) fn is_pmtu_disc(ctx: &Context<'_>) -> bool {
    ctx.snapshot.sysctls.pmtu_disc
}

/// See the module.
#[inline]
pub(crate) fn send<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    conn: &Conn<A>,
    packet: &mut Packet<'_, A, F>,
    to: &ToServer<'_>,
) -> Verdict {
    let ToServer { server, next_hop, mtu } = to;
    let Some(source) = source(ctx, server.addr) else {
        return Verdict::Drop(DropReason::NoRoute);
    };
    let outer = Outer {
        kind: server.tunnel,
        src: source,
        dst: server.addr,
        identification: ctx.random.next_u32() as u16,
        src_port: match server.tunnel {
            TunnelKind::Gue { .. } => src_port(ctx, conn),
            TunnelKind::IpIp | TunnelKind::Gre { .. } => 0,
        },
        pmtu_disc: is_pmtu_disc(ctx),
    };
    let is_oversize = packet.headers.packet_len() > usize::from(*mtu);
    let family = AddressFamily::of(&server.addr);
    if A::FAMILY == AddressFamily::Ipv6
        && family == AddressFamily::Ipv4
        && let Origin::Reassembled { longest } = &mut packet.origin
    {
        // Outside IPv6 its smallest MTU means nothing: the outer packet is cut only where its link wants it.
        *longest = u16::MAX;
    }
    if let Err(reason) = encapsulate::encapsulate(packet.frame, &packet.headers, &outer) {
        return Verdict::Drop(reason);
    }
    let verdict = resolve::depart_from(packet.frame, resolve::L3_OFFSET, family, next_hop);
    if is_oversize {
        let outer_mtu = outer_mtu(ctx, server, next_hop);
        cut::to_fit(ctx, packet, outer_mtu, verdict)
    } else {
        verdict
    }
}

/// The same for all packets of a connection, so that routers and receivers spread connections, not packets.
fn src_port<A: Address>(ctx: &Context<'_>, conn: &Conn<A>) -> u16 {
    let (first, count) = SRC_PORTS;
    let hash = ownership::hash_of_end(ctx, conn.client()) ^ u32::from(conn.virt().port).wrapping_mul(0x9e37_79b9);
    first + ((u64::from(hash) * u64::from(count)) >> 32) as u16
}

/// The MTU that a client gets in an error about a path MTU of which a tunnel takes `overhead` bytes of it (`ip_vs_in_icmp`).
pub(crate) const fn mtu_for_client(mtu: u16, overhead: u16) -> u16 {
    if mtu > ipv4::MTU_MIN + overhead {
        mtu - overhead
    } else {
        mtu
    }
}

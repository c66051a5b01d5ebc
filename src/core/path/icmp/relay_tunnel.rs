//! Stage 2, ICMP about tunnels: a router on the path to a real server refused a packet that we put into a tunnel.
//!
//! In:  an ICMP error sent to the director, quoting an outer packet with enough of the inner one in it.
//! Out: the same error about the inner packet, to its client, in the name of the VIP; a path MTU learned.
//! Never: believes an error about a tunnel that the quoted connection does not use.
//! Ref:  RFC 2003 4; Linux net/netfilter/ipvs/ip_vs_core.c `ip_vs_in_icmp`, `ipvs_udp_decap`, `ipvs_gre_decap`.

use zerocopy::FromBytes;

use crate::address::{Addr4, Address, AddressFamily, FlowKey};
use crate::frame::Frame;
use crate::headers::{Flow, Fragment, Headers};
use crate::ipvs::conn::Conn;
use crate::ipvs::conn::Direction;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::real_server::RealServer;
use crate::ipvs::tunnel_kind::TunnelKind;
use crate::packet::Packet;
use crate::path::forward::resolve;
use crate::path::forward::tunnel;
use crate::path::forward::tunnel::encapsulate::PROTOCOL_IPV4;
use crate::path::icmp::answer::Answer;
use crate::path::icmp::build::IcmpError;
use crate::path::icmp::relay::Relayed;
use crate::path::icmp::{answer, relay};
use crate::path::ownership;
use crate::path::parse::{Embedded, quoted_v4};
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet::ETHERTYPE_IPV4;
use crate::wire::gre::{self, GreHeader};
use crate::wire::gue::GueHeader;
use crate::wire::icmp::{self, IcmpHeader};
use crate::wire::ipv4::Ipv4Header;
use crate::wire::udp::{self, UdpHeader};
use crate::worker_state::context::Context;

/// See the module. `None` when the quoted packet is not of a tunnel.
pub(crate) fn about_tunnel<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<Addr4>,
    relayed: &mut Relayed<'_, '_, A, F>,
) -> Option<Verdict> {
    if A::FAMILY != AddressFamily::Ipv4 {
        return None;
    }
    let Relayed { packet, quoted, .. } = relayed;
    let error = TunnelError::read(packet.frame.bytes(), &packet.headers, quoted)?;
    if !ctx.snapshot.l3.is_local(error.director) {
        return None;
    }
    let Some((index, Direction::Inbound)) = table.lookup(&error.key) else {
        return Some(ownership::other_owner(ctx, &error.key).map_or(Verdict::Punt, Verdict::Handoff));
    };
    let conn = table.conn_mut(index);
    let slot = ctx.snapshot.services.real_server(conn.real_server);
    let Some(server) = slot.map(|slot| &slot.server).filter(|server| {
        server.addr == error.end.to_ip() && error.is_of(server.tunnel) && conn.mode() == ForwardingMode::Tunnel
    }) else {
        return Some(Verdict::Punt);
    };
    if !relay::is_checksum_right(packet.frame.bytes(), &packet.headers) {
        return Some(Verdict::Drop(DropReason::IcmpChecksum));
    }
    let Some(error_to_client) = error.for_client(ctx, conn, server) else {
        return Some(Verdict::Drop(DropReason::TunnelPath));
    };
    let answer = Answer {
        error: error_to_client,
        source: error.key.dst.addr,
        reason: DropReason::TunnelPath,
    };
    let mut inner = Packet {
        headers: error.inner,
        key: &error.key,
        frame: &mut *packet.frame,
        origin: packet.origin,
    };
    let verdict = answer::send(ctx, &mut inner, &answer);
    packet.origin = inner.origin;
    if !matches!(verdict, Verdict::Drop(_)) {
        // tun_icmp_outer: the kernel counts what it quotes as well as what it sends.
        let conn = table.conn(index);
        ctx.count(conn, Direction::Outbound, error.inner.packet_len());
        ctx.count(conn, Direction::Outbound, answer::sent_len(packet.frame.bytes()));
    }
    Some(verdict)
}

/// A packet that we put into a tunnel never left: the kernel's error about it reaches the director itself, which counts
/// the packet inside as one to the client and sends nothing, for too little of it is quoted.
pub(crate) fn count_undelivered(ctx: &Context<'_>, table: &ConnTable<Addr4>, headers: &Headers, frame: &[u8]) {
    let outer = Embedded {
        reply: Flow::V4(FlowKey::default()),
        l3_offset: headers.l3_offset,
        l4_offset: headers.l4_offset,
        protocol: headers.protocol,
    };
    let inner = inner_offset(frame, headers, &outer).and_then(|(at, _)| quoted_v4(frame, at, headers.packet_end));
    if let Some(inner) = inner
        && let Flow::V4(answer) = inner.reply
        && let key = answer.reversed()
        && let Some((index, Direction::Inbound)) = table.lookup(&key)
    {
        let len = headers.packet_end.saturating_sub(inner.l3_offset);
        ctx.count(table.conn(index), Direction::Outbound, usize::from(len));
    }
}

/// What an error about a tunnel says.
struct TunnelError {
    message: IcmpHeader,
    /// The director's address that the error was sent to.
    director: Addr4,
    /// The real server's end of the tunnel.
    end: Addr4,
    protocol: u8,
    /// UDP port of that end, 0 without.
    port: u16,
    /// The inner packet, as far as it is quoted.
    inner: Headers,
    /// Its flow.
    key: FlowKey<Addr4>,
}

impl TunnelError {
    fn read(frame: &[u8], headers: &Headers, outer: &Embedded) -> Option<Self> {
        let (l3_offset, port) = inner_offset(frame, headers, outer)?;
        let inner = quoted_v4(frame, l3_offset, headers.packet_end)?;
        let Flow::V4(answer) = inner.reply else {
            return None;
        };
        let ip = header_at(frame, l3_offset)?;
        let message = frame.get(usize::from(headers.l4_offset)..)?;
        Some(Self {
            message: *IcmpHeader::ref_from_prefix(message).ok()?.0,
            director: header_at(frame, headers.l3_offset)?.dst,
            end: header_at(frame, outer.l3_offset)?.dst,
            protocol: outer.protocol,
            port,
            inner: Headers {
                l3_offset,
                l4_offset: inner.l4_offset,
                packet_end: headers.packet_end,
                family: AddressFamily::Ipv4,
                protocol: inner.protocol,
                ttl: ip.ttl,
                fragment: Fragment::Whole,
                dont_fragment: ip.dont_fragment(),
                ..Headers::default()
            },
            // The quoted packet is the client's, not an answer to it.
            key: FlowKey {
                src: answer.dst,
                dst: answer.src,
                protocol: inner.protocol,
            },
        })
    }

    /// What the client is sent, as if a router had said it about the client's own packet; a path MTU is learned.
    /// `None` where the kernel sends nothing.
    fn for_client(&self, ctx: &mut Context<'_>, conn: &mut Conn<Addr4>, server: &RealServer) -> Option<IcmpError> {
        let IcmpHeader { kind, code, rest, .. } = self.message;
        let mut rest = rest.get();
        if (kind, code) == (icmp::V4_UNREACHABLE, icmp::V4_CODE_FRAGMENTATION_NEEDED) {
            let next_hop = resolve::to_server(ctx, conn, server).ok()?;
            // RFC 1191 4: the low half.
            let (quoted_mtu, link_mtu) = (rest as u16, next_hop.hop.mtu);
            let mtu = ctx
                .l3_memory
                .path_mtus
                .learn(server.addr, quoted_mtu, link_mtu, ctx.now);
            if !self.inner.dont_fragment {
                return None;
            }
            rest = u32::from(tunnel::mtu_for_client(mtu, tunnel::overhead(server)));
        }
        Some(IcmpError::Relayed { kind, code, rest })
    }

    const fn is_of(&self, kind: TunnelKind) -> bool {
        match kind {
            TunnelKind::IpIp => self.protocol == PROTOCOL_IPV4,
            TunnelKind::Gre { .. } => self.protocol == gre::PROTOCOL,
            TunnelKind::Gue { port, .. } => self.protocol == udp::PROTOCOL && self.port == port,
        }
    }
}

fn header_at(frame: &[u8], offset: u16) -> Option<&Ipv4Header> {
    Some(Ipv4Header::ref_from_prefix(frame.get(usize::from(offset)..)?).ok()?.0)
}

/// Where the IPv4 packet inside the quoted `outer` one begins, and the UDP port it was sent to.
fn inner_offset(frame: &[u8], headers: &Headers, outer: &Embedded) -> Option<(u16, u16)> {
    let segment = frame.get(usize::from(outer.l4_offset)..usize::from(headers.packet_end))?;
    let (len, port) = match outer.protocol {
        PROTOCOL_IPV4 => (0, 0),
        gre::PROTOCOL => {
            let (header, _) = GreHeader::ref_from_prefix(segment).ok()?;
            let flags = header.flags.get();
            if flags & gre::UNUSED_FLAGS != 0 || header.ethertype.get() != ETHERTYPE_IPV4 {
                return None;
            }
            let checksum = flags & gre::CHECKSUM_PRESENT != 0;
            (TunnelKind::Gre { checksum }.header_len(), 0)
        }
        udp::PROTOCOL => {
            let (header, rest) = UdpHeader::ref_from_prefix(segment).ok()?;
            let (gue, _) = GueHeader::ref_from_prefix(rest).ok()?;
            if gue.protocol != PROTOCOL_IPV4 {
                return None;
            }
            let fixed = size_of::<UdpHeader>() + size_of::<GueHeader>();
            (fixed as u16 + gue.options_len()?, header.dst_port.get())
        }
        _ => return None,
    };
    Some((outer.l4_offset.checked_add(len)?, port))
}

//! Stages 6 and 7 in one for what almost every packet is: data of an established connection that changes no state and
//! leaves untagged by a hop that the connection remembers.
//!
//! In:  the connection of a packet, its direction. Out: its verdict, the frame ready to go; or `None`, and nothing is
//!      changed, for a packet that must take the slow path ([`crate::path::slow_path`]).
//! Never: does anything that the slow path would not have done to the same packet; a test compares them.
//! A feature that needs more of a packet makes it take the slow path by a condition here, on a word already loaded.

use std::net::IpAddr;

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::address::{Addr4, Addr6, Address};
use crate::frame::Frame;
use crate::headers::Headers;
use crate::ipvs::conn::{Conn, ConnFlags, Direction};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::protocol::tcp::TcpState;
use crate::ipvs::real_server::RealServer;
use crate::ipvs::service::ServerSlot;
use crate::ipvs::tunnel_kind::TunnelKind;
use crate::l3::{Hop, HopId};
use crate::packet::Packet;
use crate::path::client_address::own_isn;
use crate::path::forward::resolve::{NextHop, ToServer};
use crate::path::forward::rewrite::{Rewrite, TTL_DELTA};
use crate::path::forward::tunnel::encapsulate::OuterIpv4;
use crate::path::forward::tunnel::{self, encapsulate};
use crate::path::stack::checks;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet::{ETHERTYPE_IPV4, EthernetHeader};
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::Ipv6Header;
use crate::wire::tcp::{self, ACK, FIN, RST, SYN};
use crate::wire::{checksum, udp};
use crate::worker_state::context::Context;

/// A family, and its header without options or extensions.
pub(crate) trait FastPath: Address {
    /// See [`FastHeader`].
    type Header: FastHeader<Self>;
}

/// What the fast path changes in an IP header.
pub(crate) trait FastHeader<A>: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned {
    /// Other addresses.
    fn set_addresses(&mut self, src: A, dst: A);

    /// TTL − 1, which must not be 0; in its checksum `delta` besides.
    fn decrement_ttl(&mut self, delta: u16);

    /// TOS or traffic class.
    fn class(&self) -> u8;
}

/// Packets of connections with any of these take the slow path, unless [`own_isn::in_place`] does all that is to be done.
const SLOW_PATH_FLAGS: ConnFlags = ConnFlags::SHIFTED.union(ConnFlags::TIMED);

/// Flags of a TCP segment that its state may depend on.
const EVENTS: u8 = SYN | FIN | RST | ACK;

/// An untagged frame with a packet without options or extensions. Behind the ports, TCP and UDP differ.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RewrittenFrame<H> {
    ethernet: EthernetHeader,
    ip: H,
    src_port: U16,
    dst_port: U16,
    udp_len: U16,
    udp_checksum: U16,
    tcp_middle: [u8; 8],
    tcp_checksum: U16,
    tcp_urgent: U16,
}

/// An untagged frame with IP in IPv4.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WrappedFrame<H> {
    ethernet: EthernetHeader,
    outer: Ipv4Header,
    inner: H,
}

const L3_OFFSET: u16 = EthernetHeader::LEN as u16;

/// See the module. `STRICT`: packets must come by the interface by which the connection reaches their sender
/// (`rp_filter`); a parameter of the program, so that nobody else pays for it.
#[inline(always)]
pub(crate) fn forward<A: FastPath, F: Frame, const STRICT: bool>(
    ctx: &mut Context<'_>,
    (conn, direction): (&mut Conn<A>, Direction),
    headers: &Headers,
    frame: &mut F,
) -> Option<Verdict> {
    let snapshot = ctx.snapshot;
    let timeout_ms = match headers.protocol {
        tcp::PROTOCOL if conn.state == TcpState::Established as u8 && headers.tcp_flags & EVENTS == ACK => {
            ctx.fast_ms.established[direction as usize]
        }
        // A reply assures the template.
        udp::PROTOCOL if direction == Direction::Inbound || !conn.flags.contains(ConnFlags::CONTROLLED) => {
            ctx.fast_ms.udp[direction as usize]
        }
        _ => return None,
    };
    let mode = conn.mode();
    let id = conn.real_server;
    let slot = snapshot.services.real_server(id)?;
    let hop = snapshot.l3.hop(HopId(conn.hops[direction as usize]));
    let packet_len = headers.packet_len();
    // Both at once, as they lie side by side.
    let is_where_expected =
        (headers.l3_offset == L3_OFFSET) & (headers.l4_offset == L3_OFFSET + size_of::<A::Header>() as u16);
    let is_fast = is_where_expected
        && !mode.is_serverless()
        && !conn.client_address.is_pending()
        && (slot.is_common && conn.timeout_ms == timeout_ms || has_own_timeout(conn, slot, timeout_ms))
        && conn.hop_generation == snapshot.l3.generation
        && hop.vlan == 0
        && headers.ttl > 1
        && packet_len <= usize::from(hop.mtu)
        && (!STRICT || checks::came_by_way_back(ctx, conn, direction))
        // The last condition, because it changes the packet.
        && (!conn.flags.intersects(SLOW_PATH_FLAGS) || own_isn::in_place(conn, direction, headers, frame.bytes_mut()));
    if !is_fast {
        return None;
    }
    if mode == ForwardingMode::Tunnel {
        return into_tunnel(ctx, conn, (&slot.server, hop), (headers, frame));
    }
    let (whole, _) = RewrittenFrame::<A::Header>::mut_from_prefix(frame.bytes_mut()).ok()?;
    if mode.sees_replies() {
        let rewrite = Rewrite::of(conn, direction);
        whole.rewrite(headers.protocol, &rewrite)?;
        whole.ip.decrement_ttl(rewrite.l3_delta);
    } else {
        whole.ip.decrement_ttl(0);
    }
    whole.ethernet.dst = hop.dst_mac;
    whole.ethernet.src = hop.src_mac;
    conn.last_seen = ctx.now;
    conn.in_packets = conn.in_packets.wrapping_add(1 - direction as u32);
    ctx.own.server(id).count(direction, packet_len as u64);
    // Padding of a short frame was the incoming link's, not the packet's.
    frame.truncate(usize::from(headers.packet_end));
    Some(Verdict::Transmit(hop.device))
}

/// Whether the server is available and the timeout of `conn` is the one that its service, or else the director
/// (`common_ms`), configures. Never where `common_ms` is 0, which sends packets to the slow path.
#[inline(never)]
fn has_own_timeout<A: Address>(conn: &Conn<A>, slot: &ServerSlot, common_ms: u32) -> bool {
    let own_ms = match conn.protocol {
        tcp::PROTOCOL if slot.established_ms != 0 => slot.established_ms,
        _ => common_ms,
    };
    slot.available && common_ms != 0 && conn.timeout_ms == own_ms
}

/// The rest of the fast path in tunnel mode, for a packet that fits the tunnel, while no router has reported a narrower
/// link.
#[inline(never)]
fn into_tunnel<A: FastPath, F: Frame>(
    ctx: &mut Context<'_>,
    conn: &mut Conn<A>,
    (server, hop): (&RealServer, &Hop),
    (headers, frame): (&Headers, &mut F),
) -> Option<Verdict> {
    let outer_len = headers.packet_len() + usize::from(tunnel::overhead(server));
    if outer_len > usize::from(hop.mtu) || !ctx.l3_memory.path_mtus.is_empty() {
        return None;
    }
    conn.last_seen = ctx.now;
    conn.in_packets = conn.in_packets.wrapping_add(1);
    let counters = ctx.own.server(server.id);
    counters.count(Direction::Inbound, headers.packet_len() as u64);
    if let (TunnelKind::IpIp, IpAddr::V4(dst)) = (server.tunnel, server.addr)
        && let Some(IpAddr::V4(src)) = tunnel::source(ctx, server.addr)
        && frame.prepend(Ipv4Header::LEN)
    {
        let outer = OuterIpv4 {
            src: Addr4(src.octets()),
            dst: Addr4(dst.octets()),
            identification: ctx.random.next_u32() as u16,
            pmtu_disc: tunnel::is_pmtu_disc(ctx),
        };
        return Some(ip_in_ipv4::<A, F>(&outer, hop, headers, frame));
    }
    Some(into_other_tunnel(ctx, conn, (server, hop), (headers, frame)))
}

/// GRE, GUE, and whatever has an IPv6 header outside.
#[inline(never)]
fn into_other_tunnel<A: FastPath, F: Frame>(
    ctx: &mut Context<'_>,
    conn: &Conn<A>,
    (server, hop): (&RealServer, &Hop),
    (headers, frame): (&Headers, &mut F),
) -> Verdict {
    let key = conn.inbound_key();
    let mut packet = Packet::whole(*headers, &key, frame);
    let next_hop = NextHop { hop, waits_for: None };
    let mtu = tunnel::mtu(ctx, server, &next_hop);
    tunnel::send(ctx, conn, &mut packet, &ToServer { server, next_hop, mtu })
}

/// Does the same as [`encapsulate::encapsulate`] for a packet that lies where it arrived, with headroom for an outer
/// header in front of it.
#[inline(always)]
fn ip_in_ipv4<A: FastPath, F: Frame>(outer: &OuterIpv4, hop: &Hop, headers: &Headers, frame: &mut F) -> Verdict {
    frame.truncate(usize::from(headers.packet_end) + Ipv4Header::LEN);
    let Ok((wrapped, _)) = WrappedFrame::<A::Header>::mut_from_prefix(frame.bytes_mut()) else {
        return Verdict::Drop(DropReason::Truncated);
    };
    let packet = encapsulate::Inner {
        family: A::FAMILY,
        class: wrapped.inner.class(),
        ttl: headers.ttl - 1,
        len: headers.packet_len() as u16,
        dont_fragment: headers.dont_fragment,
    };
    wrapped.outer = packet.outer_ipv4(outer, packet.protocol(), packet.len);
    wrapped.inner.decrement_ttl(0);
    wrapped.ethernet = EthernetHeader {
        dst: hop.dst_mac,
        src: hop.src_mac,
        ethertype: U16::new(ETHERTYPE_IPV4),
    };
    Verdict::Transmit(hop.device)
}

impl FastPath for Addr4 {
    type Header = Ipv4Header;
}

impl FastPath for Addr6 {
    type Header = Ipv6Header;
}

impl FastHeader<Addr4> for Ipv4Header {
    #[inline(always)]
    fn set_addresses(&mut self, src: Addr4, dst: Addr4) {
        (self.src, self.dst) = (src, dst);
    }

    #[inline(always)]
    fn decrement_ttl(&mut self, delta: u16) {
        self.ttl = self.ttl.wrapping_sub(1);
        let delta = checksum::add(delta, TTL_DELTA);
        checksum::update_in(&mut self.checksum, delta);
    }

    #[inline(always)]
    fn class(&self) -> u8 {
        self.tos
    }
}

impl FastHeader<Addr6> for Ipv6Header {
    #[inline(always)]
    fn set_addresses(&mut self, src: Addr6, dst: Addr6) {
        (self.src, self.dst) = (src, dst);
    }

    #[inline(always)]
    fn decrement_ttl(&mut self, _delta: u16) {
        self.hop_limit = self.hop_limit.wrapping_sub(1);
    }

    #[inline(always)]
    fn class(&self) -> u8 {
        self.traffic_class()
    }
}

impl<H> RewrittenFrame<H> {
    /// Addresses, ports and the checksum of the upper layer; `None`, and nothing changed, for a datagram that has none.
    #[inline(always)]
    fn rewrite<A>(&mut self, protocol: u8, rewrite: &Rewrite<A>) -> Option<()>
    where
        A: Address,
        H: FastHeader<A>,
    {
        if protocol == tcp::PROTOCOL {
            checksum::update_in(&mut self.tcp_checksum, rewrite.l4_delta);
        } else {
            if self.udp_checksum == U16::ZERO {
                return None;
            }
            checksum::update_in(&mut self.udp_checksum, rewrite.l4_delta);
            if self.udp_checksum == U16::ZERO {
                // RFC 768: that would say that there is none.
                self.udp_checksum = U16::MAX_VALUE;
            }
        }
        self.ip.set_addresses(rewrite.src.addr, rewrite.dst.addr);
        (self.src_port, self.dst_port) = (U16::new(rewrite.src.port), U16::new(rewrite.dst.port));
        Some(())
    }
}

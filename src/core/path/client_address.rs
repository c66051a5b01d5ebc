//! Stage 6, FULLNAT: packets carry the client's address to the real server, SYN segments get their MSS limited, and
//! connections whose local port has not rested get sequence numbers that the real server takes.
//!
//! In:  a packet of a connection whose [`ClientAddressState`] is pending or whose numbers are shifted, or a FIN, before
//!      it is rewritten (inbound), or while it is (outbound).
//! Out: the packet with an option or sequence numbers changed, checksums right; for PROXY the header, as the first
//!      segment of the stream. A packet without space for the address goes without it and is counted as
//!      `client_address_no_room`. Drops: `too_many_headers`, `generated_frames_full`.
//! Never: makes a packet longer than its link takes; looks at packets of other connections.
//! Ref:  DPVS ip_vs_proto_tcp.c `tcp_in_add_toa`, ip_vs_proto_udp.c; HAProxy's proxy-protocol.txt.

use crate::address::{Address, Endpoint};
use crate::frame::Frame;
use crate::headers::Headers;
use crate::ipvs::client_address::{ClientAddress, ClientAddressState};
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags, ConnMut, SequenceShift};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::protocol::tcp::TcpState;
use crate::ipvs::service::VirtualService;
use crate::packet::Packet;
use crate::single_writer::SingleWriter;
use crate::wire::tcp::{ACK, FIN, PROTOCOL, RST, SYN};
use crate::worker_state::context::Context;

pub(crate) mod own_isn;
mod proxy;
mod segment;
mod toa;
mod uoa;

use proxy::HeaderPlace;
pub(crate) use proxy::{send_before, send_before_pieces};
use segment::Segment;

/// What a new connection of `service`, whose first packet has `headers`, is to begin with.
pub(crate) fn begin(service: &VirtualService, mode: ForwardingMode, headers: &Headers) -> ClientAddressState {
    let starts_stream = headers.tcp_flags & (SYN | ACK) == SYN;
    let carrier = match service.client_address.protocol() {
        // A stream that is joined in the middle has no first byte any more.
        Some(PROTOCOL) if !starts_stream => ClientAddress::None,
        Some(protocol) if protocol == headers.protocol && mode == ForwardingMode::FullNat => service.client_address,
        _ => ClientAddress::None,
    };
    ClientAddressState::begin(carrier, service.mss_max != 0 && starts_stream)
}

/// A SYN of a connection that is there: if the connection begins anew, so does its client address.
#[cold]
pub(crate) fn again<A: Address>(ctx: &Context<'_>, conn: &mut ConnMut<'_, A>, headers: &Headers) {
    let goes_on = matches!(
        conn.tcp_state(),
        Some(TcpState::Established | TcpState::SynRecv | TcpState::SynSent)
    );
    if !goes_on && let Some(service) = ctx.snapshot.services.service(conn.cold.service) {
        conn.client_address = begin(service, conn.mode(), headers);
    }
}

/// Whether [`inbound`] has to see a packet of the client.
#[inline(always)]
pub(crate) fn concerns_inbound<A: Address>(conn: &Conn<A>, headers: &Headers) -> bool {
    concerns_outbound(conn) | (headers.tcp_flags & FIN != 0)
}

/// Whether [`outbound`] has to see packets of the real server.
#[inline(always)]
pub(crate) fn concerns_outbound<A: Address>(conn: &Conn<A>) -> bool {
    conn.client_address.is_pending() | conn.flags.intersects(ConnFlags::SHIFTED)
}

/// Another director has shifted the client's numbers by this: for a PROXY header, for an initial sequence number of its
/// own, or for both.
pub(crate) fn import<A: Address>(conn: &mut ConnMut<'_, A>, shift: SequenceShift) {
    conn.cold.shift = shift;
    if conn.mode() != ForwardingMode::FullNat || !conn.flags.contains(ConnFlags::INBOUND_SHIFTED) {
        return;
    }
    conn.isn_delta = shift.previous_delta.cast_unsigned();
    let header_len = shift.delta.wrapping_sub(shift.previous_delta);
    conn.proxy_header_len = u8::try_from(header_len).unwrap_or(0);
    if conn.proxy_header_len != 0 && !conn.client_address.is_pending() {
        conn.client_address = ClientAddressState::proxy_received();
    }
}

/// Client → real server. Whether the PROXY header has to go before the packet (by [`send_before`], when the packet is
/// finished).
#[inline(never)]
pub(crate) fn inbound<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    conn: &mut ConnMut<'_, A>,
    packet: &mut Packet<'_, A, F>,
    mtu: u16,
) -> bool {
    let Packet { headers, frame, .. } = packet;
    if headers.protocol != PROTOCOL {
        return conn.client_address.is_pending() && carry(ctx, conn, packet, mtu);
    }
    if headers.tcp_flags & SYN != 0 {
        inbound_syn(ctx, conn, headers, *frame);
    } else {
        conn.client_address.mss_known();
    }
    let proxy_header_first = conn.client_address.is_pending() && carry(ctx, conn, packet, mtu);
    if conn.mode() == ForwardingMode::FullNat {
        own_isn::inbound(conn, &packet.headers, packet.frame.bytes_mut());
    }
    proxy_header_first
}

/// Puts the client's address into the packet or before it. Whether the PROXY header has to go before it.
fn carry<A: Address, F: Frame>(
    ctx: &Context<'_>,
    conn: &mut ConnMut<'_, A>,
    packet: &mut Packet<'_, A, F>,
    mtu: u16,
) -> bool {
    let Packet { headers, frame, .. } = packet;
    let is_inserted = match conn.client_address.carrier() {
        ClientAddress::None => return false,
        ClientAddress::ProxyV1 | ClientAddress::ProxyV2 => {
            let place = proxy::inbound(conn, headers, *frame);
            ctx.own.client_addresses.add(u64::from(place != HeaderPlace::Earlier));
            return place == HeaderPlace::Before;
        }
        ClientAddress::Toa if headers.tcp_flags & RST != 0 => return false,
        ClientAddress::Toa => toa::insert(*frame, headers, conn.client(), mtu),
        ClientAddress::Uoa => uoa::insert(*frame, headers, conn.client(), mtu),
    };
    if !is_inserted {
        ctx.own.client_address_no_room.add(1);
        return false;
    }
    ctx.own.client_addresses.add(1);
    if conn.client_address.carrier() == ClientAddress::Uoa
        && conn.client_address.count() >= crate::limits::UOA_DATAGRAMS_MAX
    {
        conn.client_address.delivered();
    }
    false
}

/// The client's first sequence number decides what is shifted; what it announces may be limited.
fn inbound_syn<A: Address, F: Frame>(
    ctx: &Context<'_>,
    conn: &mut ConnMut<'_, A>,
    headers: &mut Headers,
    frame: &mut F,
) {
    let Some(mut segment) = Segment::of(frame.bytes_mut(), headers) else {
        return;
    };
    if conn.client_address.has(ClientAddressState::LIMITS_MSS) {
        segment.limit_mss(0, mss_max(ctx, conn.cold));
    }
    own_isn::inbound_syn(conn, &segment);
    if conn.client_address.carrier() == ClientAddress::None && conn.isn_delta == 0
        || headers.tcp_flags & ACK != 0
        || conn.tcp_state() != Some(TcpState::SynRecv)
    {
        return;
    }
    let proxy_header_len = proxy::len(conn);
    conn.client_address.restart();
    conn.proxy_header_len = proxy_header_len;
    conn.cold.shift = SequenceShift {
        from: segment.header.sequence.get(),
        delta: conn.isn_delta.wrapping_add(proxy_header_len.into()).cast_signed(),
        previous_delta: conn.isn_delta.cast_signed(),
    };
    if proxy_header_len != 0 {
        conn.flags.insert(ConnFlags::INBOUND_SHIFTED);
        proxy::without_data(headers, frame);
    }
}

/// Real server → client.
#[inline(never)]
pub(crate) fn outbound<A: Address>(ctx: &Context<'_>, conn: &mut ConnMut<'_, A>, headers: &Headers, frame: &mut [u8]) {
    if headers.protocol != PROTOCOL {
        return;
    }
    let Some(mut segment) = Segment::of(frame, headers) else {
        return;
    };
    own_isn::outbound(conn, &mut segment);
    let carrier = conn.client_address.carrier();
    let is_syn = headers.tcp_flags & SYN != 0;
    if is_syn {
        let reserve = match carrier {
            ClientAddress::Toa => toa::len::<A>(),
            _ => 0,
        };
        segment.limit_mss(reserve, mss_max(ctx, conn.cold));
    }
    match carrier {
        ClientAddress::ProxyV1 | ClientAddress::ProxyV2 => proxy::outbound(conn, &mut segment),
        ClientAddress::Toa if headers.tcp_flags & (SYN | RST) == 0 => {
            // Only a server with a whole connection answers anything else than the SYN.
            let expected = conn.cold.shift.from.wrapping_add(1);
            let speaks = segment.payload_len > 0 || headers.tcp_flags & FIN != 0;
            if speaks || segment.header.acknowledgement.get() != expected {
                conn.client_address.delivered();
            }
        }
        _ => {}
    }
}

fn mss_max(ctx: &Context<'_>, cold: &ColdConn) -> u16 {
    match ctx.snapshot.services.service(cold.service) {
        Some(service) if service.mss_max != 0 => service.mss_max,
        _ => u16::MAX,
    }
}

/// An error quotes a client's packet as it was sent to the real server: the client knows it by its own number.
#[cold]
pub(crate) fn quoted_sequence<A: Address>((conn, cold): (&Conn<A>, &ColdConn), quoted: &mut [u8]) {
    if let Some((_, sequence)) = quoted.split_first_chunk_mut::<4>()
        && let Some((sequence, _)) = sequence.split_first_chunk_mut::<4>()
    {
        let shifted = u32::from_be_bytes(*sequence);
        *sequence = proxy::unshifted((conn, cold), shifted.wrapping_sub(conn.isn_delta)).to_be_bytes();
    }
}

/// Writes an address and a port as TOA and UOA carry them: the port first, then the address.
fn option_of<A: Address>(kind: u8, client: Endpoint<A>, out: &mut [u8]) {
    let (head, addr) = out.split_at_mut(4.min(out.len()));
    let [high, low] = client.port.to_be_bytes();
    for (to, from) in head.iter_mut().zip([kind, 4 + size_of::<A>() as u8, high, low]) {
        *to = from;
    }
    for (to, from) in addr.iter_mut().zip(client.addr.as_bytes()) {
        *to = *from;
    }
}

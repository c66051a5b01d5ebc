//! The client's address as the first bytes of the TCP stream: the PROXY protocol, text (1) or binary (2).
//!
//! In:  segments of a connection in either direction. Out: the client's numbers shifted by the header's length, the
//!      server's acknowledgements and SACK blocks shifted back; the header in a segment of its own: the client's pure
//!      ACK if one comes first, else a frame made for it. Until the server has it, whatever brings the first
//!      byte again brings the header again.
//! Never: makes a client's segment longer, so that no MSS needs to be lowered.
//! Ref:  HAProxy doc/proxy-protocol.txt; Linux net/netfilter/ipvs/ip_vs_app.c `vs_fix_seq` for the shifts.

use std::fmt::Write;

use zerocopy::network_endian::U16;

use crate::address::{Address, AddressFamily};
use crate::frame::Frame;
use crate::headers::Headers;
use crate::ipvs::client_address::{ClientAddress, ClientAddressState};
use crate::ipvs::conn::{ColdConn, Conn, ConnMut};
use crate::limits::FRAGMENT_HEADER_MAX;
use crate::packet::Packet;
use crate::path::client_address::segment::Segment;
use crate::path::client_address::toa::{grow_packet, set_packet_len};
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum;
use crate::wire::tcp::{ACK, PROTOCOL, PSH, RST, SYN, TcpHeader, URG};
use crate::worker_state::context::Context;

/// Longest header: a line of text (proxy-protocol.txt 2.1).
const PROXY_HEADER_MAX: usize = 107;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
const STREAM_V4: u8 = 0x11;
const STREAM_V6: u8 = 0x21;
/// Ethernet with a tag, IP with what may stand before TCP, TCP with options.
const HEADERS_MAX: usize = 18 + FRAGMENT_HEADER_MAX + 60;

/// Where the header is that the first byte needs in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderPlace {
    /// In an earlier packet, or this one does not bring the first byte.
    Earlier,
    /// In this packet.
    Within,
    /// Nowhere yet: a frame with it has to go before this packet.
    Before,
}

/// The bytes of a header.
struct ProxyHeader {
    bytes: [u8; PROXY_HEADER_MAX],
    len: usize,
}

impl ProxyHeader {
    fn of<A: Address>(conn: &Conn<A>) -> Self {
        let mut proxy_header = Self {
            bytes: [0; PROXY_HEADER_MAX],
            len: 0,
        };
        let (client, virt) = (conn.client(), conn.virt());
        match conn.client_address.carrier() {
            ClientAddress::ProxyV1 => {
                let family = match A::FAMILY {
                    AddressFamily::Ipv4 => "TCP4",
                    AddressFamily::Ipv6 => "TCP6",
                };
                let (from, to) = (client.addr.to_ip(), virt.addr.to_ip());
                // The longest line fits.
                let _ = write!(
                    proxy_header,
                    "PROXY {family} {from} {to} {} {}\r\n",
                    client.port, virt.port
                );
            }
            ClientAddress::ProxyV2 => {
                let family = match A::FAMILY {
                    AddressFamily::Ipv4 => STREAM_V4,
                    AddressFamily::Ipv6 => STREAM_V6,
                };
                proxy_header.push(&SIGNATURE);
                proxy_header.push(&[VERSION_COMMAND, family, 0, 2 * size_of::<A>() as u8 + 4]);
                proxy_header.push(client.addr.as_bytes());
                proxy_header.push(virt.addr.as_bytes());
                proxy_header.push(&client.port.to_be_bytes());
                proxy_header.push(&virt.port.to_be_bytes());
            }
            _ => {}
        }
        proxy_header
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(space) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            space.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Write for ProxyHeader {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// Bytes that go in front of the stream; 0 when nothing does.
pub(super) fn len<A: Address>(conn: &Conn<A>) -> u8 {
    ProxyHeader::of(conn).len as u8
}

/// The number of the client's first byte.
const fn first(cold: &ColdConn) -> u32 {
    cold.shift.from.wrapping_add(1)
}

/// A number that the real server uses, less what an initial sequence number of the director's shifts it by, as the
/// client knows it.
pub(super) fn unshifted<A: Address>((conn, cold): (&Conn<A>, &ColdConn), number: u32) -> u32 {
    let len = u32::from(conn.proxy_header_len);
    let behind_first = number.wrapping_sub(first(cold));
    if behind_first < len {
        // Within the header, of which the client knows nothing.
        first(cold)
    } else if conn.client_address.has(ClientAddressState::RECEIVED) || behind_first.cast_signed() > 0 {
        number.wrapping_sub(len)
    } else {
        number
    }
}

/// A SYN that brings data (RFC 7413) must not: they would come before the header. Data that the server does not
/// acknowledge come again.
pub(super) fn without_data<F: Frame>(headers: &mut Headers, frame: &mut F) {
    let payload_len = Segment::of(frame.bytes_mut(), headers).map_or(0, |segment| segment.payload_len as u16);
    let packet_end = headers.packet_end - payload_len;
    let payload = frame
        .bytes()
        .get(usize::from(packet_end)..usize::from(headers.packet_end));
    let sum = checksum::sum(payload.unwrap_or_default());
    let Some(mut segment) = Segment::of(frame.bytes_mut(), headers) else {
        return;
    };
    segment.changed(sum, 0);
    segment.changed(payload_len, 0);
    set_packet_len(frame.bytes_mut(), headers, packet_end);
}

/// A segment of the client.
pub(super) fn inbound<A: Address, F: Frame>(
    conn: &mut ConnMut<'_, A>,
    headers: &mut Headers,
    frame: &mut F,
) -> HeaderPlace {
    let Some(segment) = Segment::of(frame.bytes_mut(), headers) else {
        return HeaderPlace::Earlier;
    };
    if conn.proxy_header_len == 0 || headers.tcp_flags & SYN != 0 {
        return HeaderPlace::Earlier;
    }
    let behind_first = segment
        .header
        .sequence
        .get()
        .wrapping_sub(first(conn.cold))
        .cast_signed();
    if conn.client_address.has(ClientAddressState::RECEIVED) || behind_first > 0 {
        shift(conn, segment);
        return HeaderPlace::Earlier;
    }
    if behind_first < 0 {
        // What the server has had: a keepalive.
        return HeaderPlace::Earlier;
    }
    let is_pure = segment.payload_len == 0;
    let is_sent = conn.client_address.has(ClientAddressState::SENT);
    if headers.tcp_flags & RST != 0 {
        if is_sent {
            shift(conn, segment);
        }
        return HeaderPlace::Earlier;
    }
    if is_pure && put_into(conn, headers, frame) {
        conn.client_address.note(ClientAddressState::SENT);
        return HeaderPlace::Within;
    }
    if let Some(segment) = Segment::of(frame.bytes_mut(), headers) {
        shift(conn, segment);
    }
    // Once the header has gone, the first data need not wait for its receipt; the same again show that it was lost.
    let is_first_data = !is_pure && !conn.client_address.has(ClientAddressState::FOLLOWED);
    let followed = if is_pure { 0 } else { ClientAddressState::FOLLOWED };
    conn.client_address.note(ClientAddressState::SENT | followed);
    if is_sent && is_first_data {
        HeaderPlace::Earlier
    } else {
        HeaderPlace::Before
    }
}

fn shift<A: Address>(conn: &Conn<A>, mut segment: Segment<'_>) {
    let sequence = segment.header.sequence.get();
    segment.set_sequence(sequence.wrapping_add(conn.proxy_header_len.into()));
}

/// Makes the PROXY header the payload of a segment that has none. Returns `false` where the buffer has no space for it.
fn put_into<A: Address, F: Frame>(conn: &Conn<A>, headers: &mut Headers, frame: &mut F) -> bool {
    let proxy_header = ProxyHeader::of(conn);
    let bytes = proxy_header.bytes();
    let len = bytes.len() as u16;
    frame.truncate(usize::from(headers.packet_end));
    if !frame.append(bytes.len()) {
        return false;
    }
    let Some(space) = frame.bytes_mut().get_mut(usize::from(headers.packet_end)..) else {
        return false;
    };
    space.copy_from_slice(bytes);
    if let Some(mut segment) = Segment::of(frame.bytes_mut(), headers) {
        segment.add(checksum::add(checksum::sum(bytes), len));
        let (data_offset, flags) = (segment.header.data_offset, segment.header.flags);
        segment.set_offset_flags(data_offset, flags | PSH);
        if flags & URG != 0 {
            let urgent = segment.header.urgent.get();
            segment.set_urgent(urgent.saturating_add(len));
        }
    }
    grow_packet(frame.bytes_mut(), headers, len);
    true
}

/// Sends the header in front of a finished packet of the client's first byte, whose verdict is `verdict`.
#[cold]
pub(crate) fn send_before<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    conn: &ConnMut<'_, A>,
    packet: &Packet<'_, A, F>,
    verdict: Verdict,
) -> Verdict {
    let before = ctx.out.generated.mark();
    match send_before_pieces(ctx, conn, packet, verdict) {
        Verdict::Drop(reason) => Verdict::Drop(reason),
        _ if ctx.out.generated.push(verdict, &[packet.frame.bytes()]) => Verdict::Consumed,
        _ => {
            ctx.out.generated.rewind(before);
            Verdict::Drop(DropReason::GeneratedFramesFull)
        }
    }
}

/// The same for a packet that will be cut: it keeps its verdict, and its pieces are generated behind the header.
#[cold]
pub(crate) fn send_before_pieces<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    conn: &ConnMut<'_, A>,
    packet: &Packet<'_, A, F>,
    verdict: Verdict,
) -> Verdict {
    let mut space = [0; HEADERS_MAX + PROXY_HEADER_MAX];
    let Some(end) = alone(conn, &packet.headers, packet.frame.bytes(), &mut space) else {
        return Verdict::Drop(DropReason::TooManyHeaders);
    };
    if ctx.out.generated.push(verdict, &[space.get(..end).unwrap_or_default()]) {
        verdict
    } else {
        Verdict::Drop(DropReason::GeneratedFramesFull)
    }
}

/// Writes into `space` a frame like `finished` whose only data is the PROXY header. Returns the length of the frame.
fn alone<A: Address>(conn: &ConnMut<'_, A>, headers: &Headers, finished: &[u8], space: &mut [u8]) -> Option<usize> {
    let l2_len = finished.len().checked_sub(headers.packet_len())?;
    let ip_len = usize::from(headers.l4_offset.checked_sub(headers.l3_offset)?);
    let mut here = Headers {
        l3_offset: l2_len as u16,
        l4_offset: (l2_len + ip_len) as u16,
        packet_end: finished.len() as u16,
        ..*headers
    };
    let tcp = TcpHeader::check(finished.get(l2_len + ip_len..)?).ok()?;
    let begin = l2_len + ip_len + tcp.header_len();
    let proxy_header = ProxyHeader::of(conn);
    let bytes = proxy_header.bytes();
    let end = begin + bytes.len();
    let frame = space.get_mut(..end)?;
    frame.get_mut(..begin)?.copy_from_slice(finished.get(..begin)?);
    frame.get_mut(begin..)?.copy_from_slice(bytes);
    set_packet_len(frame, &mut here, end as u16);
    let segment = Segment::of(frame, &here)?;
    segment.header.sequence = first(conn.cold).wrapping_add(conn.isn_delta).into();
    segment.header.flags = segment.header.flags & ACK | PSH;
    segment.header.urgent = U16::ZERO;
    segment.header.checksum = U16::ZERO;
    let segment_len = (end - l2_len - ip_len) as u16;
    let pseudo = checksum::pseudo_header(conn.local().addr, conn.real().addr, PROTOCOL, segment_len);
    let sum = checksum::sum(frame.get(l2_len + ip_len..)?);
    Segment::of(frame, &here)?.header.checksum = U16::new(!checksum::add(pseudo, sum));
    Some(end)
}

/// A segment of the real server.
pub(super) fn outbound<A: Address>(conn: &mut ConnMut<'_, A>, segment: &mut Segment<'_>) {
    let len = conn.proxy_header_len;
    let flags = segment.header.flags;
    if flags & SYN != 0 {
        // The header takes its part of what the server is ready for; a window in a SYN is in bytes.
        let window = segment.header.window.get();
        segment.set_window(window.saturating_sub(len.into()));
        return;
    }
    if flags & ACK == 0 || len == 0 {
        return;
    }
    let acknowledged = segment.header.acknowledgement.get();
    if conn.client_address.has(ClientAddressState::RECEIVED) {
        segment.set_acknowledgement(acknowledged.wrapping_sub(len.into()));
    } else {
        segment.set_acknowledgement(unshifted((conn, conn.cold), acknowledged));
        if acknowledged.wrapping_sub(first(conn.cold)).cast_signed() >= i32::from(len) {
            conn.client_address.note(ClientAddressState::RECEIVED);
        }
    }
    if segment.header.header_len() > TcpHeader::LEN {
        segment.map_sack(|edge| unshifted((conn, conn.cold), edge));
    }
}

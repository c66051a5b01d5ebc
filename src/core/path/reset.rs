//! Stage 4, an end: a client's TCP segment that cannot go on is answered with a reset, within a budget.
//!
//! In:  a whole segment to a service with `reset_unknown`: of no connection, or of one whose real server was deleted.
//! Out: the same buffer as a reset from the address and port that the segment was sent to, on its way to the sender;
//!      or the drop `reset_limited`. `None`, and the frame as it was, where there can be no answer.
//! Never: answers a reset, a SYN, a fragment, a segment with a wrong checksum, or one that is not from one host.
//! Ref:  RFC 9293 3.10.7.1; Linux net/ipv4/tcp_ipv4.c `tcp_v4_send_reset`, net/ipv6/tcp_ipv6.c `tcp_v6_send_reset`.

use std::net::IpAddr;

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::address::{Addr4, Addr6, Address, Endpoint, FlowKey};
use crate::frame::Frame;
use crate::headers::Headers;
use crate::ipvs::service::VirtualService;
use crate::l3::fib::RouteQuery;
use crate::packet::{Origin, Packet};
use crate::path::forward::ethernet::resize_front;
use crate::path::forward::resolve;
use crate::path::icmp::build;
use crate::single_writer::SingleWriter;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum;
use crate::wire::ethernet::EthernetHeader;
use crate::wire::ipv4::{DONT_FRAGMENT, Ipv4Header, VERSION_IHL_WITHOUT_OPTIONS};
use crate::wire::ipv6::Ipv6Header;
use crate::wire::tcp::{self, TcpHeader};
use crate::worker_state::context::Context;

/// TTL and hop limit of resets (kernel: `ip_default_ttl`, `hop_limit`).
const TTL: u8 = 64;
/// The bits of TOS and traffic class that are congestion's, of which a reset says nothing (RFC 3168 6.1.1).
const ECN: u8 = 0x03;

/// Why a client's segment cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It belongs to no connection.
    Unknown,
    /// Its connection's real server was deleted.
    ServerGone,
}

/// Whether a client's packet of `service` that cannot go on is answered with a reset.
pub(crate) fn is_due<A: Address, F>(ctx: &Context<'_>, service: &VirtualService, packet: &Packet<'_, A, F>) -> bool {
    service.reset_unknown
        && packet.headers.protocol == tcp::PROTOCOL
        && packet.headers.tcp_flags & (tcp::SYN | tcp::RST) == 0
        && packet.origin == Origin::Whole
        && ctx.snapshot.may_reset()
}

/// See the module. The packet [`is_due`].
#[cold]
pub(crate) fn send<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    packet: &mut Packet<'_, A, F>,
    cause: Cause,
) -> Option<Verdict> {
    let reset = Reset::of(packet.frame.bytes(), &packet.headers, packet.key)?;
    let query = RouteQuery {
        tos: resolve::tos_of(packet.frame.bytes(), &packet.headers),
        protocol: tcp::PROTOCOL,
        ports: (reset.from.port, reset.to.port),
        ..RouteQuery::output(reset.to.addr.to_ip()).from(reset.from.addr.to_ip())
    };
    let next_hop = resolve::route(ctx, &query).ok()?;
    if !ctx.out.resets.take(ctx.now) {
        return Some(Verdict::Drop(DropReason::ResetLimited));
    }
    if let Err(reason) = reset.write(packet.frame, packet.headers.l3_offset) {
        return Some(Verdict::Drop(reason));
    }
    let counter = match cause {
        Cause::Unknown => &ctx.own.resets_unknown,
        Cause::ServerGone => &ctx.own.resets_server_gone,
    };
    counter.add(1);
    Some(resolve::depart_from(
        packet.frame,
        resolve::L3_OFFSET,
        A::FAMILY,
        &next_hop,
    ))
}

/// A reset without options, which the sender of the segment that it answers accepts.
struct Reset<A: Address> {
    from: Endpoint<A>,
    to: Endpoint<A>,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    tos: u8,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Packet4 {
    ip: Ipv4Header,
    tcp: TcpHeader,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Packet6 {
    ip: Ipv6Header,
    tcp: TcpHeader,
}

impl<A: Address> Reset<A> {
    /// The answer to the segment in `frame`; `None` for one that the sender's stack did not write, or a group's.
    fn of(frame: &[u8], headers: &Headers, key: &FlowKey<A>) -> Option<Self> {
        let segment = frame.get(usize::from(headers.l4_offset)..usize::from(headers.packet_end))?;
        let header = TcpHeader::check(segment).ok()?;
        let payload_len = segment.len().checked_sub(header.header_len())?;
        let pseudo = checksum::pseudo_header(key.src.addr, key.dst.addr, tcp::PROTOCOL, segment.len() as u16);
        let is_right = header.header_len() >= TcpHeader::LEN
            && checksum::add(checksum::sum(segment), pseudo) == checksum::VALID
            && build::is_one_host(key.src.addr.to_ip());
        if !is_right {
            return None;
        }
        let (sequence, acknowledgement, flags) = if header.flags & tcp::ACK != 0 {
            (header.acknowledgement.get(), 0, tcp::RST)
        } else {
            let len = payload_len as u32 + u32::from(header.flags & tcp::FIN != 0);
            (0, header.sequence.get().wrapping_add(len), tcp::RST | tcp::ACK)
        };
        Some(Self {
            from: key.dst,
            to: key.src,
            sequence,
            acknowledgement,
            flags,
            tos: resolve::class_of(frame, headers)? & !ECN,
        })
    }

    /// Puts the reset in the place of the packet that begins at `l3_offset`. It begins behind an untagged Ethernet
    /// header.
    fn write<F: Frame>(&self, frame: &mut F, l3_offset: u16) -> Result<(), DropReason> {
        resize_front(frame, usize::from(l3_offset), EthernetHeader::LEN)?;
        match (self.from.addr.to_ip(), self.to.addr.to_ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.truncate(EthernetHeader::LEN + size_of::<Packet4>());
                let packet = place::<Packet4>(frame.bytes_mut())?;
                packet.ip = Ipv4Header {
                    version_ihl: VERSION_IHL_WITHOUT_OPTIONS,
                    tos: self.tos,
                    total_len: U16::new(size_of::<Packet4>() as u16),
                    // A packet that nobody cuts needs none (RFC 6864 4.1).
                    identification: U16::ZERO,
                    flags_offset: U16::new(DONT_FRAGMENT),
                    ttl: TTL,
                    protocol: tcp::PROTOCOL,
                    checksum: U16::ZERO,
                    src: Addr4(src.octets()),
                    dst: Addr4(dst.octets()),
                };
                packet.ip.fill_plain_checksum();
                packet.tcp = self.segment();
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.truncate(EthernetHeader::LEN + size_of::<Packet6>());
                let packet = place::<Packet6>(frame.bytes_mut())?;
                packet.ip = Ipv6Header {
                    version_class_flow: Ipv6Header::version_word(self.tos),
                    payload_len: U16::new(TcpHeader::LEN as u16),
                    next_header: tcp::PROTOCOL,
                    hop_limit: TTL,
                    src: Addr6(src.octets()),
                    dst: Addr6(dst.octets()),
                };
                packet.tcp = self.segment();
            }
            _ => return Err(DropReason::Malformed),
        }
        Ok(())
    }

    fn segment(&self) -> TcpHeader {
        let mut header = TcpHeader {
            src_port: U16::new(self.from.port),
            dst_port: U16::new(self.to.port),
            sequence: U32::new(self.sequence),
            acknowledgement: U32::new(self.acknowledgement),
            data_offset: ((TcpHeader::LEN / 4) as u8) << 4,
            flags: self.flags,
            window: U16::ZERO,
            checksum: U16::ZERO,
            urgent: U16::ZERO,
        };
        let pseudo = checksum::pseudo_header(self.from.addr, self.to.addr, tcp::PROTOCOL, TcpHeader::LEN as u16);
        header.checksum = U16::new(!checksum::add(checksum::sum(header.as_bytes()), pseudo));
        header
    }
}

/// Where the packet behind an untagged Ethernet header lies.
fn place<P: FromBytes + IntoBytes + KnownLayout + Immutable>(frame: &mut [u8]) -> Result<&mut P, DropReason> {
    let packet = frame.get_mut(EthernetHeader::LEN..).ok_or(DropReason::Truncated)?;
    let (packet, _) = P::mut_from_prefix(packet).map_err(|_| DropReason::Truncated)?;
    Ok(packet)
}

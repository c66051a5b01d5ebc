//! The kernel behind the director's twins: what its stack does with a frame that the director leaves to it.
//!
//! In:  a punted frame. Out: the frames that the stack would send: answers in the name of its addresses, and
//! packets that it forwards. It listens on no port. Where it is not known here, it says so.
//! Ref: Linux net/ipv4/{arp,ip_input,ip_forward,icmp,tcp_ipv4,udp}.c and their likes in net/ipv6.

use std::net::{IpAddr, SocketAddr};

use lvs_core::address::{Address, AddressFamily, FlowKey};
use lvs_core::frame::Frame;
use lvs_core::frame::vec::VecFrame;
use lvs_core::headers::{Flow, Fragment, Headers};
use lvs_core::l3::fib::RouteQuery;
use lvs_core::l3::{DeviceId, Hop, InterfaceId, L3, NeighbourKey, Route};
use lvs_core::path::icmp::build::{self, ErrorMessage, IcmpError};
use lvs_core::path::parse::{Parsed, embedded, parse};
use lvs_core::testing::{PacketBuilder, checksum_faults, icmp4, icmp6, tcp4, tcp6};
use lvs_core::wire::ipv4_options::EchoedOptions;

use crate::frames::{ethertype, parts};
use crate::options::{self, Judgement};

const RST: u8 = 4;
const ACK: u8 = 16;
const BROADCAST: [u8; 6] = [0xFF; 6];

/// What the stack does.
#[derive(Debug)]
pub enum Action {
    /// It sends this.
    Send(DeviceId, Vec<u8>),
    /// It would send this, but for the neighbour's MAC address.
    Wait(NeighbourKey, Vec<u8>),
    /// Something that is not modelled here.
    Unknown,
}

/// The stack's settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host {
    /// `accept_local` towards the real servers.
    pub accepts_local: bool,
}

impl Host {
    /// See the module.
    pub fn receive(&self, l3: &L3, device: DeviceId, frame: &[u8]) -> Option<Action> {
        if frame.get(12..14) == Some(&[0x08, 0x06]) {
            return answer_arp(l3, device, frame);
        }
        let Ok(Parsed::Ip(headers, flow)) = parse(frame) else {
            return None;
        };
        match flow {
            Flow::V4(key) => self.packet(l3, device, frame, &headers, &key),
            Flow::V6(key) => self.packet(l3, device, frame, &headers, &key),
        }
    }

    fn packet<A: Address>(
        &self,
        l3: &L3,
        device: DeviceId,
        frame: &[u8],
        headers: &Headers,
        key: &FlowKey<A>,
    ) -> Option<Action> {
        let (src, dst) = (key.src.addr.to_ip(), key.dst.addr.to_ip());
        let is_to_group = frame.first().is_some_and(|first| first & 1 == 1);
        if self.is_martian(l3, device, key) || !l3.accepts_source(&received(l3, device, frame, headers, key)) {
            return None;
        }
        if dst.is_multicast() || is_to_group {
            return (headers.protocol == 58 || dst.is_multicast()).then_some(Action::Unknown);
        }
        match options::judge(l3, frame, headers, key) {
            Judgement::Pass => {}
            Judgement::Drop => return None,
            Judgement::Refuse(error, echoed) => {
                let source = options::speaker(l3, key)?.to_ip();
                return send_error(
                    l3,
                    frame,
                    headers,
                    key,
                    &ErrorMessage {
                        error,
                        source,
                        identification: 0,
                        options: echoed,
                    },
                );
            }
        }
        if headers.fragment != Fragment::Whole {
            return Some(Action::Unknown);
        }
        if l3.is_local(key.dst.addr) && !l3.is_own(key.dst.addr) {
            // Nobody listens, and nothing refuses what all may hear.
            return None;
        }
        if l3.is_local(key.dst.addr) {
            return local(l3, frame, headers, key, SocketAddr::new(src, key.src.port));
        }
        forward(l3, device, frame, headers, key)
    }

    /// Sources that no packet may have.
    fn is_martian<A: Address>(&self, l3: &L3, device: DeviceId, key: &FlowKey<A>) -> bool {
        let src = key.src.addr.to_ip();
        let is_own = l3.is_local(key.src.addr) && !(self.accepts_local && device == DeviceId(1));
        let is_reserved = match src {
            IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 224,
            IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
        };
        src.is_loopback() || is_reserved || is_own && A::FAMILY == AddressFamily::Ipv4
    }
}

fn answer_arp(l3: &L3, device: DeviceId, frame: &[u8]) -> Option<Action> {
    let packet: [u8; 28] = frame.get(14..42)?.try_into().ok()?;
    let (sender, target) = (address4(&packet[14..18]), address4(&packet[24..28]));
    let is_request = packet[6..8] == [0, 1];
    let is_own = |address: IpAddr| lvs_core::address::Addr4::from_ip(address).is_some_and(|addr| l3.is_local(addr));
    if !is_request || !is_own(target) || is_own(sender) {
        return None;
    }
    let mac = l3.mac(device);
    let mut reply = Vec::with_capacity(42);
    reply.extend_from_slice(&packet[8..14]);
    reply.extend_from_slice(&mac);
    reply.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    reply.extend_from_slice(&mac);
    reply.extend_from_slice(&packet[24..28]);
    reply.extend_from_slice(&packet[8..18]);
    Some(Action::Send(device, reply))
}

fn address4(bytes: &[u8]) -> IpAddr {
    IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// A packet to one of the host's own addresses.
fn local<A: Address>(l3: &L3, frame: &[u8], headers: &Headers, key: &FlowKey<A>, client: SocketAddr) -> Option<Action> {
    let segment = frame.get(usize::from(headers.l4_offset)..usize::from(headers.packet_end))?;
    let is_ipv4 = A::FAMILY == AddressFamily::Ipv4;
    if options::are_there(headers) {
        // Its answers repeat them.
        return Some(Action::Unknown);
    }
    if embedded(frame, headers).is_some() || !checksum_faults(frame).is_empty() && headers.protocol != 132 {
        return None;
    }
    let own = key.dst.addr.to_ip();
    match headers.protocol {
        1 if is_ipv4 && segment.first() == Some(&8) => {
            let rest = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
            let echo = icmp4(&format!("{own} > {}", client.ip())).icmp(0, 0, rest);
            let echo = echo.tos(frame[15]).payload(segment.get(8..)?);
            Some(depart(l3, key.src.addr, echo))
        }
        58 if !is_ipv4 && segment.first() == Some(&128) => {
            let rest = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
            let echo = icmp6(&format!("{own} > {}", client.ip())).icmp(129, 0, rest);
            Some(depart(l3, key.src.addr, echo.payload(segment.get(8..)?)))
        }
        1 | 58 => Some(Action::Unknown).filter(|_| segment.first().is_some_and(|kind| matches!(kind, 13 | 135))),
        6 => reset(l3, segment, headers, key, client),
        17 => Some(refuse(l3, frame, headers, key, IcmpError::PortUnreachable)),
        _ => {
            let error = if is_ipv4 {
                IcmpError::Relayed {
                    kind: 3,
                    code: 2,
                    rest: 0,
                }
            } else {
                // RFC 4443 3.4: the byte of the packet that is not understood.
                IcmpError::Relayed {
                    kind: 4,
                    code: 1,
                    rest: 6,
                }
            };
            Some(refuse(l3, frame, headers, key, error))
        }
    }
}

/// Nobody listens.
fn reset<A: Address>(
    l3: &L3,
    segment: &[u8],
    headers: &Headers,
    key: &FlowKey<A>,
    client: SocketAddr,
) -> Option<Action> {
    let header_len = usize::from(segment.get(12)? >> 4) * 4;
    if headers.tcp_flags & RST != 0 || header_len < 20 || header_len > segment.len() {
        return None;
    }
    let number = |at: usize| Some(u32::from_be_bytes(segment.get(at..at + 4)?.try_into().ok()?));
    let own = SocketAddr::new(key.dst.addr.to_ip(), key.dst.port);
    let ends = format!("{own} > {client}");
    let answer = match A::FAMILY {
        AddressFamily::Ipv4 => tcp4(&ends).dont_fragment().identification(0),
        AddressFamily::Ipv6 => tcp6(&ends),
    };
    let answer = if headers.tcp_flags & ACK != 0 {
        answer.rst().sequence(number(8)?)
    } else {
        let syn_and_fin = u32::from(headers.tcp_flags & 1) + u32::from(headers.tcp_flags >> 1 & 1);
        let after = number(4)?.wrapping_add((segment.len() - header_len) as u32 + syn_and_fin);
        answer.rst().ack().sequence(0).acknowledgement(after)
    };
    Some(depart(l3, key.src.addr, answer.window(0)))
}

/// An ICMP error about a packet to the host itself.
fn refuse<A: Address>(l3: &L3, frame: &[u8], headers: &Headers, key: &FlowKey<A>, error: IcmpError) -> Action {
    let message = plain(error, key.dst.addr.to_ip());
    send_error(l3, frame, headers, key, &message).unwrap_or(Action::Unknown)
}

/// An error without options.
const fn plain(error: IcmpError, source: IpAddr) -> ErrorMessage {
    ErrorMessage {
        error,
        source,
        identification: 0,
        options: EchoedOptions::NONE,
    }
}

fn send_error<A: Address>(
    l3: &L3,
    frame: &[u8],
    headers: &Headers,
    key: &FlowKey<A>,
    message: &ErrorMessage,
) -> Option<Action> {
    let mut answer = VecFrame::new(frame);
    options::fill(l3, answer.bytes_mut(), headers, options::speaker(l3, key)?);
    build::icmp_error(&mut answer, headers, message).ok()?;
    Some(depart_own(l3, key.src.addr, answer.bytes().to_vec()))
}

/// A router's work. What it sends back out of the device it came from, it also reports to the sender.
fn forward<A: Address>(l3: &L3, device: DeviceId, frame: &[u8], headers: &Headers, key: &FlowKey<A>) -> Option<Action> {
    let own = || l3.source_for(key.src.addr).map(A::to_ip);
    let query = received(l3, device, frame, headers, key);
    if !l3.forwards(A::FAMILY, query.iif) {
        return None;
    }
    if headers.ttl <= 1 {
        return send_error(l3, frame, headers, key, &plain(IcmpError::TimeExceeded, own()?));
    }
    let out = match l3.resolve(&query) {
        Route::Hop(id) => *l3.hop(id),
        Route::Unresolved(key) | Route::NeighbourFailed(key) => *l3.unresolved_hop(&key),
        Route::Unreachable => {
            let error = IcmpError::of_router(&l3.decide(&query), A::FAMILY);
            return send_error(l3, frame, headers, key, &plain(error, own()?));
        }
        Route::Local | Route::Blackhole => return None,
        Route::Elsewhere => return Some(Action::Unknown),
    };
    if out.device == device || headers.packet_len() > usize::from(out.mtu) {
        return Some(Action::Unknown);
    }
    let mut sent = frame.get(..usize::from(headers.packet_end))?.to_vec();
    lvs_core::path::forward::rewrite::decrement_ttl(&mut sent, headers);
    options::fill_forwarded(l3, &mut sent, headers, key);
    Some(depart_frame::<A>(l3, &query, sent))
}

/// What routing is asked about a packet that came in.
fn received<A: Address>(l3: &L3, device: DeviceId, frame: &[u8], headers: &Headers, key: &FlowKey<A>) -> RouteQuery {
    let mac = frame.first_chunk().copied().unwrap_or_default();
    RouteQuery {
        iif: l3
            .receiver(device, headers.vlan, mac)
            .map_or(InterfaceId::NONE, |known| known.id),
        protocol: key.protocol,
        ports: (key.src.port, key.dst.port),
        ..RouteQuery::output(key.dst.addr.to_ip()).from(key.src.addr.to_ip())
    }
}

/// What the host itself sends, from the address that the packet has.
fn depart<A: Address>(l3: &L3, target: A, packet: PacketBuilder) -> Action {
    depart_own(l3, target, packet.build())
}

fn depart_own<A: Address>(l3: &L3, target: A, frame: Vec<u8>) -> Action {
    let source = match A::FAMILY {
        AddressFamily::Ipv4 => frame
            .get(26..30)
            .and_then(|bytes| <[u8; 4]>::try_from(bytes).ok())
            .map(IpAddr::from),
        AddressFamily::Ipv6 => frame
            .get(22..38)
            .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
            .map(IpAddr::from),
    };
    let query = RouteQuery {
        src: source,
        ..RouteQuery::output(target.to_ip())
    };
    depart_frame::<A>(l3, &query, frame)
}

/// Writes the Ethernet header of the next hop.
fn depart_frame<A: Address>(l3: &L3, query: &RouteQuery, mut frame: Vec<u8>) -> Action {
    let ethertype = match A::FAMILY {
        AddressFamily::Ipv4 => [0x08, 0x00],
        AddressFamily::Ipv6 => [0x86, 0xDD],
    };
    let mut write = |hop: &Hop, dst: [u8; 6]| {
        frame[12..14].copy_from_slice(&ethertype);
        frame[..6].copy_from_slice(&dst);
        frame[6..12].copy_from_slice(&hop.src_mac);
    };
    match l3.resolve(query) {
        Route::Hop(id) => {
            let hop = l3.hop(id);
            write(hop, hop.dst_mac);
            if hop.vlan != 0 {
                let [high, low] = hop.vlan.to_be_bytes();
                frame.splice(12..12, [0x81, 0, high, low]);
            }
            Action::Send(hop.device, frame)
        }
        Route::Unresolved(key) | Route::NeighbourFailed(key) => {
            write(l3.unresolved_hop(&key), [0; 6]);
            Action::Wait(key, frame)
        }
        Route::Local | Route::Unreachable | Route::Blackhole | Route::Elsewhere => Action::Unknown,
    }
}

/// How the host asks for a neighbour (RFC 826, RFC 4861 7.2.2).
pub fn solicitation(l3: &L3, key: &NeighbourKey) -> Vec<u8> {
    let interface = l3.interface_of(key.interface);
    let mac = interface.map_or_else(|| l3.mac(key.device), |interface| interface.mac);
    match key.addr {
        IpAddr::V4(target) => {
            let source = l3
                .source_for(lvs_core::address::Addr4(target.octets()))
                .unwrap_or_default();
            let mut frame = BROADCAST.to_vec();
            frame.extend_from_slice(&mac);
            frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend_from_slice(&mac);
            frame.extend_from_slice(&source.0);
            frame.extend_from_slice(&[0; 6]);
            frame.extend_from_slice(&target.octets());
            frame
        }
        IpAddr::V6(target) => {
            let bytes = target.octets();
            let [.., high, middle, low] = bytes;
            let group = std::net::Ipv6Addr::from([0xFF, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xFF, high, middle, low]);
            // What waits is not from the host itself: it asks from its link-local address (RFC 4291 appendix A).
            let [a, b, c, d, e, f] = mac;
            let source = std::net::Ipv6Addr::from([0xFE, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xFF, 0xFE, d, e, f]);
            let mut body = bytes.to_vec();
            body.extend_from_slice(&[1, 1]);
            body.extend_from_slice(&mac);
            icmp6(&format!("{source} > {group}"))
                .icmp(135, 0, 0)
                .payload(&body)
                .ttl(255)
                .src_mac(mac)
                .dst_mac([0x33, 0x33, 0xFF, high, middle, low])
                .build()
        }
    }
}

/// The address and MAC that an ARP packet or a neighbour advertisement makes known.
pub fn announced(frame: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    if frame.get(12..14) == Some(&[0x08, 0x06]) {
        return Some((address4(frame.get(28..32)?), frame.get(22..28)?.try_into().ok()?));
    }
    let Ok(Parsed::Ip(headers, Flow::V6(_))) = parse(frame) else {
        return None;
    };
    let message = frame.get(usize::from(headers.l4_offset)..usize::from(headers.packet_end))?;
    if headers.protocol != 58 || message.first() != Some(&136) {
        return None;
    }
    let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    let mac = message.get(26..32).filter(|_| message.get(24..26) == Some(&[2, 1]))?;
    Some((IpAddr::from(target), mac.try_into().ok()?))
}

/// Whether a stack could have sent `out` because of `injected`: forwarded it, or answered it.
pub fn plausible(injected: &[u8], out: &[u8]) -> bool {
    if ethertype(injected) == 0x0806 {
        return ethertype(out) == 0x0806;
    }
    if ethertype(out) == 0x0806 {
        // To forward it, it asks for the next hop.
        return true;
    }
    let (Some(before), Some(after)) = (parts(injected), parts(out)) else {
        return false;
    };
    let forwarded = before == after;
    let answered = after.1 == before.0;
    let is_reset = after.2 == 6 && after.0 == before.1 && after.3.get(13).is_some_and(|flags| flags & 4 != 0);
    let is_icmp = matches!(after.2, 1 | 58);
    forwarded || (answered && (is_reset || is_icmp))
}

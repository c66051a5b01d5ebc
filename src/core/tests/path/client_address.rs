//! FULLNAT real servers learn the client's address: by TOA, the PROXY protocol and UOA; SYN segments get their MSS
//! limited.

mod datagrams;
mod own_isn;
mod proxy;
mod stream;
mod toa;

use lvs_core::ipvs::client_address::ClientAddress;
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::limits::{LOCAL_PORT_FIRST, LOCAL_PORT_LAST};
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{PacketBuilder, checksum_faults, tcp4, tcp6, udp4, udp6};

use super::{CONNS_MAX, addr, service, with_service};

/// Number of the FIN of the connection before.
pub(super) const LAST_SEQUENCE: u32 = 0xffff_ff00;

/// One client of a FULLNAT service and the real server that it is given, by their addresses.
struct Pair {
    director: TestDirector,
    is_v6: bool,
    is_udp: bool,
}

const CLIENT_PORT: u16 = 40_000;

impl Pair {
    /// The same with a client that is given the only local port that can be had, which has not rested: its connection
    /// gets an initial sequence number of the director's with its SYN.
    pub(super) fn without_rested_port(is_v6: bool, carrier: ClientAddress) -> Self {
        let mut pair = Self::sized(ServiceProtocol::Tcp, is_v6, carrier, 0, 65_536);
        let of = |host: u32, port: u32| {
            if is_v6 {
                tcp6(&format!("[2001:db8:a::{host}]:{port} > [2001:db8:a::100]:80"))
            } else {
                tcp4(&format!("192.0.2.{host}:{port} > 192.0.2.100:80"))
            }
        };
        let first = of(4, 1_000);
        pair.inbound(&first.clone().syn());
        for (is_reply, packet) in [
            (true, pair.server().syn().ack()),
            (false, first.clone().ack()),
            (true, pair.server().ack().fin()),
            (false, first.clone().ack().fin().sequence(LAST_SEQUENCE)),
            (true, pair.server().ack()),
        ] {
            if is_reply {
                pair.outbound(&packet);
            } else {
                pair.inbound(&packet);
            }
        }
        for other in 0..u32::from(LOCAL_PORT_LAST - LOCAL_PORT_FIRST) {
            pair.director.inject(WAN, &of(3, 1_000 + other).syn().build());
        }
        pair.director.advance_ms(2_000);
        pair
    }

    fn new(protocol: ServiceProtocol, is_v6: bool, carrier: ClientAddress, mss_max: u16) -> Self {
        Self::sized(protocol, is_v6, carrier, mss_max, CONNS_MAX)
    }

    fn sized(protocol: ServiceProtocol, is_v6: bool, carrier: ClientAddress, mss_max: u16, conns_max: usize) -> Self {
        let key = service(protocol, if is_v6 { "2001:db8:a::100" } else { "192.0.2.100" }, 80);
        let server = if is_v6 { "2001:db8:b::11" } else { "198.51.100.11" };
        let director = TestDirector::new(1, conns_max, network().build(1));
        let mut director = with_service(director, key, ForwardingMode::FullNat, &[server], 80);
        director.change(|desired| {
            let mut spec = *desired.listing(&key).expect("the service").spec;
            (spec.client_address, spec.mss_max) = (carrier, mss_max);
            desired.edit_service(spec).expect("a pool is there");
        });
        Self {
            director,
            is_v6,
            is_udp: protocol == ServiceProtocol::Udp,
        }
    }

    fn builder(&self, ends: &str) -> PacketBuilder {
        match (self.is_udp, self.is_v6) {
            (false, false) => tcp4(ends),
            (false, true) => tcp6(ends),
            (true, false) => udp4(ends),
            (true, true) => udp6(ends),
        }
    }

    /// A packet of the client, to be completed.
    fn client(&self) -> PacketBuilder {
        self.builder(if self.is_v6 {
            "[2001:db8:a::2]:40000 > [2001:db8:a::100]:80"
        } else {
            "192.0.2.2:40000 > 192.0.2.100:80"
        })
    }

    /// A packet of the real server, to be completed. The connection must be there.
    fn server(&self) -> PacketBuilder {
        let port = self.director.conns()[0].local.1;
        let ends = if self.is_v6 {
            format!("[2001:db8:b::11]:80 > [2001:db8:b::200]:{port}")
        } else {
            format!("198.51.100.11:80 > 198.51.100.200:{port}")
        };
        self.builder(&ends).dst_mac(director_mac(LAN))
    }

    /// What leaves towards the real server for a frame of the client, in order; all of it in good shape.
    fn inbound(&mut self, packet: &PacketBuilder) -> Vec<Vec<u8>> {
        let outcome = self.director.inject(WAN, &packet.build());
        let made = self.director.take_generated();
        let frames: Vec<Vec<u8>> = made
            .into_iter()
            .chain((outcome != Outcome::Consumed).then_some(outcome))
            .map(|outcome| {
                let (device, frame) = outcome.transmitted();
                assert_eq!(device, LAN);
                frame
            })
            .collect();
        for frame in &frames {
            assert!(frame.len() <= 14 + 1_500, "{} bytes", frame.len());
            if !self.is_udp || !self.is_v6 {
                assert_eq!(checksum_faults(frame), Vec::<String>::new());
            }
        }
        frames
    }

    /// The same for a frame of the real server.
    fn outbound(&mut self, packet: &PacketBuilder) -> Vec<u8> {
        let (device, frame) = self.director.inject(LAN, &packet.build()).transmitted();
        assert_eq!(device, WAN);
        assert_eq!(checksum_faults(&frame), Vec::<String>::new());
        frame
    }

    fn carried(&self) -> u64 {
        self.director.counters[0].client_addresses.get()
    }

    fn did_not_fit(&self) -> u64 {
        self.director.counters[0].client_address_no_room.get()
    }
}

/// A TCP segment as it stands in a frame without VLAN tags and IPv6 extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    /// Kind and value, without padding.
    pub(super) options: Vec<(u8, Vec<u8>)>,
    pub(super) payload: Vec<u8>,
}

pub(super) fn segment(frame: &[u8]) -> Segment {
    let (l4, end) = match frame[12..14] {
        [0x08, 0x00] => (
            14 + usize::from(frame[14] & 15) * 4,
            14 + usize::from(u16::from_be_bytes([frame[16], frame[17]])),
        ),
        _ => (54, 54 + usize::from(u16::from_be_bytes([frame[18], frame[19]]))),
    };
    let tcp = &frame[l4..end];
    let number = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().expect("four bytes"));
    let header_len = usize::from(tcp[12] >> 4) * 4;
    let mut options = Vec::new();
    let mut rest = &tcp[20..header_len];
    while let Some(&kind) = rest.first() {
        let len = if kind <= 1 { 1 } else { usize::from(rest[1]) };
        if kind > 1 {
            options.push((kind, rest[2..len].to_vec()));
        }
        rest = &rest[len..];
    }
    Segment {
        sequence: number(4),
        acknowledgement: number(8),
        flags: tcp[13],
        window: u16::from_be_bytes([tcp[14], tcp[15]]),
        options,
        payload: tcp[header_len..].to_vec(),
    }
}

/// Port and address of the client as TOA and UOA write them.
fn client_as_option(is_v6: bool) -> Vec<u8> {
    let mut value = CLIENT_PORT.to_be_bytes().to_vec();
    match addr(if is_v6 { "2001:db8:a::2" } else { "192.0.2.2" }) {
        std::net::IpAddr::V4(v4) => value.extend(v4.octets()),
        std::net::IpAddr::V6(v6) => value.extend(v6.octets()),
    }
    value
}

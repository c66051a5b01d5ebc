//! Real servers that keep connections in TIME_WAIT, in virtual time: whatever clients and pools, none of them is met by
//! a SYN that it refuses.

use std::collections::HashMap;
use std::net::IpAddr;

use lvs_core::ipvs::client_address::ClientAddress;
use lvs_core::ipvs::desired::{ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceId, ServiceProtocol};
use lvs_core::random::Random;
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{PacketBuilder, checksum_faults, tcp4, tcp6};
use lvs_core::verdict::DropReason;

use super::client_address::{Segment, segment};
use super::{addr, service};

/// How long servers keep TIME_WAIT, and by how much Linux's timers may be late.
const TIME_WAIT_MS: u32 = 60_000;
const LATE_MS: u32 = 5_000;
/// The clients' ports, as Linux has them.
const PORT_FIRST: u32 = 32_768;
const PORTS: u32 = 28_232;
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
const TIMESTAMPS: u8 = 8;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;

/// A case of [`World`].
#[derive(Clone, Copy)]
struct Case {
    is_v6: bool,
    workers: u8,
    clients: u32,
    locals: u8,
    servers: u8,
    /// New connections a millisecond.
    rate: u32,
    carrier: ClientAddress,
}

const ONE_CLIENT: Case = Case {
    is_v6: false,
    workers: 1,
    clients: 1,
    locals: 1,
    servers: 2,
    rate: 10,
    carrier: ClientAddress::None,
};

/// What a server remembers of a connection that is over.
#[derive(Clone, Copy)]
struct TimeWait {
    next: u32,
    timestamp: Option<u32>,
    until_ms: u32,
}

/// The ends of a connection as the server sees them: the local end and its own address.
type Ends = (IpAddr, u16, IpAddr);

/// Clients and servers around a director.
struct World {
    director: TestDirector,
    case: Case,
    random: Random,
    time_waits: HashMap<Ends, TimeWait>,
    /// Connections so far.
    count: u32,
    /// SYNs that a server refused.
    refused: u32,
    /// SYNs without timestamps.
    without_timestamps: u32,
}

impl World {
    fn new(case: Case) -> Self {
        let (vip, net) = if case.is_v6 {
            ("2001:db8:a::100", "2001:db8:b::")
        } else {
            ("192.0.2.100", "198.51.100.")
        };
        let key = service(ServiceProtocol::Tcp, vip, 80);
        let mut director = TestDirector::new(case.workers, 150_000, network().build(1));
        director.change(|desired| {
            let mut spec = ServiceSpec::new(key, SchedulerKind::Rr);
            desired.add_service(spec).expect("a new service");
            for server in 0..case.servers {
                let real = addr(&format!("{net}{}", 11 + server));
                let server = ServerSpec::new(real, 80, ForwardingMode::Nat, 1);
                desired.add_server(&key, server).expect("a new server");
            }
            let locals = (0..case.locals).map(|local| addr(&format!("{net}{}", 200 + u16::from(local))));
            desired.set_local_addresses(&key, locals.collect()).expect("a pool");
            spec.client_address = case.carrier;
            desired.edit_service(spec).expect("a pool is there");
        });
        Self {
            director,
            case,
            random: Random::new(7),
            time_waits: HashMap::new(),
            count: 0,
            refused: 0,
            without_timestamps: 0,
        }
    }

    fn run(&mut self, connections: u32) {
        for _ in 0..connections {
            self.connect();
            self.count += 1;
            if self.count.is_multiple_of(self.case.rate) {
                self.director.advance_ms(1);
            }
        }
    }

    fn unrested(&self) -> u64 {
        let counters = self.director.counters.iter();
        let total: u64 = counters.clone().map(|own| own.local_ports_unrested.get()).sum();
        let of_service: u64 = counters.map(|own| own.unrested_of(ServiceId(0))).sum();
        assert_eq!(total, of_service);
        total
    }

    fn exhausted(&self) -> u64 {
        let of =
            |own: &std::sync::Arc<lvs_core::counters::WorkerCounters>| own.drops_of(DropReason::LocalPortsExhausted);
        self.director.counters.iter().map(of).sum()
    }

    /// One request of the next client, from SYN to the last ACK.
    fn connect(&mut self) {
        let now_ms = self.director.now().0;
        let client = self.count % self.case.clients;
        let port = PORT_FIRST + self.count / self.case.clients % PORTS;
        let ends = if self.case.is_v6 {
            format!("[2001:db8:c::{client:x}]:{port} > [2001:db8:a::100]:80")
        } else {
            format!("10.0.{}.{}:{port} > 192.0.2.100:80", client / 250, client % 250 + 1)
        };
        // As Linux chooses them: the clock, shifted by a hash of the ends (RFC 6528) or of the addresses (RFC 7323).
        let isn = mixed(u64::from(client) << 32 | u64::from(port)).wrapping_add(now_ms.wrapping_mul(15_625));
        let timestamp = mixed(u64::from(client)).wrapping_add(now_ms);
        let to_server = |sequence: u32| self.builder(&ends).sequence(isn.wrapping_add(sequence));
        let [syn, ack, request, fin] = [
            to_server(0).syn().mss(1_460).tcp_option(&timestamps(timestamp)),
            to_server(1).ack().acknowledgement(1),
            to_server(1).ack().psh().acknowledgement(1).payload(REQUEST),
            to_server(1 + REQUEST.len() as u32).ack().fin().acknowledgement(2),
        ];
        let frames = self.inbound(&syn);
        let first = segment(&frames[0]);
        let local = ends_of(&frames[0]);
        let offered = first.options.iter().find(|(kind, _)| *kind == TIMESTAMPS);
        let timestamp = offered.map(|(_, value)| u32::from_be_bytes(value[..4].try_into().expect("four bytes")));
        self.without_timestamps += u32::from(timestamp.is_none());
        if !self.accepts(local, &first, timestamp, now_ms) {
            self.refused += 1;
            return;
        }
        let mut next = first.sequence.wrapping_add(1);
        let server = |sequence: u32, next: u32| {
            let (local_ip, local_port, real) = local;
            let ends = if local_ip.is_ipv4() {
                format!("{real}:80 > {local_ip}:{local_port}")
            } else {
                format!("[{real}]:80 > [{local_ip}]:{local_port}")
            };
            (ends, sequence, next)
        };
        let syn_ack = server(0, next);
        assert_eq!(self.outbound(&syn_ack, SYN), isn.wrapping_add(1));
        for packet in [&ack, &request] {
            next = self.received(packet, next);
        }
        let answer = server(1, next);
        assert_eq!(self.outbound(&answer, FIN), isn.wrapping_add(1 + REQUEST.len() as u32));
        next = self.received(&fin, next);
        let last = server(2, next);
        assert_eq!(self.outbound(&last, 0), isn.wrapping_add(2 + REQUEST.len() as u32));
        let until_ms = now_ms + TIME_WAIT_MS + self.random.below(LATE_MS);
        self.time_waits.insert(
            local,
            TimeWait {
                next,
                timestamp,
                until_ms,
            },
        );
    }

    /// Whether the server takes a SYN (Linux `tcp_timewait_state_process`).
    fn accepts(&self, local: Ends, syn: &Segment, timestamp: Option<u32>, now_ms: u32) -> bool {
        let Some(old) = self.time_waits.get(&local).filter(|old| now_ms < old.until_ms) else {
            return true;
        };
        let grows = |new: u32, old: u32| new.wrapping_sub(old).cast_signed();
        let age = old.timestamp.zip(timestamp).map(|(old, new)| grows(new, old));
        let is_old_duplicate = age.is_some_and(|age| age < 0);
        !is_old_duplicate && (grows(syn.sequence, old.next) > 0 || age.is_some_and(|age| age > 0))
    }

    /// What the server expects next when `packet` has come: every byte in order, none twice.
    fn received(&mut self, packet: &PacketBuilder, mut next: u32) -> u32 {
        for frame in self.inbound(packet) {
            let segment = segment(&frame);
            assert_eq!(segment.sequence, next);
            let fin = u32::from(segment.flags & FIN != 0);
            next = next.wrapping_add(segment.payload.len() as u32 + fin);
        }
        next
    }

    fn builder(&self, ends: &str) -> PacketBuilder {
        if self.case.is_v6 { tcp6(ends) } else { tcp4(ends) }
    }

    /// The worker that polls the next packet: any.
    fn worker(&mut self) -> usize {
        self.random.below(self.case.workers.into()) as usize
    }

    fn inbound(&mut self, packet: &PacketBuilder) -> Vec<Vec<u8>> {
        let worker = self.worker();
        let outcome = self.director.inject_at(worker, WAN, &packet.build());
        let generated = self.director.take_generated().into_iter();
        let all = generated.chain((outcome != Outcome::Consumed).then_some(outcome));
        let frames: Vec<Vec<u8>> = all.map(|outcome| outcome.transmitted().1).collect();
        if self.count.is_multiple_of(97) {
            frames
                .iter()
                .for_each(|frame| assert_eq!(checksum_faults(frame), Vec::<String>::new()));
        }
        frames
    }

    /// Sends a server's segment with these flags and ACK; the number that the client sees acknowledged.
    fn outbound(&mut self, (ends, sequence, next): &(String, u32, u32), flags: u8) -> u32 {
        let packet = self
            .builder(ends)
            .ack()
            .tcp_flags(flags | 0x10)
            .sequence(*sequence)
            .acknowledgement(*next);
        let worker = self.worker();
        let packet = packet.dst_mac(director_mac(LAN)).build();
        let (_, frame) = self.director.inject_at(worker, LAN, &packet).transmitted();
        segment(&frame).acknowledgement
    }
}

fn mixed(seed: u64) -> u32 {
    Random::new(seed).next_u32()
}

fn timestamps(value: u32) -> Vec<u8> {
    let mut option = vec![1, 1, TIMESTAMPS, 10];
    option.extend(value.to_be_bytes());
    option.extend([0; 4]);
    option
}

/// The ends of a frame to a server.
fn ends_of(frame: &[u8]) -> Ends {
    let bytes = |from: usize, len: usize| &frame[from..from + len];
    let (l4, src, dst) = if frame[12] == 0x08 {
        let addr = |from| IpAddr::from(<[u8; 4]>::try_from(bytes(from, 4)).expect("four bytes"));
        (14 + usize::from(frame[14] & 15) * 4, addr(26), addr(30))
    } else {
        let addr = |from| IpAddr::from(<[u8; 16]>::try_from(bytes(from, 16)).expect("sixteen bytes"));
        (54, addr(22), addr(38))
    };
    (src, u16::from_be_bytes([frame[l4], frame[l4 + 1]]), dst)
}

#[test]
fn a_client_whose_ports_come_round_keeps_its_local_ports_and_its_numbers() {
    let mut world = World::new(ONE_CLIENT);
    world.run(120_000);
    assert_eq!((world.refused, world.unrested(), world.exhausted()), (0, 0, 0));
    assert_eq!(world.without_timestamps, 0);
    assert!(
        world.time_waits.len() <= 2 * PORTS as usize,
        "{}",
        world.time_waits.len()
    );
}

#[test]
fn a_client_with_two_workers_keeps_its_local_ports_too() {
    let case = Case {
        workers: 2,
        is_v6: true,
        ..ONE_CLIENT
    };
    let mut world = World::new(case);
    world.run(80_000);
    assert_eq!((world.refused, world.unrested(), world.exhausted()), (0, 0, 0));
}

/// Twice as many connections in a minute as there are ports.
fn many_clients_and_too_few_ports(carrier: ClientAddress, is_v6: bool, workers: u8) {
    let mut world = World::new(Case {
        clients: 200,
        servers: 1,
        is_v6,
        workers,
        carrier,
        ..ONE_CLIENT
    });
    world.run(60_000);
    assert_eq!((world.unrested(), world.without_timestamps), (0, 0));
    world.run(80_000);
    assert_eq!((world.refused, world.exhausted()), (0, 0));
    assert!(world.unrested() > 70_000, "{}", world.unrested());
    assert_eq!(u64::from(world.without_timestamps), world.unrested());
}

#[test]
fn too_few_ports_lose_no_connection() {
    many_clients_and_too_few_ports(ClientAddress::None, false, 1);
}

#[test]
fn too_few_ports_lose_no_connection_with_toa_over_ipv6() {
    many_clients_and_too_few_ports(ClientAddress::Toa, true, 1);
}

#[test]
fn too_few_ports_of_two_workers_lose_no_connection_with_a_binary_proxy_header() {
    many_clients_and_too_few_ports(ClientAddress::ProxyV2, false, 2);
}

#[test]
fn too_few_ports_of_two_workers_lose_no_connection_with_a_text_proxy_header_over_ipv6() {
    many_clients_and_too_few_ports(ClientAddress::ProxyV1, true, 2);
}

#[test]
fn ports_that_have_rested_are_taken_as_they_are() {
    let mut world = World::new(Case {
        clients: 200,
        servers: 1,
        ..ONE_CLIENT
    });
    world.run(60_000);
    world.director.advance_ms(TIME_WAIT_MS + LATE_MS + 1_000);
    world.run(60_000);
    assert_eq!((world.refused, world.unrested(), world.exhausted()), (0, 0, 0));
}

#[test]
fn ports_that_come_round_when_servers_are_about_to_forget_them_meet_none() {
    let mut world = World::new(Case {
        clients: 200,
        servers: 1,
        rate: 1,
        ..ONE_CLIENT
    });
    world.run(140_000);
    assert_eq!((world.refused, world.exhausted()), (0, 0));
}

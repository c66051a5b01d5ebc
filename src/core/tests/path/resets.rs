//! `reset_unknown`: clients' segments that cannot go on are answered with a TCP reset, and nothing else is.

use lvs_core::explain::{End, Question, explain};
use lvs_core::frame::vec::VecFrame;
use lvs_core::ipvs::desired::{ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::mark::{MarkRule, MarkRules};
use lvs_core::ipvs::persistence::{ClientMask, Persistence};
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::ipvs::sync::SyncRoles;
use lvs_core::ipvs::sysctl::Sysctls;
use lvs_core::l3::{Interface, NeighbourKey};
use lvs_core::limits::{RESETS_BURST, RESETS_PER_SEC};
use lvs_core::rss::RssHash;
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac, neighbour_mac, network};
use lvs_core::testing::{PacketBuilder, checksum_faults, hex, tcp4, tcp6, udp4};
use lvs_core::verdict::DropReason;
use proptest::prelude::*;

use super::fragments::in_fragments;
use super::{addr, director, packet, service};

const VIP: &str = "192.0.2.100";
const VIP6: &str = "2001:db8:a::100";
const SERVER: &str = "198.51.100.11";
const TO_VIP: &str = "192.0.2.2:40000 > 192.0.2.100:80";
const TO_VIP6: &str = "[2001:db8:a::2]:40000 > [2001:db8:a::100]:80";
const MODES: [ForwardingMode; 4] = [
    ForwardingMode::Nat,
    ForwardingMode::FullNat,
    ForwardingMode::DirectRouting,
    ForwardingMode::Tunnel,
];
const BACKUP: SyncRoles = SyncRoles {
    master: false,
    backup: true,
};

fn web() -> ServiceKey {
    service(ServiceProtocol::Tcp, VIP, 80)
}

fn spec(key: ServiceKey) -> ServiceSpec {
    ServiceSpec {
        reset_unknown: true,
        ..ServiceSpec::new(key, SchedulerKind::Rr)
    }
}

/// A director whose one service resets.
fn resetting(workers: u8, key: ServiceKey, mode: ForwardingMode, servers: &[&str]) -> TestDirector {
    let mut director = director(workers, key, mode, servers, 80);
    director.change(|desired| desired.edit_service(spec(key))).unwrap();
    director
}

/// Resets that all workers sent: of no connection, of a deleted server's.
fn resets(director: &TestDirector) -> (u64, u64) {
    director.counters.iter().fold((0, 0), |(unknown, gone), worker| {
        (
            unknown + worker.resets_unknown.get(),
            gone + worker.resets_server_gone.get(),
        )
    })
}

/// What `describe` says of the reset of the usual client.
fn is_reset(frame: &[u8]) -> bool {
    let what = packet(frame);
    what.starts_with("TCP R 192.0.2.100:80 > 192.0.2.2:") || what.starts_with("TCP R [2001:db8:a::100]:80 > ")
}

/// The usual client's segment is answered by one reset: these bytes behind the MACs. No connection comes of it.
fn assert_answered_by(director: &mut TestDirector, segment: &[u8], expected: &str, mode: ForwardingMode) {
    let (device, out) = director.inject(WAN, segment).transmitted();
    assert_eq!(device, WAN, "{mode:?}");
    assert_eq!(
        (&out[..6], &out[6..12]),
        (&neighbour_mac(WAN, 2)[..], &director_mac(WAN)[..])
    );
    assert_eq!(out[12..], hex(expected), "{mode:?}");
    assert_eq!(resets(director), (1, 0));
    assert!(director.conns().is_empty());
}

#[test]
fn an_ipv4_segment_of_no_connection_is_answered_by_exactly_these_bytes() {
    for mode in MODES {
        let mut director = resetting(1, web(), mode, &[SERVER]);
        let segment = tcp4(TO_VIP)
            .ack()
            .psh()
            .tos(0x2B)
            .tcp_option(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        let segment = segment.acknowledgement(0xDEAD_BEEF).payload(b"GET /");
        let expected = "0800 45280028 00004000 4006b641 c0000264 c0000202
                        00509c40 deadbeef 00000000 50040000 f14b0000";
        assert_answered_by(&mut director, &segment.build(), expected, mode);
    }
}

#[test]
fn an_ipv6_segment_without_ack_is_answered_by_exactly_these_bytes() {
    for (mode, server) in MODES.map(|mode| (mode, "2001:db8:b::11")) {
        let mut director = resetting(1, service(ServiceProtocol::Tcp, VIP6, 80), mode, &[server]);
        // The sequence number runs over: 2³² − 2, five bytes of data, and FIN.
        let segment = tcp6(TO_VIP6).fin().tos(0x2B).flow_label(0x1234).hop_by_hop(8);
        let segment = segment.sequence(0xFFFF_FFFE).payload(b"GET /");
        let expected = "86dd 62800000 00140640 20010db8000a00000000000000000100 20010db8000a00000000000000000002
                        00509c40 00000000 00000004 50140000 b6b40000";
        assert_answered_by(&mut director, &segment.build(), expected, mode);
    }
}

#[test]
fn without_the_option_all_is_as_in_the_kernel() {
    let mut director = director(1, web(), ForwardingMode::Nat, &[SERVER], 80);
    let ack = tcp4(TO_VIP).ack().build();
    assert_eq!(director.inject(WAN, &ack), Outcome::Punted(ack.clone()));
    director.inject(WAN, &tcp4(TO_VIP).syn().build()).transmitted();
    director
        .change(|desired| desired.delete_server(&web(), addr(SERVER), 80))
        .unwrap();
    assert_eq!(director.inject(WAN, &ack), Outcome::Dropped(DropReason::RealServerGone));
    assert_eq!(resets(&director), (0, 0));
}

#[test]
fn a_deleted_servers_client_is_reset_and_may_begin_anew_from_the_same_port() {
    for mode in MODES {
        let mut director = resetting(1, web(), mode, &[SERVER, "198.51.100.12"]);
        let syn = tcp4(TO_VIP).syn().build();
        director.inject(WAN, &syn).transmitted();
        director
            .change(|desired| desired.delete_server(&web(), addr("198.51.100.12"), 80))
            .unwrap();
        let now = director.now();
        let explained = explain(&mut director.workers[0], now, &question(false));
        assert_eq!(explained.end, End::Reset);
        // What the client repeats is dropped as ever, and the connection waits for the server to return.
        assert_eq!(director.inject(WAN, &syn), Outcome::Dropped(DropReason::RealServerGone));
        let rst = tcp4(TO_VIP).rst().build();
        assert_eq!(director.inject(WAN, &rst), Outcome::Dropped(DropReason::RealServerGone));
        assert_eq!(director.conns().len(), 1);

        let ack = tcp4(TO_VIP).ack().acknowledgement(7).payload(b"more").build();
        let (_, out) = director.inject(WAN, &ack).transmitted();
        assert!(is_reset(&out), "{mode:?}: {}", packet(&out));
        assert_eq!(out[38..42], [0, 0, 0, 7]);
        assert_eq!((resets(&director), director.conns().len()), ((0, 1), 0));
        // What was on its way gets the same answer.
        let (_, out) = director.inject(WAN, &ack).transmitted();
        assert!(is_reset(&out), "{mode:?}");
        assert_eq!(resets(&director), (1, 1));
        director.inject(WAN, &syn).transmitted();
        assert_eq!(director.conns()[0].real.0, addr(SERVER), "{mode:?}");
    }
}

#[test]
fn with_expire_nodest_conn_the_client_is_reset_too() {
    let mut director = resetting(1, web(), ForwardingMode::Nat, &[SERVER]);
    director.set_sysctls(Sysctls {
        expire_nodest_conn: true,
        ..Sysctls::default()
    });
    director.inject(WAN, &tcp4(TO_VIP).syn().build()).transmitted();
    director
        .change(|desired| desired.delete_server(&web(), addr(SERVER), 80))
        .unwrap();
    let (_, out) = director.inject(WAN, &tcp4(TO_VIP).ack().build()).transmitted();
    assert!(is_reset(&out));
    assert!(director.conns().is_empty());
}

#[test]
fn a_reset_leaves_by_the_vlan_that_the_route_to_the_client_takes() {
    let mut director = resetting(1, web(), ForwardingMode::Nat, &[SERVER]);
    let mut l3 = network();
    l3.interface(Interface::new(LAN, 7, director_mac(LAN), 1_500, "lan.7"));
    l3.connected(LAN, 7, "203.0.113.1/24".parse().unwrap());
    let client = NeighbourKey::of(LAN, 7, addr("203.0.113.9"));
    let mac = [2, 0, 0, 0, 9, 9];
    l3.neighbour(client, lvs_core::l3::NeighbourState::Resolved(mac));
    director.set_l3(l3.build(2));
    let segment = tcp4("203.0.113.9:40000 > 192.0.2.100:80").ack().vlan(7);
    let frame = segment.dst_mac(director_mac(LAN)).padded_to(64).build();
    let (device, out) = director.inject(LAN, &frame).transmitted();
    assert_eq!((device, out.len()), (LAN, 58));
    assert_eq!(out[..6], mac);
    assert_eq!(
        packet(&out),
        "TCP R 192.0.2.100:80 > 203.0.113.9:40000 ttl 64 len 40 DF vlan 7"
    );
    // Untagged clients get theirs untagged.
    let (device, out) = director
        .inject(WAN, &tcp4(TO_VIP).ack().padded_to(60).build())
        .transmitted();
    assert_eq!((device, out.len()), (WAN, 54));
}

#[test]
fn a_reset_waits_for_the_clients_neighbour() {
    let mut director = resetting(1, web(), ForwardingMode::Nat, &[SERVER]);
    let segment = tcp4("192.0.2.77:40000 > 192.0.2.100:80").ack().build();
    let Outcome::Held(neighbour, frame) = director.inject(WAN, &segment) else {
        panic!("the client is not resolved")
    };
    assert_eq!(neighbour, NeighbourKey::of(WAN, 0, addr("192.0.2.77")));
    assert_eq!(
        packet(&frame),
        "TCP R 192.0.2.100:80 > 192.0.2.77:40000 ttl 64 len 40 DF"
    );
    assert_eq!(
        director.give_up(WAN, &frame),
        Outcome::Dropped(DropReason::NeighbourFailed)
    );
}

#[test]
fn a_marks_client_hears_from_the_address_that_it_meant_if_the_director_takes_its_packets() {
    let key = ServiceKey::Fwmark {
        mark: 7,
        family: lvs_core::address::AddressFamily::Ipv4,
    };
    for divert in [true, false] {
        let mut director = resetting(1, key, ForwardingMode::DirectRouting, &[SERVER]);
        let rule = MarkRule {
            mark: 7,
            destination: Some("203.0.113.0/24".parse().unwrap()),
            divert,
            ..MarkRule::default()
        };
        director.set_marks(MarkRules::new(vec![rule]).unwrap());
        let segment = tcp4("192.0.2.2:40000 > 203.0.113.80:443").ack().build();
        match (divert, director.inject(WAN, &segment)) {
            (true, Outcome::Transmitted(WAN, out)) => {
                assert_eq!(
                    packet(&out),
                    "TCP R 203.0.113.80:443 > 192.0.2.2:40000 ttl 64 len 40 DF"
                );
            }
            (false, Outcome::Punted(frame)) => assert_eq!(frame, segment),
            (_, outcome) => panic!("{outcome:?}"),
        }
    }
}

/// Segments to the service that must not be answered, and why.
fn unanswered() -> Vec<(&'static str, PacketBuilder)> {
    vec![
        ("a reset", tcp4(TO_VIP).rst()),
        ("a reset with ACK", tcp4(TO_VIP).rst().ack()),
        ("a SYN of FTP data", tcp4("192.0.2.2:20 > 192.0.2.100:80").syn()),
        ("FTP data", tcp4("192.0.2.2:20 > 192.0.2.100:80").ack()),
        ("a wrong checksum", tcp4(TO_VIP).ack().wrong_checksum()),
        ("another port", tcp4("192.0.2.2:40000 > 192.0.2.100:81").ack()),
        ("UDP", udp4(TO_VIP)),
        ("from everybody", tcp4("255.255.255.255:40000 > 192.0.2.100:80").ack()),
        (
            "from a reserved network",
            tcp4("240.0.0.1:40000 > 192.0.2.100:80").ack(),
        ),
        ("from the VIP itself", tcp4("192.0.2.100:40000 > 192.0.2.100:80").ack()),
        ("from loopback", tcp4("127.0.0.1:40000 > 192.0.2.100:80").ack()),
        (
            "to an address of another director",
            tcp4("192.0.2.2:40000 > 203.0.113.80:80").ack(),
        ),
    ]
}

#[test]
fn what_must_not_be_answered_is_left_to_the_kernel() {
    let mut director = resetting(1, web(), ForwardingMode::Nat, &[SERVER]);
    let elsewhere = service(ServiceProtocol::Tcp, "203.0.113.80", 80);
    director.change(|desired| desired.add_service(spec(elsewhere))).unwrap();
    for (why, segment) in unanswered() {
        let frame = segment.build();
        assert_eq!(director.inject(WAN, &frame), Outcome::Punted(frame), "{why}");
    }
    assert_eq!(resets(&director), (0, 0));
}

#[test]
fn no_fragment_is_answered() {
    let mut director = resetting(1, web(), ForwardingMode::Nat, &[SERVER]);
    director
        .change(|desired| desired.add_service(spec(service(ServiceProtocol::Tcp, VIP6, 80))))
        .unwrap();
    let whole = tcp4(TO_VIP).ack().payload_len(100).build();
    let pieces = in_fragments(&whole, 48);
    let mut outcomes: Vec<Outcome> = pieces.iter().map(|piece| director.inject(WAN, piece)).collect();
    outcomes.push(director.inject(WAN, &tcp6(TO_VIP6).ack().atomic_fragment().build()));
    outcomes.extend(director.take_generated());
    for outcome in outcomes {
        assert!(matches!(outcome, Outcome::Punted(_) | Outcome::Consumed), "{outcome:?}");
    }
    assert_eq!(resets(&director), (0, 0));
}

/// The director's own programs may speak from any of these ports.
#[test]
fn ports_that_the_service_does_not_name_are_left_to_the_kernel() {
    let ftp = service(ServiceProtocol::Tcp, VIP, 21);
    let mut director = resetting(1, ftp, ForwardingMode::Nat, &[SERVER]);
    let every = ServiceSpec {
        persistence: Some(Persistence {
            timeout_sec: 60,
            mask: ClientMask::whole(lvs_core::address::AddressFamily::Ipv6),
        }),
        ..spec(service(ServiceProtocol::Tcp, VIP6, 0))
    };
    director.change(|desired| desired.add_service(every)).unwrap();
    for frame in [
        tcp4("192.0.2.2:443 > 192.0.2.100:40000").ack().build(),
        tcp6("[2001:db8:a::2]:443 > [2001:db8:a::100]:40000").ack().build(),
    ] {
        assert_eq!(director.inject(WAN, &frame), Outcome::Punted(frame));
    }
    let known = tcp4("192.0.2.2:40000 > 192.0.2.100:21").ack().build();
    director.inject(WAN, &known).transmitted();
}

#[test]
fn what_sloppy_tcp_takes_for_a_beginning_is_scheduled() {
    let mut director = resetting(1, web(), ForwardingMode::Nat, &[SERVER]);
    director.set_sysctls(Sysctls {
        sloppy_tcp: true,
        ..Sysctls::default()
    });
    let (device, _) = director.inject(WAN, &tcp4(TO_VIP).ack().build()).transmitted();
    assert_eq!((device, director.conns().len()), (LAN, 1));
}

#[test]
fn a_backup_resets_nothing_until_it_is_master() {
    let mut director = resetting(1, web(), ForwardingMode::Nat, &[SERVER]);
    let ack = tcp4(TO_VIP).ack().build();
    director.set_sync(BACKUP);
    assert_eq!(director.inject(WAN, &ack), Outcome::Punted(ack.clone()));
    director.inject(WAN, &tcp4(TO_VIP).syn().build()).transmitted();
    director
        .change(|desired| desired.delete_server(&web(), addr(SERVER), 80))
        .unwrap();
    assert_eq!(director.inject(WAN, &ack), Outcome::Dropped(DropReason::RealServerGone));
    assert_eq!(resets(&director), (0, 0));
    for master in [
        SyncRoles::default(),
        SyncRoles {
            master: true,
            backup: true,
        },
        SyncRoles {
            master: true,
            backup: false,
        },
    ] {
        director.set_sync(master);
        assert!(is_reset(&director.inject(WAN, &ack).transmitted().1), "{master:?}");
    }
}

#[test]
fn a_worker_sends_so_many_resets_a_second_and_drops_the_rest_by_name() {
    let mut director = resetting(1, web(), ForwardingMode::Nat, &[SERVER]);
    let ack = tcp4(TO_VIP).ack().build();
    let send = |director: &mut TestDirector, count: u32| {
        let mut outcomes = (0..count).map(|_| director.inject(WAN, &ack));
        let refused = outcomes.find(|outcome| !matches!(outcome, Outcome::Transmitted(..)));
        assert!(refused.is_none() || refused == Some(Outcome::Dropped(DropReason::ResetLimited)));
        refused.is_none()
    };
    assert!(send(&mut director, RESETS_BURST));
    assert!(!send(&mut director, 1));
    assert_eq!(
        director.counters[0].drops_of(DropReason::ResetLimited),
        0,
        "the worker's loop counts"
    );
    director.advance_ms(2);
    assert!(send(&mut director, RESETS_PER_SEC / 500));
    assert!(!send(&mut director, 1));
    assert_eq!(resets(&director).0, u64::from(RESETS_BURST + RESETS_PER_SEC / 500));
}

#[test]
fn whoever_polls_a_segment_its_owner_alone_answers_and_no_known_connection_is_reset() {
    for mode in [
        ForwardingMode::Nat,
        ForwardingMode::FullNat,
        ForwardingMode::DirectRouting,
    ] {
        for workers in [2, 3, 64] {
            let mut director = resetting(workers, web(), mode, &[SERVER]);
            for client in 0..200_u16 {
                let polls = |packet: u16| usize::from((client + packet) % u16::from(workers));
                let ends = format!("192.0.2.2:{} > 192.0.2.100:80", 10_000 + client);
                let ack = tcp4(&ends).ack().build();
                let (_, out) = director.inject_at(polls(0), WAN, &ack).transmitted();
                assert!(is_reset(&out), "{mode:?}");
                director
                    .inject_at(polls(1), WAN, &tcp4(&ends).syn().build())
                    .transmitted();
                for packet in 0..u16::from(workers.min(8)) {
                    let (device, _) = director.inject_at(polls(packet), WAN, &ack).transmitted();
                    assert_eq!(device, LAN, "{mode:?}, {workers} workers");
                }
            }
            assert_eq!(resets(&director), (200, 0));
        }
    }
}

fn rss() -> RssHash {
    RssHash::new(std::array::from_fn(|index| (index as u8).wrapping_mul(91) ^ 0x6D))
}

/// Connections that began while servers were masqueraded stay where they began; NICs spread the others by flows.
#[test]
fn a_connection_that_a_former_owner_has_is_never_reset_whoever_polls_it() {
    let mut director = resetting(4, web(), ForwardingMode::Nat, &[SERVER]);
    for worker in &mut director.workers {
        worker.follow_rss(rss());
    }
    for client in 0..200_u16 {
        let ends = format!("192.0.2.2:{} > 192.0.2.100:80", 10_000 + client);
        let polls = usize::from(client % 4);
        director.inject_at(polls, WAN, &tcp4(&ends).syn().build()).transmitted();
    }
    let direct = ServerSpec::new(addr(SERVER), 80, ForwardingMode::DirectRouting, 1);
    director.change(|desired| desired.edit_server(&web(), direct)).unwrap();
    for client in 0..200_u16 {
        for polls in 0..4 {
            let ends = format!("192.0.2.2:{} > 192.0.2.100:80", 10_000 + client);
            let outcome = director.inject_at(polls, WAN, &tcp4(&ends).ack().build());
            // A frame is handed off once: a worker that got it from a wrong one asks nobody else.
            assert!(
                matches!(outcome, Outcome::Transmitted(LAN, _) | Outcome::Punted(_)),
                "{outcome:?}"
            );
        }
    }
    assert_eq!(resets(&director), (0, 0));
    // What nobody has is reset by the last worker that can be asked, from the queue to which the NIC brings it.
    let mut answered = 0;
    for client in 0..200_u16 {
        let ends = format!("192.0.2.2:{} > 192.0.2.100:80", 20_000 + client);
        for polls in 0..4 {
            let outcome = director.inject_at(polls, WAN, &tcp4(&ends).ack().build());
            answered += u32::from(matches!(outcome, Outcome::Transmitted(WAN, frame) if is_reset(&frame)));
        }
    }
    assert!(answered >= 200, "{answered}");
}

/// A packet of the usual client.
fn question(begins: bool) -> Question {
    Question {
        device: WAN,
        protocol: 6,
        src: (addr("192.0.2.2"), 40_000),
        dst: (addr(VIP), 80),
        begins,
        is_handoff: false,
    }
}

#[test]
fn the_explanation_says_that_a_reset_answers() {
    let mut director = resetting(1, web(), ForwardingMode::Nat, &[SERVER]);
    let now = director.now();
    let unknown = explain(&mut director.workers[0], now, &question(false));
    assert_eq!(unknown.end, End::Reset);
    assert!(matches!(
        explain(&mut director.workers[0], now, &question(true)).end,
        End::Transmit(_)
    ));
    assert_eq!(resets(&director), (0, 0));
}

/// Any segment of TCP to the service: flags, numbers, options, payload, damage.
fn any_segment() -> impl Strategy<Value = Vec<u8>> {
    let numbers = (any::<u32>(), any::<u32>(), any::<u8>(), 0_usize..200);
    let damage = prop::option::weighted(0.3, (14_usize..60, any::<u8>()));
    (any::<bool>(), numbers, 0_usize..3, damage).prop_map(
        |(is_v6, (sequence, acknowledgement, flags, len), kind, damage)| {
            let segment = if is_v6 { tcp6(TO_VIP6) } else { tcp4(TO_VIP) };
            let segment = segment
                .tcp_flags(flags)
                .sequence(sequence)
                .acknowledgement(acknowledgement);
            let segment = match kind {
                0 => segment.payload_len(len),
                1 => segment.payload_len(len).vlan(7),
                _ => segment.payload_len(len / 8 * 8).fragment(0, true),
            };
            let mut frame = segment.build();
            if let Some((at, byte)) = damage
                && let Some(place) = frame.get_mut(at)
            {
                *place ^= byte;
            }
            frame
        },
    )
}

proptest! {
    #[test]
    fn a_reset_answers_no_reset_no_syn_no_fragment_and_itself_none(frame in any_segment()) {
        let mut director = resetting(1, web(), ForwardingMode::Nat, &[]);
        let key = service(ServiceProtocol::Tcp, VIP6, 80);
        director.change(|desired| desired.add_service(spec(key))).unwrap();
        let mut l3 = network();
        l3.interface(Interface::new(WAN, 7, director_mac(WAN), 1_500, "wan.7"));
        director.set_l3(l3.build(2));
        let described = packet(&frame);
        let outcome = director.inject(WAN, &frame);
        let (Outcome::Transmitted(_, out) | Outcome::Held(_, out)) = outcome else {
            return Ok(());
        };
        let flags = described.split(' ').nth(1).unwrap_or_default();
        if resets(&director) == (0, 0) {
            // A service without a server answers a SYN with ICMP.
            prop_assert!(flags.contains('S') && packet(&out).starts_with("ICMP"), "{described}");
            return Ok(());
        }
        prop_assert!(described.starts_with("TCP ") && !described.contains("fragment"), "{described}");
        prop_assert!(!flags.contains('R') && !flags.contains('S'), "{described}");
        prop_assert!(checksum_faults(&frame).is_empty() && checksum_faults(&out).is_empty(), "{described}");
        prop_assert!(out.len() <= frame.len(), "it is no longer than what it answers");
        let answer = packet(&out);
        prop_assert!(answer.starts_with(if flags.contains('A') { "TCP R " } else { "TCP RA " }), "{answer}");
        // The client's stack answers no reset; nor does another director that serves the client's address.
        let mut back = out.clone();
        back[..6].copy_from_slice(&director_mac(WAN));
        let mut again = VecFrame::new(&back);
        let outcome = director.burst(0, WAN, std::slice::from_mut(&mut again)).remove(0);
        prop_assert!(!matches!(outcome, Outcome::Transmitted(..)), "{outcome:?}");
        prop_assert_eq!(resets(&director), (1, 0));
    }
}

//! A connection whose local port has not rested: its numbers are above those of the connection before, for the server;
//! the client sees its own.

use lvs_core::ipvs::sync::SyncRoles;
use lvs_core::testing::icmp4;

use super::*;

const RST: u8 = 0x04;
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0];

/// A pair whose SYN has gone, and the number that the server got it with.
fn begun(is_v6: bool) -> (Pair, u32) {
    let mut pair = Pair::without_rested_port(is_v6, ClientAddress::None);
    let syn = pair.client().syn().sequence(5_000).mss(1_460).tcp_option(&TIMESTAMPS);
    let first = segment(&pair.inbound(&syn)[0]);
    assert_eq!(
        first.options,
        [(2, vec![0x05, 0xb4])],
        "timestamps are not offered, and nothing else is lost"
    );
    assert_eq!(segment(&pair.inbound(&syn)[0]), first, "the same again");
    (pair, first.sequence)
}

#[test]
fn the_number_lies_above_the_last_one_of_the_connection_before() {
    for is_v6 in [false, true] {
        let (pair, isn) = begun(is_v6);
        let gap = isn.wrapping_sub(LAST_SEQUENCE.wrapping_add(1));
        assert!((1..1 << 25).contains(&gap), "{gap}");
        assert_eq!(pair.director.counters[0].local_ports_unrested.get(), 1);
    }
}

#[test]
fn every_segment_of_both_directions_is_shifted() {
    for is_v6 in [false, true] {
        let (mut pair, isn) = begun(is_v6);
        let syn_ack = pair
            .server()
            .syn()
            .ack()
            .sequence(7_000)
            .acknowledgement(isn.wrapping_add(1));
        assert_eq!(segment(&pair.outbound(&syn_ack)).acknowledgement, 5_001);
        for (client, server) in [(5_001u32, isn.wrapping_add(1)), (9_000, isn.wrapping_add(4_000))] {
            let data = pair
                .client()
                .ack()
                .sequence(client)
                .acknowledgement(7_001)
                .payload(b"data");
            let out = segment(&pair.inbound(&data)[0]);
            assert_eq!((out.sequence, out.acknowledgement), (server, 7_001));
            let reply = pair.server().ack().sequence(7_001).acknowledgement(server);
            assert_eq!(segment(&pair.outbound(&reply)).acknowledgement, client);
        }
        let reset = pair.client().tcp_flags(RST).sequence(9_004);
        assert_eq!(segment(&pair.inbound(&reset)[0]).sequence, isn.wrapping_add(4_004));
        let refused = pair.server().tcp_flags(RST).sequence(7_001);
        let refused = segment(&pair.outbound(&refused));
        assert_eq!(
            (refused.flags, refused.acknowledgement),
            (RST, 0),
            "nothing is acknowledged"
        );
    }
}

#[test]
fn the_fast_path_shifts_as_the_slow_path_does() {
    for is_v6 in [false, true] {
        let (mut pair, isn) = begun(is_v6);
        pair.outbound(&pair.server().syn().ack().acknowledgement(isn.wrapping_add(1)));
        let data = pair.client().ack().sequence(9_000).payload(b"data");
        let reply = pair.server().ack().acknowledgement(isn.wrapping_add(70));
        for _ in 0..2 {
            for (device, packet) in [(WAN, &data), (LAN, &reply)] {
                let frame = packet.build();
                let mut tagged = frame.clone();
                tagged.splice(12..12, [0x81, 0, 0, 0]);
                let fast = pair.director.inject(device, &frame).transmitted();
                assert_eq!(fast, pair.director.inject(device, &tagged).transmitted());
                assert_eq!(checksum_faults(&fast.1), Vec::<String>::new());
            }
        }
    }
}

#[test]
fn selective_acknowledgements_are_shifted_back() {
    let (mut pair, isn) = begun(false);
    let mut sack = vec![1, 1, 5, 10];
    sack.extend(isn.wrapping_add(101).to_be_bytes());
    sack.extend(isn.wrapping_add(201).to_be_bytes());
    pair.outbound(&pair.server().syn().ack().acknowledgement(isn.wrapping_add(1)));
    pair.inbound(&pair.client().ack().sequence(5_001));
    let reply = pair
        .server()
        .ack()
        .acknowledgement(isn.wrapping_add(1))
        .tcp_option(&sack);
    let [edges] = segment(&pair.outbound(&reply)).options.try_into().expect("one option");
    assert_eq!(edges, (5, [5_101u32.to_be_bytes(), 5_201u32.to_be_bytes()].concat()));
}

#[test]
fn an_icmp_error_quotes_the_clients_number() {
    let (mut pair, _) = begun(false);
    let out = pair.inbound(&pair.client().ack().sequence(5_100).payload(b"data"));
    let error = icmp4("198.51.100.11 > 198.51.100.200")
        .icmp(3, 4, 1_300)
        .payload(&out[0][14..14 + 28]);
    let error = error.dst_mac(director_mac(LAN)).build();
    let (_, frame) = pair.director.inject(LAN, &error).transmitted();
    let quoted = 14 + 20 + 8 + 20 + 4;
    assert_eq!(frame[quoted..quoted + 4], 5_100u32.to_be_bytes());
}

#[test]
fn the_same_clients_next_connection_keeps_port_and_direction_of_the_numbers() {
    let (mut pair, isn) = begun(false);
    pair.outbound(&pair.server().syn().ack().acknowledgement(isn.wrapping_add(1)));
    pair.inbound(&pair.client().ack().sequence(5_001));
    pair.outbound(&pair.server().ack().fin());
    pair.inbound(&pair.client().ack().fin().sequence(6_000));
    let port = pair.director.conns()[0].local.1;
    // The client's clock has gone on, but less than the director's number lies above the client's.
    let next = segment(&pair.inbound(&pair.client().syn().sequence(6_100).tcp_option(&TIMESTAMPS))[0]);
    let end = isn.wrapping_add(1_001);
    assert!(
        (1..1 << 25).contains(&next.sequence.wrapping_sub(end)),
        "above the last one again"
    );
    assert_eq!(next.options, []);
    assert!(
        pair.director
            .conns()
            .iter()
            .any(|conn| conn.local.1 == port && conn.client.1 == CLIENT_PORT)
    );
}

#[test]
fn another_director_goes_on_with_the_numbers() {
    for is_v6 in [false, true] {
        let mut pair = Pair::without_rested_port(is_v6, ClientAddress::ProxyV2);
        let role = |master| SyncRoles {
            master,
            backup: !master,
        };
        pair.director.set_sync(role(true));
        let isn = segment(&pair.inbound(&pair.client().syn().sequence(5_000))[0]).sequence;
        pair.outbound(&pair.server().syn().ack().acknowledgement(isn.wrapping_add(1)));
        pair.inbound(&pair.client().ack().sequence(5_001));
        let header = if is_v6 { 52 } else { 28 };
        pair.outbound(&pair.server().ack().acknowledgement(isn.wrapping_add(1 + header)));
        pair.inbound(&pair.client().ack().sequence(5_001).payload(b"data"));
        let synced = pair.director.take_synced();
        let mut backup = Pair::new(ServiceProtocol::Tcp, is_v6, ClientAddress::ProxyV2, 0);
        backup.director.set_sync(role(false));
        backup.director.import_synced(&synced);
        let more = pair.client().ack().sequence(5_005).payload(b"more");
        let (here, there) = (pair.inbound(&more), backup.inbound(&more));
        assert_eq!(segment(&there[0]).sequence, isn.wrapping_add(5 + header));
        assert_eq!(here, there, "the server sees no difference");
        let reply = pair.server().ack().acknowledgement(isn.wrapping_add(9 + header));
        assert_eq!(segment(&backup.outbound(&reply)).acknowledgement, 5_009);
    }
}

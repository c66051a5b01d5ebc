//! The PROXY protocol, packet by packet.

use lvs_core::l3::{NeighbourKey, NeighbourState};
use lvs_core::testing::network::network;

use super::super::fragments::{in_fragments, joined};
use super::*;

const LINE: &[u8] = b"PROXY TCP4 192.0.2.2 192.0.2.100 40000 80\r\n";

fn header(is_v6: bool, carrier: ClientAddress) -> Vec<u8> {
    let (client, virt) = if is_v6 {
        ("2001:db8:a::2", "2001:db8:a::100")
    } else {
        ("192.0.2.2", "192.0.2.100")
    };
    if carrier == ClientAddress::ProxyV1 {
        let family = if is_v6 { "TCP6" } else { "TCP4" };
        return format!("PROXY {family} {client} {virt} 40000 80\r\n").into_bytes();
    }
    let mut bytes = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a".to_vec();
    bytes.extend(if is_v6 {
        [0x21, 0x21, 0, 36]
    } else {
        [0x21, 0x11, 0, 12]
    });
    for address in [client, virt].map(addr) {
        match address {
            std::net::IpAddr::V4(v4) => bytes.extend(v4.octets()),
            std::net::IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend([0x9c, 0x40, 0, 80]);
    bytes
}

/// A version 1 connection over IPv4 after SYN and SYN-ACK: the client's first byte is 1001, the server's 7001.
fn opened() -> Pair {
    let mut pair = Pair::new(ServiceProtocol::Tcp, false, ClientAddress::ProxyV1, 0);
    let syn = pair.inbound(&pair.client().syn().mss(1_460));
    assert_eq!(segment(&syn[0]).sequence, 1_000);
    let syn_ack = pair
        .server()
        .syn()
        .ack()
        .sequence(7_000)
        .acknowledgement(1_001)
        .mss(1_460);
    let syn_ack = segment(&pair.outbound(&syn_ack));
    assert_eq!(
        (syn_ack.acknowledgement, &syn_ack.options[..]),
        (1_001, &[(2, vec![5, 0xb4])][..])
    );
    pair
}

fn client(pair: &Pair) -> PacketBuilder {
    pair.client().sequence(1_001).acknowledgement(7_001).ack()
}

fn server(pair: &Pair, acknowledgement: u32) -> PacketBuilder {
    pair.server().sequence(7_001).ack().acknowledgement(acknowledgement)
}

#[test]
fn the_clients_first_ack_becomes_the_header_and_both_numberings_agree_from_then_on() {
    for (is_v6, carrier) in [
        (false, ClientAddress::ProxyV1),
        (false, ClientAddress::ProxyV2),
        (true, ClientAddress::ProxyV1),
        (true, ClientAddress::ProxyV2),
    ] {
        let mut pair = Pair::new(ServiceProtocol::Tcp, is_v6, carrier, 0);
        let expected = header(is_v6, carrier);
        let len = expected.len() as u32;
        pair.inbound(&pair.client().syn());
        pair.outbound(&pair.server().syn().ack().sequence(7_000).acknowledgement(1_001));
        let ack = segment(&pair.inbound(&client(&pair).padded_to(60))[0]);
        assert_eq!(
            (ack.sequence, ack.acknowledgement, &ack.payload),
            (1_001, 7_001, &expected)
        );
        let data = segment(&pair.inbound(&client(&pair).payload(b"GET"))[0]);
        assert_eq!((data.sequence, &data.payload[..]), (1_001 + len, &b"GET"[..]));
        let answer = segment(&pair.outbound(&server(&pair, 1_004 + len).payload(b"200")));
        assert_eq!(
            (answer.sequence, answer.acknowledgement, &answer.payload[..]),
            (7_001, 1_004, &b"200"[..])
        );
        let fin = segment(&pair.inbound(&client(&pair).sequence(1_004).acknowledgement(7_004).fin())[0]);
        assert_eq!((fin.sequence, fin.acknowledgement), (1_004 + len, 7_004));
        let fin = segment(&pair.outbound(&server(&pair, 1_005 + len).sequence(7_004).fin()));
        assert_eq!((fin.sequence, fin.acknowledgement), (7_004, 1_005));
        assert_eq!(pair.carried(), 1);
    }
}

#[test]
fn the_window_of_the_syn_ack_leaves_room_for_the_header() {
    let mut pair = Pair::new(ServiceProtocol::Tcp, false, ClientAddress::ProxyV1, 0);
    pair.inbound(&pair.client().syn());
    let syn_ack = pair.outbound(&pair.server().syn().ack().acknowledgement(1_001).window(1_000));
    assert_eq!(usize::from(segment(&syn_ack).window), 1_000 - LINE.len());
}

/// The handshake's ACK was lost before it reached us.
#[test]
fn data_that_come_first_have_a_segment_with_the_header_before_them() {
    let mut pair = opened();
    let full = client(&pair).psh().fin().payload_len(1_460);
    let out = pair.inbound(&full);
    let [before, data] = [segment(&out[0]), segment(&out[1])];
    assert_eq!(
        (before.sequence, &before.payload[..], before.flags),
        (1_001, LINE, 0x18)
    );
    assert_eq!(
        (data.sequence, data.payload.len(), data.flags),
        (1_001 + LINE.len() as u32, 1_460, 0x19)
    );
    assert_eq!(out[0][..12], out[1][..12], "the same hop");
}

#[test]
fn until_the_server_has_the_header_the_first_octet_brings_it_again() {
    let mut pair = opened();
    let len = LINE.len() as u32;
    assert_eq!(segment(&pair.inbound(&client(&pair))[0]).payload, LINE);
    // A second SYN-ACK is answered by a second ACK.
    assert_eq!(segment(&pair.inbound(&client(&pair))[0]).payload, LINE);
    let first = client(&pair).payload(b"one ");
    assert_eq!(pair.inbound(&first).len(), 1, "the header went before");
    let second = pair.inbound(&client(&pair).sequence(1_005).payload(b"two"));
    assert_eq!((second.len(), segment(&second[0]).sequence), (1, 1_005 + len));
    // The server has received nothing or only a part of the header: the client sees no acknowledgement of it.
    for acknowledged in [1_001, 1_001 + len - 1] {
        let duplicate = segment(&pair.outbound(&server(&pair, acknowledged)));
        assert_eq!(duplicate.acknowledgement, 1_001);
        let again = pair.inbound(&first);
        assert_eq!((again.len(), &segment(&again[0]).payload[..]), (2, LINE));
        assert_eq!(segment(&again[1]).payload, b"one ");
    }
    pair.outbound(&server(&pair, 1_001 + len));
    assert_eq!(pair.inbound(&first).len(), 1, "the header has arrived");
}

#[test]
fn selective_acknowledgements_are_about_the_clients_bytes_only() {
    let mut pair = opened();
    let len = LINE.len() as u32;
    let sack = |blocks: &[[u32; 2]]| {
        let mut option = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
        option.extend(blocks.iter().flatten().flat_map(|edge| edge.to_be_bytes()));
        option
    };
    let blocks = |option: &[u8]| -> Vec<u32> {
        option
            .chunks(4)
            .map(|edge| u32::from_be_bytes(edge.try_into().expect("four")))
            .collect()
    };
    pair.inbound(&client(&pair).payload(b"0123456789"));
    let missing = sack(&[[1_001 + len + 4, 1_001 + len + 8]]);
    let out = segment(&pair.outbound(&server(&pair, 1_001).tcp_option(&missing)));
    assert_eq!(
        (out.acknowledgement, blocks(&out.options[0].1)),
        (1_001, vec![1_005, 1_009])
    );
    // A block that reaches into the header, and one that is nothing but header.
    let both = sack(&[[1_001, 1_001 + len], [1_001 + len - 3, 1_001 + len + 2]]);
    let out = segment(&pair.outbound(&server(&pair, 1_001).tcp_option(&both)));
    assert_eq!(blocks(&out.options[0].1), [1_001, 1_003, 1_001, 1_003]);
    let header_twice = sack(&[[1_001, 1_001 + len]]);
    let out = segment(&pair.outbound(&server(&pair, 1_001 + len).tcp_option(&header_twice)));
    assert_eq!((out.acknowledgement, &out.options[..]), (1_001, &[][..]));
}

#[test]
fn resets_are_believed_by_either_end() {
    let mut pair = opened();
    let refused = pair.server().rst().ack().sequence(0).acknowledgement(1_001);
    assert_eq!(segment(&pair.outbound(&refused)).acknowledgement, 1_001);
    let early = segment(&pair.inbound(&pair.client().sequence(1_001).rst())[0]);
    assert_eq!(
        (early.sequence, early.payload.len()),
        (1_001, 0),
        "the server expects its first byte"
    );

    let mut pair = opened();
    pair.inbound(&client(&pair));
    let late = segment(&pair.inbound(&pair.client().sequence(1_001).rst())[0]);
    assert_eq!(
        (late.sequence, late.payload.len()),
        (1_001 + LINE.len() as u32, 0),
        "it has the header by then"
    );
}

#[test]
fn keepalives_of_a_silent_client_stay_behind_what_the_server_has() {
    let mut pair = opened();
    pair.inbound(&client(&pair));
    let probe = client(&pair).sequence(1_000);
    let unsure = segment(&pair.inbound(&probe)[0]);
    assert_eq!((unsure.sequence, unsure.payload.len()), (1_000, 0));
    let len = LINE.len() as u32;
    pair.outbound(&server(&pair, 1_001 + len));
    assert_eq!(segment(&pair.inbound(&probe)[0]).sequence, 1_000 + len);
}

/// TCP fast open: the data come again behind the header.
#[test]
fn data_in_a_syn_are_left_out() {
    let mut pair = Pair::new(ServiceProtocol::Tcp, false, ClientAddress::ProxyV1, 0);
    for payload in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"odd"] {
        let syn = pair.client().syn().mss(1_460).payload(payload);
        let syn = &pair.inbound(&syn)[0];
        assert_eq!((syn.len(), segment(syn).payload.len()), (14 + 20 + 24, 0));
    }
}

#[test]
fn urgent_data_keep_their_place_behind_the_header() {
    let mut pair = opened();
    let mut urgent = client(&pair).tcp_flags(0x20).build();
    // Urgent pointer 5; the checksum follows by as much.
    urgent[34 + 19] = 5;
    let sum = u16::from_be_bytes([urgent[50], urgent[51]]) - 5;
    urgent[50..52].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(checksum_faults(&urgent), Vec::<String>::new());
    let (_, out) = pair.director.inject(WAN, &urgent).transmitted();
    assert_eq!(checksum_faults(&out), Vec::<String>::new());
    assert_eq!(usize::from(u16::from_be_bytes([out[52], out[53]])), 5 + LINE.len());
}

#[test]
fn an_icmp_error_quotes_the_number_that_the_client_knows() {
    let mut pair = opened();
    pair.inbound(&client(&pair));
    let out = pair.inbound(&client(&pair).payload_len(1_400).dont_fragment());
    let quoted = &out[0][14..14 + 28];
    let error = lvs_core::testing::icmp4("198.51.100.11 > 198.51.100.200")
        .icmp(3, 4, 1_300)
        .payload(quoted)
        .dst_mac(director_mac(LAN));
    let (device, out) = pair.director.inject(LAN, &error.build()).transmitted();
    assert_eq!(device, WAN);
    assert_eq!(checksum_faults(&out), Vec::<String>::new());
    // IP header, ICMP header, quoted IP header, ports.
    let at = 14 + 20 + 8 + 20 + 4;
    assert_eq!(out[at..at + 4], 1_001u32.to_be_bytes());
}

/// First data that come in fragments leave in fragments, behind the header.
#[test]
fn the_header_goes_before_the_fragments_of_the_first_data() {
    let mut pair = opened();
    let whole = client(&pair).payload_len(2_000).build();
    for fragment in in_fragments(&whole, 1_024) {
        assert_eq!(pair.director.inject(WAN, &fragment), Outcome::Consumed);
    }
    let made: Vec<Vec<u8>> = pair
        .director
        .take_generated()
        .into_iter()
        .map(|made| made.transmitted().1)
        .collect();
    assert_eq!(segment(&made[0]).payload, LINE);
    let data = joined(&made[1..]);
    assert_eq!(checksum_faults(&data), Vec::<String>::new());
    assert_eq!(
        (segment(&data).sequence, segment(&data).payload.len()),
        (1_001 + LINE.len() as u32, 2_000)
    );
}

#[test]
fn header_and_first_data_wait_together_for_the_next_hop() {
    let mut pair = opened();
    let mut l3 = network();
    l3.neighbour(NeighbourKey::of(LAN, 0, addr("198.51.100.11")), NeighbourState::Failed);
    pair.director.set_l3(l3.build(2));
    assert_eq!(
        pair.director.inject(WAN, &client(&pair).payload(b"GET").build()),
        Outcome::Consumed
    );
    let held = pair.director.take_generated();
    let payloads: Vec<Vec<u8>> = held
        .iter()
        .map(|made| match made {
            Outcome::Held(_, frame) => segment(frame).payload,
            other => panic!("{other:?} is not waiting"),
        })
        .collect();
    assert_eq!(payloads, [LINE, b"GET"]);
}

//! TOA and the MSS limit.

use super::*;

const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0];
/// What Linux puts into a SYN besides the MSS: SACK permitted, timestamps, window scale.
const LINUX_SYN: [u8; 16] = [4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];

fn kind(is_v6: bool) -> u8 {
    if is_v6 { 253 } else { 254 }
}

fn toa(frame: &[u8], is_v6: bool) -> Option<Vec<u8>> {
    let options = segment(frame).options;
    options
        .into_iter()
        .find_map(|(of, value)| (of == kind(is_v6)).then_some(value))
}

fn handshake(pair: &mut Pair) {
    pair.inbound(&pair.client().syn().mss(1_460).tcp_option(&LINUX_SYN));
    answer_syn(pair);
}

fn answer_syn(pair: &mut Pair) {
    pair.outbound(
        &pair
            .server()
            .syn()
            .ack()
            .sequence(7_000)
            .acknowledgement(1_001)
            .mss(1_460),
    );
}

#[test]
fn every_packet_carries_the_client_until_the_server_has_answered_it() {
    for is_v6 in [false, true] {
        let mut pair = Pair::new(ServiceProtocol::Tcp, is_v6, ClientAddress::Toa, 0);
        let expected = Some(client_as_option(is_v6));
        let syn = pair.inbound(&pair.client().syn().mss(1_460).tcp_option(&LINUX_SYN));
        assert_eq!(toa(&syn[0], is_v6), expected, "the SYN");
        answer_syn(&mut pair);
        let client = pair.client().sequence(1_001).acknowledgement(7_001).ack();
        let ack = pair.inbound(&client.clone().tcp_option(&TIMESTAMPS));
        assert_eq!(toa(&ack[0], is_v6), expected, "the ACK that completes the handshake");
        // A challenge ACK of a server that has no connection yet is no answer.
        pair.outbound(&pair.server().ack().sequence(7_001).acknowledgement(1_001));
        let data = pair.inbound(&client.clone().psh().payload(b"GET / HTTP/1.0\r\n\r\n"));
        assert_eq!(toa(&data[0], is_v6), expected, "the first data");
        assert_eq!(segment(&data[0]).payload, b"GET / HTTP/1.0\r\n\r\n");
        assert_eq!(
            (segment(&data[0]).sequence, segment(&data[0]).acknowledgement),
            (1_001, 7_001)
        );
        pair.outbound(&pair.server().ack().sequence(7_001).acknowledgement(1_019));
        let later = pair.inbound(&client.sequence(1_019).payload(b"more"));
        assert_eq!(toa(&later[0], is_v6), None, "the server has answered");
        assert_eq!((pair.carried(), pair.did_not_fit()), (3, 0));
    }
}

#[test]
fn a_server_that_speaks_first_has_answered_too() {
    let mut pair = Pair::new(ServiceProtocol::Tcp, false, ClientAddress::Toa, 0);
    handshake(&mut pair);
    let client = pair.client().sequence(1_001).acknowledgement(7_001).ack();
    pair.inbound(&client);
    pair.outbound(
        &pair
            .server()
            .ack()
            .sequence(7_001)
            .acknowledgement(1_001)
            .payload(b"220 ready\r\n"),
    );
    let answer = pair.inbound(&client.acknowledgement(7_012));
    assert_eq!(toa(&answer[0], false), None);
}

#[test]
fn the_mss_of_the_syn_ack_leaves_room_for_the_option() {
    for (is_v6, len) in [(false, 8u16), (true, 20)] {
        let mut pair = Pair::new(ServiceProtocol::Tcp, is_v6, ClientAddress::Toa, 0);
        pair.inbound(&pair.client().syn().mss(1_460));
        let syn_ack = pair.outbound(&pair.server().syn().ack().acknowledgement(1_001).mss(1_440));
        let mss = 1_440 - len;
        assert_eq!(segment(&syn_ack).options, [(2, mss.to_be_bytes().to_vec())]);
        let client = pair.client().sequence(1_001).acknowledgement(1_001).ack();
        let full = pair.inbound(&client.payload_len(usize::from(mss)));
        assert_eq!(toa(&full[0], is_v6), Some(client_as_option(is_v6)));
    }
}

#[test]
fn without_room_a_packet_goes_as_it_is_and_is_counted() {
    let mut pair = Pair::new(ServiceProtocol::Tcp, false, ClientAddress::Toa, 0);
    handshake(&mut pair);
    let client = pair.client().sequence(1_001).acknowledgement(7_001).ack();
    let full = client.clone().payload_len(1_460);
    assert_eq!(
        segment(&pair.inbound(&full)[0]).options,
        [],
        "the link's MTU leaves no space"
    );
    let crowded = client.tcp_option(&[5, 34]).tcp_option(&[7; 32]).tcp_option(&[1, 1]);
    assert_eq!(
        segment(&pair.inbound(&crowded)[0]).options.len(),
        1,
        "the header has no space"
    );
    assert_eq!((pair.carried(), pair.did_not_fit()), (1, 2), "the SYN had it");
}

#[test]
fn resets_and_streams_joined_in_the_middle_carry_nothing() {
    let mut pair = Pair::new(ServiceProtocol::Tcp, false, ClientAddress::Toa, 0);
    pair.inbound(&pair.client().syn());
    let reset = pair.inbound(&pair.client().sequence(1_001).rst());
    assert_eq!(segment(&reset[0]).options, []);

    let mut pair = Pair::new(ServiceProtocol::Tcp, false, ClientAddress::Toa, 0);
    let sysctls = lvs_core::ipvs::sysctl::Sysctls {
        sloppy_tcp: true,
        ..Default::default()
    };
    pair.director.set_sysctls(sysctls);
    let joined = pair.inbound(&pair.client().ack().payload(b"middle"));
    assert_eq!(segment(&joined[0]).options, []);
    assert_eq!((pair.carried(), pair.did_not_fit()), (0, 0));
}

/// Without a new connection (`conn_reuse_mode` 0) a new SYN begins the old one anew.
#[test]
fn a_client_that_comes_again_from_its_port_carries_client_address_again() {
    let mut pair = Pair::new(ServiceProtocol::Tcp, false, ClientAddress::Toa, 0);
    let sysctls = lvs_core::ipvs::sysctl::Sysctls {
        conn_reuse_mode: 0,
        ..Default::default()
    };
    pair.director.set_sysctls(sysctls);
    handshake(&mut pair);
    let client = pair.client().sequence(1_001).acknowledgement(7_001).ack();
    pair.inbound(&client);
    pair.outbound(&pair.server().ack().fin().sequence(7_001).acknowledgement(1_001));
    let fin = pair.inbound(&client.fin().acknowledgement(7_002));
    assert_eq!(toa(&fin[0], false), None);
    pair.outbound(&pair.server().ack().sequence(7_002).acknowledgement(1_002));
    let syn = pair.inbound(&pair.client().syn().sequence(900_000));
    assert_eq!(pair.director.conns().len(), 1);
    assert_eq!(toa(&syn[0], false), Some(client_as_option(false)));
}

#[test]
fn the_mss_is_lowered_to_the_limit_in_both_directions_and_never_raised() {
    for (announced, expected) in [(1_460u16, 1_300u16), (1_300, 1_300), (536, 536)] {
        let mut pair = Pair::new(ServiceProtocol::Tcp, false, ClientAddress::None, 1_300);
        // An odd number of no-operations before it: the MSS does not stand on a word.
        let syn = pair.client().syn().tcp_option(&[1]).mss(announced);
        let syn = pair.inbound(&syn);
        assert_eq!(segment(&syn[0]).options, [(2, expected.to_be_bytes().to_vec())]);
        let syn_ack = pair.server().syn().ack().acknowledgement(1_001).mss(announced);
        let syn_ack = pair.outbound(&syn_ack);
        assert_eq!(segment(&syn_ack).options, [(2, expected.to_be_bytes().to_vec())]);
        let ack = pair
            .client()
            .sequence(1_001)
            .acknowledgement(1_001)
            .ack()
            .payload(b"as it was");
        assert_eq!(segment(&pair.inbound(&ack)[0]).payload, b"as it was");
    }
}

#[test]
fn tunnels_get_the_limit_too() {
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let mut director = crate::director(1, key, ForwardingMode::Tunnel, &["198.51.100.11"], 80);
    director.change(|desired| {
        let mut spec = *desired.listing(&key).expect("the service").spec;
        spec.mss_max = 1_440;
        desired.edit_service(spec).expect("a limit needs no pool");
    });
    let syn = tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().mss(1_460).build();
    let (_, out) = director.inject(WAN, &syn).transmitted();
    assert_eq!(out[14 + 20 + 20 + 20..], [2, 4, 0x05, 0xa0]);
    assert_eq!(checksum_faults(&out), Vec::<String>::new());
}

//! UOA.

use super::*;

#[test]
fn the_first_three_datagrams_carry_an_ip_option() {
    let mut pair = Pair::new(ServiceProtocol::Udp, false, ClientAddress::Uoa, 0);
    for number in 0..5 {
        let out = &pair.inbound(&pair.client().payload(b"query"))[0];
        if number < 3 {
            let mut option = vec![31, 8];
            option.extend(client_as_option(false));
            assert_eq!((out[14], &out[34..42]), (0x47, &option[..]), "datagram {number}");
            assert_eq!(out[50..], *b"query");
        } else {
            assert_eq!(
                (out[14], out[42..].to_vec()),
                (0x45, b"query".to_vec()),
                "datagram {number}"
            );
        }
    }
    assert_eq!((pair.carried(), pair.did_not_fit()), (3, 0));
    let reply = pair.outbound(&pair.server().payload(b"answer"));
    assert_eq!(reply[42..], *b"answer");
}

#[test]
fn options_that_are_there_stay_behind_it() {
    let mut pair = Pair::new(ServiceProtocol::Udp, false, ClientAddress::Uoa, 0);
    let router_alert = [0x94, 4, 0, 0];
    let out = &pair.inbound(&pair.client().ip_options(&router_alert).payload(b"query"))[0];
    assert_eq!((out[14], out[34], &out[42..46]), (0x48, 31, &router_alert[..]));
}

#[test]
fn behind_ipv6_stands_the_option_protocol_and_without_it_the_datagram_is_whole() {
    let mut pair = Pair::new(ServiceProtocol::Udp, true, ClientAddress::Uoa, 0);
    let plain = pair.client().payload(b"query").build();
    let out = &pair.inbound(&pair.client().payload(b"query"))[0];
    assert_eq!((out.len(), out[20]), (plain.len() + 24, 248));
    assert_eq!(out[54..60], [0x20, 17, 0, 24, 31, 20]);
    assert_eq!(out[60..78], client_as_option(true));
    // What the reader makes of it: UDP directly behind IPv6, its checksum right.
    let mut read = [&out[..54], &out[78..]].concat();
    read[18..20].copy_from_slice(&(8 + 5u16).to_be_bytes());
    read[20] = 17;
    assert_eq!(checksum_faults(&read), Vec::<String>::new());
    for _ in 0..2 {
        pair.inbound(&pair.client().payload(b"query"));
    }
    assert_eq!(pair.inbound(&pair.client().payload(b"query"))[0][20], 17);
}

#[test]
fn without_room_a_datagram_goes_as_it_is_and_a_later_one_carries_the_client() {
    let mut pair = Pair::new(ServiceProtocol::Udp, false, ClientAddress::Uoa, 0);
    let full = pair.inbound(&pair.client().payload_len(1_500 - 28));
    assert_eq!((full[0].len(), full[0][14]), (1_514, 0x45));
    let crowded = pair.inbound(&pair.client().ip_options(&[1; 36]));
    assert_eq!(crowded[0][14], 0x4e);
    let small = pair.inbound(&pair.client().payload_len(1_500 - 36));
    assert_eq!((small[0].len(), small[0][14]), (1_514, 0x47));
    assert_eq!((pair.carried(), pair.did_not_fit()), (1, 2));

    let mut pair = Pair::new(ServiceProtocol::Udp, true, ClientAddress::Uoa, 0);
    let extended = pair.inbound(&pair.client().destination_options(8).payload(b"query"));
    assert_eq!(extended[0][20], 60, "the reader looks directly behind the IPv6 header");
    assert_eq!((pair.carried(), pair.did_not_fit()), (0, 1));
}

//! The builder's packets equal recorded and hand-written ones.

use super::*;
use crate::testing::{checksum_faults, hex};

/// nat_ttl, v6_no_dest, nat_udp_checksums, tun_header: frames that scapy built.
#[test]
fn the_builder_makes_the_frames_of_the_recordings() {
    let syn = tcp4("10.0.0.2:46000 > 10.0.0.100:80")
        .syn()
        .ttl(2)
        .dont_fragment()
        .build();
    let recorded = "0200000000010200000001020800 45000028100140000206546a0a0000020a000064\
                    b3b00050000003e8000000005002721071840000";
    assert_eq!(syn, hex(recorded));
    let with_options = tcp4("10.0.0.2:40013 > 10.0.0.100:80")
        .syn()
        .dont_fragment()
        .identification(0x1015);
    let recorded = "0200000000010200000001020800 4600002c10154000400613500a0000020a00006401010101\
                    9c4d0050000003e8000000005002721088e70000";
    assert_eq!(with_options.ip_options(&[1; 4]).build(), hex(recorded));
    let none = udp4("10.0.0.2:50000 > 10.0.0.100:53")
        .dont_fragment()
        .without_checksum()
        .payload(b"query")
        .build();
    let recorded = "0200000000010200000001020800 4500002110014000401116660a0000020a000064c3500035000d00007175657279";
    assert_eq!(none, hex(recorded));
    let ping = icmp6("fd00:a::2 > fd00:a::100").payload(b"abc").build();
    let recorded = "020000000001020000000102 86dd 60000000000b3a40fd00000a000000000000000000000002\
                    fd00000a0000000000000000000001008000c03d00010001616263";
    assert_eq!(ping, hex(recorded));
}

/// sctp_nat: the INIT.
#[test]
fn sctp_has_the_crc_of_the_recording() {
    let chunk = hex("0100001400000002000000000000000000000000");
    let init = sctp4("10.0.0.2:40000 > 10.0.0.100:3868").payload(&chunk).build();
    let mut packet = init[34..].to_vec();
    packet[4..8].fill(0);
    packet[8..12].fill(0);
    assert_eq!(crate::testing::crc32c(&packet).to_le_bytes(), hex("73981182")[..]);
    assert_eq!(checksum_faults(&init), Vec::<String>::new());
}

#[test]
fn everything_built_is_right_unless_told_otherwise() {
    for packet in [
        tcp4("198.51.100.1:1 > 192.0.2.1:2")
            .ack()
            .psh()
            .payload_len(101)
            .mss(1460)
            .vlan(9)
            .padded_to(400),
        tcp6("[2001:db8::1]:1 > [2001:db8::2]:2")
            .rst()
            .hop_by_hop(16)
            .destination_options(8)
            .routing(),
        udp6("[2001:db8::1]:1 > [2001:db8::2]:2")
            .payload_len(3)
            .authentication(12)
            .atomic_fragment(),
        icmp4("198.51.100.1 > 192.0.2.1").icmp(3, 4, 1400).payload_len(31),
        icmp6("2001:db8::1 > 2001:db8::2").icmp(2, 0, 1400).payload_len(31),
        sctp6("[2001:db8::1]:1 > [2001:db8::2]:2").payload_len(7),
    ] {
        assert_eq!(checksum_faults(&packet.build()), Vec::<String>::new(), "{packet:?}");
    }
}

#[test]
#[should_panic(expected = "the wrong family")]
fn ends_of_the_wrong_family_are_refused() {
    let _ = tcp4("[2001:db8::1]:1 > [2001:db8::2]:2");
}

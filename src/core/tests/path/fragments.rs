//! Fragmented datagrams through every mode, by one worker and several, and packets too long for their link.

use lvs_core::address::AddressFamily;
use lvs_core::ipvs::desired::{ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::mark::{MarkRule, MarkRules};
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac};
use lvs_core::testing::{checksum_faults, udp4, udp6};
use lvs_core::verdict::DropReason;

use super::{addr, counts, director, packet, service};

/// An IPv4 packet in fragments of `payload` bytes.
pub(crate) fn in_fragments(frame: &[u8], payload: usize) -> Vec<Vec<u8>> {
    let upper = &frame[34..];
    let count = upper.len().div_ceil(payload);
    (0..count)
        .map(|index| {
            let chunk = &upper[index * payload..upper.len().min((index + 1) * payload)];
            let more = if index + 1 < count { 0x2000 } else { 0 };
            let mut piece = frame[..34].to_vec();
            piece.extend_from_slice(chunk);
            piece[16..18].copy_from_slice(&(20 + chunk.len() as u16).to_be_bytes());
            piece[20..22].copy_from_slice(&(more | (index * payload / 8) as u16).to_be_bytes());
            fill_header_checksum(&mut piece);
            piece
        })
        .collect()
}

pub(crate) fn fill_header_checksum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let words = frame[14..34]
        .chunks(2)
        .map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// What fragments of one packet amount to: its header as that of a whole packet, and its payload.
pub(crate) fn joined(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = pieces[0][..34].to_vec();
    for piece in pieces {
        let offset = usize::from(u16::from_be_bytes([piece[20], piece[21]]) & 0x1fff) * 8;
        assert_eq!(offset, whole.len() - 34, "in order, without gaps");
        whole.extend_from_slice(&piece[34..]);
    }
    let len = (whole.len() - 14) as u16;
    whole[16..18].copy_from_slice(&len.to_be_bytes());
    whole[20..22].fill(0);
    fill_header_checksum(&mut whole);
    whole
}

fn transmitted(outcomes: Vec<Outcome>) -> Vec<Vec<u8>> {
    outcomes.into_iter().map(|outcome| outcome.transmitted().1).collect()
}

/// A datagram of 20,000 bytes there and back, its fragments polled by different workers, in order and reversed.
#[test]
fn a_long_datagram_goes_there_and_back_whoever_polls_its_fragments() {
    for mode in [ForwardingMode::Nat, ForwardingMode::FullNat] {
        for workers in [1, 2, 5, 64] {
            for client in 0..20_u16 {
                let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
                let mut director = director(workers, key, mode, &["198.51.100.11"], 5_353);
                let ends = format!("192.0.2.2:{} > 192.0.2.100:53", 10_000 + client);
                let request = udp4(&ends).payload_len(20_000).identification(client).build();
                let to_server = through(&mut director, WAN, &request, client % 2 == 0);
                let words = packet(&to_server);
                assert!(words.contains("> 198.51.100.11:5353"), "{words}");
                assert_eq!(checksum_faults(&to_server), Vec::<String>::new());
                assert_eq!(to_server[42..], request[42..]);

                let words: Vec<&str> = words.split(' ').collect();
                let reply = udp4(&format!("{} > {}", words[3], words[1]))
                    .dst_mac(director_mac(LAN))
                    .payload_len(9_000)
                    .build();
                let to_client = through(&mut director, LAN, &reply, client % 3 == 0);
                let expected = format!("192.0.2.100:53 > 192.0.2.2:{}", 10_000 + client);
                assert!(packet(&to_client).contains(&expected), "{}", packet(&to_client));
                assert_eq!(checksum_faults(&to_client), Vec::<String>::new());
                assert_eq!(
                    counts(&director, 0)[..5],
                    [1, 1, 1, 20_028, 9_028],
                    "{mode:?}, {workers} workers"
                );
            }
        }
    }
}

#[test]
fn fragments_of_a_marked_service_are_put_together_though_its_address_is_nobodys() {
    for workers in [1, 3, 64] {
        let key = ServiceKey::Fwmark {
            mark: 7,
            family: AddressFamily::Ipv4,
        };
        let mut director = director(workers, key, ForwardingMode::Nat, &["198.51.100.11"], 0);
        let rule = MarkRule {
            mark: 7,
            protocol: Some(17),
            destination: Some("203.0.113.0/24".parse().unwrap()),
            destination_ports: vec![53..=53],
            divert: true,
            ..MarkRule::default()
        };
        director.set_marks(MarkRules::new(vec![rule]).unwrap());
        let request = udp4("192.0.2.2:1000 > 203.0.113.9:53").payload_len(4_000).build();
        let to_server = through(&mut director, WAN, &request, true);
        assert!(
            packet(&to_server).contains("192.0.2.2:1000 > 198.51.100.11:53"),
            "{}",
            packet(&to_server)
        );
        assert_eq!(counts(&director, 0)[..2], [1, 1], "{workers} workers");
    }
}

/// Sends a packet in fragments, each polled by another worker, and gives what came out, joined.
fn through(director: &mut TestDirector, device: lvs_core::l3::DeviceId, frame: &[u8], reversed: bool) -> Vec<u8> {
    let mut pieces = in_fragments(frame, 1_480);
    if reversed {
        pieces.reverse();
    }
    let workers = director.workers.len();
    let mut out = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let outcome = director.inject_at(index % workers, device, piece);
        assert_eq!(outcome, Outcome::Consumed);
        let made = transmitted(director.take_generated());
        assert!(
            made.is_empty() || index + 1 == pieces.len(),
            "complete before the last fragment"
        );
        out.extend(made);
    }
    assert_eq!(out.len(), pieces.len());
    joined(&out)
}

#[test]
fn a_checksum_that_was_not_there_is_made_over_the_whole_datagram() {
    let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 5_353);
    let request = udp4("192.0.2.2:1000 > 192.0.2.100:53")
        .without_checksum()
        .payload_len(3_000)
        .build();
    let out = through(&mut director, WAN, &request, true);
    assert_ne!(out[40..42], [0, 0]);
    assert_eq!(checksum_faults(&out), Vec::<String>::new());
}

#[test]
fn fragments_of_others_and_of_no_service_are_the_kernels_as_they_came() {
    let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 53);
    for frame in in_fragments(&udp4("192.0.2.2:1000 > 192.0.2.1:53").payload_len(2_000).build(), 1_000) {
        assert_eq!(director.inject(WAN, &frame), Outcome::Punted(frame));
    }
    let elsewhere = in_fragments(
        &udp4("192.0.2.2:1000 > 192.0.2.100:54").payload_len(2_000).build(),
        1_000,
    );
    for frame in &elsewhere {
        assert_eq!(director.inject(WAN, frame), Outcome::Consumed);
    }
    let punted: Vec<Outcome> = elsewhere.into_iter().map(Outcome::Punted).collect();
    assert_eq!(director.take_generated(), punted);
}

#[test]
fn the_sender_of_an_incomplete_datagram_is_told_after_half_a_minute() {
    let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 53);
    let pieces = in_fragments(
        &udp4("192.0.2.2:1000 > 192.0.2.100:53").payload_len(2_000).build(),
        1_000,
    );
    assert_eq!(director.inject(WAN, &pieces[0]), Outcome::Consumed);
    director.advance_ms(29_900);
    assert_eq!(director.take_generated(), []);
    director.advance_ms(200);
    let errors = transmitted(director.take_generated());
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0][34..36], [11, 1], "reassembly time exceeded");
    assert!(packet(&errors[0]).contains("192.0.2.100 > 192.0.2.2"));
    assert_eq!(
        director.inject(WAN, &pieces[1]),
        Outcome::Consumed,
        "of the first fragment nothing is left"
    );
    // The director answers no timeout if it has only the last fragment.
    director.advance_ms(60_000);
    assert_eq!(director.take_generated(), []);
}

#[test]
fn an_atomic_fragment_leaves_without_its_header() {
    let key = service(ServiceProtocol::Udp, "2001:db8:a::100", 53);
    let mut director = director(1, key, ForwardingMode::Nat, &["2001:db8:b::11"], 5_353);
    let request = udp6("[2001:db8:a::2]:1000 > [2001:db8:a::100]:53").payload(b"query");
    assert_eq!(
        director.inject(WAN, &request.clone().atomic_fragment().build()),
        Outcome::Consumed
    );
    let with = transmitted(director.take_generated());
    let (_, without) = director.inject(WAN, &request.build()).transmitted();
    assert_eq!(with, [without]);
}

#[test]
fn a_packet_without_df_leaves_in_pieces_in_every_mode() {
    for (mode, pieces) in [
        (ForwardingMode::Nat, 2),
        (ForwardingMode::FullNat, 2),
        (ForwardingMode::DirectRouting, 2),
        (ForwardingMode::Tunnel, 2),
    ] {
        let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
        let mut director = director(1, key, mode, &["198.51.100.11"], 53);
        let long = udp4("192.0.2.2:1000 > 192.0.2.100:53").payload_len(1_600);
        assert_eq!(director.inject(WAN, &long.build()), Outcome::Consumed);
        let out = transmitted(director.take_generated());
        assert_eq!(out.len(), pieces, "{mode:?}");
        assert!(out.iter().all(|piece| piece.len() <= 1_514));
        let whole = joined(&out);
        if mode != ForwardingMode::Tunnel {
            assert_eq!(checksum_faults(&whole), Vec::<String>::new());
        }
        let with_df = director.inject(WAN, &long.clone().dont_fragment().build());
        let (_, error) = with_df.transmitted();
        assert_eq!(error[34..36], [3, 4], "{mode:?}: with DF the sender gets an ICMP error");
    }
}

#[test]
fn a_flood_of_first_fragments_is_bounded_and_does_not_keep_others_out() {
    let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 53);
    for id in 0..5_000 {
        let flood = udp4("192.0.2.3:7 > 192.0.2.100:53")
            .identification(id)
            .fragment(0, true);
        assert_eq!(director.inject(WAN, &flood.payload_len(64).build()), Outcome::Consumed);
    }
    let request = udp4("192.0.2.2:1000 > 192.0.2.100:53").payload_len(4_000).build();
    let out = through(&mut director, WAN, &request, false);
    assert_eq!(checksum_faults(&out), Vec::<String>::new());
}

#[test]
fn overlapping_fragments_are_dropped_by_name_and_so_is_what_they_overlap() {
    let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 53);
    let ends = "192.0.2.2:1000 > 192.0.2.100:53";
    let first = udp4(ends).fragment(0, true).payload_len(56).build();
    let overlap = udp4(ends).fragment(56, false).payload_len(64).build();
    assert_eq!(director.inject(WAN, &first), Outcome::Consumed);
    assert_eq!(
        director.inject(WAN, &overlap),
        Outcome::Dropped(DropReason::FragmentOverlap)
    );
    assert_eq!(director.conns().len(), 0);
    assert_eq!(director.counters[0].conns_expired.get(), 0);
}

/// The second service is only there to be found by a fragment that has no ports.
#[test]
fn two_services_on_one_address_get_their_own_datagrams() {
    let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
    let mut director = director(3, key, ForwardingMode::Nat, &["198.51.100.11"], 53);
    let other = service(ServiceProtocol::Udp, "192.0.2.100", 54);
    director.change(|desired| {
        desired.add_service(ServiceSpec::new(other, SchedulerKind::Rr)).unwrap();
        let server = ServerSpec::new(addr("198.51.100.12"), 54, ForwardingMode::DirectRouting, 1);
        desired.add_server(&other, server).unwrap();
    });
    let nat = through(
        &mut director,
        WAN,
        &udp4("192.0.2.2:1 > 192.0.2.100:53").payload_len(2_000).build(),
        true,
    );
    let dr = through(
        &mut director,
        WAN,
        &udp4("192.0.2.2:1 > 192.0.2.100:54").payload_len(2_000).build(),
        true,
    );
    assert!(packet(&nat).contains("> 198.51.100.11:53"));
    assert!(packet(&dr).contains("> 192.0.2.100:54"));
}

#[test]
fn an_ipv6_datagram_of_at_most_1280_bytes_leaves_as_one_fragment_and_a_longer_one_is_cut_there() {
    let key = service(ServiceProtocol::Udp, "2001:db8:a::100", 53);
    let mut director = director(1, key, ForwardingMode::Nat, &["2001:db8:b::11"], 5_353);
    for (payload_len, pieces) in [
        (1_000, &[1_056][..]),
        (1_224, &[1_280]),
        (1_225, &[1_280, 49]),
        (1_700, &[1_280, 524]),
    ] {
        let whole = udp6("[2001:db8:a::2]:1000 > [2001:db8:a::100]:53")
            .payload_len(payload_len)
            .build();
        let segment = &whole[54..];
        for (offset, part) in [(0, &segment[..496]), (496, &segment[496..])] {
            let more = offset == 0;
            let mut piece = whole[..54].to_vec();
            piece[18..20].copy_from_slice(&((part.len() + 8) as u16).to_be_bytes());
            piece[20] = 44;
            let place = (offset as u16 | u16::from(more)).to_be_bytes();
            piece.extend([17, 0, place[0], place[1], 0, 0, 0, payload_len as u8]);
            piece.extend(part);
            assert_eq!(director.inject(WAN, &piece), Outcome::Consumed);
        }
        let out = transmitted(director.take_generated());
        let lens: Vec<usize> = out.iter().map(|piece| piece.len() - 14).collect();
        assert_eq!(lens, pieces, "{payload_len}");
        assert!(out.iter().all(|piece| piece[20] == 44), "with a fragment header");
    }
}

#[test]
fn a_server_whose_reply_stays_incomplete_is_told_so() {
    let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 53);
    let reply = udp4("198.51.100.11:53 > 192.0.2.2:1000")
        .payload_len(800)
        .fragment(0, true);
    let reply = reply.dst_mac(director_mac(LAN));
    assert_eq!(director.inject(LAN, &reply.build()), Outcome::Consumed);
    director.advance_ms(31_000);
    let sent = transmitted(director.take_generated());
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0][34..36], [11, 1], "reassembly time exceeded");
    assert_eq!(sent[0][26..34], [198, 51, 100, 1, 198, 51, 100, 11]);
    assert_eq!(sent[0][42 + 8], 63, "as it was about to be forwarded");
    let spent = reply.ttl(1).build();
    assert_eq!(director.inject(LAN, &spent), Outcome::Punted(spent.clone()));
}

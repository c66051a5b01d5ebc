//! Cutting packets, against recorded and computed pieces.

use super::*;
use crate::l3::DeviceId;
use crate::testing::{checksum_faults, tcp4, udp4, udp6};

const OUT: Verdict = Verdict::Transmit(DeviceId(1));

fn pieces(frame: &[u8], longest: u16, as_received: &[u16]) -> Result<Vec<Vec<u8>>, DropReason> {
    let mut generated = GeneratedFrames::new();
    let cuts = Cuts {
        longest,
        whole_up_to: longest,
        as_received,
    };
    let mut pieces = Pieces {
        generated: &mut generated,
        l2: &[],
        verdict: OUT,
        identification: 0x1234_5678,
    };
    cut(&mut pieces, frame, &cuts)?;
    let mut frames = Vec::new();
    while let Some((verdict, frame)) = generated.take() {
        assert_eq!(verdict, OUT);
        frames.push(frame.to_vec());
    }
    Ok(frames)
}

/// dr_mtu: 1440 bytes through a link of 1300.
#[test]
fn ipv4_is_cut_as_the_kernel_cuts_it() {
    let frame = tcp4("10.0.0.2:40000 > 10.0.0.100:80").ack().payload_len(1_400).build();
    let cut = pieces(&frame, 1_300, &[]).unwrap();
    let lens: Vec<usize> = cut.iter().map(|piece| piece.len() - 14).collect();
    assert_eq!(lens, [1_300, 160]);
    assert_eq!(cut[0][20..22], [0x20, 0x00], "more follow");
    assert_eq!(cut[1][20..22], [0x00, 160], "1280 bytes in units of eight");
    assert_eq!(cut[0][18..20], cut[1][18..20], "one identification");
    let payload: Vec<u8> = cut.iter().flat_map(|piece| piece[34..].to_vec()).collect();
    assert_eq!(payload, frame[34..]);
    for piece in &cut {
        assert_eq!(checksum::sum(&piece[14..34]), checksum::VALID);
    }
}

#[test]
fn options_that_are_not_copied_become_padding_behind_the_first_fragment() {
    // Router alert is copied (0x94), record route is not (0x07).
    let options = [0x94, 4, 0, 0, 7, 3, 4, 1];
    let frame = udp4("192.0.2.1:1 > 192.0.2.2:2")
        .ip_options(&options)
        .payload_len(100)
        .build();
    let cut = pieces(&frame, 28 + 64, &[]).unwrap();
    assert_eq!(cut.len(), 2);
    assert_eq!(cut[0][34..42], options);
    assert_eq!(cut[1][34..42], [0x94, 4, 0, 0, 1, 1, 1, 1]);
    assert_eq!(checksum::sum(&cut[1][14..42]), checksum::VALID);
}

#[test]
fn a_fragment_is_cut_further_and_the_last_piece_keeps_its_flag() {
    let frame = udp4("192.0.2.1:1 > 192.0.2.2:2")
        .fragment(800, true)
        .payload_len(160)
        .build();
    let len = frame.len() - 34;
    let cut = pieces(&frame, 100, &[]).unwrap();
    let offsets: Vec<u16> = cut
        .iter()
        .map(|piece| u16::from_be_bytes([piece[20], piece[21]]))
        .collect();
    assert!(
        offsets.iter().all(|offset| offset & MORE_FRAGMENTS != 0),
        "{offsets:x?}"
    );
    assert_eq!(offsets[0] & FRAGMENT_OFFSET_MASK, 100);
    assert_eq!(offsets[1] & FRAGMENT_OFFSET_MASK, 110);
    assert_eq!(cut.iter().map(|piece| piece.len() - 34).sum::<usize>(), len);
}

#[test]
fn ipv6_gets_a_fragment_header_behind_the_headers_that_routers_read() {
    let frame = udp6("[2001:db8::1]:1 > [2001:db8::2]:2")
        .hop_by_hop(8)
        .vlan(7)
        .payload_len(3_000)
        .build();
    let cut = pieces(&frame, 1_280, &[]).unwrap();
    assert_eq!(cut.len(), 3);
    let mut payload = Vec::new();
    for (index, piece) in cut.iter().enumerate() {
        assert_eq!(piece[..18], frame[..18], "link header with its tag");
        assert!(piece.len() - 18 <= 1_280);
        assert_eq!(piece[18 + 40], NEXT_FRAGMENT, "named by the hop-by-hop header");
        let (header, rest) = FragmentHeader::ref_from_prefix(&piece[18 + 48..]).unwrap();
        assert_eq!(header.next_header, 17);
        assert_eq!(header.identification.get(), 0x1234_5678);
        assert_eq!(header.offset(), payload.len());
        assert_eq!(header.more_fragments(), index < 2);
        payload.extend_from_slice(rest);
    }
    assert_eq!(payload, frame[18 + 48..]);
    assert_eq!(checksum_faults(&frame), Vec::<String>::new());
}

#[test]
fn fragments_keep_their_lengths_and_what_came_in_front_goes_with_the_first() {
    let frame = udp4("192.0.2.1:1 > 192.0.2.2:2").payload_len(192).build();
    let lens = |received: &[u16], longest| -> Vec<usize> {
        let cut = pieces(&frame, longest, received).unwrap();
        cut.iter().map(|piece| piece.len() - 34).collect()
    };
    assert_eq!(lens(&[40, 96, 64], 200), [40, 96, 64]);
    assert_eq!(lens(&[40, 96, 56], 200), [48, 96, 56]);
    assert_eq!(
        lens(&[40, 96, 64], 84),
        [40, 64, 64, 32],
        "too long for the link: cut again"
    );
}

#[test]
fn a_link_too_small_for_any_payload_is_named_and_leaves_nothing_behind() {
    let frame = udp4("192.0.2.1:1 > 192.0.2.2:2").payload_len(100).build();
    assert_eq!(pieces(&frame, 27, &[]), Err(DropReason::MtuExceeded));
    let frame = udp6("[2001:db8::1]:1 > [2001:db8::2]:2").payload_len(100).build();
    assert_eq!(pieces(&frame, 55, &[]), Err(DropReason::MtuExceeded));
    assert_eq!(pieces(&frame[..30], 100, &[]), Err(DropReason::Truncated));
}

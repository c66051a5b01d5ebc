//! Putting datagrams together in every order, and refusing what does not fit.

use super::*;
use crate::random::Random;
use crate::testing::{udp4, udp6};
use crate::tick::Tick;

/// The fragment of a packet whose upper layer is `upper`, from `begin` to `end`.
fn piece_of(upper: &[u8], begin: usize, end: usize, is_ipv6: bool) -> Vec<u8> {
    let more = end < upper.len();
    let packet = if is_ipv6 {
        udp6("[2001:db8::1]:1 > [2001:db8::2]:2")
    } else {
        udp4("192.0.2.1:1 > 192.0.2.2:2")
    };
    let mut frame = packet
        .fragment(begin as u16, more)
        .payload(&vec![0; end - begin])
        .build();
    // The builder decides itself whether a fragment begins with a UDP header; the bytes are put in here.
    let at = if is_ipv6 { 14 + 40 + 8 } else { 14 + 20 };
    frame.truncate(at);
    frame.extend_from_slice(&upper[begin..end]);
    let len = (frame.len() - 14) as u16;
    if is_ipv6 {
        frame[18..20].copy_from_slice(&(len - 40).to_be_bytes());
    } else {
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        crate::wire::ipv4::Ipv4Header::fill_checksum_at(&mut frame, 14);
    }
    frame
}

fn add(reassembly: &mut Reassembly, frame: &[u8], now: Tick) -> Result<Option<usize>, DropReason> {
    let Ok(Parsed::Ip(headers, flow)) = parse::parse(frame) else {
        panic!("not an IP packet")
    };
    let piece = crate::worker_state::context::in_family!(&flow, |key| Piece::read(frame, &headers, key))?;
    let slot = reassembly.slot(&piece.key, now).expect("there is always a place");
    Ok(reassembly.add(slot, frame, &piece)?.then_some(slot))
}

/// A UDP header of ports 1 and 2 and counting bytes.
fn upper(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at / 3) as u8).collect();
    bytes[..8].copy_from_slice(&[0, 1, 0, 2, (len >> 8) as u8, len as u8, 0, 0]);
    bytes
}

fn assembled(reassembly: &mut Reassembly, slot: usize) -> (Vec<u8>, Vec<u16>) {
    let mut received = [0; FRAGMENTS_PER_DATAGRAM_MAX];
    let whole = reassembly.assemble(slot, &mut received).expect("complete");
    let out = (whole.datagram.bytes().to_vec(), whole.received.to_vec());
    reassembly.free(slot);
    out
}

#[test]
fn any_cuts_in_any_order_give_the_datagram_back() {
    let mut random = Random::new(5);
    let mut reassembly = Reassembly::new();
    for round in 0..400 {
        let is_ipv6 = round % 2 == 0;
        let upper = upper(16 + random.below(4_000) as usize);
        let mut cuts = vec![0];
        while cuts.len() < 1 + random.below(20) as usize {
            let at = random.below(upper.len() as u32) as usize / 8 * 8;
            if at > *cuts.last().unwrap() {
                cuts.push(at);
            }
        }
        if cuts.len() == 1 {
            cuts.push(8);
        }
        cuts.push(upper.len());
        let mut spans: Vec<(usize, usize)> = cuts.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let in_order: Vec<u16> = spans.iter().map(|(begin, end)| (end - begin) as u16).collect();
        for at in (1..spans.len()).rev() {
            spans.swap(at, random.below(at as u32 + 1) as usize);
        }
        let mut done = None;
        for (index, &(begin, end)) in spans.iter().enumerate() {
            assert_eq!(done, None, "complete before the last fragment");
            let frame = piece_of(&upper, begin, end, is_ipv6);
            done = add(&mut reassembly, &frame, Tick(0)).unwrap();
            if index + 1 < spans.len() {
                let again = add(&mut reassembly, &frame, Tick(0));
                assert_eq!(again, Err(DropReason::FragmentDuplicate));
            }
        }
        let (frame, received) = assembled(&mut reassembly, done.expect("complete"));
        let Ok(Parsed::Ip(headers, _)) = parse::parse(&frame) else {
            panic!("not an IP packet")
        };
        assert_eq!(headers.fragment, crate::headers::Fragment::Whole);
        assert_eq!(frame[usize::from(headers.l4_offset)..], upper);
        assert_eq!(received, in_order);
    }
    assert_eq!(reassembly.next_expired(Tick(1_000_000)), None, "no place is lost");
}

/// What the kernel keeps of a datagram: runs of fragments, of which only the last may grow
/// (`inet_frag_queue_insert`).
#[derive(Default)]
struct Runs(Vec<(usize, usize)>);

impl Runs {
    /// Whether the datagram is complete.
    fn add(&mut self, begin: usize, end: usize, len: usize) -> Result<bool, DropReason> {
        let last = self.0.iter_mut().max_by_key(|run| run.0);
        match last {
            Some(last) if last.1 < end && begin < last.1 => {
                self.0.clear();
                return Err(DropReason::FragmentOverlap);
            }
            Some(last) if last.1 == begin => last.1 = end,
            _ => {
                if let Some(&(first, behind)) = self.0.iter().find(|run| begin < run.1 && end > run.0) {
                    if begin >= first && end <= behind {
                        return Err(DropReason::FragmentDuplicate);
                    }
                    self.0.clear();
                    return Err(DropReason::FragmentOverlap);
                }
                self.0.push((begin, end));
            }
        }
        let is_complete = self.0.iter().map(|(begin, end)| end - begin).sum::<usize>() == len;
        if is_complete {
            self.0.clear();
        }
        Ok(is_complete)
    }
}

/// All sequences of four of the ten fragments that a datagram of four units of eight bytes may have.
#[test]
fn every_sequence_of_fragments_is_taken_refused_or_completed_as_by_the_kernel() {
    let upper = upper(32);
    let units = (0..4).flat_map(|begin| (begin + 1..=4).map(move |end| (begin * 8, end * 8)));
    let spans: Vec<(usize, usize)> = units.collect();
    for is_ipv6 in [false, true] {
        let pieces: Vec<Vec<u8>> = spans.iter().map(|&(b, e)| piece_of(&upper, b, e, is_ipv6)).collect();
        // What is no fragment is none: the whole datagram in one piece.
        let is_whole = |index: usize| spans[index] == (0, 32);
        for sequence in 0..10_usize.pow(4) {
            let places = [sequence / 1_000, sequence / 100 % 10, sequence / 10 % 10, sequence % 10];
            if places.into_iter().any(is_whole) {
                continue;
            }
            let (mut reassembly, mut runs) = (Reassembly::new(), Runs::default());
            for index in places {
                let (begin, end) = spans[index];
                let ours = add(&mut reassembly, &pieces[index], Tick(0));
                let theirs = runs.add(begin, end, 32);
                assert_eq!(
                    ours.map(|slot| slot.is_some()),
                    theirs,
                    "{places:?} at {begin} to {end}"
                );
                if let Ok(Some(slot)) = ours {
                    let (frame, _) = assembled(&mut reassembly, slot);
                    assert_eq!(frame[frame.len() - 32..], upper);
                }
            }
            let is_empty = reassembly.next_expired(Tick(1_000_000)).is_none();
            assert_eq!(is_empty, runs.0.is_empty(), "{places:?}");
        }
    }
}

#[test]
fn an_overlap_ends_the_datagram_by_name() {
    let upper = upper(64);
    for is_ipv6 in [false, true] {
        for (begin, end) in [(8, 24), (16, 40), (0, 40), (24, 56)] {
            let mut reassembly = Reassembly::new();
            add(&mut reassembly, &piece_of(&upper, 16, 32, is_ipv6), Tick(0)).unwrap();
            let overlap = add(&mut reassembly, &piece_of(&upper, begin, end, is_ipv6), Tick(0));
            assert_eq!(overlap, Err(DropReason::FragmentOverlap), "{begin} to {end}");
            assert_eq!(reassembly.next_expired(Tick(1_000_000)), None, "nothing of it is kept");
        }
    }
}

#[test]
fn a_fragment_within_a_run_of_others_is_a_duplicate() {
    let upper = upper(64);
    let mut reassembly = Reassembly::new();
    for (begin, end) in [(0, 16), (16, 32), (40, 48)] {
        add(&mut reassembly, &piece_of(&upper, begin, end, false), Tick(0)).unwrap();
    }
    let mut add = |begin, end| add(&mut reassembly, &piece_of(&upper, begin, end, false), Tick(0));
    assert_eq!(add(8, 24), Err(DropReason::FragmentDuplicate));
    assert_eq!(add(0, 32), Err(DropReason::FragmentDuplicate));
    assert_eq!(
        add(24, 48),
        Err(DropReason::FragmentOverlap),
        "there is a gap in between"
    );
}

#[test]
fn a_second_end_or_bytes_behind_the_end_are_malformed() {
    let upper = upper(64);
    let mut reassembly = Reassembly::new();
    add(&mut reassembly, &piece_of(&upper[..40], 32, 40, false), Tick(0)).unwrap();
    let behind = add(&mut reassembly, &piece_of(&upper, 40, 48, false), Tick(0));
    assert_eq!(behind, Err(DropReason::FragmentMalformed));
    add(&mut reassembly, &piece_of(&upper, 40, 48, false), Tick(0)).unwrap();
    let early = add(&mut reassembly, &piece_of(&upper[..40], 32, 40, false), Tick(0));
    assert_eq!(early, Err(DropReason::FragmentMalformed));
}

#[test]
fn of_too_many_datagrams_the_oldest_gives_way() {
    let upper = upper(64);
    let mut reassembly = Reassembly::new();
    let first = |id: u16| {
        let mut frame = piece_of(&upper, 0, 32, false);
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        crate::wire::ipv4::Ipv4Header::fill_checksum_at(&mut frame, 14);
        frame
    };
    let last = |id: u16| {
        let mut frame = piece_of(&upper, 32, 64, false);
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        crate::wire::ipv4::Ipv4Header::fill_checksum_at(&mut frame, 14);
        frame
    };
    let count = crate::limits::DATAGRAMS_MAX as u16;
    for id in 0..=count {
        add(&mut reassembly, &first(id), Tick(u32::from(id))).unwrap();
    }
    assert_eq!(
        add(&mut reassembly, &last(0), Tick(100)),
        Ok(None),
        "the oldest was given up"
    );
    assert!(add(&mut reassembly, &last(count), Tick(100)).unwrap().is_some());
    assert!(add(&mut reassembly, &last(2), Tick(100)).unwrap().is_some());
}

#[test]
fn an_incomplete_datagram_is_kept_for_half_a_minute() {
    let upper = upper(64);
    let mut reassembly = Reassembly::new();
    add(&mut reassembly, &piece_of(&upper, 0, 32, false), Tick(0)).unwrap();
    assert_eq!(reassembly.next_expired(Tick(29_999)), None);
    let slot = reassembly.next_expired(Tick(30_000)).expect("expired");
    let first = reassembly.first_fragment(slot).expect("it was there");
    assert_eq!(first.bytes(), piece_of(&upper, 0, 32, false));
}

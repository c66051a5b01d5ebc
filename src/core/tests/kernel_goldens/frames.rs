//! Compares frames that came out with those that a recording says came out, byte by byte.
//!
//! Left out is what no run of a kernel repeats: identifications and flow labels of what the director itself makes,
//! source ports of GUE. Fragments of one packet must still share one identification, and checksums that cover
//! such a field must be as right or wrong as the recorded ones.

use std::collections::HashMap;

use lvs_core::testing::{checksum_faults, describe};

use crate::scenario::{Expected, Side};

const ETHERTYPE_AT: usize = 12;
const L3: usize = 14;
/// The director's addresses towards the real servers.
const DIRECTOR_ADDRESSES: [&[u8]; 2] = [&[10, 1, 0, 1], &[0xFD, 0, 0, 0x0B, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]];

/// Identifications that must be the same where the recorded ones are.
#[derive(Default)]
pub struct Identities(HashMap<[u8; 4], [u8; 4]>);

pub fn ethertype(frame: &[u8]) -> u16 {
    frame
        .get(ETHERTYPE_AT..L3)
        .map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
}

/// Source address, destination address, protocol and the bytes behind the fixed header.
pub type Parts<'a> = (&'a [u8], &'a [u8], u8, &'a [u8]);

/// See [`Parts`].
pub fn parts(frame: &[u8]) -> Option<Parts<'_>> {
    match ethertype(frame) {
        0x0800 => {
            let header_len = usize::from(frame.get(L3)? & 15) * 4;
            Some((
                frame.get(26..30)?,
                frame.get(30..34)?,
                *frame.get(23)?,
                frame.get(L3 + header_len..)?,
            ))
        }
        0x86DD => Some((
            frame.get(22..38)?,
            frame.get(38..54)?,
            *frame.get(20)?,
            frame.get(54..)?,
        )),
        _ => None,
    }
}

/// Both lists, readable.
pub fn both_lists(ours: &[(Side, Vec<u8>)], expected: &[Expected]) -> String {
    let ours = ours
        .iter()
        .map(|(side, bytes)| format!("  lvsd:   {side:?} {}", describe(bytes)));
    let theirs = expected
        .iter()
        .map(|one| format!("  kernel: {:?} {}", one.side, one.summary));
    let lines: Vec<String> = theirs.chain(ours).collect();
    lines.join("\n")
}

/// # Errors
/// Both frames.
pub fn same_frame(
    injected: &[u8],
    side: Side,
    bytes: &[u8],
    expected: &Expected,
    identities: &mut Identities,
) -> Result<(), String> {
    let mut ours = bytes.to_vec();
    let mut theirs = expected.bytes.clone();
    let faults = [&ours, &theirs].map(|frame| checksum_faults(frame).len());
    let of_one_packet = is_same_packet(&ours, &theirs, identities);
    for &at in &expected.volatile {
        if let (Some(ours), Some(theirs)) = (ours.get_mut(at), theirs.get_mut(at)) {
            *ours = 0;
            *theirs = 0;
        }
    }
    let own = is_made_by_director(&theirs, injected);
    for frame in [&mut ours, &mut theirs] {
        blank_random_fields(frame);
        blank_arp_sender(frame);
        blank_time_of_day(frame);
        blank_timestamps(frame);
        if own {
            blank_identification(frame);
        }
    }
    if side == expected.side && ours == theirs && of_one_packet && faults[0] == faults[1] {
        return Ok(());
    }
    let at = ours
        .iter()
        .zip(&theirs)
        .position(|(ours, theirs)| ours != theirs)
        .unwrap_or(ours.len().min(theirs.len()));
    let why = if ours == theirs {
        format!("the same fragments: {of_one_packet}, wrong checksums (lvsd, kernel): {faults:?}")
    } else {
        format!("first difference at byte {at}")
    };
    Err(format!(
        "  kernel: {:?} {}\n  lvsd:   {side:?} {}\n  {why}\n  kernel: {}\n  lvsd:   {}",
        expected.side,
        describe(&theirs),
        describe(&ours),
        hex(&theirs),
        hex(&ours)
    ))
}

/// Whether fragments belong together as those recorded do.
fn is_same_packet(ours: &[u8], theirs: &[u8], identities: &mut Identities) -> bool {
    match (fragment_identification(ours), fragment_identification(theirs)) {
        (Some(ours), Some(theirs)) => *identities.0.entry(theirs).or_insert(ours) == ours,
        (ours, theirs) => ours.is_some() == theirs.is_some(),
    }
}

/// The identification of a fragment; none of a whole packet.
fn fragment_identification(frame: &[u8]) -> Option<[u8; 4]> {
    match ethertype(frame) {
        0x0800 => {
            let offset = frame.get(20..22)?;
            let is_piece = (offset[0] & 0x3F, offset[1]) != (0, 0);
            is_piece.then(|| Some([4, 0, *frame.get(18)?, *frame.get(19)?]))?
        }
        0x86DD if frame.get(20) == Some(&44) => frame.get(58..62)?.try_into().ok(),
        _ => None,
    }
}

/// ICMP and tunnel headers that the director itself makes carry an IP id or flow label of its choice. What it
/// only translates keeps that of the packet it received, and a tunnel's packet with DF has id 0.
fn is_made_by_director(frame: &[u8], injected: &[u8]) -> bool {
    let Some((_, _, protocol, _)) = parts(frame) else {
        return false;
    };
    let is_ipv4 = ethertype(frame) == 0x0800;
    match protocol {
        1 => {
            let is_translated = parts(injected).is_some_and(|(_, _, protocol, _)| protocol == 1)
                && frame.get(18..20) == injected.get(18..20);
            !is_translated
        }
        // An answer of the stack itself.
        6 => {
            !is_ipv4
                && parts(injected)
                    .is_some_and(|(src, dst, ..)| parts(frame).is_some_and(|own| (own.0, own.1) == (dst, src)))
        }
        4 | 41 | 47 => !is_ipv4 || frame.get(20).is_some_and(|flags| flags & 0x40 == 0),
        58 => true,
        _ => false,
    }
}

/// Blanks the IPv4 identification with its checksum, or the IPv6 flow label.
fn blank_identification(frame: &mut [u8]) {
    let ranges = match ethertype(frame) {
        0x0800 => [18..20, 24..26],
        0x86DD => [15..18, 15..18],
        _ => return,
    };
    for range in ranges {
        if let Some(bytes) = frame.get_mut(range) {
            bytes.fill(0);
        }
    }
}

/// Blanks what the director draws at random for each packet or flow: the identification of IPv6 fragments, and
/// of GUE the identification, the source port, and the checksum that it is part of.
fn blank_random_fields(frame: &mut [u8]) {
    const IPV6_NEXT_HEADER: usize = L3 + 6;
    let is_ipv6 = ethertype(frame) == 0x86DD;
    if is_ipv6 && frame.get(IPV6_NEXT_HEADER) == Some(&44) {
        frame.get_mut(58..62).unwrap_or_default().fill(0);
    }
    let is_by_director = match parts(frame) {
        Some((src, _, protocol, _)) => protocol == 17 && DIRECTOR_ADDRESSES.contains(&src),
        None => false,
    };
    if !is_by_director {
        return;
    }
    blank_identification(frame);
    let is_later = !is_ipv6 && frame.get(20..22).is_some_and(|two| (two[0] & 0x1F, two[1]) != (0, 0));
    let udp_at = if is_ipv6 { 54 } else { 34 };
    if !is_later && let Some(udp) = frame.get_mut(udp_at..udp_at + 8) {
        udp[..2].fill(0);
        if udp[6..] != [0, 0] {
            udp[6..].fill(0xFF);
        }
    }
}

/// Who asks by ARP: the kernel takes the waiting packet's source if it is its own, a twin its interface's address.
fn blank_arp_sender(frame: &mut [u8]) {
    const REQUEST: [u8; 2] = [0, 1];
    if ethertype(frame) == 0x0806 && frame.get(20..22) == Some(&REQUEST[..]) {
        frame.get_mut(28..32).unwrap_or_default().fill(0);
    }
}

/// Whether a frame reports membership in groups (IGMP, MLD), which the stack does by itself.
pub fn is_membership(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([8, 0]) => frame.get(23) == Some(&2),
        // Behind a hop-by-hop header.
        Some([0x86, 0xDD]) => frame.get(20) == Some(&0) && frame.get(62) == Some(&143),
        _ => false,
    }
}

/// Whether a frame is a sync message: UDP to a group.
pub fn is_sync_message(frame: &[u8]) -> bool {
    parts(frame).is_some_and(|(_, dst, protocol, _)| {
        let is_group = if dst.len() == 4 {
            dst[0] & 0xF0 == 0xE0
        } else {
            dst[0] == 0xFF
        };
        protocol == 17 && is_group
    })
}

/// When an ICMP timestamp request was received and answered.
fn blank_time_of_day(frame: &mut [u8]) {
    const TIMESTAMP_REPLY: u8 = 14;
    if parts(frame).is_some_and(|(_, _, protocol, message)| protocol == 1 && message.first() == Some(&TIMESTAMP_REPLY))
    {
        frame.get_mut(36..38).unwrap_or_default().fill(0);
        frame.get_mut(46..54).unwrap_or_default().fill(0);
    }
}

/// The times in the timestamp options of a packet, of one in it and of one that it quotes, with the checksums over them.
fn blank_timestamps(frame: &mut [u8]) {
    const TUNNEL: u8 = 4;
    const ICMP: u8 = 1;
    if ethertype(frame) != 0x0800 {
        return;
    }
    let Some(l4) = frame.get(L3).map(|first| L3 + usize::from(first & 15) * 4) else {
        return;
    };
    let protocol = frame.get(L3 + 9).copied();
    let has_own = blank_times_at(frame, L3);
    let inner = match protocol {
        Some(TUNNEL) => l4,
        Some(ICMP) => l4 + 8,
        _ => return,
    };
    let has_inner = blank_times_at(frame, inner);
    if protocol == Some(ICMP) && (has_own || has_inner) {
        frame.get_mut(l4 + 2..l4 + 4).unwrap_or_default().fill(0);
    }
}

/// Blanks the times of the IPv4 header that begins at `l3`, and its checksum; whether there are any.
fn blank_times_at(frame: &mut [u8], l3: usize) -> bool {
    const END: u8 = 0;
    const NOOP: u8 = 1;
    const TIMESTAMP: u8 = 68;
    let end = match frame.get(l3) {
        Some(first) if first >> 4 == 4 => (l3 + usize::from(first & 15) * 4).min(frame.len()),
        _ => return false,
    };
    let mut at = l3 + 20;
    while at + 4 <= end && frame[at] != END {
        if frame[at] == NOOP {
            at += 1;
            continue;
        }
        let len = usize::from(frame[at + 1]);
        if frame[at] == TIMESTAMP {
            // Alone, or each behind the address of who wrote it.
            let (first, step) = if frame[at + 3] & 15 == 0 { (4, 4) } else { (8, 8) };
            for time in (at + first..(at + len).min(end)).step_by(step) {
                frame.get_mut(time..time + 4).unwrap_or_default().fill(0);
            }
            frame[l3 + 10..l3 + 12].fill(0);
            return true;
        }
        at += len.max(2);
    }
    false
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

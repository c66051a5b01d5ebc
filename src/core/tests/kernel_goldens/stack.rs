//! What the kernel's own stack may do with a packet that IPVS leaves alone: answer it in the name of the
//! address it was sent to, or forward it unchanged but for MACs, TTL and header checksum.

const ETHERTYPE_AT: usize = 12;
const L3: usize = 14;
/// The director's addresses towards the real servers.
const DIRECTOR_ADDRESSES: [&[u8]; 2] = [&[10, 1, 0, 1], &[0xFD, 0, 0, 0x0B, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]];

fn ethertype(frame: &[u8]) -> u16 {
    frame
        .get(ETHERTYPE_AT..L3)
        .map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
}

/// Source address, destination address, protocol and the octets behind the fixed header.
fn parts(frame: &[u8]) -> Option<(&[u8], &[u8], u8, &[u8])> {
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

/// Whether the stack could have sent `out` because of `injected`.
pub fn plausible(injected: &[u8], out: &[u8]) -> bool {
    if ethertype(injected) == 0x0806 {
        return ethertype(out) == 0x0806;
    }
    let (Some(before), Some(after)) = (parts(injected), parts(out)) else {
        return false;
    };
    let forwarded = before == after;
    let answered = after.1 == before.0;
    let is_reset = after.2 == 6 && after.0 == before.1 && after.3.get(13).is_some_and(|flags| flags & 4 != 0);
    let is_icmp = matches!(after.2, 1 | 58);
    forwarded || (answered && (is_reset || is_icmp))
}

/// ICMP and tunnel headers that the director itself makes carry an IP id or flow label of its choice.
pub fn made_by_director(frame: &[u8]) -> bool {
    parts(frame).is_some_and(|(_, _, protocol, _)| matches!(protocol, 1 | 4 | 41 | 47 | 58))
}

/// Blanks the IPv4 identification with its checksum, or the IPv6 flow label.
pub fn blank_identification(frame: &mut [u8]) {
    let ranges: &[std::ops::Range<usize>] = match ethertype(frame) {
        0x0800 => &[18..20, 24..26],
        0x86DD => &[15..18],
        _ => &[],
    };
    for range in ranges {
        if let Some(octets) = frame.get_mut(range.clone()) {
            octets.fill(0);
        }
    }
}

/// Blanks what the director draws at random for each packet or flow: the identification of IPv6 fragments, and
/// of GUE the identification, the source port, and the checksum that it is part of.
pub fn blank_random_fields(frame: &mut [u8]) {
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

//! Stage 7, too long for its link: a finished packet leaves in pieces.
//!
//! In:  a frame that is complete, Ethernet header included, with its verdict.
//! Out: its pieces in [`GeneratedFrames`], each with that verdict; the frame itself is done with.
//! Never: looks at DF or decides whether a packet may be cut; that is its caller's.
//! Ref:  RFC 791 3.2, RFC 8200 4.5; Linux net/ipv4/ip_output.c `ip_do_fragment`, ip_options.c
//!       `ip_options_fragment`, net/ipv6/ip6_output.c `ip6_fragment`.

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

use crate::address::Address;
use crate::frame::Frame;
use crate::limits::FRAGMENT_HEADER_MAX;
use crate::packet::{Origin, Packet};
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, EthernetHeader};
use crate::wire::ipv4::{DONT_FRAGMENT, FRAGMENT_OFFSET_MASK, Ipv4Header, MORE_FRAGMENTS};
use crate::wire::ipv6::{
    ExtensionHeader, FragmentHeader, Ipv6Header, NEXT_DESTINATION, NEXT_FRAGMENT, NEXT_HOP_BY_HOP, NEXT_ROUTING,
};
use crate::wire::vlan::VlanTag;
use crate::wire::{checksum, ipv4_options};
use crate::worker_state::context::Context;
use crate::worker_state::generated_frames::GeneratedFrames;

/// Fragment offsets are in units of so many bytes.
const UNIT: usize = 8;

/// Where a packet is cut.
#[derive(Clone, Copy)]
pub(crate) struct Cuts<'a> {
    /// Bytes of the longest piece, IP header included.
    pub(crate) longest: u16,
    /// IPv6: bytes up to which a packet needs no fragment header.
    pub(crate) whole_up_to: u16,
    /// Lengths of the pieces' payloads as they came in, to be kept where the kernel keeps them; empty otherwise.
    pub(crate) as_received: &'a [u16],
}

/// Cuts a packet that its link is too small for, unless it was not to be sent at all. A datagram that was put
/// together is cut once, at the end of its path.
#[cold]
pub(crate) fn to_fit<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    packet: &mut Packet<'_, A, F>,
    mtu: u16,
    verdict: Verdict,
) -> Verdict {
    if let Origin::Reassembled { longest } = &mut packet.origin {
        *longest = (*longest).min(mtu);
        return verdict;
    }
    let cuts = Cuts {
        longest: mtu,
        whole_up_to: mtu,
        as_received: &[],
    };
    in_pieces(ctx, packet.frame.bytes(), &cuts, verdict)
}

/// Puts the pieces of `frame` into the worker's generated frames.
pub(crate) fn in_pieces(ctx: &mut Context<'_>, frame: &[u8], cuts: &Cuts<'_>, verdict: Verdict) -> Verdict {
    if matches!(verdict, Verdict::Drop(_) | Verdict::Consumed) {
        return verdict;
    }
    let before = ctx.out.generated.mark();
    let mut pieces = Pieces {
        identification: ctx.random.next_u32(),
        generated: &mut ctx.out.generated,
        l2: &[],
        verdict,
    };
    match cut(&mut pieces, frame, cuts) {
        Ok(()) => Verdict::Consumed,
        Err(reason) => {
            // Half a packet is of no use to anybody.
            ctx.out.generated.rewind(before);
            Verdict::Drop(reason)
        }
    }
}

fn cut<'f>(pieces: &mut Pieces<'f>, frame: &'f [u8], cuts: &Cuts<'_>) -> Result<(), DropReason> {
    let (l2, packet, ethertype) = link_header(frame).ok_or(DropReason::Malformed)?;
    pieces.l2 = l2;
    match ethertype {
        ETHERTYPE_IPV4 => cut_v4(pieces, packet, cuts),
        ETHERTYPE_IPV6 => cut_v6(pieces, packet, cuts),
        _ => Err(DropReason::Malformed),
    }
}

/// Where the pieces of a packet go.
struct Pieces<'a> {
    generated: &'a mut GeneratedFrames,
    /// The link header of each.
    l2: &'a [u8],
    verdict: Verdict,
    /// IPv6: of the datagram that the pieces belong to.
    identification: u32,
}

impl Pieces<'_> {
    fn push(&mut self, header: &[u8], payload: &[u8]) -> Result<(), DropReason> {
        if !self.generated.push(self.verdict, &[self.l2, header, payload]) {
            return Err(DropReason::GeneratedFramesFull);
        }
        Ok(())
    }
}

/// Ethernet header with its tags, what is behind it, and the innermost ethertype.
fn link_header(frame: &[u8]) -> Option<(&[u8], &[u8], u16)> {
    let (ethernet, mut rest) = EthernetHeader::ref_from_prefix(frame).ok()?;
    let mut ethertype = ethernet.ethertype.get();
    while matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN) {
        let (tag, behind) = VlanTag::ref_from_prefix(rest).ok()?;
        (ethertype, rest) = (tag.ethertype.get(), behind);
    }
    let l2_len = frame.len() - rest.len();
    Some((frame.get(..l2_len)?, rest, ethertype))
}

impl Cuts<'_> {
    /// Returns how many of `payload_len` bytes the piece holds that begins at `at`. At most `space` bytes fit into a
    /// piece. Every piece but the last holds a whole number of units.
    fn piece_len(&self, index: usize, payload_len: usize, at: usize, space: usize) -> Result<usize, DropReason> {
        let left = payload_len.saturating_sub(at);
        let len = match self.as_received.get(index) {
            Some(&received) => {
                // What was put in front of the packet since goes with the first piece.
                let in_front = if index == 0 {
                    payload_len.saturating_sub(self.received_len())
                } else {
                    0
                };
                (usize::from(received) + in_front).min(left)
            }
            None => left,
        };
        let fits = len <= space && (len == left || len % UNIT == 0);
        let len = if fits { len } else { space.min(left) / UNIT * UNIT };
        if len == 0 && left > 0 {
            Err(DropReason::MtuExceeded)
        } else {
            Ok(len)
        }
    }

    /// The same, where pieces are kept as they came in only if all of them fit.
    fn if_all_fit(&self, payload_len: usize, space: usize) -> Self {
        let in_front = payload_len.saturating_sub(self.received_len());
        let mut lens = self.as_received.iter().map(|&len| usize::from(len));
        let first_fits = lens
            .next()
            .is_some_and(|first| first + in_front <= space && (first + in_front).is_multiple_of(UNIT));
        let as_received = if first_fits && lens.all(|len| len <= space) {
            self.as_received
        } else {
            &[]
        };
        Self { as_received, ..*self }
    }

    fn received_len(&self) -> usize {
        self.as_received.iter().map(|&len| usize::from(len)).sum()
    }
}

fn cut_v4(pieces: &mut Pieces<'_>, packet: &[u8], cuts: &Cuts<'_>) -> Result<(), DropReason> {
    let (ip, _) = Ipv4Header::ref_from_prefix(packet).map_err(|_| DropReason::Truncated)?;
    let total_len = usize::from(ip.total_len.get());
    let header_len = ip.header_len();
    let (header, payload) = packet
        .get(..total_len)
        .and_then(|packet| packet.split_at_checked(header_len))
        .ok_or(DropReason::Truncated)?;
    let mut room_for_header = [0; 60];
    let header_copy = room_for_header.get_mut(..header_len).ok_or(DropReason::Malformed)?;
    header_copy.copy_from_slice(header);
    let flags_offset = ip.flags_offset.get();
    let space = usize::from(cuts.longest).saturating_sub(header_len);
    let (mut at, mut index) = (0, 0);
    loop {
        let len = cuts.piece_len(index, payload.len(), at, space)?;
        let piece = payload.get(at..at + len).ok_or(DropReason::Truncated)?;
        let more = at + len < payload.len() || flags_offset & MORE_FRAGMENTS != 0;
        let offset = (flags_offset & FRAGMENT_OFFSET_MASK) + (at / UNIT) as u16;
        let (fields, options) = Ipv4Header::mut_from_prefix(&mut *header_copy).map_err(|_| DropReason::Truncated)?;
        fields.total_len = U16::new((header_len + len) as u16);
        fields.flags_offset = U16::new((flags_offset & DONT_FRAGMENT) | offset | if more { MORE_FRAGMENTS } else { 0 });
        fields.checksum = U16::ZERO;
        if at > 0 {
            blank_first_only_options(options);
        }
        let sum = !checksum::sum(header_copy);
        if let Ok((fields, _)) = Ipv4Header::mut_from_prefix(&mut *header_copy) {
            fields.checksum = U16::new(sum);
        }
        pieces.push(header_copy, piece)?;
        at += len;
        index += 1;
        if at >= payload.len() {
            return Ok(());
        }
    }
}

/// Overwrites what only the first fragment carries; the header keeps its length.
fn blank_first_only_options(options: &mut [u8]) {
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len = match kind {
            ipv4_options::END => return,
            ipv4_options::NOOP => 1,
            _ => options.get(at + 1).map_or(0, |&len| usize::from(len)),
        };
        if len == 0 || (kind != ipv4_options::NOOP && len < 2) {
            return;
        }
        if kind & ipv4_options::COPIED == 0
            && let Some(option) = options.get_mut(at..at + len)
        {
            option.fill(ipv4_options::NOOP);
        }
        at += len;
    }
}

fn cut_v6(pieces: &mut Pieces<'_>, packet: &[u8], cuts: &Cuts<'_>) -> Result<(), DropReason> {
    let (ip, _) = Ipv6Header::ref_from_prefix(packet).map_err(|_| DropReason::Truncated)?;
    let packet_len = Ipv6Header::LEN + usize::from(ip.payload_len.get());
    let packet = packet.get(..packet_len).ok_or(DropReason::Truncated)?;
    if packet_len <= usize::from(cuts.whole_up_to) {
        return pieces.push(packet, &[]);
    }
    let before = unfragmentable(packet).ok_or(DropReason::Malformed)?;
    let header_len = before.len + FragmentHeader::LEN;
    let mut room_for_header = [0; FRAGMENT_HEADER_MAX + FragmentHeader::LEN];
    let header = room_for_header
        .get_mut(..header_len)
        .ok_or(DropReason::TooManyHeaders)?;
    let (unfragmentable, payload) = packet.split_at_checked(before.len).ok_or(DropReason::Truncated)?;
    header
        .get_mut(..before.len)
        .ok_or(DropReason::Truncated)?
        .copy_from_slice(unfragmentable);
    let next = header.get_mut(before.next_header_at).ok_or(DropReason::Truncated)?;
    let first_header = std::mem::replace(next, NEXT_FRAGMENT);
    let space = usize::from(cuts.longest).saturating_sub(header_len);
    let cuts = cuts.if_all_fit(payload.len(), space);
    let (mut at, mut index) = (0, 0);
    loop {
        let len = cuts.piece_len(index, payload.len(), at, space)?;
        let piece = payload.get(at..at + len).ok_or(DropReason::Truncated)?;
        let more = u16::from(at + len < payload.len());
        let fragment = FragmentHeader {
            next_header: first_header,
            reserved: 0,
            offset_more: U16::new(at as u16 | more),
            identification: U32::new(pieces.identification),
        };
        header
            .get_mut(before.len..)
            .and_then(|space| fragment.write_to_prefix(space).ok())
            .ok_or(DropReason::Truncated)?;
        let (fields, _) = Ipv6Header::mut_from_prefix(&mut *header).map_err(|_| DropReason::Truncated)?;
        fields.payload_len = U16::new((header_len - Ipv6Header::LEN + len) as u16);
        pieces.push(header, piece)?;
        at += len;
        index += 1;
        if at >= payload.len() {
            return Ok(());
        }
    }
}

/// The headers that every fragment carries.
struct Unfragmentable {
    len: usize,
    /// Where in them the type of what follows stands.
    next_header_at: usize,
}

/// Hop-by-hop, routing, and destination options before routing (`ip6_find_1stfragopt`).
fn unfragmentable(packet: &[u8]) -> Option<Unfragmentable> {
    let (ip, _) = Ipv6Header::ref_from_prefix(packet).ok()?;
    let mut found = Unfragmentable {
        len: Ipv6Header::LEN,
        next_header_at: std::mem::offset_of!(Ipv6Header, next_header),
    };
    let mut next = ip.next_header;
    let mut routing_seen = false;
    while found.len <= FRAGMENT_HEADER_MAX {
        match next {
            NEXT_HOP_BY_HOP => {}
            NEXT_ROUTING => routing_seen = true,
            NEXT_DESTINATION if !routing_seen => {}
            _ => return Some(found),
        }
        let (extension, _) = ExtensionHeader::ref_from_prefix(packet.get(found.len..)?).ok()?;
        next = extension.next_header;
        found.next_header_at = found.len;
        found.len += extension.options_len();
    }
    None
}

#[cfg(test)]
mod tests;

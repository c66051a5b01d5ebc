//! Where datagrams are put together: a fixed number of places, each large enough for the longest.

pub(crate) mod piece;

use zerocopy::FromBytes;
use zerocopy::network_endian::U16;

use crate::address::Addr4;
use crate::frame::Frame;
use crate::limits::{
    DATAGRAMS_MAX, FRAGMENT_HEADER_MAX, FRAGMENTS_PER_DATAGRAM_MAX, REASSEMBLY4_SEC, REASSEMBLY6_SEC, VLAN_TAGS_MAX,
};
use crate::tick::Tick;
use crate::verdict::DropReason;
use crate::wire::ethernet::EthernetHeader;
use crate::wire::ipv4::{DONT_FRAGMENT, Ipv4Header};
use crate::wire::ipv6::{FragmentHeader, Ipv6Header};
use crate::wire::vlan::VlanTag;
use crate::worker_state::reassembly::piece::{FragmentKey, Piece};

/// Bytes of the longest link header.
const L2_MAX: usize = EthernetHeader::LEN + VLAN_TAGS_MAX * VlanTag::LEN;
/// Space in front of a datagram for tunnel and ICMP headers, as an mbuf has it.
const HEADROOM: usize = 128;
/// The offset at which the payload of a datagram begins in its slot.
const PAYLOAD_AT: usize = HEADROOM + L2_MAX + FRAGMENT_HEADER_MAX;
/// Lengths of frames that a kernel's virtio driver receives into buffers with little headroom. Where IPv6 pieces of such
/// frames would need more, the kernel copies the datagram and cuts it anew (`ip6_fragment`: `slow_path`).
const COPIED_FRAMES: std::ops::RangeInclusive<usize> = 129..=1_204;

/// Offsets in a frame have 16 bits, so the longest datagram is shorter than 64 KiB by a link header.
const PACKET_MAX: usize = 65_535 - L2_MAX;

/// The datagrams that still lack fragments. The default has no slot.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    slots: Box<[Slot]>,
    used: usize,
}

/// A fragment's place in the payload.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    begin: u16,
    end: u16,
    /// Where its run begins: fragments that came one behind the other at the end, which the kernel keeps as one.
    run: u16,
}

#[derive(Debug)]
struct Slot {
    key: Option<FragmentKey>,
    since: Tick,
    bytes: Box<[u8]>,
    /// In order, without overlap.
    spans: [Span; FRAGMENTS_PER_DATAGRAM_MAX],
    count: usize,
    received: usize,
    /// Known when the last fragment is there.
    payload_len: Option<usize>,
    /// Link and IP header of the first fragment, as received.
    l2: [u8; L2_MAX],
    l2_len: usize,
    header: [u8; FRAGMENT_HEADER_MAX],
    header_len: usize,
    next_header_at: usize,
    /// Bytes of the longest fragment, and of the longest with DF.
    longest: usize,
    longest_with_df: usize,
    /// The first fragment, and one of the later ones, came in [`COPIED_FRAMES`].
    first_is_copied: bool,
    later_is_copied: bool,
}

/// A whole datagram.
pub(crate) struct Assembled<'a> {
    pub(crate) datagram: Datagram<'a>,
    pub(crate) is_ipv6: bool,
    pub(crate) dont_fragment: bool,
    /// Bytes of the longest fragment, IP header included.
    pub(crate) longest: u16,
    /// Payload bytes of the fragments, in order.
    pub(crate) received: &'a [u16],
    /// IPv4: where it was sent to.
    pub(crate) dst: Option<Addr4>,
    /// Bytes of its IP header.
    header_len: usize,
    /// IPv6: whether the kernel keeps the pieces as they came in.
    pub(crate) keeps_pieces: bool,
    /// The same when an outer header is put in front of it.
    pub(crate) keeps_pieces_in_tunnel: bool,
}

impl Assembled<'_> {
    /// Whether something has been put in front of the datagram's payload besides its own header.
    pub(crate) fn is_wrapped(&self) -> bool {
        let payload_len: usize = self.received.iter().map(|&len| usize::from(len)).sum();
        self.datagram.bytes().len() > L2_MAX + self.header_len + payload_len
    }
}

impl Reassembly {
    pub(crate) fn new() -> Self {
        Self {
            slots: (0..DATAGRAMS_MAX).map(|_| Slot::new()).collect(),
            used: 0,
        }
    }

    /// The place of a datagram: its own, a free one, or that of the oldest, which is given up.
    pub(crate) fn slot(&mut self, key: &FragmentKey, now: Tick) -> Option<usize> {
        if let Some(own) = self.slots.iter().position(|slot| slot.key.as_ref() == Some(key)) {
            return Some(own);
        }
        let free = self.slots.iter().position(|slot| slot.key.is_none());
        let index = free.or_else(|| {
            let age = |slot: &Slot| now.since_ms(slot.since);
            (0..self.slots.len()).max_by_key(|&index| self.slots.get(index).map_or(0, age))
        })?;
        self.free(index);
        let slot = self.slots.get_mut(index)?;
        slot.key = Some(*key);
        slot.since = now;
        self.used += 1;
        Some(index)
    }

    /// Adds a fragment; whether the datagram is complete now.
    pub(crate) fn add(&mut self, index: usize, frame: &[u8], piece: &Piece) -> Result<bool, DropReason> {
        let slot = self.slots.get_mut(index).ok_or(DropReason::FragmentMalformed)?;
        let added = slot.add(frame, piece);
        if matches!(added, Err(reason) if reason != DropReason::FragmentDuplicate) {
            self.free(index);
        }
        added
    }

    /// Puts headers in front of the payload. `received` takes the lengths of the fragments.
    pub(crate) fn assemble<'a>(&'a mut self, index: usize, received: &'a mut [u16]) -> Option<Assembled<'a>> {
        self.slots.get_mut(index)?.assemble(received)
    }

    /// The first fragment of an incomplete datagram as it came in, if it did.
    pub(crate) fn first_fragment(&mut self, index: usize) -> Option<Datagram<'_>> {
        let slot = self.slots.get_mut(index)?;
        let first = slot.spans.first().filter(|span| slot.count > 0 && span.begin == 0)?;
        let payload_len = usize::from(first.end);
        let header_len = slot.header_len;
        slot.with_headers(header_len, payload_len)
    }

    /// Gives up what is in a place.
    pub(crate) fn free(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index)
            && slot.key.is_some()
        {
            slot.clear();
            self.used -= 1;
        }
    }

    /// A datagram whose time is over.
    pub(crate) fn next_expired(&self, now: Tick) -> Option<usize> {
        if self.used == 0 {
            return None;
        }
        self.slots.iter().position(|slot| slot.is_expired(now))
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            key: None,
            since: Tick(0),
            bytes: vec![0; PAYLOAD_AT + PACKET_MAX].into_boxed_slice(),
            spans: [Span::default(); FRAGMENTS_PER_DATAGRAM_MAX],
            count: 0,
            received: 0,
            payload_len: None,
            l2: [0; L2_MAX],
            l2_len: 0,
            header: [0; FRAGMENT_HEADER_MAX],
            header_len: 0,
            next_header_at: 0,
            longest: 0,
            longest_with_df: 0,
            first_is_copied: false,
            later_is_copied: false,
        }
    }

    fn clear(&mut self) {
        self.key = None;
        self.count = 0;
        self.received = 0;
        self.payload_len = None;
        self.header_len = 0;
        self.longest = 0;
        self.longest_with_df = 0;
        self.first_is_copied = false;
        self.later_is_copied = false;
    }

    fn is_expired(&self, now: Tick) -> bool {
        let Some(key) = &self.key else {
            return false;
        };
        let sec = if key.is_ipv6 { REASSEMBLY6_SEC } else { REASSEMBLY4_SEC };
        now.since_ms(self.since) >= sec * 1_000
    }

    fn add(&mut self, frame: &[u8], piece: &Piece) -> Result<bool, DropReason> {
        let (begin, end) = (piece.offset, piece.offset + piece.payload.len());
        if end + FRAGMENT_HEADER_MAX > PACKET_MAX && end + piece.header.len() > PACKET_MAX {
            return Err(DropReason::FragmentMalformed);
        }
        let position = self.place(begin as u16, end as u16)?;
        let is_end_right = match (self.payload_len, piece.more) {
            (Some(len), true) => end <= len,
            (Some(len), false) => end == len,
            (None, true) => true,
            (None, false) => self.last_end() <= end,
        };
        if !is_end_right || self.count == FRAGMENTS_PER_DATAGRAM_MAX {
            return Err(DropReason::FragmentMalformed);
        }
        let is_copied = COPIED_FRAMES.contains(&frame.len());
        if begin == 0 {
            self.keep_headers(frame, piece)?;
            self.first_is_copied = is_copied;
        } else {
            self.later_is_copied |= is_copied;
        }
        let payload = frame.get(piece.payload.clone()).ok_or(DropReason::Truncated)?;
        self.bytes
            .get_mut(PAYLOAD_AT + begin..PAYLOAD_AT + end)
            .ok_or(DropReason::FragmentMalformed)?
            .copy_from_slice(payload);
        if !piece.more {
            self.payload_len = Some(end);
        }
        let last = self.count.checked_sub(1).and_then(|last| self.spans.get(last));
        let run = last.map_or(begin as u16, |last| {
            if usize::from(last.end) == begin {
                last.run
            } else {
                begin as u16
            }
        });
        let spans = self
            .spans
            .get_mut(position..=self.count)
            .ok_or(DropReason::FragmentMalformed)?;
        spans.rotate_right(1);
        if let Some(free) = spans.first_mut() {
            *free = Span {
                begin: begin as u16,
                end: end as u16,
                run,
            };
        }
        self.count += 1;
        self.received += end - begin;
        let packet_len = piece.header.len() + payload.len();
        self.longest = self.longest.max(packet_len);
        if piece.dont_fragment {
            self.longest_with_df = self.longest_with_df.max(packet_len);
        }
        Ok(self.payload_len == Some(self.received))
    }

    /// Where a fragment goes among the others. One that lies within a run is a duplicate; any other overlap ends
    /// the datagram (`inet_frag_queue_insert`).
    fn place(&self, begin: u16, end: u16) -> Result<usize, DropReason> {
        let spans = self.spans.get(..self.count).unwrap_or_default();
        let position = spans.partition_point(|span| span.end <= begin);
        let behind = spans.get(position..).unwrap_or_default();
        let Some(first) = behind.first().filter(|first| first.begin < end) else {
            return Ok(position);
        };
        let of_run = behind.iter().take_while(|span| span.run == first.run);
        let run_end = of_run.last().map_or(first.end, |last| last.end);
        if begin >= first.run && end <= run_end {
            Err(DropReason::FragmentDuplicate)
        } else {
            Err(DropReason::FragmentOverlap)
        }
    }

    fn last_end(&self) -> usize {
        let last = self.count.checked_sub(1).and_then(|last| self.spans.get(last));
        last.map_or(0, |span| usize::from(span.end))
    }

    fn keep_headers(&mut self, frame: &[u8], piece: &Piece) -> Result<(), DropReason> {
        let (l2, header) = (piece.l2.clone(), piece.header.clone());
        let (l2_len, header_len) = (l2.len(), header.len());
        let pairs = [
            (self.l2.get_mut(..l2_len), frame.get(l2)),
            (self.header.get_mut(..header_len), frame.get(header)),
        ];
        for (to, from) in pairs {
            let (Some(to), Some(from)) = (to, from) else {
                return Err(DropReason::TooManyHeaders);
            };
            to.copy_from_slice(from);
        }
        (self.l2_len, self.header_len) = (l2_len, header_len);
        self.next_header_at = piece.next_header_at;
        Ok(())
    }

    fn assemble<'a>(&'a mut self, received: &'a mut [u16]) -> Option<Assembled<'a>> {
        let payload_len = self.payload_len?;
        let is_ipv6 = self.key?.is_ipv6;
        let dont_fragment = self.longest_with_df > 0 && self.longest_with_df == self.longest;
        let longest = u16::try_from(self.longest).ok()?;
        let mut dst = None;
        if is_ipv6 {
            self.header_len = self.header_len.checked_sub(FragmentHeader::LEN)?;
            // The fragment header begins with what follows it.
            let first_header = *self.header.get(self.header_len)?;
            *self.header.get_mut(self.next_header_at)? = first_header;
            let len = u16::try_from(self.header_len - Ipv6Header::LEN + payload_len).ok()?;
            let (ip, _) = Ipv6Header::mut_from_prefix(&mut self.header).ok()?;
            ip.payload_len = U16::new(len);
        } else {
            let len = u16::try_from(self.header_len + payload_len).ok()?;
            let (ip, _) = Ipv4Header::mut_from_prefix(&mut self.header).ok()?;
            ip.total_len = U16::new(len);
            ip.flags_offset = U16::new(if dont_fragment { DONT_FRAGMENT } else { 0 });
            dst = Some(ip.dst);
            Ipv4Header::fill_checksum_at(&mut self.header, 0);
        }
        for (len, span) in received.iter_mut().zip(self.spans.get(..self.count)?) {
            *len = span.end - span.begin;
        }
        let received = received.get(..self.count)?;
        let header_len = self.header_len;
        // An outer header needs no headroom of the first piece, and none of later ones that extension headers left.
        let has_extensions = header_len > Ipv6Header::LEN;
        let keeps_pieces = !self.first_is_copied && !self.later_is_copied;
        let keeps_pieces_in_tunnel = !self.later_is_copied || has_extensions;
        Some(Assembled {
            datagram: self.with_headers(header_len, payload_len)?,
            is_ipv6,
            dont_fragment,
            longest,
            received,
            dst,
            header_len,
            keeps_pieces,
            keeps_pieces_in_tunnel,
        })
    }

    /// The payload with `header_len` bytes of the kept IP header and the link header in front.
    fn with_headers(&mut self, header_len: usize, payload_len: usize) -> Option<Datagram<'_>> {
        let l3_at = PAYLOAD_AT.checked_sub(header_len)?;
        let start = l3_at.checked_sub(self.l2_len)?;
        let header = self.header.get(..header_len)?;
        self.bytes.get_mut(l3_at..PAYLOAD_AT)?.copy_from_slice(header);
        let l2 = self.l2.get(..self.l2_len)?;
        self.bytes.get_mut(start..l3_at)?.copy_from_slice(l2);
        let end = PAYLOAD_AT + payload_len;
        (end <= self.bytes.len()).then_some(Datagram {
            bytes: &mut self.bytes,
            start,
            end,
        })
    }
}

/// A datagram in its place, as a frame like any other.
pub(crate) struct Datagram<'a> {
    bytes: &'a mut [u8],
    start: usize,
    end: usize,
}

impl Frame for Datagram<'_> {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.end).unwrap_or_default()
    }

    fn prepend(&mut self, count: usize) -> bool {
        match self.start.checked_sub(count) {
            Some(start) => {
                self.start = start;
                true
            }
            None => false,
        }
    }

    fn trim_front(&mut self, count: usize) -> bool {
        let fits = count <= self.end - self.start;
        if fits {
            self.start += count;
        }
        fits
    }

    fn append(&mut self, count: usize) -> bool {
        let fits = self.end + count <= self.bytes.len();
        if fits {
            self.end += count;
        }
        fits
    }

    fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start.saturating_add(len));
    }
}

//! A TCP segment in its frame whose numbers and options can be changed, with its checksum kept up to date.
//!
//! In:  a parsed TCP packet. Out: the same, changed; RFC 1624 updates only.
//! Never: changes its length, or repairs a checksum that was wrong.
//! Ref:  RFC 9293 3.2 (options), RFC 2018 (SACK).

use zerocopy::FromBytes;
use zerocopy::network_endian::{U16, U32};

use crate::headers::Headers;
use crate::wire::checksum;
use crate::wire::tcp::TcpHeader;

const END: u8 = 0;
const NOOP: u8 = 1;
const MSS: u8 = 2;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
/// Bytes of a SACK block: left and right edge.
const BLOCK_LEN: usize = 8;

/// See the module.
pub(super) struct Segment<'f> {
    pub(super) header: &'f mut TcpHeader,
    options: &'f mut [u8],
    pub(super) payload_len: usize,
}

impl<'f> Segment<'f> {
    /// The segment in `frame`; `None` when its header is longer than itself.
    pub(super) fn of(frame: &'f mut [u8], headers: &Headers) -> Option<Self> {
        let segment = frame.get_mut(usize::from(headers.l4_offset)..usize::from(headers.packet_end))?;
        let (header, behind) = TcpHeader::mut_from_prefix(segment).ok()?;
        let options_len = header.header_len().checked_sub(TcpHeader::LEN)?;
        let (options, payload) = behind.split_at_mut_checked(options_len)?;
        Some(Self {
            header,
            options,
            payload_len: payload.len(),
        })
    }

    /// The checksum after a word of 16 bits changed.
    pub(super) fn changed(&mut self, old: u16, new: u16) {
        self.add(checksum::add(!old, new));
    }

    /// The checksum after the sum of the segment grew by `delta`.
    pub(super) fn add(&mut self, delta: u16) {
        self.header.checksum = U16::new(checksum::update(self.header.checksum.get(), delta));
    }

    pub(super) fn set_sequence(&mut self, sequence: u32) {
        let old = self.header.sequence.get();
        self.header.sequence = U32::new(sequence);
        self.add(difference(old, sequence));
    }

    pub(super) fn set_acknowledgement(&mut self, acknowledgement: u32) {
        let old = self.header.acknowledgement.get();
        self.header.acknowledgement = U32::new(acknowledgement);
        self.add(difference(old, acknowledgement));
    }

    pub(super) fn set_window(&mut self, window: u16) {
        self.changed(self.header.window.get(), window);
        self.header.window = U16::new(window);
    }

    pub(super) fn set_urgent(&mut self, urgent: u16) {
        self.changed(self.header.urgent.get(), urgent);
        self.header.urgent = U16::new(urgent);
    }

    /// Sets data offset and flags.
    pub(super) fn set_offset_flags(&mut self, data_offset: u8, flags: u8) {
        let word = |data_offset, flags| u16::from_be_bytes([data_offset, flags]);
        self.changed(
            word(self.header.data_offset, self.header.flags),
            word(data_offset, flags),
        );
        (self.header.data_offset, self.header.flags) = (data_offset, flags);
    }

    /// Makes the MSS, if the segment announces one, smaller by `reserve` and at most `limit`.
    pub(super) fn limit_mss(&mut self, reserve: u16, limit: u16) {
        self.edit_options(|kind, value| {
            if kind == MSS
                && let Ok(mss) = <&mut [u8; 2]>::try_from(value)
            {
                let announced = u16::from_be_bytes(*mss);
                *mss = announced
                    .saturating_sub(reserve)
                    .min(limit)
                    .min(announced)
                    .to_be_bytes();
            }
            true
        });
    }

    /// Takes the offer of timestamps out.
    pub(super) fn remove_timestamps(&mut self) {
        self.edit_options(|kind, _| kind != TIMESTAMPS);
    }

    /// Passes both edges of every SACK block through `edge`. What becomes empty by that is taken out.
    pub(super) fn map_sack(&mut self, edge: impl Fn(u32) -> u32) {
        self.edit_options(|kind, value| {
            if kind != SACK {
                return true;
            }
            let mut kept = 0;
            let blocks = value.len() / BLOCK_LEN;
            for at in 0..blocks {
                let Some(&block) = value
                    .get(at * BLOCK_LEN..)
                    .and_then(|rest| rest.first_chunk::<BLOCK_LEN>())
                else {
                    break;
                };
                let [left, right] = zerocopy::transmute!(block);
                let [left, right]: [U32; 2] = [left, right];
                let (left, right) = (edge(left.get()), edge(right.get()));
                if left != right
                    && let Some(to) = value.get_mut(kept * BLOCK_LEN..(kept + 1) * BLOCK_LEN)
                {
                    let block: [u8; BLOCK_LEN] = zerocopy::transmute!([U32::new(left), U32::new(right)]);
                    to.copy_from_slice(&block);
                    kept += 1;
                }
            }
            // A duplicate of the last block says nothing new, and the option keeps its length.
            let last = kept.checked_sub(1).and_then(|last| value.get(last * BLOCK_LEN..));
            let last = last.and_then(|rest| rest.first_chunk::<BLOCK_LEN>()).copied();
            if let Some(last) = last {
                for to in value.chunks_exact_mut(BLOCK_LEN).skip(kept) {
                    to.copy_from_slice(&last);
                }
            }
            blocks == 0 || kept > 0
        });
    }

    /// Shows `change` every option's kind and value; what it says `false` to is overwritten with no-operations.
    fn edit_options(&mut self, mut change: impl FnMut(u8, &mut [u8]) -> bool) {
        let before = checksum::sum(self.options);
        let mut rest = &mut *self.options;
        while let Some((&mut kind, _)) = rest.split_first_mut() {
            let len = match kind {
                END => break,
                NOOP => 1,
                _ => rest.get(1).map_or(0, |&len| usize::from(len)),
            };
            if kind != NOOP && len < 2 {
                break;
            }
            let Some((option, behind)) = std::mem::take(&mut rest).split_at_mut_checked(len) else {
                break;
            };
            if let Some(value) = option.get_mut(2..)
                && !change(kind, value)
            {
                option.fill(NOOP);
            }
            rest = behind;
        }
        let after = checksum::sum(self.options);
        self.changed(before, after);
    }
}

/// What the sum grows by when a number of 32 bits changes.
fn difference(old: u32, new: u32) -> u16 {
    let halves = |number: u32| checksum::add((number >> 16) as u16, number as u16);
    checksum::add(!halves(old), halves(new))
}

//! The records of a journal: how they are written, and what a file of them says.
//!
//! A record is length, CRC-32 over length and payload (both little endian), and JSON.
//! A crash leaves a last record that is short or wrong, or zeros: a torn tail. The first record is never torn, because
//! its file was on the disk before it got its name. All else is a fault, and nobody guesses what stood there.

use std::ops::Range;

use lvs_api::Action;
use serde::{Deserialize, Serialize};

use super::Whole;

/// First bytes of a journal; the digit changes when old daemons could misread it.
pub(super) const MAGIC: &[u8; 8] = b"LVSDJRN1";

/// Length and CRC in front of each payload.
pub(super) const RECORD_HEADER_BYTES: usize = 8;

/// Largest payload: a whole state of 16,384 services and 65,536 servers is about 10 MiB.
const PAYLOAD_MAX_BYTES: usize = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JournalRecord {
    Whole(Whole),
    Action(Action),
}

pub(super) fn encode(record: &JournalRecord) -> Vec<u8> {
    let mut bytes = vec![0; RECORD_HEADER_BYTES];
    serde_json::to_writer(&mut bytes, record).expect("plain data into memory");
    frame(&mut bytes);
    bytes
}

/// Writes length and CRC in front of the payload.
pub(super) fn frame(bytes: &mut [u8]) {
    let len_bytes = u32::try_from(bytes.len() - RECORD_HEADER_BYTES)
        .expect("a state is far below 4 GiB")
        .to_le_bytes();
    bytes[..4].copy_from_slice(&len_bytes);
    let crc = checksum(len_bytes, &bytes[RECORD_HEADER_BYTES..]);
    bytes[4..RECORD_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(len_bytes: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len_bytes);
    hasher.update(payload);
    hasher.finalize()
}

/// What stands at one place of a journal.
pub(super) struct Piece {
    /// Its place in the file, in bytes.
    pub place: Range<usize>,
    pub content: Content,
}

pub(super) enum Content {
    Record(Box<JournalRecord>),
    /// The checksum holds, but this version does not understand the payload.
    Unknown {
        reason: String,
        /// The version that wrote it, where the payload says so.
        lvsd: Option<String>,
    },
    /// Bytes up to the next whole record, or to the end.
    Garbled,
}

/// The pieces of a journal behind its first bytes, in order.
pub(super) fn pieces(bytes: &[u8]) -> impl Iterator<Item = Piece> {
    let mut at = MAGIC.len();
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let (content, len) = match payload(rest) {
            Some(payload) => (understood(payload), RECORD_HEADER_BYTES + payload.len()),
            None => (Content::Garbled, next_record(rest).unwrap_or(rest.len())),
        };
        let place = at..at + len;
        at += len;
        Some(Piece { place, content })
    })
}

/// The payload of the record at the front of `bytes`; `None` when it is short or its checksum does not hold.
fn payload(bytes: &[u8]) -> Option<&[u8]> {
    let len_bytes: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    let crc: [u8; 4] = bytes.get(4..RECORD_HEADER_BYTES)?.try_into().ok()?;
    let len = u32::from_le_bytes(len_bytes) as usize;
    if len > PAYLOAD_MAX_BYTES {
        return None;
    }
    let payload = bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + len)?;
    (checksum(len_bytes, payload) == u32::from_le_bytes(crc)).then_some(payload)
}

/// Where the next whole record begins behind the first byte. Four letters of JSON are no possible length, so hardly any
/// place costs a checksum.
fn next_record(bytes: &[u8]) -> Option<usize> {
    (1..bytes.len()).find(|at| payload(&bytes[*at..]).is_some())
}

fn understood(payload: &[u8]) -> Content {
    match serde_json::from_slice(payload) {
        Ok(record) => Content::Record(Box::new(record)),
        Err(error) => Content::Unknown {
            reason: error.to_string(),
            lvsd: serde_json::from_slice(payload)
                .ok()
                .and_then(|value: serde_json::Value| {
                    let lvsd = value.pointer("/whole/lvsd")?.as_str()?;
                    Some(lvsd.to_owned())
                }),
        },
    }
}

/// What a sound journal says.
#[derive(Default)]
pub(super) struct Contents {
    pub whole: Whole,
    /// Those behind the last whole state, oldest first.
    pub actions: Vec<Action>,
    /// Bytes of the last whole-state record.
    pub whole_bytes: usize,
    /// Where the torn tail begins.
    pub torn_at: Option<usize>,
}

/// A record that is neither understood nor a torn tail.
#[derive(Debug)]
pub(super) struct Fault {
    /// Its number, from 1.
    pub record: usize,
    /// Where it begins, in bytes.
    pub at: usize,
    /// Why it is not understood; `None` where it is damaged.
    pub unknown: Option<String>,
    /// Whole records behind it.
    pub behind: usize,
    /// The version that wrote it; empty where nobody said.
    pub lvsd: String,
}

/// Reads a journal that begins with [`MAGIC`].
pub(super) fn read(bytes: &[u8]) -> Result<Contents, Fault> {
    let mut contents = Contents::default();
    let mut pieces = pieces(bytes).enumerate();
    while let Some((index, Piece { place, content })) = pieces.next() {
        let (unknown, lvsd) = match content {
            Content::Record(record) => {
                match *record {
                    JournalRecord::Whole(whole) => {
                        contents.whole = whole;
                        contents.actions.clear();
                        contents.whole_bytes = place.len();
                    }
                    JournalRecord::Action(action) => contents.actions.push(action),
                }
                continue;
            }
            Content::Garbled if index > 0 && place.end == bytes.len() => {
                contents.torn_at = Some(place.start);
                break;
            }
            Content::Garbled => (None, None),
            Content::Unknown { reason, lvsd } => (Some(reason), lvsd),
        };
        let is_whole = |(_, piece): &(usize, Piece)| !matches!(piece.content, Content::Garbled);
        return Err(Fault {
            record: index + 1,
            at: place.start,
            unknown,
            behind: pieces.filter(is_whole).count(),
            lvsd: lvsd.unwrap_or(contents.whole.lvsd),
        });
    }
    Ok(contents)
}

//! What two lvsd send each other beside sync messages, so that a backup gets what it lacks.
//!
//! In:  a message. Out: the notice that it is, or nothing.
//! A notice is a message of version 1 without entries. A kernel reads as many entries as the header counts, which is none,
//! and passes over the rest in silence; so does an lvsd that does not know notices.
//!
//! ```text
//! 0        8        12     13      16         24
//! | header | "lvsd" | kind | 0 0 0 | instance | offer: sent, begun, ended, copied, total; ask: walk, 0 0 0 0 |
//! ```
//! Ref: Linux ip_vs_sync.c `ip_vs_process_message()`.

use super::message::{self, ByteReader, HEADER_LEN};

const MAGIC: [u8; 4] = *b"lvsd";
const KIND_OFFER: u8 = 1;
const KIND_ASK: u8 = 2;
/// Bytes of an ask.
pub const ASK_LEN: usize = HEADER_LEN + 24;

/// What a master says of itself, every second and when a walk begins or ends, on each of its ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The run of the daemon: another number after each start.
    pub instance: u64,
    /// Messages with entries that it has made for this port since its start.
    pub sent: u64,
    /// How many walks over all connections it has begun.
    pub begun: u32,
    /// How many of them are over.
    pub ended: u32,
    /// Connections sent in the walk under way, or else in the last one.
    pub copied: u32,
    /// How many connections there were when that walk began.
    pub total: u32,
}

/// A backup asks a master for a walk over all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Of the master that is asked.
    pub instance: u64,
    /// The walk, counted from 1. One that has begun is not asked for again.
    pub walk: u32,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// From a master.
    Offer(Offer),
    /// From a backup.
    Ask(Ask),
}

impl Notice {
    /// Its message.
    pub fn write(&self, sync_id: u8) -> Vec<u8> {
        let mut out = Vec::new();
        message::begin(&mut out, sync_id);
        out.extend_from_slice(&MAGIC);
        let (kind, instance) = match self {
            Self::Offer(offer) => (KIND_OFFER, offer.instance),
            Self::Ask(ask) => (KIND_ASK, ask.instance),
        };
        out.extend_from_slice(&[kind, 0, 0, 0]);
        out.extend_from_slice(&instance.to_be_bytes());
        match self {
            Self::Offer(offer) => {
                out.extend_from_slice(&offer.sent.to_be_bytes());
                for word in [offer.begun, offer.ended, offer.copied, offer.total] {
                    out.extend_from_slice(&word.to_be_bytes());
                }
            }
            Self::Ask(ask) => {
                out.extend_from_slice(&ask.walk.to_be_bytes());
                out.extend_from_slice(&[0; 4]);
            }
        }
        let size = (out.len() as u16).to_be_bytes();
        if let Some(field) = out.get_mut(2..4) {
            field.copy_from_slice(&size);
        }
        out
    }

    /// The sync id and the notice of a message; `None` when it is none.
    pub fn read(message: &[u8]) -> Option<(u8, Self)> {
        let mut bytes = ByteReader(message);
        let [0, sync_id, high, low, 0, message::VERSION, 0, 0] = bytes.array::<HEADER_LEN>()? else {
            return None;
        };
        let is_whole = usize::from(u16::from_be_bytes([high, low])) == message.len();
        if !is_whole || bytes.array()? != MAGIC {
            return None;
        }
        let kind = bytes.u8()?;
        bytes.take(3)?;
        let instance = u64::from_be_bytes(bytes.array()?);
        let notice = match kind {
            KIND_OFFER => Self::Offer(Offer {
                instance,
                sent: u64::from_be_bytes(bytes.array()?),
                begun: bytes.u32()?,
                ended: bytes.u32()?,
                copied: bytes.u32()?,
                total: bytes.u32()?,
            }),
            KIND_ASK => Self::Ask(Ask {
                instance,
                walk: bytes.u32()?,
            }),
            _ => return None,
        };
        Some((sync_id, notice))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_notice_is_a_message_without_entries() {
        let ask = Notice::Ask(Ask { instance: 7, walk: 3 }).write(9);
        assert_eq!(ask[..HEADER_LEN], [0, 9, 0, 32, 0, 1, 0, 0]);
        assert_eq!(ask.len(), ASK_LEN);
        assert_eq!(message::read(&ask, 9, |_| panic!("there is no entry")), Ok(()));
        let offer = Notice::Offer(Offer::default()).write(9);
        assert_eq!(message::read(&offer, 9, |_| panic!("there is no entry")), Ok(()));
    }

    #[test]
    fn messages_with_entries_and_others_without_are_no_notices() {
        let notice = Notice::Ask(Ask { instance: 7, walk: 3 }).write(9);
        for (at, byte) in [(0, 1), (3, 31), (4, 1), (5, 2), (6, 1), (8, b'L'), (12, 9)] {
            let mut other = notice.clone();
            other[at] = byte;
            assert_eq!(Notice::read(&other), None, "byte {at}");
        }
        assert_eq!(Notice::read(&[0, 9, 0, 8, 0, 1, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            sync_id: u8, instance: u64, sent: u64, words: [u32; 4], bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let [begun, ended, copied, total] = words;
            let offer = Notice::Offer(Offer { instance, sent, begun, ended, copied, total });
            let ask = Notice::Ask(Ask { instance, walk: begun });
            for notice in [offer, ask] {
                let message = notice.write(sync_id);
                prop_assert_eq!(Notice::read(&message), Some((sync_id, notice)));
                prop_assert_eq!(Notice::read(&message[..message.len() - 1]), None);
            }
            prop_assert_eq!(Notice::read(&bytes), None);
        }
    }
}

//! Netlink messages: the frame around every request and answer.
//!
//! In:  a datagram. Out: its messages, as `netlink_rcv_skb()` walks them; acknowledgements and errors.

use super::attribute::aligned;
use super::{Errno, FLAG_ACK, FLAG_CAPPED, FLAG_DUMP, FLAG_MULTI, FLAG_REQUEST};

/// `struct nlmsghdr`.
pub(super) const HEADER_BYTES: usize = 16;
/// `struct genlmsghdr`.
pub(super) const GENERIC_BYTES: usize = 4;
/// `NLMSG_ERROR`: also the acknowledgement.
const KIND_ERROR: u16 = 2;
/// `NLMSG_DONE`.
const KIND_DONE: u16 = 3;
/// Below it are control messages.
const KIND_MIN: u16 = 16;

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'bytes> {
    /// Family id.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// What answers repeat.
    pub sequence: u32,
    /// Everything, header included.
    pub bytes: &'bytes [u8],
}

impl<'bytes> Message<'bytes> {
    /// Whether the sender wants to hear of success.
    pub const fn wants_acknowledgement(&self) -> bool {
        self.flags & FLAG_ACK != 0
    }

    /// Whether it is a request at all: other messages are only acknowledged.
    pub const fn is_request(&self) -> bool {
        self.flags & FLAG_REQUEST != 0 && self.kind >= KIND_MIN
    }

    /// Whether it asks for all of something.
    pub const fn is_dump(&self) -> bool {
        self.flags & FLAG_DUMP == FLAG_DUMP
    }

    /// Behind the header.
    pub fn body(&self) -> &'bytes [u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }
}

/// The messages of a datagram, up to the first that is malformed.
#[derive(Clone, Debug)]
pub struct Messages<'bytes> {
    rest: &'bytes [u8],
}

impl<'bytes> Messages<'bytes> {
    /// Those of `datagram`.
    pub const fn new(datagram: &'bytes [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'bytes> Iterator for Messages<'bytes> {
    type Item = Message<'bytes>;

    fn next(&mut self) -> Option<Message<'bytes>> {
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *self.rest.first_chunk::<HEADER_BYTES>()?;
        let len = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let bytes = self.rest.get(..len).filter(|_| len >= HEADER_BYTES)?;
        self.rest = self.rest.get(aligned(len)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            bytes,
        })
    }
}

/// A message's bytes: header, then `body`.
pub(super) fn frame(kind: u16, flags: u16, sequence: u32, port_id: u32, body: &[u8]) -> Vec<u8> {
    let len = HEADER_BYTES + body.len();
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&port_id.to_ne_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Success: error 0 and the request's header.
pub fn acknowledge(request: &Message<'_>, port_id: u32) -> Vec<u8> {
    let mut body = 0_i32.to_ne_bytes().to_vec();
    body.extend_from_slice(request.bytes.get(..HEADER_BYTES).unwrap_or_default());
    frame(KIND_ERROR, FLAG_CAPPED, request.sequence, port_id, &body)
}

/// Failure: the negative error number and the whole request.
pub fn refuse(request: &Message<'_>, port_id: u32, errno: Errno) -> Vec<u8> {
    let mut body = (-(errno as i32)).to_ne_bytes().to_vec();
    body.extend_from_slice(request.bytes);
    frame(KIND_ERROR, 0, request.sequence, port_id, &body)
}

/// An error message with only the header of the request, as a socket with `NETLINK_CAP_ACK` gets it; others as they are.
pub fn cap(mut datagram: Vec<u8>) -> Vec<u8> {
    const CAPPED_BYTES: usize = HEADER_BYTES + 4 + HEADER_BYTES;
    let is_error = Messages::new(&datagram)
        .next()
        .is_some_and(|message| message.kind == KIND_ERROR);
    if is_error && datagram.len() > CAPPED_BYTES {
        datagram.truncate(CAPPED_BYTES);
        let len = u32::try_from(CAPPED_BYTES).unwrap_or(u32::MAX);
        if let Some(place) = datagram.first_chunk_mut() {
            *place = len.to_ne_bytes();
        }
        if let Some(flags) = datagram.get_mut(6..8) {
            flags.copy_from_slice(&FLAG_CAPPED.to_ne_bytes());
        }
    }
    datagram
}

/// The end of a dump.
pub fn done(sequence: u32, port_id: u32) -> Vec<u8> {
    frame(KIND_DONE, FLAG_MULTI, sequence, port_id, &0_i32.to_ne_bytes())
}

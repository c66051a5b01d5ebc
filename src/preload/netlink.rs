//! The part of netlink that finds requests for IPVS and the end of their answers.

use core::sync::atomic::Ordering;

use crate::tracked::Tracked;

/// lvsd's family id, which is above every id that the kernel assigns.
const FAMILY_ID: u16 = 0xf1b5;
const CONTROL_ID: u16 = 16;
const GET_FAMILY: u8 = 3;
const GET_POLICY: u8 = 10;
const ATTRIBUTE_ID: u16 = 1;
const ATTRIBUTE_NAME: u16 = 2;
const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;
const FLAG_MULTI: u16 = 2;
const FLAG_ACK: u16 = 4;
const FLAG_DUMP: u16 = 0x300;
const FLAG_CAPPED: u16 = 0x100;
const HEADER_BYTES: usize = 16;
const GENERIC_BYTES: usize = 20;

/// Bytes of a request that [`is_ours`] may need.
pub(crate) const HEAD_BYTES: usize = 64;
/// Bytes of an error message with the request's header.
pub(crate) const ERROR_BYTES: usize = 36;

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes
        .get(offset..)?
        .first_chunk()
        .map(|value| u16::from_ne_bytes(*value))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..)?
        .first_chunk()
        .map(|value| u32::from_ne_bytes(*value))
}

/// Whether this request is for IPVS: it has lvsd's family id, or it asks about the family of that id or name.
pub(crate) fn is_ours(head: &[u8]) -> bool {
    match u16_at(head, 4) {
        Some(FAMILY_ID) => true,
        Some(CONTROL_ID) => matches!(head.get(HEADER_BYTES), Some(&GET_FAMILY | &GET_POLICY)) && names_ipvs(head),
        _ => false,
    }
}

/// Whether this request is for a family of the kernel. A dump of all families is not: lvsd's has the kernel's in it.
pub(crate) fn is_for_another(head: &[u8]) -> bool {
    let is_dump = u16_at(head, 6).is_some_and(|flags| flags & FLAG_DUMP == FLAG_DUMP);
    match u16_at(head, 4) {
        None | Some(0..CONTROL_ID | FAMILY_ID) => false,
        Some(CONTROL_ID) => !(is_ours(head) || (is_dump && head.get(HEADER_BYTES) == Some(&GET_FAMILY))),
        Some(_) => true,
    }
}

fn names_ipvs(head: &[u8]) -> bool {
    let mut attributes = head.get(GENERIC_BYTES..).unwrap_or_default();
    while let (Some(len), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let len = usize::from(len);
        let Some(payload) = attributes.get(4..len) else {
            return false;
        };
        if kind == ATTRIBUTE_NAME {
            return payload == b"IPVS\0" || payload == b"IPVS";
        }
        if kind == ATTRIBUTE_ID && u16_at(payload, 0) == Some(FAMILY_ID) {
            return true;
        }
        attributes = attributes.get((len + 3) & !3..).unwrap_or_default();
    }
    false
}

/// Notes a request before it is sent.
pub(crate) fn begin(tracked: &Tracked, head: &[u8]) {
    let flags = u16_at(head, 6).unwrap_or(0);
    let late = flags & FLAG_ACK != 0 || flags & FLAG_DUMP == FLAG_DUMP;
    tracked.sequence.store(u32_at(head, 8).unwrap_or(0), Ordering::Relaxed);
    tracked.ends_late.store(late, Ordering::Relaxed);
    tracked.waiting.store(true, Ordering::Release);
}

/// Notes whether received bytes end the pending answer.
pub(crate) fn note_answer(tracked: &Tracked, mut messages: &[u8]) {
    let sequence = tracked.sequence.load(Ordering::Relaxed);
    while let (Some(len), Some(kind), Some(flags), Some(found)) = (
        u32_at(messages, 0),
        u16_at(messages, 4),
        u16_at(messages, 6),
        u32_at(messages, 8),
    ) {
        let ends = matches!(kind, KIND_ERROR | KIND_DONE)
            || (flags & FLAG_MULTI == 0 && !tracked.ends_late.load(Ordering::Relaxed));
        if found == sequence && ends {
            tracked.waiting.store(false, Ordering::Release);
        }
        let len = (len as usize).max(HEADER_BYTES);
        messages = messages.get((len + 3) & !3..).unwrap_or_default();
    }
}

/// `NLMSG_ERROR` for the pending request.
pub(crate) fn error(tracked: &Tracked, errno: i32) -> [u8; ERROR_BYTES] {
    let sequence = tracked.sequence.load(Ordering::Relaxed).to_ne_bytes();
    let port_id = tracked.port_id.load(Ordering::Relaxed).to_ne_bytes();
    let parts: [&[u8]; 11] = [
        &36_u32.to_ne_bytes(),
        &KIND_ERROR.to_ne_bytes(),
        &FLAG_CAPPED.to_ne_bytes(),
        &sequence,
        &port_id,
        &errno.wrapping_neg().to_ne_bytes(),
        &16_u32.to_ne_bytes(),
        &FAMILY_ID.to_ne_bytes(),
        &FLAG_ACK.to_ne_bytes(),
        &sequence,
        &port_id,
    ];
    let mut bytes = [0; ERROR_BYTES];
    let source = parts.iter().flat_map(|part| part.iter());
    for (to, from) in bytes.iter_mut().zip(source) {
        *to = *from;
    }
    bytes
}

//! The kernel's sync messages: entries read from a datagram, and written into one.
//!
//! In:  a datagram of either version. Out: its entries one by one. A fault ends the message or skips the entry exactly
//!      as in the kernel; entries before the fault are valid. Version 1 carries both families, marks, timeouts and
//!      options; [`super::message_v0`] is the older form. FULLNAT's local end is an option of lvsd's own that the
//!      receiver must know: a kernel skips such an entry, because it could not forward the connection.
//! Ref: Linux ip_vs_sync.c `ip_vs_process_message()`, `ip_vs_proc_sync_conn()`, `ip_vs_sync_conn()`.

use std::net::IpAddr;

use super::{FLAGS_IMPORTED, FLAGS_METHOD, SyncConn, SyncedEnd, message_v0};
use crate::ipvs::conn::{ConnFlags, SequenceShift};
use crate::ipvs::protocol;
use crate::wire::{sctp, tcp, udp};

/// Bytes before the first entry.
pub(super) const HEADER_LEN: usize = 8;
const HEADER_V0_LEN: usize = 4;
pub(super) const VERSION: u8 = 1;

const ENTRY4_LEN: usize = 36;
const ENTRY6_LEN: usize = 72;
/// Bit of an entry's type: its addresses are IPv6.
const TYPE_IPV6: u8 = 1;

/// Set in an option's kind if a receiver that does not know the option may ignore it.
const OPTION_MAY_IGNORE: u8 = 0x40;
const OPTION_SHIFTS: u8 = 1;
const OPTION_ENGINE_DATA: u8 = 2;
const OPTION_ENGINE_NAME: u8 = 3;
/// lvsd's own: FULLNAT's local address and port.
const OPTION_LOCAL: u8 = 0x20;
/// `IP_VS_PEDATA_MAXLEN`.
const ENGINE_DATA_MAX: usize = 255;
/// `IP_VS_PENAME_MAXLEN`.
const ENGINE_NAME_MAX: usize = 16;
/// Inbound and outbound: first number that is shifted, shift, shift before.
const SHIFTS_LEN: usize = 24;

/// Why the rest of a message was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Shorter than a header.
    Short,
    /// Its size field differs from its length.
    Size,
    /// It has another sync id.
    OtherSyncId,
    /// An entry ends behind the message.
    EntryLength,
    /// An entry of another version.
    EntryVersion,
    /// An entry that is neither IPv4 nor IPv6.
    EntryType,
    /// An option ends behind its entry, occurs twice or has a wrong length.
    Option,
}

impl Fault {
    /// The name of its counter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "message_short",
            Self::Size => "message_size",
            Self::OtherSyncId => "other_sync_id",
            Self::EntryLength => "entry_length",
            Self::EntryVersion => "entry_version",
            Self::EntryType => "entry_type",
            Self::Option => "entry_option",
        }
    }
}

/// Why one entry was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// A protocol without connections.
    Protocol,
    /// A state that the protocol does not have.
    State,
    /// An option that is unknown here but must be known.
    Option,
    /// Data of a persistence engine, which this director does not have.
    Engine,
    /// One-packet scheduling: the connection has ended with its packet.
    OnePacket,
}

impl Skip {
    /// The name of its counter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Protocol => "entry_protocol",
            Self::State => "entry_state",
            Self::Option => "entry_unknown_option",
            Self::Engine => "entry_unknown_engine",
            Self::OnePacket => "entry_one_packet",
        }
    }
}

/// Reads `message` as a backup of `sync_id` (0: of all) and passes its entries to `take`.
///
/// # Errors
/// The fault that ended it early. `take` got the entries before it.
pub fn read(message: &[u8], sync_id: u8, mut take: impl FnMut(Result<SyncConn, Skip>)) -> Result<(), Fault> {
    let [_, sender_id, size @ ..] = *message.first_chunk::<HEADER_V0_LEN>().ok_or(Fault::Short)?;
    if message.len() != usize::from(u16::from_be_bytes(size)) {
        return Err(Fault::Size);
    }
    if sync_id != 0 && sender_id != sync_id {
        return Err(Fault::OtherSyncId);
    }
    let Some([0, _, _, _, count, VERSION, 0, 0]) = message.first_chunk::<HEADER_LEN>() else {
        return message_v0::read(message, take);
    };
    let mut rest = message.get(HEADER_LEN..).unwrap_or_default();
    for _ in 0..*count {
        let [_, _, high, low, ..] = *rest.first_chunk::<ENTRY4_LEN>().ok_or(Fault::EntryLength)?;
        let len = usize::from(u16::from_be_bytes([high & 0x0F, low]));
        let entry = rest.get(..len).ok_or(Fault::EntryLength)?;
        if high >> 4 != 0 {
            return Err(Fault::EntryVersion);
        }
        take(read_entry(entry)?);
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// Takes bytes off a slice.
pub(super) struct ByteReader<'a>(pub(super) &'a [u8]);

impl<'a> ByteReader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn addr(&mut self, is_ipv6: bool) -> Option<IpAddr> {
        if is_ipv6 {
            self.array::<16>().map(IpAddr::from)
        } else {
            self.array::<4>().map(IpAddr::from)
        }
    }
}

fn read_entry(entry: &[u8]) -> Result<Result<SyncConn, Skip>, Fault> {
    let kind = entry.first().copied().ok_or(Fault::EntryLength)?;
    let is_ipv6 = kind & TYPE_IPV6 != 0;
    if !is_ipv6 && kind != 0 {
        return Err(Fault::EntryType);
    }
    let mut bytes = ByteReader(entry);
    let (conn, flags) = read_fixed(&mut bytes, is_ipv6).ok_or(Fault::EntryLength)?;
    let mut options = EntryOptions::default();
    // Once an unknown option has disqualified the entry, nothing more of it is read.
    while !bytes.0.is_empty() && !options.is_unknown {
        options.read(&mut bytes, is_ipv6).ok_or(Fault::Option)?;
    }
    if options.is_unknown {
        return Ok(Err(Skip::Option));
    }
    if let Err(skip) = check(&conn, flags) {
        return Ok(Err(skip));
    }
    if options.has_engine_data {
        // lvsd has no persistence engines, like a kernel that has not loaded the engine of the entry.
        return Ok(Err(Skip::Engine));
    }
    Ok(Ok(SyncConn {
        shifts: options.shifts,
        local: options.local,
        ..conn
    }))
}

/// The entry before its options, and its flags as they were sent.
fn read_fixed(bytes: &mut ByteReader<'_>, is_ipv6: bool) -> Option<(SyncConn, u32)> {
    bytes.u8()?;
    let protocol = bytes.u8()?;
    bytes.u16()?;
    let flags = bytes.u32()?;
    let state = bytes.u16()?;
    let (client_port, virt_port, real_port) = (bytes.u16()?, bytes.u16()?, bytes.u16()?);
    let (fwmark, timeout_sec) = (bytes.u32()?, bytes.u32()?);
    let conn = SyncConn {
        protocol,
        flags: flags & (FLAGS_METHOD | u32::from(FLAGS_IMPORTED)),
        state,
        client: (bytes.addr(is_ipv6)?, client_port),
        virt: (bytes.addr(is_ipv6)?, virt_port),
        real: (bytes.addr(is_ipv6)?, real_port),
        local: None,
        fwmark,
        timeout_sec,
        shifts: None,
    };
    Some((conn, flags))
}

/// Whether such a connection can exist and be imported.
pub(super) fn check(conn: &SyncConn, flags_sent: u32) -> Result<(), Skip> {
    if ConnFlags::from_bits_truncate(flags_sent as u16).contains(ConnFlags::ONE_PACKET) {
        return Err(Skip::OnePacket);
    }
    if conn.is_template() {
        let can_persist = conn.protocol == 0 || matches!(conn.protocol, tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL);
        return if can_persist { Ok(()) } else { Err(Skip::Protocol) };
    }
    match protocol::states_count(conn.protocol) {
        0 => Err(Skip::Protocol),
        count if conn.state >= count => Err(Skip::State),
        _ => Ok(()),
    }
}

#[derive(Default)]
struct EntryOptions {
    shifts: Option<[SequenceShift; 2]>,
    local: Option<SyncedEnd>,
    has_engine_data: bool,
    has_engine_name: bool,
    is_unknown: bool,
}

impl EntryOptions {
    /// One option; `None` when it is malformed.
    fn read(&mut self, bytes: &mut ByteReader<'_>, is_ipv6: bool) -> Option<()> {
        let (kind, len) = (bytes.u8()?, usize::from(bytes.u8()?));
        let data = bytes.take(len).filter(|data| !data.is_empty())?;
        match kind & !OPTION_MAY_IGNORE {
            OPTION_SHIFTS => {
                let is_first = self.shifts.is_none();
                self.shifts = Some(read_shifts(data, u32::from_be_bytes).filter(|_| is_first)?);
            }
            OPTION_ENGINE_DATA => {
                (!self.has_engine_data && len <= ENGINE_DATA_MAX).then_some(())?;
                self.has_engine_data = true;
            }
            OPTION_ENGINE_NAME => {
                (!self.has_engine_name && len <= ENGINE_NAME_MAX).then_some(())?;
                self.has_engine_name = true;
            }
            OPTION_LOCAL => {
                let mut local = ByteReader(data);
                let (addr, port) = (local.addr(is_ipv6)?, local.u16()?);
                (local.0.is_empty() && self.local.is_none()).then_some(())?;
                self.local = Some((addr, port));
            }
            _ => self.is_unknown |= kind & OPTION_MAY_IGNORE == 0,
        }
        Some(())
    }
}

/// Shifts in bytes of either order.
pub(super) fn read_shifts(data: &[u8], word: fn([u8; 4]) -> u32) -> Option<[SequenceShift; 2]> {
    let mut bytes = ByteReader(data.get(..SHIFTS_LEN).filter(|_| data.len() == SHIFTS_LEN)?);
    let mut shift = || {
        Some(SequenceShift {
            from: word(bytes.array()?),
            delta: word(bytes.array()?).cast_signed(),
            previous_delta: word(bytes.array()?).cast_signed(),
        })
    };
    Some([shift()?, shift()?])
}

/// Bytes of `shifts`, each word by `word`.
pub(super) fn write_shifts(out: &mut Vec<u8>, shifts: &[SequenceShift; 2], word: fn(u32) -> [u8; 4]) {
    for shift in shifts {
        for value in [
            shift.from,
            shift.delta.cast_unsigned(),
            shift.previous_delta.cast_unsigned(),
        ] {
            out.extend_from_slice(&word(value));
        }
    }
}

/// Begins a message of version 1.
pub(super) fn begin(out: &mut Vec<u8>, sync_id: u8) {
    out.extend_from_slice(&[0, sync_id, 0, HEADER_LEN as u8, 0, VERSION, 0, 0]);
}

/// Appends `conn` as an entry. The caller writes the message's header and ensures that the entry fits.
pub(super) fn write_entry(out: &mut Vec<u8>, conn: &SyncConn) {
    let begun = out.len();
    let is_ipv6 = conn.client.0.is_ipv6();
    out.extend_from_slice(&[u8::from(is_ipv6), conn.protocol, 0, 0]);
    out.extend_from_slice(&conn.flags.to_be_bytes());
    for word in [conn.state, conn.client.1, conn.virt.1, conn.real.1] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(&conn.fwmark.to_be_bytes());
    out.extend_from_slice(&conn.timeout_sec.to_be_bytes());
    for end in [conn.client, conn.virt, conn.real] {
        write_addr(out, end.0);
    }
    if let Some(shifts) = &conn.shifts {
        out.extend_from_slice(&[OPTION_SHIFTS, SHIFTS_LEN as u8]);
        write_shifts(out, shifts, u32::to_be_bytes);
    }
    if let Some((addr, port)) = conn.local {
        out.extend_from_slice(&[OPTION_LOCAL, if addr.is_ipv6() { 18 } else { 6 }]);
        write_addr(out, addr);
        out.extend_from_slice(&port.to_be_bytes());
    }
    let len = (out.len() - begun) as u16;
    if let Some(field) = out.get_mut(begun + 2..begun + 4) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}

pub(super) fn write_addr(out: &mut Vec<u8>, addr: IpAddr) {
    match addr {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

/// Bytes that `conn` takes in a message of version 1, without padding.
pub(super) fn entry_len(conn: &SyncConn) -> usize {
    let is_ipv6 = conn.client.0.is_ipv6();
    let fixed = if is_ipv6 { ENTRY6_LEN } else { ENTRY4_LEN };
    let shifts = conn.shifts.map_or(0, |_| 2 + SHIFTS_LEN);
    let local = conn.local.map_or(0, |(addr, _)| if addr.is_ipv6() { 20 } else { 8 });
    fixed + shifts + local
}

#[cfg(test)]
mod tests;

//! Sync messages of version 0: IPv4 only, without marks, timeouts and options.
//!
//! Ref: Linux ip_vs_sync.c `ip_vs_process_message_v0()`, `ip_vs_sync_conn_v0()`.

use super::message::{ByteReader, Fault, Skip, check, read_shifts, write_addr, write_shifts};
use super::{FLAGS_IMPORTED, FLAGS_METHOD, SyncConn};
use crate::ipvs::conn::ConnFlags;

/// Bytes before the first entry.
const HEADER_LEN: usize = 4;
const ENTRY_LEN: usize = 24;
const SHIFTS_LEN: usize = 24;

/// Gives `take` the entries of a message whose length and sync id are right.
pub(super) fn read(message: &[u8], mut take: impl FnMut(Result<SyncConn, Skip>)) -> Result<(), Fault> {
    let count = message.first().copied().ok_or(Fault::Short)?;
    let mut bytes = ByteReader(message.get(HEADER_LEN..).unwrap_or_default());
    for _ in 0..count {
        let entry = bytes.take(ENTRY_LEN).ok_or(Fault::EntryLength)?;
        let (mut conn, flags) = read_fixed(entry).ok_or(Fault::EntryLength)?;
        if ConnFlags::from_bits_truncate(flags as u16).intersects(ConnFlags::SHIFTED) {
            let shifts = bytes.take(SHIFTS_LEN).ok_or(Fault::EntryLength)?;
            // As they lie in the sender's memory: both ends must be machines of one kind.
            conn.shifts = read_shifts(shifts, u32::from_ne_bytes);
        }
        take(check(&conn, flags).map(|()| conn));
    }
    Ok(())
}

/// The entry, and its flags as they were sent.
fn read_fixed(entry: &[u8]) -> Option<(SyncConn, u32)> {
    let mut bytes = ByteReader(entry);
    bytes.u8()?;
    let protocol = bytes.u8()?;
    let (client_port, virt_port, real_port) = (bytes.u16()?, bytes.u16()?, bytes.u16()?);
    let (client, virt, real) = (bytes.addr(false)?, bytes.addr(false)?, bytes.addr(false)?);
    let (flags, state) = (u32::from(bytes.u16()?), bytes.u16()?);
    let conn = SyncConn {
        protocol,
        flags: flags & (FLAGS_METHOD | u32::from(FLAGS_IMPORTED)),
        state,
        client: (client, client_port),
        virt: (virt, virt_port),
        real: (real, real_port),
        local: None,
        fwmark: 0,
        timeout_sec: 0,
        shifts: None,
    };
    Some((conn, flags))
}

/// Begins a message.
pub(super) fn begin(out: &mut Vec<u8>, sync_id: u8) {
    out.extend_from_slice(&[0, sync_id, 0, HEADER_LEN as u8]);
}

/// Whether this version can say it.
pub(super) fn can_say(conn: &SyncConn) -> bool {
    conn.client.0.is_ipv4() && conn.local.is_none()
}

/// Bytes that `conn` takes.
pub(super) const fn entry_len(conn: &SyncConn) -> usize {
    ENTRY_LEN + if conn.shifts.is_some() { SHIFTS_LEN } else { 0 }
}

/// Appends `conn`, which [`can_say`] accepts.
pub(super) fn write_entry(out: &mut Vec<u8>, conn: &SyncConn) {
    out.extend_from_slice(&[0, conn.protocol]);
    for port in [conn.client.1, conn.virt.1, conn.real.1] {
        out.extend_from_slice(&port.to_be_bytes());
    }
    for end in [conn.client, conn.virt, conn.real] {
        write_addr(out, end.0);
    }
    for word in [conn.flags as u16, conn.state] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    if let Some(shifts) = &conn.shifts {
        write_shifts(out, shifts, u32::to_ne_bytes);
    }
}

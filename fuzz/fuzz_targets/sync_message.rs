//! Any bytes as another director's sync message: what is read of it, written and read again is the same.
//!
//! The first byte is the sync id of the backup that reads; 0 takes messages of all.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lvs_core::ipvs::sync::SyncConn;
use lvs_core::ipvs::sync::assembly::{Assembly, FLUSH_MS};
use lvs_core::ipvs::sync::message::read;
use lvs_core::ipvs::sync::policy::SyncMode;

/// Longer than any message that is read.
const MESSAGE_BYTES_MAX: u16 = u16::MAX;
const SYNC_ID: u8 = 7;

fn read_again(conn: &SyncConn) -> Vec<SyncConn> {
    let mut assembly = Assembly::new(SYNC_ID, MESSAGE_BYTES_MAX);
    assert!(assembly.add(conn, 1, 0).is_none(), "one entry fits into a message");
    let message = assembly.due(SyncMode::Kernel, FLUSH_MS).expect("the entry has waited");
    let mut conns = Vec::new();
    let outcome = read(&message, SYNC_ID, |entry| conns.extend(entry));
    assert_eq!(outcome, Ok(()), "{conn:?}");
    conns
}

fuzz_target!(|bytes: &[u8]| {
    let Some((sync_id, message)) = bytes.split_first() else {
        return;
    };
    let mut conns = Vec::new();
    let _ = read(message, *sync_id, |entry| conns.extend(entry));
    for conn in conns {
        assert_eq!(read_again(&conn), [conn]);
    }
});

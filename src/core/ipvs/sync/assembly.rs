//! A master's messages. Entries are gathered until a message is full or its first entry has waited long enough.
//!
//! In:  connections that are due, from every worker. Out: datagrams of at most the daemon's length.
//! Time is a parameter, in milliseconds from any origin.
//! Ref: Linux ip_vs_sync.c `ip_vs_sync_conn()`, `get_curr_sync_buff()`.

use super::policy::SyncMode;
use super::{SyncConn, message, message_v0};

/// How long an entry may wait for others as in the kernel, in milliseconds (`IPVS_SYNC_FLUSH_TIME`).
pub const FLUSH_MS: u64 = 2_000;
/// The same with [`SyncMode::Every`]: with the millisecond that each of worker, management core and backup may need on top,
/// a connection is known within 20 ms.
pub const FLUSH_EVERY_MS: u64 = 10;
/// The largest count of entries that a message can have.
const ENTRIES_MAX: u8 = u8::MAX;

/// See the module.
#[derive(Debug)]
pub struct Assembly {
    sync_id: u8,
    max_len: usize,
    message: Vec<u8>,
    version: u32,
    entries: u8,
    begun_ms: u64,
}

impl Assembly {
    /// No entries yet, for messages of `sync_id` and at most `max_len` bytes. A single entry may need more.
    pub const fn new(sync_id: u8, max_len: u16) -> Self {
        Self {
            sync_id,
            max_len: max_len as usize,
            message: Vec::new(),
            version: 1,
            entries: 0,
            begun_ms: 0,
        }
    }

    /// Adds an entry in `version` (`sync_version`: 0, otherwise 1). An entry that this version cannot express is left
    /// out. Returns the message before, if the entry did not fit into it.
    pub fn add(&mut self, conn: &SyncConn, version: u32, now_ms: u64) -> Option<Vec<u8>> {
        let (len, pad) = if version == 0 {
            if !message_v0::can_say(conn) {
                return None;
            }
            (message_v0::entry_len(conn), 0)
        } else {
            let end = self.message.len();
            (message::entry_len(conn), end.next_multiple_of(4) - end)
        };
        let fits = self.message.len() + pad + len <= self.max_len && self.entries < ENTRIES_MAX;
        let finished = if self.entries > 0 && (!fits || self.version != version) {
            self.finish()
        } else {
            None
        };
        if self.entries == 0 {
            self.version = version;
            self.begun_ms = now_ms;
            match version {
                0 => message_v0::begin(&mut self.message, self.sync_id),
                _ => message::begin(&mut self.message, self.sync_id),
            }
        }
        match version {
            0 => message_v0::write_entry(&mut self.message, conn),
            _ => {
                self.message.resize(self.message.len().next_multiple_of(4), 0);
                message::write_entry(&mut self.message, conn);
            }
        }
        self.entries += 1;
        finished
    }

    /// Makes messages longer or shorter from the next entry on.
    pub const fn set_max_len(&mut self, max_len: u16) {
        self.max_len = max_len as usize;
    }

    /// The message, if its first entry has waited long enough for `mode`.
    pub fn due(&mut self, mode: SyncMode, now_ms: u64) -> Option<Vec<u8>> {
        let wait_ms = match mode {
            SyncMode::Kernel => FLUSH_MS,
            SyncMode::Every => FLUSH_EVERY_MS,
        };
        let is_due = now_ms.saturating_sub(self.begun_ms) >= wait_ms;
        is_due.then(|| self.flush())?
    }

    /// The message as far as it is, if it has entries.
    pub fn flush(&mut self) -> Option<Vec<u8>> {
        (self.entries > 0).then(|| self.finish())?
    }

    fn finish(&mut self) -> Option<Vec<u8>> {
        let mut message = std::mem::take(&mut self.message);
        let size = (message.len() as u16).to_be_bytes();
        message.get_mut(2..4)?.copy_from_slice(&size);
        *message.get_mut(if self.version == 0 { 0 } else { 4 })? = self.entries;
        self.entries = 0;
        Some(message)
    }
}

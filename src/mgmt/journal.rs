//! The desired state on disk: append-only records, compacted into one whole-state record.
//!
//! In:  every [`Action`] the director carries out, written before its answer is given.
//! Out: after a restart, the last [`Whole`] and the actions since.
//! A record is length, CRC-32 over length and payload (both little endian), and JSON. What a crash left of
//! the last record is cut off and reported; everything before it is kept.
//! Never: waits for the disk while a client waits; `fdatasync` is the background's (see [`Journal::unsynced`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lvs_api::{Action, ServiceId, State};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// First bytes of a journal; the digit changes when old daemons could misread it.
const MAGIC: &[u8; 8] = b"LVSDJRN1";

/// Length and CRC in front of each payload.
const RECORD_HEADER_BYTES: usize = 8;

/// Largest payload: a whole state of 16,384 services and 65,536 servers is about 10 MiB.
const PAYLOAD_MAX_BYTES: usize = 256 << 20;

/// Below this size a journal is never compacted.
const COMPACT_MIN_BYTES: u64 = 1 << 20;

/// A journal is compacted when it is this many times larger than its whole-state record.
const COMPACT_FACTOR: u64 = 4;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Opening, reading or writing failed.
    #[error("journal {path}: {source}; check that the directory exists, is writable and has space")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("journal {path} is in use by another lvsd; stop that one first or set another journal path")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else, or from another version.
    #[error("{path} is no journal of this version of lvsd; move it away to start without it")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// An earlier write failed and could not be undone.
    #[error("journal {path} could not be repaired after a failed write; restart lvsd once the disk is well")]
    Broken {
        /// The file.
        path: PathBuf,
    },
}

/// Everything that a restart needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
    /// The desired state.
    pub state: State,
    /// What the configuration file said when it was last loaded. A reload applies only the edits since then.
    pub base: State,
    /// Servers of weight 0 that had another one before.
    #[serde(default)]
    pub drained: Vec<Drained>,
}

/// A quiesced server whose earlier weight still counts (mh).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// The service that it belongs to.
    pub service: ServiceId,
    /// Which server.
    pub server: SocketAddr,
    /// The last weight above 0.
    pub last_weight: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Whole(Whole),
    Action(Action),
}

/// Bytes at the end that were no whole record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Bytes before, all kept.
    pub kept_bytes: u64,
    /// Bytes cut off.
    pub lost_bytes: u64,
    /// Where they were copied to.
    pub copy: PathBuf,
}

/// What was in the journal.
#[derive(Debug)]
pub struct Restored {
    /// The last whole state; empty for a new journal.
    pub whole: Whole,
    /// Actions after it, oldest first.
    pub actions: Vec<Action>,
    /// Present when the end was torn or garbled.
    pub damage: Option<Damage>,
}

/// See the module.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Flock<File>,
    /// Bytes of complete records, magic included.
    len_bytes: u64,
    /// Bytes up to the end of the whole-state record.
    whole_bytes: u64,
    /// Where the record that was appended last begins. It is of no use after that record was retracted.
    last_bytes: u64,
    unsynced: bool,
    broken: bool,
}

impl Journal {
    /// Opens or creates the journal at `path`. Another process that has it open is an error.
    pub fn open(path: &Path) -> Result<(Self, Restored), JournalError> {
        let failed = |source| JournalError::Io {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(failed)?;
        let mut file = lock(file, path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() < MAGIC.len() && MAGIC.starts_with(&bytes) {
            // New, or killed while it was created.
            file.set_len(0).map_err(failed)?;
            file.write_all(MAGIC).map_err(failed)?;
            bytes = MAGIC.to_vec();
        }
        if !bytes.starts_with(MAGIC) {
            return Err(JournalError::Foreign { path: path.to_owned() });
        }
        let read = read_records(&bytes);
        let mut damage = None;
        if read.valid_bytes < bytes.len() {
            let copy = path.with_extension("damaged");
            fs::write(&copy, &bytes[read.valid_bytes..]).map_err(failed)?;
            file.set_len(read.valid_bytes as u64).map_err(failed)?;
            damage = Some(Damage {
                kept_bytes: read.valid_bytes as u64,
                lost_bytes: (bytes.len() - read.valid_bytes) as u64,
                copy,
            });
        }
        let journal = Self {
            path: path.to_owned(),
            file,
            len_bytes: read.valid_bytes as u64,
            whole_bytes: read.whole_bytes as u64,
            last_bytes: read.valid_bytes as u64,
            unsynced: true,
            broken: false,
        };
        Ok((
            journal,
            Restored {
                whole: read.whole,
                actions: read.actions,
                damage,
            },
        ))
    }

    /// Hands the record of `action` to the kernel; on an error the journal is as before.
    pub fn append(&mut self, action: &Action) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::Broken {
                path: self.path.clone(),
            });
        }
        let record = encode(&Record::Action(action.clone()));
        if let Err(source) = self.file.write_all(&record) {
            self.broken = self.file.set_len(self.len_bytes).is_err();
            return Err(JournalError::Io {
                path: self.path.clone(),
                source,
            });
        }
        self.last_bytes = self.len_bytes;
        self.len_bytes += record.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Takes back the record that was appended last, because its action was refused. A crash before this leaves a
    /// record that is refused again when it is restored.
    pub fn retract(&mut self) -> Result<(), JournalError> {
        self.file.set_len(self.last_bytes).map_err(|source| {
            self.broken = true;
            JournalError::Io {
                path: self.path.clone(),
                source,
            }
        })?;
        self.len_bytes = self.last_bytes;
        Ok(())
    }

    /// Whether [`Self::compact`] would pay.
    pub fn wants_compaction(&self) -> bool {
        self.len_bytes > COMPACT_MIN_BYTES.max(self.whole_bytes * COMPACT_FACTOR)
    }

    /// Replaces everything by one whole-state record. The new file is on disk before it takes the place of the old one.
    pub fn compact(&mut self, whole: &Whole) -> Result<(), JournalError> {
        let failed = |source| JournalError::Io {
            path: self.path.clone(),
            source,
        };
        let next_path = self.path.with_extension("next");
        let next = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&next_path)
            .map_err(failed)?;
        let mut next = lock(next, &next_path)?;
        next.set_len(0).map_err(failed)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(encode(&Record::Whole(whole.clone())));
        next.write_all(&bytes).and_then(|()| next.sync_data()).map_err(failed)?;
        fs::rename(&next_path, &self.path).map_err(failed)?;
        self.file = next;
        self.len_bytes = bytes.len() as u64;
        self.whole_bytes = self.len_bytes;
        self.last_bytes = self.len_bytes;
        self.broken = false;
        // The rename itself is made durable together with what follows.
        self.unsynced = true;
        Ok(())
    }

    /// The files that must reach the disk, each once after a change. The caller calls `sync_data` on them on another
    /// thread.
    pub fn unsynced(&mut self) -> Option<Vec<File>> {
        if !std::mem::take(&mut self.unsynced) {
            return None;
        }
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(directory.unwrap_or(Path::new("."))).ok();
        Some(self.file.try_clone().ok().into_iter().chain(directory).collect())
    }
}

fn lock(file: File, path: &Path) -> Result<Flock<File>, JournalError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| JournalError::InUse { path: path.to_owned() })
}

fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = vec![0; RECORD_HEADER_BYTES];
    serde_json::to_writer(&mut bytes, record).expect("plain data into memory");
    let len_bytes = u32::try_from(bytes.len() - RECORD_HEADER_BYTES)
        .expect("a state is far below 4 GiB")
        .to_le_bytes();
    bytes[..4].copy_from_slice(&len_bytes);
    let crc = checksum(len_bytes, &bytes[RECORD_HEADER_BYTES..]);
    bytes[4..RECORD_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn checksum(len_bytes: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len_bytes);
    hasher.update(payload);
    hasher.finalize()
}

struct ReadRecords {
    whole: Whole,
    actions: Vec<Action>,
    valid_bytes: usize,
    whole_bytes: usize,
}

/// Reads records up to the first that is not whole.
fn read_records(bytes: &[u8]) -> ReadRecords {
    let mut read = ReadRecords {
        whole: Whole::default(),
        actions: Vec::new(),
        valid_bytes: MAGIC.len(),
        whole_bytes: MAGIC.len(),
    };
    while let Some((record, len)) = decode(&bytes[read.valid_bytes..]) {
        read.valid_bytes += len;
        match record {
            Record::Whole(whole) => {
                read.whole = whole;
                read.actions.clear();
                read.whole_bytes = read.valid_bytes;
            }
            Record::Action(action) => read.actions.push(action),
        }
    }
    read
}

/// The record at the front of `bytes` and its length in bytes; `None` when it is torn or garbled.
fn decode(bytes: &[u8]) -> Option<(Record, usize)> {
    let len_bytes: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    let crc: [u8; 4] = bytes.get(4..RECORD_HEADER_BYTES)?.try_into().ok()?;
    let len = u32::from_le_bytes(len_bytes) as usize;
    if len > PAYLOAD_MAX_BYTES {
        return None;
    }
    let payload = bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + len)?;
    if checksum(len_bytes, payload) != u32::from_le_bytes(crc) {
        return None;
    }
    Some((serde_json::from_slice(payload).ok()?, RECORD_HEADER_BYTES + len))
}

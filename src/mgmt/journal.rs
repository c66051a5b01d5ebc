//! The desired state on disk: append-only records, from time to time written anew as one whole-state record.
//!
//! In:  every [`Action`] that the director carries out, written before its answer is given.
//! Out: after a restart, the last [`Whole`] and the actions since.
//! A disk that takes nothing stops no change: the journal is *stale* then, says so, and is written anew when that is
//! possible. A torn tail ([`records`]) is cut off and reported; with any other damage the daemon does not start.
//! `fdatasync` and new files are the background's ([`Journal::unsynced`], [`Journal::wants_rewrite`]). A change waits until
//! the kernel has its record, for some seconds at most ([`disk`]).
//! Never: waits a second time for a disk that is silent.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use lvs_api::{Action, JournalStatus, Server, ServiceId, State};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

mod disk;
mod records;
mod rewrite;
mod salvage;
#[cfg(test)]
mod tests;

use disk::DiskThread;
use records::{Contents, Fault, JournalRecord, MAGIC, encode};
use rewrite::{Behind, RetryPace};
pub use rewrite::{Rewrite, Rewritten, Unsynced};
pub use salvage::{Salvaged, salvage};

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
    /// A record is whole, but this version does not understand it.
    #[error(
        "journal {path}: record {record} at byte {at} is whole, but lvsd {} does not understand it: {reason}; \
         {wrote}; start the version that wrote it, or go on without this record: lvsd --salvage-journal",
        env!("CARGO_PKG_VERSION")
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The record's number, from 1.
        record: usize,
        /// Where it begins, in bytes.
        at: usize,
        /// What is not understood.
        reason: String,
        /// Who wrote it, as a sentence.
        wrote: String,
    },
    /// A record is damaged, and it is not the tail that a crash tears.
    #[error(
        "journal {path}: record {record} at byte {at} is damaged, with {behind} whole records behind it; {wrote}; \
         restore the file from a copy, or go on without this record: lvsd --salvage-journal"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The record's number, from 1.
        record: usize,
        /// Where it begins, in bytes.
        at: usize,
        /// Whole records behind it.
        behind: usize,
        /// Who wrote it, as a sentence.
        wrote: String,
    },
}

impl JournalError {
    /// For `map_err`: what the system refused about the journal at `path`.
    fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    fn of(fault: Fault, path: &Path) -> Self {
        let path = path.to_owned();
        let wrote = if fault.lvsd.is_empty() {
            "which version wrote it is not recorded".to_owned()
        } else {
            format!("lvsd {} wrote it", fault.lvsd)
        };
        let Fault { record, at, behind, .. } = fault;
        match fault.unknown {
            Some(reason) => Self::Unknown {
                path,
                record,
                at,
                reason,
                wrote,
            },
            None => Self::Damaged {
                path,
                record,
                at,
                behind,
                wrote,
            },
        }
    }
}

/// Everything that a restart needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
    /// The version of lvsd that wrote it, and wrote the actions behind it; empty for those that did not say.
    #[serde(default)]
    pub lvsd: String,
    /// The desired state.
    pub state: State,
    /// What the configuration file said when it was last loaded. A reload applies only the edits since then.
    pub base: State,
    /// Servers of weight 0 that had another one before.
    #[serde(default)]
    pub drained: Vec<Drained>,
    /// Servers that were deleted while connections may still refer to them.
    #[serde(default)]
    pub deleted: Vec<Deleted>,
}

impl Whole {
    /// What this version writes of `state` and `base`.
    pub fn new(state: State, base: State) -> Self {
        Self {
            lvsd: env!("CARGO_PKG_VERSION").to_owned(),
            state,
            base,
            ..Self::default()
        }
    }
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

/// A deleted server that connections may still refer to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The service that it belonged to; it may be deleted too.
    pub service: ServiceId,
    /// As last configured.
    pub server: Server,
    /// The last weight above 0; 0 for none.
    pub last_weight: u32,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Bytes before, all kept.
    pub kept_bytes: u64,
    /// Bytes cut off.
    pub lost_bytes: u64,
    /// Where they were copied to, or why they were not. Where they were not, the file keeps them until it is written
    /// anew.
    pub copy: Result<PathBuf, String>,
}

/// What was in the journal.
#[derive(Debug)]
pub struct Restored {
    /// The last whole state; empty for a new journal.
    pub whole: Whole,
    /// Actions after it, oldest first.
    pub actions: Vec<Action>,
    /// Present when the end was torn.
    pub damage: Option<Damage>,
}

/// Why the file lacks changes.
#[derive(Debug, Default)]
struct Stale {
    /// What the system said last.
    reason: String,
    /// Changes that are in memory only.
    changes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Arc<Flock<File>>,
    /// What touches the disk once clients are served; at start nobody waits.
    disk: Option<DiskThread>,
    /// Bytes of complete records, magic included.
    len_bytes: u64,
    /// Bytes of the last whole-state record.
    whole_bytes: u64,
    unsynced: bool,
    /// Nothing is appended meanwhile, because a record is of no use behind a gap.
    stale: Option<Stale>,
    /// Present while the journal is written anew.
    behind: Option<Behind>,
    pace: RetryPace,
}

impl Journal {
    /// Opens or creates the journal at `path`. Another process that has it open is an error. A disk on which it can only
    /// be read is none: the journal is stale then.
    pub fn open(path: &Path) -> Result<(Self, Restored), JournalError> {
        let (file, mut refused) = open_file(path).map_err(JournalError::io(path))?;
        let mut file = lock(file, path)?;
        let mut bytes = read_file(&mut file, path)?;
        if bytes.is_empty() {
            // The first record is written together with these bytes again, in a file of its own.
            refused = refused.or_else(|| begin(&mut file).err());
            bytes = MAGIC.to_vec();
        }
        let contents = records::read(&bytes).map_err(|fault| JournalError::of(fault, path))?;
        let Contents {
            whole,
            actions,
            whole_bytes,
            torn_at,
        } = contents;
        let len = torn_at.unwrap_or(bytes.len());
        let mut journal = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            disk: None,
            len_bytes: len as u64,
            whole_bytes: whole_bytes as u64,
            unsynced: true,
            stale: None,
            behind: None,
            pace: RetryPace::default(),
        };
        let damage = torn_at.map(|at| {
            let copy = salvage::keep_aside(path, &bytes[at..]);
            let cut = copy.and_then(|copy| journal.file.set_len(len as u64).map(|()| copy));
            Damage {
                kept_bytes: len as u64,
                lost_bytes: (bytes.len() - len) as u64,
                copy: cut.map_err(|error| {
                    let reason = error.to_string();
                    refused.get_or_insert(error);
                    reason
                }),
            }
        });
        if let Some(error) = refused {
            journal.become_stale(&error.to_string(), 0);
        }
        let restored = Restored { whole, actions, damage };
        Ok((journal, restored))
    }

    /// From now on a change waits for a silent disk for some seconds at most, and later ones do not wait. The thread for
    /// that runs on the cores of the caller.
    pub fn begin_service(&mut self) {
        match DiskThread::start() {
            Ok(thread) => self.disk = Some(thread),
            Err(error) => log::warn!("journal: {error}; a disk that hangs holds up the management core"),
        }
    }

    fn on_disk<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        match &self.disk {
            Some(disk) => disk.run(work),
            None => work(),
        }
    }

    /// Hands the record of `action` to the kernel. Where that fails the journal is stale from now on.
    pub fn append(&mut self, action: &Action, now: Instant) {
        self.write(&JournalRecord::Action(action.clone()), now);
    }

    /// Does the same with a whole state. The first record of a journal is on the disk when this returns.
    pub fn append_whole(&mut self, whole: Whole, now: Instant) {
        let is_new = self.len_bytes == MAGIC.len() as u64;
        if !is_new || self.stale.is_some() || self.behind.is_some() {
            return self.write(&JournalRecord::Whole(whole), now);
        }
        let written = self.begin_rewrite(whole).run();
        if let Err(error) = self.settle(written) {
            self.pace.failed(now);
            self.become_stale(&error.to_string(), 1);
        }
    }

    fn write(&mut self, record: &JournalRecord, now: Instant) {
        let bytes = encode(record);
        if let Some(behind) = &mut self.behind {
            behind.push(&bytes);
        }
        if let Some(stale) = &mut self.stale {
            stale.changes += 1;
            self.pace.hurry();
            return;
        }
        let (file, before, len) = (Arc::clone(&self.file), self.len_bytes, bytes.len() as u64);
        let written = self.on_disk(move || {
            let mut file: &File = &file;
            // What cannot be cut off is a torn tail, and is cut off at the next start.
            file.write_all(&bytes).inspect_err(|_| drop(file.set_len(before)))
        });
        if let Err(error) = written {
            self.pace.failed(now);
            return self.become_stale(&error.to_string(), 1);
        }
        self.len_bytes += len;
        if matches!(record, JournalRecord::Whole(_)) {
            self.whole_bytes = len;
        }
        self.unsynced = true;
    }

    /// What was handed to the kernel did not reach the disk, or nobody knows. So the journal is stale.
    pub fn not_synced(&mut self, reason: &str, now: Instant) {
        if self.stale.is_none() {
            self.pace.failed(now);
        }
        self.become_stale(reason, 0);
    }

    fn become_stale(&mut self, reason: &str, changes: u64) {
        if self.stale.is_none() {
            let path = self.path.display();
            log::error!(
                "journal {path}: {reason}; changes take effect, but a restart loses them until it can be written"
            );
        }
        let stale = self.stale.get_or_insert_default();
        reason.clone_into(&mut stale.reason);
        stale.changes += changes;
    }

    /// Whether the file holds every change.
    pub fn status(&self) -> JournalStatus {
        JournalStatus {
            path: self.path.display().to_string(),
            stale: self.stale.is_some(),
            reason: self
                .stale
                .as_ref()
                .map_or_else(String::new, |stale| stale.reason.clone()),
            changes_in_memory: self.stale.as_ref().map_or(0, |stale| stale.changes),
        }
    }

    /// Whether the journal should be written anew now: it is stale or has outgrown its state, nobody writes it yet, and
    /// the pause after the last failure is over.
    pub fn wants_rewrite(&self, now: Instant) -> bool {
        let has_outgrown = self.len_bytes > COMPACT_MIN_BYTES.max(self.whole_bytes * COMPACT_FACTOR);
        (has_outgrown || self.stale.is_some()) && self.behind.is_none() && self.pace.is_due(now)
    }

    /// Whether the file lacks changes.
    pub const fn is_stale(&self) -> bool {
        self.stale.is_some()
    }

    /// Begins to write the journal anew: the caller runs the work on another thread and gives its outcome to
    /// [`Self::finish_rewrite`]. `whole` is the state with all changes so far.
    pub fn begin_rewrite(&mut self, whole: Whole) -> Rewrite {
        self.behind = Some(Behind::default());
        Rewrite::new(&self.path, whole)
    }

    /// Puts the new file in the place of the old one. Where that fails the journal is as before.
    pub fn finish_rewrite(&mut self, written: io::Result<Rewritten>, now: Instant) {
        let path = self.path.display().to_string();
        match (self.settle(written), self.stale.take()) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => log::info!("journal {path}: written anew; it holds every change"),
            (Err(error), Some(mut stale)) => {
                self.pace.failed(now);
                stale.reason = error.to_string();
                self.stale = Some(stale);
            }
            (Err(error), None) => {
                if self.pace.failed(now) {
                    log::warn!("journal {path}: {error}; it cannot be compacted and goes on growing");
                }
            }
        }
    }

    fn settle(&mut self, written: io::Result<Rewritten>) -> io::Result<()> {
        let behind = self.behind.take().unwrap_or_default();
        let (rewritten, path) = (written?, self.path.clone());
        // One piece of work, so that a silent disk is waited for once.
        let placed = self.on_disk(move || rewritten.add(&behind)?.take_place(&path));
        let rewritten = placed.inspect_err(|error| {
            if error.kind() == io::ErrorKind::TimedOut {
                // It may take the place later, and then the file in use has no name.
                self.become_stale(&error.to_string(), 0);
            }
        })?;
        self.file = Arc::new(rewritten.file);
        self.len_bytes = rewritten.len_bytes;
        self.whole_bytes = rewritten.whole_bytes;
        // The rename itself is made durable together with what follows.
        self.unsynced = true;
        self.pace.succeeded();
        Ok(())
    }

    /// What must reach the disk, once after changes. The caller runs it on another thread.
    pub fn unsynced(&mut self) -> Option<Unsynced> {
        std::mem::take(&mut self.unsynced).then(|| Unsynced {
            path: self.path.clone(),
            file: Arc::clone(&self.file),
        })
    }
}

/// The file, and why it can only be read.
fn open_file(path: &Path) -> io::Result<(File, Option<io::Error>)> {
    match OpenOptions::new().read(true).append(true).create(true).open(path) {
        Ok(file) => Ok((file, None)),
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            let Ok(file) = File::open(path) else { return Err(error) };
            Ok((file, Some(error)))
        }
        Err(error) => Err(error),
    }
}

/// The bytes of a journal; none for one that is new, or whose creator was killed.
fn read_file(file: &mut File, path: &Path) -> Result<Vec<u8>, JournalError> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(JournalError::io(path))?;
    if bytes.len() < MAGIC.len() && MAGIC.starts_with(&bytes) {
        return Ok(Vec::new());
    }
    if bytes.starts_with(MAGIC) {
        Ok(bytes)
    } else {
        Err(JournalError::Foreign { path: path.to_owned() })
    }
}

fn begin(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(MAGIC)
}

fn lock(file: File, path: &Path) -> Result<Flock<File>, JournalError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| JournalError::InUse { path: path.to_owned() })
}

//! What waits for the disk: syncing what was appended, and writing a journal anew, as one whole-state record in a file of
//! its own, which then takes the place of the old one.
//!
//! In:  the journal's file; a whole state. Out: the file, synced, with what changed meanwhile behind it.
//! Never: makes a client wait. [`Unsynced::run`] and [`Rewrite::run`] are for another thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::Whole;
use super::records::{JournalRecord, MAGIC, encode};

/// The pause after the first attempt that failed. A change may be followed by an attempt this soon.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Pauses double up to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Records that may come while a file is written. More come only when the disk hangs.
const BEHIND_MAX_BYTES: usize = 16 << 20;

/// What was handed to the kernel and must reach the disk.
#[derive(Debug)]
pub struct Unsynced {
    pub(super) path: PathBuf,
    pub(super) file: Arc<Flock<File>>,
}

impl Unsynced {
    /// Syncs the file, and its directory, so that a new file keeps its name. It takes as long as the disk does.
    ///
    /// # Errors
    /// What the system says, or the file is not at its path any more.
    pub fn run(self) -> io::Result<()> {
        self.file.sync_data()?;
        sync_directory(&self.path)?;
        if is_at(&self.path, &self.file)? {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no file or another one has its name",
            ))
        }
    }
}

/// A journal to be written. It is work for a thread that may wait for the disk.
#[derive(Debug)]
pub struct Rewrite {
    next: PathBuf,
    record: JournalRecord,
}

/// A journal that is on the disk, but for its name.
#[derive(Debug)]
pub struct Rewritten {
    pub(super) file: Flock<File>,
    next: PathBuf,
    pub(super) len_bytes: u64,
    /// Bytes of what it was written with, a whole-state record.
    pub(super) whole_bytes: u64,
}

impl Rewrite {
    pub(super) fn new(path: &Path, whole: Whole) -> Self {
        Self {
            next: next_of(path),
            record: JournalRecord::Whole(whole),
        }
    }

    /// Writes and syncs the file, for as long as the disk takes. It waits for an earlier rewrite that has not ended.
    ///
    /// # Errors
    /// What the system says. No file of this rewrite is left then.
    pub fn run(self) -> io::Result<Rewritten> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(encode(&self.record));
        Rewritten::write(self.next, &bytes)
    }
}

/// Where the journal at `path` is written anew.
pub(super) fn next_of(path: &Path) -> PathBuf {
    path.with_extension("next")
}

/// The file `next`, locked. The lock goes with the file, so that no other daemon can take the journal when it has its
/// name. An earlier rewrite has the lock as long as it may still write the file or give it the journal's name.
fn open_next(next: &Path) -> io::Result<Flock<File>> {
    loop {
        let file = OpenOptions::new().append(true).create(true).open(next)?;
        let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        if is_at(next, &file)? {
            return Ok(file);
        }
        // The earlier rewrite took it away, or it is the journal now.
    }
}

/// Syncs the directory of the file at `path`, so that it keeps its name.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_data()
}

/// Whether `file` is what has the name `path`.
fn is_at(path: &Path, file: &File) -> io::Result<bool> {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    match fs::metadata(path) {
        Ok(found) => Ok(identity(found) == identity(file.metadata()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Rewritten {
    /// Writes and syncs a journal of these bytes, in the file `next`.
    pub(super) fn write(next: PathBuf, bytes: &[u8]) -> io::Result<Self> {
        let mut rewritten = Self {
            file: open_next(&next)?,
            next,
            len_bytes: bytes.len() as u64,
            whole_bytes: (bytes.len() - MAGIC.len()) as u64,
        };
        let file = &mut rewritten.file;
        let emptied = file.set_len(0);
        let written = emptied
            .and_then(|()| file.write_all(bytes))
            .and_then(|()| file.sync_data());
        rewritten.or_removed(written)
    }

    /// Adds the records that came meanwhile.
    pub(super) fn add(mut self, behind: &Behind) -> io::Result<Self> {
        let added = if behind.overflowed {
            Err(io::Error::other(
                "more changes came than can be kept while it was written",
            ))
        } else {
            self.file.write_all(&behind.bytes)
        };
        self.len_bytes += behind.bytes.len() as u64;
        self.or_removed(added)
    }

    /// Gives the file the name of the journal at `path`.
    pub(super) fn take_place(self, path: &Path) -> io::Result<Self> {
        let placed = fs::rename(&self.next, path);
        self.or_removed(placed)
    }

    fn or_removed(self, outcome: io::Result<()>) -> io::Result<Self> {
        if outcome.is_err() {
            let _ = fs::remove_file(&self.next);
        }
        outcome.map(|()| self)
    }
}

/// The records that came since the whole state was taken.
#[derive(Debug, Default)]
pub(super) struct Behind {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Behind {
    pub(super) fn push(&mut self, record: &[u8]) {
        if self.bytes.len() + record.len() > BEHIND_MAX_BYTES {
            self.overflowed = true;
            self.bytes = Vec::new();
        } else if !self.overflowed {
            self.bytes.extend_from_slice(record);
        }
    }
}

/// When the next attempt may be made. By default: at once.
#[derive(Debug, Default)]
pub(super) struct RetryPace {
    /// The last failure and the pause after it.
    failure: Option<(Instant, Duration)>,
}

impl RetryPace {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.failure
            .is_none_or(|(at, pause)| now.saturating_duration_since(at) >= pause)
    }

    /// An attempt failed. Returns whether it is the first of a series.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let pause = self.failure.map_or(PAUSE_MIN, |(_, pause)| (pause * 2).min(PAUSE_MAX));
        self.failure.replace((now, pause)).is_none()
    }

    /// A change came: it is a reason not to wait any longer than the shortest pause.
    pub(super) fn hurry(&mut self) {
        if let Some((_, pause)) = &mut self.failure {
            *pause = PAUSE_MIN;
        }
    }

    pub(super) fn succeeded(&mut self) {
        self.failure = None;
    }
}

//! What is done with a damaged journal: the file as it was is kept aside, and the records that are understood go on.
//!
//! In:  a journal that [`super::Journal::open`] refuses, when the operator asks for it (`lvsd --salvage-journal`).
//! Out: a journal of all records that are understood, and a sentence for each place that is not.
//! Never: replaces a file that was kept aside earlier.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::records::{Content, MAGIC, pieces};
use super::rewrite::{Rewritten, next_of, sync_directory};
use super::{JournalError, lock, read_file};

/// Files kept aside beside one journal. Many mean that nobody looks at them.
const ASIDE_MAX: u32 = 1_000;

/// What became of a damaged journal.
#[derive(Debug, PartialEq, Eq)]
pub struct Salvaged {
    /// The journal.
    path: PathBuf,
    /// Records that go on.
    kept: usize,
    /// A sentence for each place that does not.
    left_out: Vec<String>,
    /// The file as it was; `None` where nothing had to be left out, and the file is as before.
    aside: Option<PathBuf>,
}

impl fmt::Display for Salvaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let Some(aside) = &self.aside else {
            return writeln!(f, "{path}: all {} records are sound, nothing was changed", self.kept);
        };
        for left_out in &self.left_out {
            writeln!(f, "{path}: {left_out}")?;
        }
        writeln!(
            f,
            "{path}: {} records are kept; the file as it was is {}",
            self.kept,
            aside.display()
        )
    }
}

/// Leaves out what cannot be understood of the journal at `path`.
///
/// # Errors
/// A daemon uses it, it is no journal, or the disk refuses. Then it is as before, or has its new bytes already and
/// perhaps only until a crash.
pub fn salvage(path: &Path) -> Result<Salvaged, JournalError> {
    let failed = JournalError::io(path);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(&failed)?;
    let mut file = lock(file, path)?;
    let bytes = read_file(&mut file, path)?;
    let mut sound = MAGIC.to_vec();
    let (mut kept, mut left_out) = (0, Vec::new());
    for (index, piece) in pieces(&bytes).enumerate() {
        let why = match piece.content {
            Content::Record(_) => {
                kept += 1;
                sound.extend(&bytes[piece.place]);
                continue;
            }
            Content::Garbled => "it is damaged".to_owned(),
            Content::Unknown { reason, .. } => reason,
        };
        let (record, at, len) = (index + 1, piece.place.start, piece.place.len());
        left_out.push(format!("record {record} at byte {at} ({len} bytes) is left out: {why}"));
    }
    let aside = if left_out.is_empty() {
        None
    } else {
        let aside = keep_aside(path, &bytes).map_err(&failed)?;
        let replaced = Rewritten::write(next_of(path), &sound).and_then(|sound| sound.take_place(path));
        replaced.and_then(|_| sync_directory(path)).map_err(&failed)?;
        Some(aside)
    };
    Ok(Salvaged {
        path: path.to_owned(),
        kept,
        left_out,
        aside,
    })
}

/// Writes a copy of damaged bytes beside the journal at `path`, under a name that no file has.
pub(super) fn keep_aside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    for number in 1..=ASIDE_MAX {
        let aside = match number {
            1 => path.with_extension("damaged"),
            _ => path.with_extension(format!("damaged-{number}")),
        };
        match OpenOptions::new().write(true).create_new(true).open(&aside) {
            Ok(mut file) => {
                let written = file.write_all(bytes).and_then(|()| file.sync_data());
                return match written {
                    Ok(()) => Ok(aside),
                    Err(error) => {
                        let _ = fs::remove_file(&aside);
                        Err(error)
                    }
                };
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let last = path.with_extension(format!("damaged-{ASIDE_MAX}"));
    let message = format!("every name up to {} is taken; remove what nobody needs", last.display());
    Err(io::Error::new(io::ErrorKind::AlreadyExists, message))
}

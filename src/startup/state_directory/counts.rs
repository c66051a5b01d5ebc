//! Files of a state directory in which statistics outlive the process, on its tmpfs:
//!
//! ```text
//! counts          text: what services and servers had counted when they last changed, and of which run
//! counters-7-0    what worker 0 of run 7 counts, as it counts it
//! ```
//!
//! Each process is a run, with new counters. Those of the earlier run stay until `counts` is of the new one.

use std::fs::{self, File, OpenOptions};
use std::io::Read;

use super::{StateDirectory, StateError, found, give_back, io_error, memory_file, open_file, remove};

const COUNTS: &str = "counts";
const COUNTERS: &str = "counters-";
/// With the most services and servers there can be, the text is shorter.
const COUNTS_BYTES_MAX: u64 = 64 << 20;

impl StateDirectory {
    /// The text of `counts`, if it is there.
    ///
    /// # Errors
    /// A file of another user or mode, or the system refuses.
    pub fn counts(&self) -> Result<Option<Vec<u8>>, StateError> {
        self.read(COUNTS, COUNTS_BYTES_MAX)
    }

    /// Writes `counts`; at once or not at all, however the process ends.
    ///
    /// # Errors
    /// The system refuses.
    pub fn write_counts(&self, text: &[u8]) -> Result<(), StateError> {
        self.replace(COUNTS, text)
    }

    /// An empty file of `len` bytes for the counters of a worker.
    ///
    /// # Errors
    /// A file of another user or mode, or the system refuses.
    pub fn new_counters(&self, run: u64, worker: usize, len: usize) -> Result<File, StateError> {
        let path = self.path.join(counters_name(run, worker));
        give_back(&path)?;
        memory_file(&path, len).map(|(file, _)| file)
    }

    /// What the workers of a run have counted, by worker: copies of their files, as far as there are any.
    ///
    /// # Errors
    /// A file of another user or mode, or the system refuses.
    pub fn counters(&self, run: u64, bytes_max: u64) -> Result<Vec<Vec<u8>>, StateError> {
        let of_worker = |worker| self.read(&counters_name(run, worker), bytes_max).transpose();
        (0..).map_while(of_worker).collect()
    }

    /// Gives back the counters of all runs but one.
    ///
    /// # Errors
    /// The system refuses.
    pub fn forget_counters_but(&self, run: Option<u64>) -> Result<(), StateError> {
        let kept = run.map(|run| counters_name(run, ""));
        for entry in fs::read_dir(&self.path).map_err(io_error(&self.path))?.flatten() {
            let name = entry.file_name();
            let is_other = name.to_str().is_some_and(|name| {
                name.starts_with(COUNTERS) && !kept.as_ref().is_some_and(|kept| name.starts_with(kept))
            });
            if is_other {
                give_back(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes all statistics.
    ///
    /// # Errors
    /// The system refuses.
    pub fn forget_counts(&self) -> Result<(), StateError> {
        remove(&self.path.join(COUNTS))?;
        remove(&self.path.join(format!("{COUNTS}.new")))?;
        self.forget_counters_but(None)
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path.join(name);
        let Some(file) = found(open_file(&path, OpenOptions::new().read(true)))? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        file.take(bytes_max)
            .read_to_end(&mut content)
            .map_err(io_error(&path))?;
        Ok(Some(content))
    }
}

fn counters_name(run: u64, worker: impl std::fmt::Display) -> String {
    format!("{COUNTERS}{run}-{worker}")
}

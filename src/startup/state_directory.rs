//! The directory in which connections outlive the process: memory, a file for each worker, and what it is.
//!
//! In:  a path on a tmpfs, and where hugepages are used a mounted hugetlbfs. Out: the files of an earlier process of this
//!      boot and shape, or empty ones.
//! A process that needs other files than the earlier one, as it has other workers or tables, makes them beside those
//! ([`FileSet`]); they count from the moment at which the header names them.
//!
//! Never: lets two processes in, follows a link, uses or removes a file of another user, grows a file that is there.
//!
//! ```text
//! /dev/shm/lvsd                 header: what the memory is, its keys, a checksum      worker-0  worker-1 ...
//!                               counts  counters-1-0 ...: statistics
//! /dev/hugepages/dev-shm-lvsd                                   with hugepages here:  worker-0  worker-1 ...
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::statfs::{FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::unistd::Uid;

mod counts;
pub mod header;
mod hugetlbfs;

use header::{FileSet, Header, Secrets, Shape};

const HEADER: &str = "header";
const NEW_HEADER: &str = "header.new";
const WORKER: &str = "worker-";
/// No header is longer.
const HEADER_BYTES_MAX: u64 = 4_096;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Why lvsd does not use the directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process holds its lock.
    #[error("another lvsd keeps its connections in {0}; stop it first, or set another connections.state_dir")]
    InUse(PathBuf),
    /// Somebody else may have written it.
    #[error(
        "{path} {found}, and lvsd keeps connections only in {wanted}; find out who made it and remove it (rm -r {path}), \
         or set another connections.state_dir"
    )]
    Foreign {
        /// The directory or file.
        path: PathBuf,
        /// What it is like.
        found: String,
        /// What it has to be like.
        wanted: &'static str,
    },
    /// It holds the files of others, and cannot be removed.
    #[error(
        "{0} is a whole file system; set connections.state_dir to a directory of lvsd's own on it, such as {0}/lvsd"
    )]
    FileSystem(PathBuf),
    /// A disk would slow every packet down, and what is on it outlives a boot.
    #[error("{0} is not on a tmpfs; set connections.state_dir to a directory that is, such as /dev/shm/lvsd")]
    NotMemory(PathBuf),
    /// The system refused.
    #[error("{path}: {source}; check connections.state_dir, or set connections.keep = false")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// What an earlier process left.
#[derive(Debug, PartialEq, Eq)]
pub enum Earlier {
    /// Nothing, or no header, without which files mean nothing.
    Nothing,
    /// A header that cannot be used, and why.
    Unusable(String),
    /// What the files are.
    Header(Header),
}

/// What a worker's file was like before this process opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its connections are there.
    Whole,
    /// There was none. It is empty now.
    Missing,
    /// It had so many bytes instead. It is empty now.
    OfLength(u64),
}

/// See the module. Locked as long as this lives.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    /// Where the workers' files lie.
    memory: PathBuf,
    /// Of all directories with files in use.
    _locks: Vec<Flock<File>>,
}

impl StateDirectory {
    /// Opens and locks the directory. If it is not there, it is made; its parent must be there. With `hugepages` the
    /// workers' files lie in a directory named after it on a hugetlbfs, if one is mounted.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(path: &Path, hugepages: bool) -> Result<Self, StateError> {
        let mut locks = vec![locked_directory(path, TMPFS_MAGIC)?];
        let on_hugetlbfs = hugepages.then(hugetlbfs::of_default_size).flatten();
        let memory = on_hugetlbfs.map(|mount| named_after(path, &mount));
        if let Some(memory) = &memory {
            locks.push(locked_directory(memory, HUGETLBFS_MAGIC)?);
        }
        Ok(Self {
            path: path.to_owned(),
            memory: memory.unwrap_or_else(|| path.to_owned()),
            _locks: locks,
        })
    }

    /// The same for who only wants to give it back: `None` when it is not there.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open_existing(path: &Path) -> Result<Option<Self>, StateError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Self::open(path, false).map(Some),
        }
    }

    /// Where the workers' files lie.
    pub fn memory(&self) -> &Path {
        &self.memory
    }

    /// What an earlier process left.
    ///
    /// # Errors
    /// A file of another user or mode, or the system refuses.
    pub fn earlier(&self) -> Result<Earlier, StateError> {
        let path = self.path.join(HEADER);
        let Some(file) = found(open_file(&path, OpenOptions::new().read(true)))? else {
            return Ok(Earlier::Nothing);
        };
        let mut text = String::new();
        match file.take(HEADER_BYTES_MAX).read_to_string(&mut text) {
            Err(error) if error.kind() != io::ErrorKind::InvalidData => Err(io_error(&path)(error)),
            _ => Ok(Header::parse(&text).map_or_else(|why| Earlier::Unusable(why.into()), Earlier::Header)),
        }
    }

    /// The file of a worker, `len` bytes and what its file system rounds up; with what an earlier process left in it if
    /// it had that length.
    ///
    /// # Errors
    /// A file of another user or mode, or the system refuses.
    pub fn worker_file(&self, files: FileSet, worker: usize, len: usize) -> Result<(File, Found), StateError> {
        memory_file(&self.memory.join(file_name(files, worker)), len)
    }

    /// Whether `memory` is this directory, or the one named after it on a hugetlbfs that is mounted.
    pub fn is_memory(&self, memory: &Path) -> bool {
        self.memories().iter().any(|own| own == memory)
    }

    /// The files of an earlier process's `workers` in `memory`, only to be read; `None` for one that is missing.
    ///
    /// # Errors
    /// A file is of another user or mode, or the system refuses.
    pub fn former_files(&self, memory: &Path, files: FileSet, workers: usize) -> Result<Vec<Option<File>>, StateError> {
        let open = |worker| {
            let path = memory.join(file_name(files, worker));
            found(open_file(&path, OpenOptions::new().read(true)))
        };
        (0..workers).map(open).collect()
    }

    /// Says what the files are from now on. It is said at once or not at all, however the process ends.
    ///
    /// # Errors
    /// The system refuses.
    pub fn commit(&self, shape: &Shape, secrets: &Secrets, files: FileSet) -> Result<(), StateError> {
        self.replace(HEADER, Header::text(shape, secrets, files).as_bytes())
    }

    /// Writes a file of the directory. It has its earlier content or `content`, however the process ends.
    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let (new, path) = (self.path.join(format!("{name}.new")), self.path.join(name));
        remove(&new)?;
        let mut file = open_file(&new, OpenOptions::new().write(true).create_new(true))?;
        file.write_all(content)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(io_error(&path))
    }

    /// Gives all memory of connections back: the files of this directory, and of those named after it on any hugetlbfs.
    ///
    /// # Errors
    /// Another process uses one of them, or the system refuses.
    pub fn wipe(&self) -> Result<(), StateError> {
        self.forget()?;
        self.clear(&FileSet::ALL)
    }

    /// From now on no later process believes any file.
    ///
    /// # Errors
    /// The system refuses.
    pub fn forget(&self) -> Result<(), StateError> {
        remove(&self.path.join(HEADER))?;
        remove(&self.path.join(NEW_HEADER))
    }

    /// Gives the memory of some sets of files back, wherever it lies.
    ///
    /// # Errors
    /// Another process uses one of them, or the system refuses.
    pub fn clear(&self, sets: &[FileSet]) -> Result<(), StateError> {
        let memories = self.memories();
        let others = memories
            .iter()
            .filter(|path| **path != self.path && **path != self.memory);
        let _locks = others
            .map(|path| locked_directory(path, HUGETLBFS_MAGIC))
            .collect::<Result<Vec<_>, _>>()?;
        for memory in memories {
            for entry in fs::read_dir(&memory).map_err(io_error(&memory))?.flatten() {
                let set = entry.file_name().to_str().and_then(set_of_file);
                if set.is_some_and(|set| sets.contains(&set)) {
                    give_back(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Takes all files out of the directories. Who has mapped one goes on with its memory, which is given back when the
    /// last such process ends; no later process finds it.
    ///
    /// # Errors
    /// The system refuses.
    pub fn unlink(&self) -> Result<(), StateError> {
        self.forget()?;
        for memory in self.memories() {
            for entry in fs::read_dir(&memory).map_err(io_error(&memory))?.flatten() {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// [`Self::wipe`], and removes statistics and the directories.
    ///
    /// # Errors
    /// The system refuses.
    pub fn remove(self) -> Result<(), StateError> {
        self.wipe()?;
        self.forget_counts()?;
        for memory in self.memories() {
            fs::remove_dir(&memory).map_err(io_error(&memory))?;
        }
        Ok(())
    }

    /// Directories of this process's user that may have workers' files, the first one last.
    fn memories(&self) -> Vec<PathBuf> {
        let huge = hugetlbfs::mounts()
            .into_iter()
            .map(|mount| named_after(&self.path, &mount));
        let ours = |path: &PathBuf| {
            fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == Uid::effective().as_raw())
        };
        huge.filter(ours).chain([self.path.clone()]).collect()
    }
}

/// A file of `len` bytes and what its file system rounds up; with what was in it if it had that length.
fn memory_file(path: &Path, len: usize) -> Result<(File, Found), StateError> {
    let (file, found) = match open_file(path, OpenOptions::new().read(true).write(true)) {
        Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let new = open_file(path, OpenOptions::new().read(true).write(true).create_new(true))?;
            (new, Found::Missing)
        }
        file => (file?, Found::Whole),
    };
    let refused = io_error(path);
    let file_system = fstatfs(&file).map_err(|errno| refused(errno.into()))?;
    let wanted = (len as u64).next_multiple_of(file_system.block_size().max(4_096) as u64);
    let found_len = file.metadata().map_err(&refused)?.len();
    if found_len == wanted {
        return Ok((file, found));
    }
    empty(&file, wanted).map_err(refused)?;
    Ok(match found {
        Found::Missing => (file, found),
        _ => (file, Found::OfLength(found_len)),
    })
}

/// `None` if what was opened is not there.
fn found(opened: Result<File, StateError>) -> Result<Option<File>, StateError> {
    match opened {
        Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

fn file_name(files: FileSet, worker: usize) -> String {
    format!("{WORKER}{worker}{}", files.suffix())
}

/// The set of a worker's file by its name; `None` of other files.
fn set_of_file(name: &str) -> Option<FileSet> {
    let rest = name
        .strip_prefix(WORKER)?
        .trim_start_matches(|letter: char| letter.is_ascii_digit());
    FileSet::ALL.into_iter().find(|set| set.suffix() == rest)
}

/// Empties a file: its bytes are zero from now on, whoever has mapped it.
///
/// # Errors
/// The system refuses.
pub fn empty(file: &File, len: u64) -> io::Result<()> {
    file.set_len(0)?;
    file.set_len(len)
}

/// [`directory`], locked.
fn locked_directory(path: &Path, file_system: FsType) -> Result<Flock<File>, StateError> {
    Flock::lock(directory(path, file_system)?, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::Error::EWOULDBLOCK => StateError::InUse(path.to_owned()),
        errno => io_error(path)(errno.into()),
    })
}

/// Opens a directory of this process's user that nobody else may write; makes it if it is not there.
fn directory(path: &Path, wanted_file_system: FsType) -> Result<File, StateError> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io_error(path)(error)),
        _ => {}
    }
    let wanted = "a directory of its own user with mode 0700";
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
    let file = options.open(path).map_err(|error| unopened(path, wanted, error))?;
    if is_file_system(path, &file).map_err(io_error(path))? {
        return Err(StateError::FileSystem(path.to_owned()));
    }
    check(path, &file, DIRECTORY_MODE, wanted)?;
    let file_system = fstatfs(&file).map_err(|errno| io_error(path)(errno.into()))?;
    if file_system.filesystem_type() != wanted_file_system {
        return Err(StateError::NotMemory(path.to_owned()));
    }
    Ok(file)
}

/// Whether the directory is the root of a mounted file system.
fn is_file_system(path: &Path, directory: &File) -> io::Result<bool> {
    let parent = fs::metadata(path.parent().unwrap_or(path))?;
    Ok(parent.dev() != directory.metadata()?.dev())
}

/// Opens a file of this process's user that nobody else may read.
fn open_file(path: &Path, options: &mut OpenOptions) -> Result<File, StateError> {
    let wanted = "files of its own user with mode 0600";
    options
        .mode(FILE_MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| unopened(path, wanted, error))?;
    let is_file = file.metadata().is_ok_and(|found| found.is_file() && found.nlink() == 1);
    if !is_file {
        return Err(foreign(path, "is no plain file with one name", wanted));
    }
    check(path, &file, FILE_MODE, wanted)?;
    Ok(file)
}

fn check(path: &Path, file: &File, mode: u32, wanted: &'static str) -> Result<(), StateError> {
    let found = file.metadata().map_err(io_error(path))?;
    let found_mode = found.mode() & 0o7777;
    if found.uid() != Uid::effective().as_raw() || found_mode != mode {
        let found = format!("belongs to user {} and has mode {found_mode:04o}", found.uid());
        return Err(foreign(path, &found, wanted));
    }
    Ok(())
}

/// Something stands in the place that cannot be opened as what it should be, or the system refuses.
fn unopened(path: &Path, wanted: &'static str, error: io::Error) -> StateError {
    match error.raw_os_error() {
        Some(libc::ELOOP) => foreign(path, "is a symbolic link", wanted),
        // So says O_DIRECTORY of a symbolic link too.
        Some(libc::ENOTDIR | libc::EISDIR | libc::ENXIO) => foreign(path, "is something else", wanted),
        _ => io_error(path)(error),
    }
}

fn foreign(path: &Path, found: &str, wanted: &'static str) -> StateError {
    StateError::Foreign {
        path: path.to_owned(),
        found: found.to_owned(),
        wanted,
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> StateError {
    move |source| StateError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Removes a file. It may be missing.
fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

/// Removes a worker's file. Its memory is free at once, even if this process has mapped it.
fn give_back(path: &Path) -> Result<(), StateError> {
    if let Ok(file) = open_file(path, OpenOptions::new().write(true)) {
        file.set_len(0).map_err(io_error(path))?;
    }
    remove(path)
}

/// The directory for `path` on a hugetlbfs: other directories have others there, whatever their last names.
fn named_after(path: &Path, mount: &Path) -> PathBuf {
    let whole = path.display().to_string();
    mount.join(whole.trim_start_matches('/').replace('/', "-"))
}

#[cfg(test)]
mod tests;

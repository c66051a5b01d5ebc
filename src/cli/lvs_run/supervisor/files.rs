//! The files of a kernel with IPVS under every name that a program may give them: opening, `stat`, `access`.
//!
//! In:  a call with a path. Out: a descriptor with lvsd's text, an end of a pair that takes values for a setting, or what
//! the system says about the empty file of that name beside lvsd's socket. Never: delays a call about another path for
//! longer than reading the path.

use std::cell::RefCell;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use lvs_api::kernel_files::{self, MODULES, canonical, sysctl_of};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use tokio::io::Interest;
use tokio::task::spawn_local;

use super::Supervisor;
use super::notification::Notification;
use crate::lvs_run::filter::Intercepted;
use crate::lvs_run::notify::SUPERVISION_FILE;
use crate::lvs_run::raw_calls;

const PATH_MAX_BYTES: usize = 4096;
/// Bytes of a value at most, as of one write.
const VALUE_MAX_BYTES: usize = 4096;

/// Which arguments of a call say what.
struct Places {
    folder: Option<usize>,
    path: usize,
}

impl Places {
    const fn of(kind: Intercepted) -> Option<Self> {
        Some(match kind {
            Intercepted::Open
            | Intercepted::Create
            | Intercepted::Stat
            | Intercepted::LinkStat
            | Intercepted::ReadLink
            | Intercepted::Attribute
            | Intercepted::Access => Self { folder: None, path: 0 },
            Intercepted::OpenAt
            | Intercepted::OpenAt2
            | Intercepted::StatAt
            | Intercepted::StatX
            | Intercepted::ReadLinkAt
            | Intercepted::AccessAt => Self {
                folder: Some(0),
                path: 1,
            },
            _ => return None,
        })
    }
}

/// A setting that a program has open for writing.
pub(super) struct Writer {
    /// The supervisor's end.
    ours: OwnedFd,
    /// lvsd's connection for this setting.
    director: OwnedFd,
}

impl Writer {
    /// Passes on what the program has written so far. Returns whether it may still write.
    fn pass_on(&self) -> bool {
        let mut value = [0; VALUE_MAX_BYTES];
        loop {
            match recv(&self.ours, value.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return false,
                Ok((_, len)) => {
                    let value = value.get(..len).unwrap_or_default();
                    if send(&self.director, value, SendFlags::NOSIGNAL).is_err() {
                        return false;
                    }
                    // lvsd answers at once. What comes later finds the value set.
                    let _ = recv(&self.director, &mut [0; 4], RecvFlags::empty());
                }
                Err(error) => return error == Errno::AGAIN,
            }
        }
    }
}

/// All of them.
pub(super) type Writers = RefCell<Vec<Rc<Writer>>>;

impl Supervisor {
    /// Answers a call with a path.
    pub(super) fn answer_path(self: &Rc<Self>, kind: Intercepted, call: Notification) {
        let Some(path) = Places::of(kind).and_then(|places| self.path_of(&places, &call)) else {
            return call.proceed();
        };
        let is_open = matches!(
            kind,
            Intercepted::Open | Intercepted::OpenAt | Intercepted::OpenAt2 | Intercepted::Create
        );
        if self.director.rights_of(call.thread).is_none() || (path == MODULES && !is_open) {
            return call.proceed();
        }
        if is_open {
            return self.open(kind, call, path);
        }
        let outcome = match kind {
            Intercepted::Access => self.access(&call, &path, call.int(1)),
            Intercepted::AccessAt => self.access(&call, &path, call.int(2)),
            // As in the kernel's /proc.
            Intercepted::Attribute => Err(Errno::OPNOTSUPP),
            // None of them is a link.
            Intercepted::ReadLink | Intercepted::ReadLinkAt => {
                rustix::fs::lstat(self.twin(&path)).and(Err(Errno::INVAL))
            }
            kind => self.status(kind, &call, &path),
        };
        call.conclude(outcome);
    }

    /// The canonical path, if it is one of a kernel with IPVS.
    fn path_of(&self, places: &Places, call: &Notification) -> Option<String> {
        let address = call.arguments.get(places.path).copied()?;
        let path = call.text(address, PATH_MAX_BYTES)?;
        let path = std::str::from_utf8(&path).ok().filter(|path| !path.is_empty())?;
        let has = |part: &str| path.contains(part);
        if path.starts_with('/') {
            let may = has("ip_vs") || has("/vs") || has("/modules");
            return may.then(|| canonical("/", path))?;
        }
        let folder = places.folder.map_or(libc::AT_FDCWD, |index| call.int(index));
        if folder == libc::AT_FDCWD && !(has("ip_vs") || has("vs") || has("modules")) {
            return None;
        }
        let link = match folder {
            libc::AT_FDCWD => format!("/proc/{}/cwd", call.thread),
            folder => format!("/proc/{}/fd/{folder}", call.thread),
        };
        let base = fs::read_link(link).ok()?;
        let own = kernel_files::folder_of(&self.director.socket);
        let base = base
            .strip_prefix(&own)
            .map_or_else(|_| base.clone(), |rest| PathBuf::from("/").join(rest));
        canonical(base.to_str()?, path)
    }

    /// The empty file of this name beside lvsd's socket.
    fn twin(&self, path: &str) -> PathBuf {
        kernel_files::folder_of(&self.director.socket).join(path.trim_start_matches('/'))
    }

    fn access(&self, call: &Notification, path: &str, mode: i32) -> Result<(), Errno> {
        let found = rustix::fs::stat(self.twin(path))?;
        let is_folder = found.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let wants_to_write = mode & libc::W_OK != 0;
        let may_write = sysctl_of(path).is_some() && self.director.is_own_user(call.thread);
        if (mode & libc::X_OK != 0 && !is_folder) || (wants_to_write && !may_write) {
            return Err(Errno::ACCESS);
        }
        Ok(())
    }

    fn status(&self, kind: Intercepted, call: &Notification, path: &str) -> Result<(), Errno> {
        let twin = self.twin(path);
        if kind == Intercepted::StatX {
            let mask = StatxFlags::from_bits_retain(call.arguments[3] as u32);
            let found = rustix::fs::statx(rustix::fs::CWD, &twin, AtFlags::SYMLINK_NOFOLLOW, mask)?;
            return call.memory()?.write(call.arguments[4], &raw_calls::statx_bytes(&found));
        }
        let found = rustix::fs::lstat(&twin)?;
        let place = if kind == Intercepted::StatAt { 2 } else { 1 };
        let address = call.arguments.get(place).copied().unwrap_or(0);
        call.memory()?.write(address, &call.layout.status(&found))
    }

    fn open(self: &Rc<Self>, kind: Intercepted, call: Notification, path: String) {
        let flags = match kind {
            Intercepted::Open => call.int(1),
            Intercepted::OpenAt => call.int(2),
            Intercepted::Create => libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC,
            // struct open_how begins with 64 bits of flags.
            _ => {
                let flags = call.memory().ok().and_then(|memory| memory.number(call.arguments[2]));
                flags.map_or(0, |flags| flags as i32)
            }
        };
        let close_on_exec = flags & libc::O_CLOEXEC != 0;
        // What was written before is seen by who reads now.
        self.writers.borrow_mut().retain(|writer| writer.pass_on());
        if path == SUPERVISION_FILE {
            return match self.own_name() {
                Ok(file) => call.give(file.as_fd(), close_on_exec),
                Err(error) => call.fail(error),
            };
        }
        let twin = self.twin(&path);
        let is_folder = twin.is_dir();
        if path != MODULES && !twin.exists() {
            return call.fail(Errno::NOENT);
        }
        if flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL {
            return call.fail(Errno::EXIST);
        }
        if flags & libc::O_DIRECTORY != 0 && !is_folder {
            return call.fail(Errno::NOTDIR);
        }
        if is_folder || flags & libc::O_PATH != 0 {
            let wanted = OFlags::from_bits_retain((flags & (libc::O_PATH | libc::O_ACCMODE)).cast_unsigned());
            return match rustix::fs::open(&twin, wanted | OFlags::CLOEXEC, Mode::empty()) {
                Ok(folder) => call.give(folder.as_fd(), close_on_exec),
                Err(error) => call.fail(error),
            };
        }
        if flags & libc::O_ACCMODE == libc::O_RDONLY {
            return self.open_text(call, path, close_on_exec);
        }
        if sysctl_of(&path).is_none() || !self.director.is_own_user(call.thread) {
            return call.fail(Errno::ACCESS);
        }
        self.open_setting(call, path, flags);
    }

    fn own_name(&self) -> Result<OwnedFd, Errno> {
        use std::os::unix::ffi::OsStrExt;
        let file = rustix::fs::memfd_create("lvs-run", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::io::write(&file, self.director.socket.as_os_str().as_bytes())?;
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
        Ok(file)
    }

    fn open_text(self: &Rc<Self>, call: Notification, path: String, close_on_exec: bool) {
        let supervisor = Rc::clone(self);
        spawn_local(async move {
            match supervisor.director.file(path.as_bytes()).await {
                Ok(file) => call.give(file.as_fd(), close_on_exec),
                Err(_) => call.fail(Errno::NOENT),
            }
        });
    }

    fn open_setting(self: &Rc<Self>, call: Notification, path: String, flags: i32) {
        let supervisor = Rc::clone(self);
        let close_on_exec = flags & libc::O_CLOEXEC != 0;
        spawn_local(async move {
            let text = match flags & libc::O_ACCMODE {
                libc::O_RDWR => supervisor.director.file(path.as_bytes()).await.ok(),
                _ => None,
            };
            match supervisor.writer(&path, text) {
                Ok((writer, theirs)) => {
                    let watched = writer.ours.try_clone();
                    supervisor.writers.borrow_mut().push(Rc::clone(&writer));
                    call.give(theirs.as_fd(), close_on_exec);
                    drop(theirs);
                    if let Ok(Ok(ours)) = watched.map(|ours| raw_calls::watch(ours, Interest::READABLE)) {
                        while let Ok(mut ready) = ours.readable().await {
                            if !writer.pass_on() {
                                break;
                            }
                            ready.clear_ready();
                        }
                    }
                    supervisor
                        .writers
                        .borrow_mut()
                        .retain(|other| !Rc::ptr_eq(other, &writer));
                }
                Err(error) => call.fail(error),
            }
        });
    }

    /// A pair whose first end takes values. Who reads from the other gets `text` first, then an end.
    fn writer(&self, path: &str, text: Option<OwnedFd>) -> Result<(Rc<Writer>, OwnedFd), Errno> {
        let director = self.director.writer_of(path)?;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        if let Some(text) = text {
            let mut value = [0; VALUE_MAX_BYTES];
            let len = rustix::io::read(&text, value.as_mut_slice())?;
            send(&ours, value.get(..len).unwrap_or_default(), SendFlags::NOSIGNAL)?;
        }
        rustix::net::shutdown(&ours, rustix::net::Shutdown::Write)?;
        Ok((Rc::new(Writer { ours, director }), theirs))
    }
}

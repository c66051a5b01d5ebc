//! A Unix socket of the daemon: who owns it and who may use it.
//!
//! In:  a path, a kind and a group. Out: a listener with mode 0660 that replaced nothing alive.
//! Never: removes a socket on which somebody answers, or a file that is no socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket,
    sockopt::PeerCredentials,
};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// Connections that may wait to be accepted: ipvsadm opens three for a command.
const BACKLOG: i32 = 1_024;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon, or any other program, answers there.
    #[error("{program} answers on {path}; stop it first, or give this lvsd another path")]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Its name and process id, if the kernel knows them.
        program: String,
    },
    /// The path is taken by something else.
    #[error("{path} exists and is no socket; move it away or set another socket path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("socket {path}: {source}; check that its directory exists and is writable")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// What clients exchange with the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// A stream of bytes: HTTP.
    Stream,
    /// Messages: netlink.
    SeqPacket,
}

impl SocketKind {
    /// A socket of this kind, not blocking.
    fn create(self) -> io::Result<OwnedFd> {
        let kind = match self {
            Self::Stream => SockType::Stream,
            Self::SeqPacket => SockType::SeqPacket,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(socket(AddressFamily::Unix, kind, flags, None)?)
    }
}

/// Fails when a program answers on `path`. The start of the daemon calls it before it touches anything else.
pub fn refuse_second_daemon(path: &Path, kind: SocketKind) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let probe = kind.create().map_err(failed)?;
    let address = UnixAddr::new(path).map_err(|errno| failed(errno.into()))?;
    match connect(probe.as_raw_fd(), &address) {
        Err(nix::Error::ECONNREFUSED) => Ok(()),
        // The backlog of another program is full, or its socket is of the other kind.
        Ok(()) | Err(nix::Error::EAGAIN | nix::Error::EPROTOTYPE) => Err(SocketError::InUse {
            path: path.to_owned(),
            program: program_behind(&probe),
        }),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn program_behind(connected: &OwnedFd) -> String {
    let Some(pid) = getsockopt(connected, PeerCredentials)
        .ok()
        .map(|peer| peer.pid())
        .filter(|pid| *pid > 0)
    else {
        return "another program".to_owned();
    };
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{} (pid {pid})", name.trim_end()),
        Err(_) => format!("another program (pid {pid})"),
    }
}

/// Who may use the socket.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    owner: Uid,
    group: Option<Gid>,
}

impl Gate {
    /// The daemon's user, root, and the members of `group`.
    pub const fn new(owner: Uid, group: Option<Gid>) -> Self {
        Self { owner, group }
    }

    /// The group that may come in.
    pub const fn group(&self) -> Option<Gid> {
        self.group
    }

    /// Whether a process of this user and primary group may come in.
    pub fn admits(&self, uid: Uid, gid: Gid) -> bool {
        uid.is_root() || uid == self.owner || self.group.is_some_and(|group| gid == group || is_member(uid, group))
    }
}

fn is_member(uid: Uid, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(uid) else {
        return false;
    };
    let Ok(name) = std::ffi::CString::new(user.name) else {
        return false;
    };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}

/// The group of that name; without a name the daemon's own group. A name that does not exist gives none and a warning.
pub fn group(name: Option<&str>) -> Option<Gid> {
    let Some(name) = name else {
        return Some(Gid::effective());
    };
    match Group::from_name(name) {
        Ok(Some(group)) => Some(group.gid),
        Ok(None) => {
            log::warn!("group {name:?} does not exist: only root may use the sockets; create it with groupadd");
            None
        }
        Err(error) => {
            log::warn!("group {name:?} cannot be looked up: {error}; only root may use the sockets");
            None
        }
    }
}

/// An open socket. Dropping it removes its file.
#[derive(Debug)]
pub struct UnixSocket {
    /// Non-blocking. The type means a stream, but accepting is the same for every kind of socket.
    pub listener: UnixListener,
    /// Who may use it.
    pub gate: Gate,
    path: PathBuf,
}

impl UnixSocket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the socket with mode 0660; `group` may use it besides root and the daemon's own user.
    pub fn open(path: &Path, kind: SocketKind, group: Option<Gid>) -> Result<Self, SocketError> {
        refuse_second_daemon(path, kind)?;
        let failed = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        // The file is complete before it is visible: nobody connects under the umask's mode, and a stale socket is
        // replaced in one step.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = kind.create().map_err(failed)?;
        let opened = UnixAddr::new(&fresh)
            .and_then(|address| bind(listener.as_raw_fd(), &address))
            .map_err(io::Error::from)
            .and_then(|()| group.map_or(Ok(()), |gid| chown(&fresh, None, Some(gid.as_raw()))))
            .and_then(|()| fs::set_permissions(&fresh, Permissions::from_mode(0o660)))
            .and_then(|()| Ok(listen(&listener, Backlog::new(BACKLOG)?)?))
            .and_then(|()| fs::rename(&fresh, path));
        if let Err(error) = opened {
            // The first error is the one to report.
            let _ = fs::remove_file(&fresh);
            return Err(failed(error));
        }
        Ok(Self {
            listener: listener.into(),
            gate: Gate::new(Uid::effective(), group),
            path: path.to_owned(),
        })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // The next start replaces a socket that is left behind.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_second_daemon_is_refused_and_learns_the_pid_of_the_first() {
        for kind in [SocketKind::Stream, SocketKind::SeqPacket] {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("daemon.sock");
            let _first = UnixSocket::open(&path, kind, None).unwrap();
            let error = UnixSocket::open(&path, kind, None).unwrap_err().to_string();
            assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
            let probe = kind.create().unwrap();
            let still_answers = connect(probe.as_raw_fd(), &UnixAddr::new(&path).unwrap());
            assert_eq!(still_answers, Ok(()), "the first one still answers");
        }
    }

    #[test]
    fn a_socket_of_the_other_kind_is_left_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("daemon.sock");
        let _first = UnixSocket::open(&path, SocketKind::Stream, None).unwrap();
        let error = UnixSocket::open(&path, SocketKind::SeqPacket, None).unwrap_err();
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_the_mode_is_0660() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("daemon.sock");
        drop(UnixListener::bind(&path).unwrap());
        let socket = UnixSocket::open(&path, SocketKind::Stream, group(Some("no-such-group-here"))).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("daemon.sock");
        fs::write(&path, "notes").unwrap();
        assert!(matches!(
            UnixSocket::open(&path, SocketKind::Stream, None),
            Err(SocketError::NotASocket { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"notes");
    }

    #[test]
    fn only_root_the_daemon_and_the_group_come_in() {
        let gate = Gate::new(Uid::from_raw(900), Some(Gid::from_raw(901)));
        let stranger = Uid::from_raw(54_321);
        assert!(gate.admits(Uid::from_raw(0), Gid::from_raw(0)));
        assert!(gate.admits(Uid::from_raw(900), Gid::from_raw(7)));
        assert!(gate.admits(stranger, Gid::from_raw(901)));
        assert!(!gate.admits(stranger, Gid::from_raw(7)));
        assert!(!Gate::new(Uid::from_raw(900), None).admits(stranger, Gid::from_raw(901)));
    }
}

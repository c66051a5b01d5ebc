//! The Unix socket: who owns it and who may use it.
//!
//! In:  a path and a group. Out: a listener with mode 0660 that replaced nothing alive.
//! Never: removes a socket on which somebody answers, or a file that is no socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon, or any other program, answers there.
    #[error("{program} answers on {path}; stop it first, or give this lvsd another path")]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Its name and process id, as far as the kernel tells.
        program: String,
    },
    /// The path is taken by something else.
    #[error("{path} exists and is no socket; move it away or set another socket path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("admin socket {path}: {source}; check that its directory exists and is writable")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Fails when a daemon answers on `path`. Called before anything else is touched at start.
pub fn refuse_second_daemon(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(SocketError::NotASocket { path: path.to_owned() }),
        Ok(_) => match UnixStream::connect(path) {
            Ok(stream) => Err(SocketError::InUse {
                path: path.to_owned(),
                program: program_behind(&stream),
            }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(source) => Err(SocketError::Io {
                path: path.to_owned(),
                source,
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(SocketError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

fn program_behind(stream: &UnixStream) -> String {
    let Ok(peer) = getsockopt(stream, PeerCredentials) else {
        return "another program".to_owned();
    };
    let pid = peer.pid();
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

/// An open admin socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    /// Non-blocking.
    pub listener: UnixListener,
    /// Who may use it.
    pub gate: Gate,
    path: PathBuf,
}

impl AdminSocket {
    /// Opens the socket with mode 0660, owned by `group` when there is one of that name (else a warning);
    /// without a name, by the daemon's own group.
    pub fn open(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        refuse_second_daemon(path)?;
        let failed = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        let group = group.map_or_else(|| Some(Gid::effective()), find_group);
        // Complete before it is visible: nobody connects under the umask's mode, and a stale socket is
        // replaced in one step.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        let rss = listener
            .set_nonblocking(true)
            .and_then(|()| group.map_or(Ok(()), |gid| chown(&fresh, None, Some(gid.as_raw()))))
            .and_then(|()| fs::set_permissions(&fresh, Permissions::from_mode(0o660)))
            .and_then(|()| fs::rename(&fresh, path));
        if let Err(error) = rss {
            // The first error is the one to report.
            let _ = fs::remove_file(&fresh);
            return Err(failed(error));
        }
        Ok(Self {
            listener,
            gate: Gate::new(Uid::effective(), group),
            path: path.to_owned(),
        })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // A socket left behind is recognised as stale at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

fn find_group(name: &str) -> Option<Gid> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_second_daemon_is_refused_and_told_the_pid_of_the_first() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("api.sock");
        let _first = AdminSocket::open(&path, None).unwrap();
        let error = AdminSocket::open(&path, None).unwrap_err().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        assert!(UnixStream::connect(&path).is_ok(), "the first one still answers");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_the_mode_is_0660() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        let socket = AdminSocket::open(&path, Some("no-such-group-here")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("api.sock");
        fs::write(&path, "notes").unwrap();
        assert!(matches!(
            AdminSocket::open(&path, None),
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

//! The socket file: SEQPACKET, mode 0660, owned by the daemon's group.
//!
//! In:  a path and a group. Out: a listener that replaced nothing alive.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::unistd::{Gid, Uid};

use crate::mgmt::admin::socket::{Gate, SocketError};

/// Connections that may wait to be accepted: ipvsadm opens three for a command.
const BACKLOG: i32 = 1_024;

/// An open socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct IpvsSocket {
    /// Non-blocking.
    pub(super) listener: UnixListener,
    /// Who may use it.
    pub(super) gate: Gate,
    path: PathBuf,
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)
}

fn refuse_second_daemon(path: &Path) -> Result<(), SocketError> {
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
    let probe = seqpacket().map_err(failed)?;
    let address = UnixAddr::new(path).map_err(|errno| failed(errno.into()))?;
    match connect(probe.as_raw_fd(), &address) {
        // A full backlog belongs to somebody too.
        Ok(()) | Err(nix::Error::EAGAIN) => Err(SocketError::InUse {
            path: path.to_owned(),
            program: "another program".to_owned(),
        }),
        Err(nix::Error::ECONNREFUSED | nix::Error::EPROTOTYPE) => Ok(()),
        Err(errno) => Err(failed(errno.into())),
    }
}

impl IpvsSocket {
    /// Opens the socket with mode 0660; `group` may use it besides root and the daemon's own user.
    pub fn open(path: &Path, group: Option<Gid>) -> Result<Self, SocketError> {
        refuse_second_daemon(path)?;
        let failed = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        // Complete before it is visible, and a stale socket is replaced in one step.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = seqpacket().map_err(failed)?;
        let rss = UnixAddr::new(&fresh)
            .and_then(|address| bind(listener.as_raw_fd(), &address))
            .map_err(io::Error::from)
            .and_then(|()| group.map_or(Ok(()), |gid| chown(&fresh, None, Some(gid.as_raw()))))
            .and_then(|()| fs::set_permissions(&fresh, Permissions::from_mode(0o660)))
            .and_then(|()| Ok(listen(&listener, Backlog::new(BACKLOG)?)?))
            .and_then(|()| fs::rename(&fresh, path));
        if let Err(error) = rss {
            // The first error is the one to report.
            let _ = fs::remove_file(&fresh);
            return Err(failed(error));
        }
        Ok(Self {
            // The type means a stream, but accepting is the same for every kind of socket.
            listener: listener.into(),
            gate: Gate::new(Uid::effective(), group),
            path: path.to_owned(),
        })
    }
}

impl Drop for IpvsSocket {
    fn drop(&mut self) {
        // A socket left behind is recognised as stale at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

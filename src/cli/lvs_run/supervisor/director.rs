//! Connects to lvsd and checks who may use it.
//!
//! In:  a socket's path. Out: connections on which hello was sent, texts of /proc as open files, rights of processes.

use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use lvs_api::netlink::{FILE_MAGIC, Hello};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, send, socket_with,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::target::Identity;
use crate::lvs_run::raw_calls;

/// What a process may do through the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// Everything, because it runs as the supervisor's own user.
    All,
    /// Only use lvsd. It runs as another user, who must not act on the kernel with the supervisor's rights.
    Director,
}

/// How to reach lvsd.
#[derive(Clone, Debug)]
pub(super) struct DirectorAddress {
    pub(super) socket: PathBuf,
    /// The longest time that an answer may take.
    pub(super) timeout: Duration,
}

impl DirectorAddress {
    /// A connection for the thread's netlink socket with this port id.
    pub(super) fn connect(&self, thread: u32, port_id: u32) -> io::Result<AsyncFd<OwnedFd>> {
        let fd = self.connect_bare()?;
        let name = Identity::of(thread).map_or_else(String::new, |identity| identity.name);
        let hello = Hello {
            port_id,
            pid: thread,
            comm: name,
            net_namespace: fs::metadata(format!("/proc/{thread}/ns/net")).map_or(0, |found| found.ino()),
            timeout_ms: u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX),
        };
        send(&fd, &hello.to_bytes(), SendFlags::NOSIGNAL)?;
        raw_calls::watch(fd, Interest::READABLE | Interest::WRITABLE)
    }

    fn connect_bare(&self) -> io::Result<OwnedFd> {
        let address = SocketAddrUnix::new(&self.socket)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&fd, &address)?;
        Ok(fd)
    }

    /// A text of `/proc/net` as an open file.
    pub(super) async fn file(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let fd = self.connect_bare()?;
        send(&fd, &[&FILE_MAGIC, path].concat(), SendFlags::NOSIGNAL)?;
        let fd = raw_calls::watch(fd, Interest::READABLE)?;
        let answer = fd.async_io(Interest::READABLE, |fd| {
            let mut byte = [0];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            recvmsg(
                fd,
                &mut [IoSliceMut::new(&mut byte)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            let mut files = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut files) => files.next(),
                _ => None,
            });
            files.next().ok_or_else(|| Errno::NOENT.into())
        });
        timeout(self.timeout, answer).await?
    }

    /// The rights of a thread. They are those that it would have if it opened the socket itself.
    pub(super) fn rights_of(&self, thread: u32) -> Option<Rights> {
        let identity = Identity::of(thread)?;
        if identity.user == rustix::process::geteuid().as_raw() {
            return Some(Rights::All);
        }
        let found = fs::metadata(&self.socket).ok()?;
        let by_group = found.mode() & 0o020 != 0 && identity.groups.contains(&found.gid());
        let by_user = found.mode() & 0o200 != 0 && identity.user == found.uid();
        (by_group || by_user).then_some(Rights::Director)
    }
}

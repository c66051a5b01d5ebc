//! Connects to lvsd and checks who may use it.
//!
//! In:  a socket's path. Out: connections on which hello was sent, texts of /proc as open files, rights of processes.

use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use lvs_api::kernel_options::Call;
use lvs_api::netlink::{FILE_MAGIC, Hello, OPTION_MAGIC, WRITE_MAGIC};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recv, recvmsg, send, socket_with,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::target::Identity;
use crate::lvs_run::raw_calls;

/// How long lvsd may take to set a value where no other limit is given: the supervisor answers nothing else meanwhile.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// The longest time that an answer may take; none for as long as lvsd lives.
    pub(super) timeout: Option<Duration>,
}

impl DirectorAddress {
    /// A connection for the thread's netlink socket with this port id.
    pub(super) async fn connect(&self, thread: u32, port_id: u32) -> io::Result<AsyncFd<OwnedFd>> {
        let fd = self.connect_patiently().await?;
        let name = Identity::of(thread).map_or_else(String::new, |identity| identity.name);
        let hello = Hello {
            port_id,
            pid: thread,
            comm: name,
            net_namespace: fs::metadata(format!("/proc/{thread}/ns/net")).map_or(0, |found| found.ino()),
            timeout_ms: self
                .timeout
                .map_or(0, |limit| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX)),
        };
        send(&fd, &hello.to_bytes(), SendFlags::NOSIGNAL)?;
        raw_calls::watch(fd, Interest::READABLE | Interest::WRITABLE)
    }

    /// Waits while lvsd is too busy to accept, because a busy lvsd is no missing one.
    async fn connect_patiently(&self) -> io::Result<OwnedFd> {
        const PAUSE: Duration = Duration::from_millis(5);
        let begun = tokio::time::Instant::now();
        loop {
            match self.connect_bare() {
                Err(error)
                    if error.raw_os_error() == Some(libc::EAGAIN)
                        && self.timeout.is_none_or(|limit| begun.elapsed() < limit) =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// The future's outcome, if it comes in time.
    async fn in_time<T>(&self, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        match self.timeout {
            Some(limit) => timeout(limit, future).await?,
            None => future.await,
        }
    }

    /// A connection that takes values for the setting with this canonical path.
    pub(super) fn writer_of(&self, path: &str) -> Result<OwnedFd, Errno> {
        let address = SocketAddrUnix::new(&self.socket)?;
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(self.timeout.unwrap_or(WRITE_TIMEOUT)))?;
        connect(&fd, &address)?;
        send(&fd, &[&WRITE_MAGIC, path.as_bytes()].concat(), SendFlags::NOSIGNAL)?;
        Ok(fd)
    }

    /// lvsd's answer to a call with an old socket option.
    pub(super) async fn kernel_option(&self, call: &Call) -> io::Result<Vec<u8>> {
        let fd = self.connect_patiently().await?;
        send(
            &fd,
            &[&OPTION_MAGIC[..], &call.to_bytes()].concat(),
            SendFlags::NOSIGNAL,
        )?;
        let fd = raw_calls::watch(fd, Interest::READABLE)?;
        let answer = fd.async_io(Interest::READABLE, |fd| {
            let (_, len) = recv(fd, &mut [0; 0], RecvFlags::PEEK | RecvFlags::TRUNC)?;
            let mut answer = vec![0; len];
            recv(fd, answer.as_mut_slice(), RecvFlags::empty())?;
            Ok(answer)
        });
        self.in_time(answer).await
    }

    /// Whether a thread runs as the supervisor's own user.
    pub(super) fn is_own_user(&self, thread: u32) -> bool {
        self.rights_of(thread) == Some(Rights::All)
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
        let fd = self.connect_patiently().await?;
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
        self.in_time(answer).await
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

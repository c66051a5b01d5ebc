//! The supervisor's end of a diverted socket: it sends requests for IPVS to lvsd and all others to the kernel.
//!
//! In:  datagrams of the program. Out: the answers of both sides, one datagram each, as fast as the program takes them.
//! When lvsd is away or silent, every pending request gets ENODEV in time. After an end of file or without an answer,
//! clients would ask for ever. Ref: the preloaded library, which does the same.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::time::Duration;

use lvs_api::netlink::{CANCEL_MAGIC, Errno as Answered, FAMILY_ID, Message, Messages, Request, refuse};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, recv, send, sendto, socket_with,
    socketpair,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::director::{DirectorAddress, Rights};
use crate::lvs_run::raw_calls;

/// `NLMSG_ERROR`, `NLMSG_DONE`, `NLM_F_MULTI`.
const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;
const FLAG_MULTI: u16 = 2;

type Socket = AsyncFd<OwnedFd>;

/// A diverted socket.
pub(super) struct Diverted {
    /// A netlink socket of the kernel. The diverted socket has its name and options.
    pub(super) kernel: Socket,
    thread: u32,
    rights: Rights,
}

impl Diverted {
    /// Its name. The port id is 0 while it has none.
    pub(super) fn name(&self) -> SocketAddrNetlink {
        let name = getsockname(&self.kernel).and_then(SocketAddrNetlink::try_from);
        name.unwrap_or_else(|_| SocketAddrNetlink::new(0, 0))
    }

    fn port_id(&self) -> u32 {
        if self.name().pid() == 0 {
            // A netlink socket binds itself when it first sends. After a failure the id stays 0, which lvsd only echoes.
            let _ = bind(&self.kernel, &SocketAddrNetlink::new(0, 0));
        }
        self.name().pid()
    }
}

/// A request whose answer is not complete.
struct Awaited {
    request: Vec<u8>,
    deadline: Instant,
}

enum Event {
    Request(Vec<u8>),
    Answer(io::Result<Vec<u8>>),
    FromKernel(Vec<u8>),
    Timeout,
}

/// Serves one diverted socket.
pub(super) struct Relay {
    diverted: Rc<Diverted>,
    ours: Socket,
    director: Option<Socket>,
    awaited: Vec<Awaited>,
}

impl Relay {
    /// A relay and the program's end, in answer to its `socket(AF_NETLINK, kind, NETLINK_GENERIC)`.
    pub(super) fn open(thread: u32, kind: u64, rights: Rights) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        rustix::io::ioctl_fionbio(&theirs, kind & libc::SOCK_NONBLOCK as u64 != 0)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let diverted = Diverted {
            kernel: raw_calls::watch(kernel_socket(thread)?, Interest::READABLE)?,
            thread,
            rights,
        };
        let relay = Self {
            diverted: Rc::new(diverted),
            ours: raw_calls::watch(ours, both)?,
            director: None,
            awaited: Vec::new(),
        };
        Ok((relay, theirs))
    }

    pub(super) fn diverted(&self) -> Rc<Diverted> {
        Rc::clone(&self.diverted)
    }

    /// Runs until the program has closed its end.
    pub(super) async fn serve(mut self, address: &DirectorAddress) -> io::Result<()> {
        loop {
            match self.event().await? {
                Event::Request(request) if request.is_empty() => return Ok(()),
                Event::Request(request) if is_ours(&request) => self.ask_director(address, request).await?,
                Event::Request(request) => self.ask_kernel(&request).await?,
                Event::Answer(Ok(answer)) if !answer.is_empty() => {
                    self.finish_requests(&answer);
                    deliver(&self.ours, &answer).await?;
                }
                Event::Answer(_) | Event::Timeout => self.disconnect().await?,
                Event::FromKernel(message) => deliver(&self.ours, &message).await?,
            }
        }
    }

    async fn event(&self) -> io::Result<Event> {
        let deadline = self.awaited.iter().map(|awaited| awaited.deadline).min();
        let answer = async {
            match &self.director {
                Some(director) => receive(director).await,
                None => std::future::pending().await,
            }
        };
        let timeout = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            request = receive(&self.ours) => request.map(Event::Request),
            answer = answer => Ok(Event::Answer(answer)),
            message = receive(&self.diverted.kernel) => message.map(Event::FromKernel),
            () = timeout => Ok(Event::Timeout),
        }
    }

    async fn ask_director(&mut self, address: &DirectorAddress, request: Vec<u8>) -> io::Result<()> {
        // The connection may have died since the last request. Then a new one is tried.
        let mut sent = self
            .director
            .as_ref()
            .is_some_and(|director| try_send(director, &request));
        if !sent {
            self.director = address.connect(self.diverted.thread, self.diverted.port_id()).ok();
            sent = self
                .director
                .as_ref()
                .is_some_and(|director| try_send(director, &request));
        }
        let deadline = Instant::now() + if sent { address.timeout } else { Duration::ZERO };
        self.awaited.push(Awaited { request, deadline });
        if sent { Ok(()) } else { self.disconnect().await }
    }

    async fn ask_kernel(&self, request: &[u8]) -> io::Result<()> {
        let to_kernel = SocketAddrNetlink::new(0, 0);
        let may = self.diverted.rights == Rights::All;
        if may && sendto(&self.diverted.kernel, request, SendFlags::NOSIGNAL, &to_kernel).is_ok() {
            return Ok(());
        }
        self.refuse(request, Answered::NotPermitted).await
    }

    async fn refuse(&self, request: &[u8], errno: Answered) -> io::Result<()> {
        let port_id = self.diverted.port_id();
        for message in Messages::new(request) {
            deliver(&self.ours, &refuse(&message, port_id, errno)).await?;
        }
        Ok(())
    }

    /// Drops the connection, so that no late answer is read from it, and answers all pending requests with ENODEV.
    async fn disconnect(&mut self) -> io::Result<()> {
        let director = self.director.take();
        for awaited in std::mem::take(&mut self.awaited) {
            if let Some(director) = &director {
                for message in Messages::new(&awaited.request) {
                    try_send(director, &[&CANCEL_MAGIC[..], &message.sequence.to_ne_bytes()].concat());
                }
            }
            self.refuse(&awaited.request, Answered::NoDevice).await?;
        }
        Ok(())
    }

    /// Forgets the requests whose answers end in `answer`.
    fn finish_requests(&mut self, answer: &[u8]) {
        for message in Messages::new(answer) {
            self.awaited.retain(|awaited| !ends(&message, &awaited.request));
        }
    }
}

/// Whether `message` is the last of the answer to the last request of a datagram.
fn ends(message: &Message<'_>, request: &[u8]) -> bool {
    let Some(request) = Messages::new(request).last() else {
        return true;
    };
    let ends_late = request.wants_acknowledgement() || request.is_dump();
    let is_last = matches!(message.kind, KIND_ERROR | KIND_DONE) || (message.flags & FLAG_MULTI == 0 && !ends_late);
    message.sequence == request.sequence && is_last
}

/// Whether a datagram is for IPVS: it has lvsd's family id, or it asks for the family of that name.
fn is_ours(datagram: &[u8]) -> bool {
    Messages::new(datagram)
        .any(|message| message.kind == FAMILY_ID || Request::parse(&message) == Ok(Request::GetFamily))
}

/// A netlink socket in the thread's network namespace.
fn kernel_socket(thread: u32) -> io::Result<OwnedFd> {
    let open = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::GENERIC))
    };
    let path = format!("/proc/{thread}/ns/net");
    if std::fs::metadata(&path)?.ino() == std::fs::metadata("/proc/self/ns/net")?.ino() {
        return Ok(open()?);
    }
    let namespace = std::fs::File::open(path)?;
    // A separate thread changes its namespace, so the supervisor stays in its own.
    let opened = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).and_then(|()| open())
    });
    Ok(opened.join().map_err(|_| Errno::IO)??)
}

/// The next datagram. Empty at the end.
async fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    let read = |fd: &OwnedFd| {
        let len = recv(
            fd,
            &mut [0; 0],
            RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT,
        )?
        .1;
        let mut datagram = vec![0; len];
        recv(fd, datagram.as_mut_slice(), RecvFlags::DONTWAIT)?;
        Ok(datagram)
    };
    socket.async_io(Interest::READABLE, read).await
}

/// Sends a datagram to the program and waits while the socket is full.
async fn deliver(socket: &Socket, datagram: &[u8]) -> io::Result<()> {
    let write = |fd: &OwnedFd| Ok(send(fd, datagram, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?);
    socket.async_io(Interest::WRITABLE, write).await.map(|_| ())
}

/// Sends a datagram to lvsd. Returns whether lvsd took it; a full socket counts as a dead connection.
fn try_send(socket: &Socket, datagram: &[u8]) -> bool {
    send(socket, datagram, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
}

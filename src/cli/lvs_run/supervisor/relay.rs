//! The supervisor's end of a diverted socket: it sends requests for IPVS to lvsd and all others to the kernel.
//!
//! In:  datagrams of the program. Out: the answers of both sides, one datagram each, as fast as the program takes them.
//! When lvsd is away or silent, every pending request gets ENODEV in time. After an end of file or without an answer,
//! clients would ask for ever. Ref: the preloaded library, which does the same.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::time::Duration;

use lvs_api::netlink::{CANCEL_MAGIC, Errno as Answered, Message, Messages, cap, is_for_ipvs, refuse};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
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

/// `SOCK_TYPE_MASK`: what is not a flag in the type of a socket.
const KIND_MASK: i32 = 0xf;
/// How long lvsd may leave its socket full.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

type Socket = AsyncFd<OwnedFd>;

/// A diverted socket.
pub(super) struct Diverted {
    /// A netlink socket of the kernel. The diverted socket has its name and options.
    pub(super) kernel: Socket,
    is_bound: Cell<bool>,
    /// `SOCK_RAW` or `SOCK_DGRAM`, as it was asked for.
    pub(super) kind: i32,
    /// Error messages hold only the header of the request: `NETLINK_CAP_ACK`.
    pub(super) caps_errors: Cell<bool>,
    thread: u32,
    rights: Rights,
}

impl Diverted {
    /// Its name. The port id is 0 while it has none.
    pub(super) fn name(&self) -> SocketAddrNetlink {
        let name = getsockname(&self.kernel).and_then(SocketAddrNetlink::try_from);
        name.ok()
            .filter(|_| self.is_bound.get())
            .unwrap_or_else(|| SocketAddrNetlink::new(0, 0))
    }

    /// Gives it a name. After a failure the kernel says a name that the socket does not have.
    pub(super) fn bind(&self, port_id: u32, groups: u32) -> Result<(), Errno> {
        bind(&self.kernel, &SocketAddrNetlink::new(port_id, groups))?;
        self.is_bound.set(true);
        Ok(())
    }

    fn port_id(&self) -> u32 {
        if !self.is_bound.get() {
            // A netlink socket binds itself when it first sends. After a failure the id stays 0, which lvsd only echoes.
            let _ = self.bind(0, 0);
        }
        self.name().pid()
    }
}

/// A request whose answer is not complete.
struct Awaited {
    request: Vec<u8>,
    /// None while lvsd may take as long as it lives.
    deadline: Option<Instant>,
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
    pub(super) fn open(thread: u32, kind: i32, rights: Rights) -> io::Result<(Self, OwnedFd)> {
        let (flags, kind) = (kind & !KIND_MASK, kind & KIND_MASK);
        if kind != libc::SOCK_RAW && kind != libc::SOCK_DGRAM {
            return Err(Errno::SOCKTNOSUPPORT.into());
        }
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        rustix::io::ioctl_fionbio(&theirs, flags & libc::SOCK_NONBLOCK != 0)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let diverted = Diverted {
            kernel: raw_calls::watch(kernel_socket(thread)?, Interest::READABLE)?,
            is_bound: Cell::new(false),
            kind,
            caps_errors: Cell::new(false),
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
                Event::Request(request) if request.is_empty() && is_closed(&self.ours) => return Ok(()),
                Event::Request(request) => self.ask(address, &request).await?,
                Event::Answer(Ok(answer)) if !answer.is_empty() => {
                    self.finish_requests(&answer);
                    let answer = if self.diverted.caps_errors.get() {
                        cap(answer)
                    } else {
                        answer
                    };
                    deliver(&self.ours, &answer).await?;
                }
                Event::Answer(_) | Event::Timeout => self.disconnect().await?,
                Event::FromKernel(message) => deliver(&self.ours, &message).await?,
            }
        }
    }

    async fn event(&self) -> io::Result<Event> {
        let deadline = self.awaited.iter().filter_map(|awaited| awaited.deadline).min();
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

    /// Sends each message of a datagram where it belongs. A program may use several families on one socket.
    async fn ask(&mut self, address: &DirectorAddress, datagram: &[u8]) -> io::Result<()> {
        for message in Messages::new(datagram) {
            if is_for_ipvs(&message) {
                self.ask_director(address, message.bytes.to_vec()).await?;
            } else {
                self.ask_kernel(message.bytes).await?;
            }
        }
        Ok(())
    }

    async fn ask_director(&mut self, address: &DirectorAddress, request: Vec<u8>) -> io::Result<()> {
        // The connection may have died since the last request. Then a new one is tried.
        let mut sent = send_in_time(self.director.as_ref(), &request).await;
        if !sent {
            let port_id = self.diverted.port_id();
            self.director = address.connect(self.diverted.thread, port_id).await.ok();
            sent = send_in_time(self.director.as_ref(), &request).await;
        }
        let deadline = address.timeout.map(|limit| Instant::now() + limit);
        self.awaited.push(Awaited { request, deadline });
        if sent { Ok(()) } else { self.disconnect().await }
    }

    async fn ask_kernel(&self, request: &[u8]) -> io::Result<()> {
        let to_kernel = SocketAddrNetlink::new(0, 0);
        // The answer is addressed to the name that the program sees.
        self.diverted.port_id();
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

/// Sends a datagram to lvsd and waits while the socket is full. Returns whether lvsd took it.
async fn send_in_time(director: Option<&Socket>, datagram: &[u8]) -> bool {
    match director {
        Some(director) => {
            let sent = tokio::time::timeout(SEND_TIMEOUT, deliver(director, datagram)).await;
            matches!(sent, Ok(Ok(())))
        }
        None => false,
    }
}

/// Whether the program has closed its end. It may also have sent an empty datagram.
fn is_closed(socket: &Socket) -> bool {
    let mut polled = [PollFd::new(socket.get_ref(), PollFlags::empty())];
    let found = poll(&mut polled, Some(&Timespec::default()));
    found.is_err() || polled[0].revents().contains(PollFlags::HUP)
}

/// Sends a datagram to lvsd, if the socket is not full. Returns whether lvsd took it.
fn try_send(socket: &Socket, datagram: &[u8]) -> bool {
    send(socket, datagram, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
}

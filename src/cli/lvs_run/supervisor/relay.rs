//! The other end of a diverted socket: requests for IPVS go to lvsd, all others to the kernel.
//!
//! In:  datagrams of the program. Out: the answers of either side, one datagram each, as the program takes them.
//! When lvsd is away, silent or gone, every awaited request is answered with ENODEV in time: an end of file or no
//! word at all would make clients ask for ever. Ref: the preloaded library, which keeps the same promises.

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

/// What is known of a diverted socket.
pub(super) struct Diverted {
    /// A netlink socket of the kernel, whose name and options are the diverted one's.
    pub(super) kernel: Socket,
    thread: u32,
    rights: Rights,
}

impl Diverted {
    /// Its name; port 0 as long as it has none.
    pub(super) fn name(&self) -> SocketAddrNetlink {
        let name = getsockname(&self.kernel).and_then(SocketAddrNetlink::try_from);
        name.unwrap_or_else(|_| SocketAddrNetlink::new(0, 0))
    }

    fn port_id(&self) -> u32 {
        if self.name().pid() == 0 {
            // As a netlink socket that sends without a name; a failure leaves it 0, which is only echoed.
            let _ = bind(&self.kernel, &SocketAddrNetlink::new(0, 0));
        }
        self.name().pid()
    }
}

/// A request whose answer has not ended.
struct Awaited {
    request: Vec<u8>,
    deadline: Instant,
}

enum Event {
    Request(Vec<u8>),
    Answer(io::Result<Vec<u8>>),
    OfKernel(Vec<u8>),
    Late,
}

/// Serves one diverted socket.
pub(super) struct Relay {
    diverted: Rc<Diverted>,
    ours: Socket,
    director: Option<Socket>,
    awaited: Vec<Awaited>,
}

impl Relay {
    /// A relay and the end for the program, for its `socket(AF_NETLINK, kind, NETLINK_GENERIC)`.
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

    /// Until the program has closed its end.
    pub(super) async fn serve(mut self, address: &DirectorAddress) -> io::Result<()> {
        loop {
            match self.event().await? {
                Event::Request(request) if request.is_empty() => return Ok(()),
                Event::Request(request) if is_ours(&request) => self.ask_director(address, request).await?,
                Event::Request(request) => self.ask_kernel(&request).await?,
                Event::Answer(Ok(answer)) if !answer.is_empty() => {
                    self.note(&answer);
                    deliver(&self.ours, &answer).await?;
                }
                Event::Answer(_) | Event::Late => self.bury().await?,
                Event::OfKernel(message) => deliver(&self.ours, &message).await?,
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
        let late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            request = receive(&self.ours) => request.map(Event::Request),
            answer = answer => Ok(Event::Answer(answer)),
            message = receive(&self.diverted.kernel) => message.map(Event::OfKernel),
            () = late => Ok(Event::Late),
        }
    }

    async fn ask_director(&mut self, address: &DirectorAddress, request: Vec<u8>) -> io::Result<()> {
        // A connection may have died since the last request; a fresh one tells.
        let mut sent = self.director.as_ref().is_some_and(|director| pass(director, &request));
        if !sent {
            self.director = address.connect(self.diverted.thread, self.diverted.port_id()).ok();
            sent = self.director.as_ref().is_some_and(|director| pass(director, &request));
        }
        let deadline = Instant::now() + if sent { address.timeout } else { Duration::ZERO };
        self.awaited.push(Awaited { request, deadline });
        if sent { Ok(()) } else { self.bury().await }
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

    /// Gives up the connection: nothing late will be read from it, and whoever waits gets ENODEV.
    async fn bury(&mut self) -> io::Result<()> {
        let director = self.director.take();
        for awaited in std::mem::take(&mut self.awaited) {
            if let Some(director) = &director {
                for message in Messages::new(&awaited.request) {
                    pass(director, &[&CANCEL_MAGIC[..], &message.sequence.to_ne_bytes()].concat());
                }
            }
            self.refuse(&awaited.request, Answered::NoDevice).await?;
        }
        Ok(())
    }

    /// Forgets the requests whose answers end in `answer`.
    fn note(&mut self, answer: &[u8]) {
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

/// Whether a datagram is for IPVS: by our family's id, or by asking for the family of that name.
fn is_ours(datagram: &[u8]) -> bool {
    Messages::new(datagram)
        .any(|message| message.kind == FAMILY_ID || Request::parse(&message) == Ok(Request::GetFamily))
}

/// A netlink socket as the thread would have got it.
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
    // Only a thread of its own may leave the supervisor's namespace.
    let opened = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).and_then(|()| open())
    });
    Ok(opened.join().map_err(|_| Errno::IO)??)
}

/// The next datagram; empty at the end.
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

/// Waits for the program to make room.
async fn deliver(socket: &Socket, datagram: &[u8]) -> io::Result<()> {
    let write = |fd: &OwnedFd| Ok(send(fd, datagram, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?);
    socket.async_io(Interest::WRITABLE, write).await.map(|_| ())
}

/// Whether lvsd has it; one that takes nothing is as good as away.
fn pass(socket: &Socket, datagram: &[u8]) -> bool {
    send(socket, datagram, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
}

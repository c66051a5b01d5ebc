//! A netlink socket of rtnetlink, read without the runtime: what is listed or heard may be a million routes.
//!
//! In:  dump requests, multicast groups. Out: messages, one after the other.
//! Ref:  netlink(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use rtnetlink::sys::SocketAddr;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

/// `struct nlmsghdr`.
pub(super) const HEADER_LEN: usize = 16;
/// A dump comes in pieces of up to 32 KiB.
const BUFFER_LEN: usize = 64 << 10;
/// What the kernel keeps of events that are not read yet: about 60,000 of them.
const KEPT_LEN: usize = 64 << 20;

/// A message as it came.
#[derive(Clone, Copy)]
pub(super) struct Message<'b> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    /// Behind the netlink header.
    pub(super) body: &'b [u8],
}

/// See the module.
pub(super) struct Socket {
    socket: rtnetlink::sys::Socket,
    buffer: Vec<u8>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Socket {
    /// A socket that asks.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = rtnetlink::sys::Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER_LEN],
        })
    }

    /// A socket that hears what happens.
    pub(super) fn listen(groups: &[u32]) -> io::Result<Self> {
        let socket = Self::open()?;
        // Needs CAP_NET_ADMIN; without it the kernel's limit for everybody holds.
        if setsockopt(&socket.socket, sockopt::RcvBufForce, &KEPT_LEN).is_err() {
            socket.socket.set_rx_buf_sz(KEPT_LEN)?;
        }
        for group in groups {
            socket.socket.add_membership(*group)?;
        }
        Ok(socket)
    }

    fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Lists all objects of a kind; whether nothing changed meanwhile, so that the listing is whole.
    pub(super) fn dump(&mut self, kind: u16, body: &[u8], mut look: impl FnMut(Message<'_>)) -> io::Result<bool> {
        let mut request = Vec::with_capacity(HEADER_LEN + body.len());
        request.extend_from_slice(&((HEADER_LEN + body.len()) as u32).to_ne_bytes());
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        request.extend_from_slice(&[0; 8]);
        request.extend_from_slice(body);
        send(self.fd(), &request, MsgFlags::empty())?;
        let (mut is_whole, mut end) = (true, None);
        while end.is_none() {
            self.receive(MsgFlags::empty(), |message| {
                is_whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => end = Some(error_of(message.body)),
                    _ => look(message),
                }
            })?;
        }
        match end {
            Some(Err(error)) => Err(error),
            _ => Ok(is_whole),
        }
    }

    /// The messages that wait; none if none does.
    pub(super) fn take(&mut self, look: impl FnMut(Message<'_>)) -> io::Result<bool> {
        match self.receive(MsgFlags::MSG_DONTWAIT, look) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(true),
        }
    }

    fn receive(&mut self, flags: MsgFlags, mut look: impl FnMut(Message<'_>)) -> io::Result<()> {
        let len = loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, flags) {
                Err(Errno::EINTR) => {}
                received => break received?,
            }
        };
        let mut rest = self.buffer.get(..len).unwrap_or_default();
        while let Some((message, len)) = first(rest) {
            look(message);
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

fn first(bytes: &[u8]) -> Option<(Message<'_>, usize)> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
    let body = bytes.get(HEADER_LEN..len)?;
    Some((Message { kind, flags, body }, len))
}

fn error_of(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(code) if code < 0 => Err(io::Error::from_raw_os_error(-code)),
        _ => Ok(()),
    }
}

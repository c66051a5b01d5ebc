//! recvmsg and recvfrom on a diverted socket: a datagram with the kernel as its sender.
//!
//! In:  a call. Out: its datagram in the caller's memory. The datagram leaves the socket only after the caller has it,
//! because a signal may interrupt the call at any time. Never: delays other calls while it waits for a datagram.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, socket_timeout};
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::layout::Layout;
use super::notification::Notification;
use super::socket::{NAME_BYTES, name_bytes, theirs, write_sized};
use super::target::Memory;
use crate::lvs_run::filter::Intercepted;
use crate::lvs_run::raw_calls;

/// The most pieces of a message: `UIO_MAXIOV`.
const PIECES_MAX: u64 = 1_024;
/// How often the supervisor checks whether a waiting caller still exists.
const PULSE: Duration = Duration::from_millis(500);
/// Where a datagram goes.
struct Places {
    /// Address and length.
    pieces: Vec<(u64, usize)>,
    flags: i32,
    layout: Layout,
    /// The address of the struct, for recvmsg.
    message: Option<u64>,
    /// The call is recvmmsg, with so many further structs behind the first.
    many: Option<u64>,
}

impl Places {
    fn of(kind: Intercepted, call: &Notification) -> Result<Self, Errno> {
        let [_, first, second, third, ..] = call.arguments;
        match kind {
            Intercepted::ReceiveFrom => Ok(Self {
                pieces: vec![(first, usize::try_from(second).unwrap_or(usize::MAX))],
                flags: third as i32,
                layout: call.layout,
                message: None,
                many: None,
            }),
            Intercepted::ReceiveMessages => {
                let more = (second & u64::from(u32::MAX)).saturating_sub(1).min(PIECES_MAX);
                Ok(Self {
                    many: Some(more),
                    ..Self::of_message(call, first, third as i32)?
                })
            }
            _ => Self::of_message(call, first, second as i32),
        }
    }

    fn of_message(call: &Notification, message: u64, flags: i32) -> Result<Self, Errno> {
        let (memory, layout) = (call.memory()?, call.layout);
        let header = layout.message();
        let start = layout.read_word(&memory, message.wrapping_add(header.pieces))?;
        let count = layout.read_word(&memory, message.wrapping_add(header.pieces_count))?;
        if count > PIECES_MAX {
            return Err(Errno::MSGSIZE);
        }
        let piece = |index: u64| {
            let at = start.wrapping_add(index * 2 * layout.word());
            let len = layout.read_word(&memory, at.wrapping_add(layout.word()))?;
            Ok((
                layout.read_word(&memory, at)?,
                usize::try_from(len).unwrap_or(usize::MAX),
            ))
        };
        Ok(Self {
            pieces: (0..count).map(piece).collect::<Result<_, Errno>>()?,
            flags,
            layout,
            message: Some(message),
            many: None,
        })
    }

    fn has(&self, flag: i32) -> bool {
        self.flags & flag != 0
    }

    /// Writes the datagram. Returns how many bytes fitted.
    fn fill(&self, memory: &Memory, datagram: &[u8]) -> Result<usize, Errno> {
        let mut left = datagram;
        for (address, len) in &self.pieces {
            let (part, behind) = left.split_at(left.len().min(*len));
            memory.write(*address, part)?;
            left = behind;
        }
        Ok(datagram.len() - left.len())
    }

    /// Writes the sender, which is the kernel.
    fn write_sender(&self, call: &Notification, memory: &Memory, truncated: bool) -> Result<(), Errno> {
        let name = name_bytes(0, 0);
        let Some(message) = self.message else {
            return write_sized(call, &name, call.arguments[4], call.arguments[5]);
        };
        let (layout, header) = (self.layout, self.layout.message());
        let mut len = 0;
        let address = layout.read_word(memory, message)?;
        if address != 0 {
            let mut capacity = [0; 4];
            memory.read(message + header.name_len, &mut capacity)?;
            let capacity = usize::try_from(u32::from_ne_bytes(capacity)).unwrap_or(usize::MAX);
            memory.write(address, name.get(..capacity).unwrap_or(&name))?;
            len = NAME_BYTES as u32;
        }
        let flags = if truncated { libc::MSG_TRUNC } else { 0 };
        memory.write(message + header.name_len, &len.to_ne_bytes())?;
        layout.write_zero(memory, message + header.control_len)?;
        memory.write(message + header.flags, &flags.to_ne_bytes())
    }
}

/// Answers the call as soon as a datagram is there.
pub(super) fn start(kind: Intercepted, call: Notification) {
    let prepared = Places::of(kind, &call).and_then(|places| {
        let socket = theirs(&call).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::BADF))?;
        Ok((places, socket))
    });
    match prepared {
        Ok((places, socket)) => {
            spawn_local(async move { receive(call, places, socket).await });
        }
        Err(error) => call.fail(error),
    }
}

async fn receive(call: Notification, places: Places, socket: OwnedFd) {
    match await_datagram(&call, &places, &socket).await {
        Ok(Some(datagram)) => deliver(call, &places, &socket, &datagram),
        // The caller does not wait any more.
        Ok(None) => {}
        Err(error) => call.fail(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

/// A copy of the first datagram. `None` when the caller does not wait any more.
async fn await_datagram(call: &Notification, places: &Places, socket: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    if let Some(datagram) = peek(socket)? {
        return Ok(Some(datagram));
    }
    if places.has(libc::MSG_DONTWAIT) || fcntl_getfl(socket)?.contains(OFlags::NONBLOCK) {
        return Err(Errno::AGAIN.into());
    }
    let limit = socket_timeout(socket, Timeout::Recv)?.map(|limit| Instant::now() + limit);
    let socket = raw_calls::watch(socket.try_clone()?, Interest::READABLE)?;
    loop {
        if let Ok(ready) = timeout(PULSE, socket.readable()).await {
            match peek(socket.get_ref())? {
                Some(datagram) => return Ok(Some(datagram)),
                None => ready?.clear_ready(),
            }
        }
        if !call.is_awaited() {
            return Ok(None);
        }
        if limit.is_some_and(|limit| limit <= Instant::now()) {
            return Err(Errno::AGAIN.into());
        }
    }
}

fn peek(socket: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let len = match recv(socket, &mut [0; 0], flags | RecvFlags::TRUNC) {
        Ok((_, len)) => len,
        Err(Errno::AGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if len == 0 {
        // The relay never ends first.
        return Err(Errno::NODEV.into());
    }
    let mut datagram = vec![0; len];
    recv(socket, datagram.as_mut_slice(), flags)?;
    Ok(Some(datagram))
}

fn deliver(call: Notification, places: &Places, socket: &OwnedFd, datagram: &[u8]) {
    let written = call.memory().and_then(|memory| {
        let count = places.fill(&memory, datagram)?;
        places.write_sender(&call, &memory, count < datagram.len())?;
        Ok((count, memory))
    });
    match written {
        Ok((count, memory)) if places.many.is_some() => deliver_many(call, places, socket, count, &memory),
        Ok((count, _)) => {
            let whole = places.has(libc::MSG_TRUNC);
            let taken = call.finish(if whole { datagram.len() } else { count });
            if taken && !places.has(libc::MSG_PEEK) {
                // Nobody else takes datagrams, so it is still there.
                let _ = recv(socket, &mut [0; 0], RecvFlags::DONTWAIT);
            }
        }
        Err(error) => call.fail(error),
    }
}

/// Answers recvmmsg: the first datagram is in its place, and those follow that wait already.
///
/// Each is taken before the caller has it. A signal that takes the call back then loses them, as it may lose what a kernel
/// has copied.
fn deliver_many(call: Notification, first: &Places, socket: &OwnedFd, count: usize, memory: &Memory) {
    let header = call.layout.message();
    let note = |message: u64, count: usize| {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        memory.write(message.wrapping_add(header.received), &count.to_ne_bytes())
    };
    let start = first.message.unwrap_or(0);
    if let Err(error) = note(start, count) {
        return call.fail(error);
    }
    let mut received = 1;
    let _ = recv(socket, &mut [0; 0], RecvFlags::DONTWAIT);
    for index in 1..=first.many.unwrap_or(0) {
        let message = start.wrapping_add(index * header.next);
        let next = || {
            let datagram = peek(socket).ok().flatten().ok_or(Errno::AGAIN)?;
            let places = Places::of_message(&call, message, first.flags)?;
            let count = places.fill(memory, &datagram)?;
            places.write_sender(&call, memory, count < datagram.len())?;
            note(message, count)
        };
        if next().is_err() {
            break;
        }
        let _ = recv(socket, &mut [0; 0], RecvFlags::DONTWAIT);
        received += 1;
    }
    call.finish(received);
}

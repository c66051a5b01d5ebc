//! Hears what happens in the kernel, on a thread of its own, so that a flood of events waits for nobody.
//!
//! In:  RTM_NEW/DEL LINK, ADDR, ROUTE, RULE, NEXTHOP and NEIGH messages. Out: [`Change`]s in the kernel's order.
//! Never: loses one silently: an overflow of the socket is a [`Change::Lost`].
//! Ref:  netlink(7), rtnetlink(7).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use lvs_core::l3::fib::Placement;
use nix::errno::Errno;
use nix::libc::{
    RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV6_RULE, RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_NEXTHOP,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage as Route;
use tokio::sync::mpsc;

use super::listing::{RTM_DELNEXTHOP, RTM_NEWNEXTHOP, decode};
use super::parse;
use super::records::Change;
use super::socket::{Message, Socket};

/// Links, neighbours, addresses, routes and rules of both families, nexthop objects.
const GROUPS: [u32; 9] = [
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV6_RULE,
    RTNLGRP_NEXTHOP,
];
/// So many changes are handed on at once.
const BATCH_MAX: usize = 1_024;
/// So many batches wait for the mirror; then the kernel's buffer fills, and then it says so.
const BATCHES_MAX: usize = 256;

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    changes: mpsc::Receiver<Vec<Change>>,
    /// The thread ends when this is closed.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Listens from now on.
    pub(super) fn start() -> io::Result<Self> {
        let socket = Socket::listen(&GROUPS)?;
        let (stop, stopped) = UnixStream::pair()?;
        let (sender, changes) = mpsc::channel(BATCHES_MAX);
        let thread = std::thread::Builder::new()
            .name("kernel-watch".to_owned())
            .spawn(move || watch(socket, stopped, &sender))?;
        Ok(Self {
            changes,
            stop: Some(stop.into()),
            thread: Some(thread),
        })
    }

    /// The next changes.
    pub(super) async fn next(&mut self) -> Vec<Change> {
        self.changes.recv().await.unwrap_or_else(|| vec![Change::Closed])
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        self.changes.close();
        if let Some(thread) = self.thread.take() {
            // It ends at once: its channel is closed, and so is its wire.
            let _ = thread.join();
        }
    }
}

fn watch(mut socket: Socket, stopped: UnixStream, sender: &mpsc::Sender<Vec<Change>>) {
    while wait(&socket, &stopped) {
        let mut changes = Vec::new();
        loop {
            match socket.take(|message| changes.extend(change(message))) {
                Ok(true) if changes.len() < BATCH_MAX => {}
                Ok(_) => break,
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => changes.push(Change::Lost),
                Err(_) => {
                    changes.push(Change::Closed);
                    break;
                }
            }
        }
        let is_closed = changes.last() == Some(&Change::Closed);
        if !changes.is_empty() && sender.blocking_send(changes).is_err() || is_closed {
            return;
        }
    }
}

/// Until there is something to read; not if the thread is to end.
fn wait(socket: &Socket, stopped: &UnixStream) -> bool {
    let mut wires = [
        PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
    ];
    loop {
        match poll(&mut wires, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(_) => return false,
            Ok(_) => return !wires[1].any().unwrap_or(true),
        }
    }
}

/// What a message means; `None` if nothing.
fn change(message: Message<'_>) -> Option<Change> {
    match message.kind {
        RTM_NEWNEXTHOP => return parse::object::object(message.body).map(|(id, object)| Change::Object(id, object)),
        RTM_DELNEXTHOP => return parse::object::object(message.body).map(|(id, _)| Change::ObjectGone(id)),
        _ => {}
    }
    match decode(message)? {
        Route::NewNeighbour(neighbour) => parse::neighbour(&neighbour, false).map(Change::Neighbour),
        Route::DelNeighbour(neighbour) => parse::neighbour(&neighbour, true).map(Change::Neighbour),
        Route::NewRoute(route) => {
            let placement = match message.flags {
                flags if flags & NLM_F_REPLACE != 0 => Placement::Replace,
                flags if flags & NLM_F_APPEND != 0 => Placement::Last,
                _ => Placement::First,
            };
            Some(Change::Route(parse::route(&route)?, placement))
        }
        Route::DelRoute(route) => parse::route(&route).map(Change::RouteGone),
        Route::NewLink(link) => Some(Change::Link(parse::link(&link))),
        Route::DelLink(link) => Some(Change::LinkGone(link.header.index)),
        Route::NewAddress(_) => Some(Change::AddressCame),
        Route::DelAddress(_) => Some(Change::AddressGone),
        Route::NewRule(_) | Route::DelRule(_) => Some(Change::Rules),
        _ => None,
    }
}

//! The supervisor of a program that cannot be preloaded. It answers the system calls by which the program would reach IPVS.
//!
//! In:  notifications of the filter. Out: for each a result, a descriptor, or permission to continue in the kernel.
//! A generic-netlink socket becomes one end of a pair whose other end [`relay`] serves. The files of IPVS come from lvsd, and
//! so do the answers to the old socket options. Running modprobe for ip_vs succeeds and loads nothing. Never: prints, outlives the program, delays a call that is not about IPVS.
//! Ref: seccomp_unotify(2).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use libseccomp::{ScmpArch, ScmpNotifReq, ScmpSyscall};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recvmsg, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{LocalSet, spawn_local};

use crate::lvs_run::filter::{self, Intercepted};
use crate::lvs_run::notify::{Director, READY};
use crate::lvs_run::raw_calls;

mod director;
mod files;
mod kernel_option;
mod layout;
mod modprobe;
mod notification;
mod receive;
mod relay;
mod socket;
mod target;

use director::DirectorAddress;
use files::Writers;
use notification::Notification;
use relay::{Diverted, Relay};

/// The state that all calls share.
struct Supervisor {
    director: DirectorAddress,
    /// By inode of the program's end of the pair.
    diverted: RefCell<HashMap<u64, Rc<Diverted>>>,
    writers: Writers,
}

/// Supervises until the last process of the program is gone.
pub(crate) fn run(director: Director<'_>) -> io::Result<()> {
    // The terminal's signals are for the program only. A failure means that this process already leads a session.
    let _ = rustix::process::setsid();
    let launcher = io::stdin();
    let listener = receive_listener(launcher.as_fd())?;
    let supervisor = Rc::new(Supervisor {
        director: DirectorAddress {
            socket: director.socket.to_owned(),
            timeout: director.timeout(),
        },
        diverted: RefCell::default(),
        writers: Writers::default(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        // systemd signals all processes of a unit at once, and the program may still need IPVS while it stops.
        let _deaf = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        // Older kernels do not have this, and the supervisor works without it.
        let _ = raw_calls::wake_synchronously(&listener);
        let listener = raw_calls::watch(listener, Interest::READABLE)?;
        rustix::io::write(launcher.as_fd(), READY)?;
        shutdown(launcher.as_fd(), Shutdown::Both)?;
        supervisor.serve(Rc::new(listener)).await
    })
}

fn receive_listener(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [io::IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptors.next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// What waits at the filter's listener.
enum Pending {
    Notification,
    Nothing,
    /// No process with the filter is left.
    End,
}

fn pending(listener: &AsyncFd<OwnedFd>) -> io::Result<Pending> {
    let mut polled = [PollFd::new(listener.get_ref(), PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default()))?;
    let found = polled[0].revents();
    Ok(if found.contains(PollFlags::IN) {
        Pending::Notification
    } else if found.is_empty() {
        Pending::Nothing
    } else {
        Pending::End
    })
}

impl Supervisor {
    async fn serve(self: Rc<Self>, listener: Rc<AsyncFd<OwnedFd>>) -> io::Result<()> {
        let calls = filter::intercepted_calls();
        loop {
            let mut ready = listener.readable().await?;
            match pending(&listener)? {
                Pending::Nothing => ready.clear_ready(),
                Pending::End => return Ok(()),
                Pending::Notification => {
                    drop(ready);
                    self.take(&listener, &calls);
                }
            }
        }
    }

    fn take(self: &Rc<Self>, listener: &Rc<AsyncFd<OwnedFd>>, calls: &HashMap<(ScmpArch, ScmpSyscall), Intercepted>) {
        use std::os::fd::AsRawFd;
        // This fails when a signal has interrupted the call.
        let Ok(request) = ScmpNotifReq::receive(listener.as_raw_fd()) else {
            return;
        };
        let mut kind = calls.get(&(request.data.arch, request.data.syscall)).copied();
        let mut notification = Notification::new(Rc::clone(listener), &request);
        if kind == Some(Intercepted::SocketCall) {
            kind = notification.unpack();
        }
        match kind {
            Some(kind) => self.answer(kind, notification),
            None => notification.proceed(),
        }
    }

    fn answer(self: &Rc<Self>, kind: Intercepted, call: Notification) {
        match kind {
            Intercepted::Socket if call.int(0) == libc::AF_NETLINK && call.int(2) == libc::NETLINK_GENERIC => {
                self.divert(call);
            }
            Intercepted::Socket => call.proceed(),
            Intercepted::Execute => modprobe::answer(call, 0, 1),
            Intercepted::ExecuteAt => modprobe::answer(call, 1, 2),
            Intercepted::SetOption if kernel_option::concerns(&call) => self.answer_kernel_option(call, true),
            Intercepted::GetOption if kernel_option::concerns(&call) => self.answer_kernel_option(call, false),
            Intercepted::Open
            | Intercepted::OpenAt
            | Intercepted::OpenAt2
            | Intercepted::Create
            | Intercepted::Stat
            | Intercepted::LinkStat
            | Intercepted::StatAt
            | Intercepted::StatX
            | Intercepted::Access
            | Intercepted::AccessAt
            | Intercepted::ReadLink
            | Intercepted::ReadLinkAt
            | Intercepted::Attribute => self.answer_path(kind, call),
            kind => match self.find(&call) {
                Some(diverted) => socket::answer(kind, call, &diverted),
                None => call.proceed(),
            },
        }
    }

    /// The socket that the call's first argument names, if it is a diverted one.
    fn find(&self, call: &Notification) -> Option<Rc<Diverted>> {
        let diverted = self.diverted.borrow();
        if diverted.is_empty() {
            return None;
        }
        diverted
            .get(&target::socket_inode(call.thread, call.descriptor())?)
            .cloned()
    }

    fn divert(self: &Rc<Self>, call: Notification) {
        // A user who may not use lvsd may not use the kernel's IPVS either, so his socket is the kernel's own.
        let Some(rights) = self.director.rights_of(call.thread) else {
            return call.proceed();
        };
        let (relay, theirs) = match Relay::open(call.thread, call.int(1), rights) {
            Ok(opened) => opened,
            Err(error) => return call.fail(Errno::from_io_error(&error).unwrap_or(Errno::NOBUFS)),
        };
        let inode = target::inode(&theirs);
        let close_on_exec = call.arguments[1] & libc::SOCK_CLOEXEC as u64 != 0;
        self.diverted.borrow_mut().insert(inode, relay.diverted());
        call.give(theirs.as_fd(), close_on_exec);
        drop(theirs);
        let supervisor = Rc::clone(self);
        spawn_local(async move {
            // The relay ends when the program has closed its end.
            let _ = relay.serve(&supervisor.director).await;
            supervisor.diverted.borrow_mut().remove(&inode);
        });
    }
}

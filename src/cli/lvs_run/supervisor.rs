//! The supervisor of a program that cannot be preloaded. It answers the system calls by which the program would reach IPVS.
//!
//! In:  notifications of the filter. Out: for each a result, a descriptor, or permission to continue in the kernel.
//! A generic-netlink socket becomes one end of a pair whose other end [`relay`] serves. /proc/net/ip_vs* comes from lvsd.
//! Running modprobe for ip_vs fails. Never: prints, outlives the program, delays a call that is not about IPVS.
//! Ref: seccomp_unotify(2).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use libseccomp::{ScmpNotifReq, ScmpSyscall};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recvmsg, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{LocalSet, spawn_local};

use crate::lvs_run::filter::{self, Intercepted};
use crate::lvs_run::notify::{Director, READY};
use crate::lvs_run::raw_calls;

mod director;
mod notification;
mod receive;
mod relay;
mod socket;
mod target;

use director::DirectorAddress;
use notification::Notification;
use relay::{Diverted, Relay};

/// The state that all calls share.
struct Supervisor {
    director: DirectorAddress,
    /// By inode of the program's end of the pair.
    diverted: RefCell<HashMap<u64, Rc<Diverted>>>,
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
            timeout: Duration::from_secs_f64(director.timeout_sec),
        },
        diverted: RefCell::default(),
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

    fn take(self: &Rc<Self>, listener: &Rc<AsyncFd<OwnedFd>>, calls: &HashMap<ScmpSyscall, Intercepted>) {
        use std::os::fd::AsRawFd;
        // This fails when a signal has interrupted the call.
        let Ok(request) = ScmpNotifReq::receive(listener.as_raw_fd()) else {
            return;
        };
        let kind = calls.get(&request.data.syscall).copied();
        let notification = Notification::new(Rc::clone(listener), &request);
        match kind {
            Some(kind) => self.answer(kind, notification),
            None => notification.proceed(),
        }
    }

    fn answer(self: &Rc<Self>, kind: Intercepted, call: Notification) {
        match kind {
            Intercepted::Socket => self.divert(call),
            Intercepted::Open => self.open(call, 0, 1),
            Intercepted::OpenAt => self.open(call, 1, 2),
            Intercepted::Execute if call.loads_kernel_ipvs() => call.fail(rustix::io::Errno::NOENT),
            Intercepted::Execute => call.proceed(),
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
        // A user who may not use lvsd gets the kernel's own socket.
        let rights = self.director.rights_of(call.thread);
        let opened = rights.and_then(|rights| Relay::open(call.thread, call.arguments[1], rights).ok());
        let Some((relay, theirs)) = opened else {
            return call.proceed();
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

    fn open(self: &Rc<Self>, call: Notification, path: usize, flags: usize) {
        const FOLDER: &[u8] = b"/proc/net/ip_vs";
        const PATH_MAX_BYTES: usize = 64;
        let path = call.text(call.arguments[path], PATH_MAX_BYTES);
        let Some(path) = path.filter(|path| path.starts_with(FOLDER)) else {
            return call.proceed();
        };
        if self.director.rights_of(call.thread).is_none() {
            return call.proceed();
        }
        let close_on_exec = call.arguments[flags] & libc::O_CLOEXEC as u64 != 0;
        let supervisor = Rc::clone(self);
        spawn_local(async move {
            match supervisor.director.file(&path).await {
                Ok(file) => call.give(file.as_fd(), close_on_exec),
                Err(_) => call.fail(rustix::io::Errno::NOENT),
            }
        });
    }
}

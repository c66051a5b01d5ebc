//! One system call that waits for its result.
//!
//! In:  a request from the filter's listener. Out: exactly one answer. A call that a signal has interrupted gets no answer,
//! and its program repeats it.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use libseccomp::{ScmpNotifReq, ScmpNotifResp, ScmpNotifRespFlags, notify_id_valid};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::layout::Layout;
use super::target::Memory;
use crate::lvs_run::filter::{COMPANION, Intercepted, socket_call};
use crate::lvs_run::raw_calls;

/// A call.
pub(super) struct Notification {
    listener: Rc<AsyncFd<OwnedFd>>,
    id: u64,
    /// The thread that calls.
    pub(super) thread: u32,
    pub(super) arguments: [u64; 6],
    /// How the caller lays out its structs.
    pub(super) layout: Layout,
}

impl Notification {
    pub(super) fn new(listener: Rc<AsyncFd<OwnedFd>>, request: &ScmpNotifReq) -> Self {
        Self {
            listener,
            id: request.id,
            thread: request.pid,
            arguments: request.data.args,
            layout: Layout {
                is_64_bit: request.data.arch != COMPANION,
            },
        }
    }

    /// Takes the call out of a socketcall, whose arguments lie in memory. `None` for one that is the kernel's.
    pub(super) fn unpack(&mut self) -> Option<Intercepted> {
        let (kind, count) = socket_call(self.arguments[0])?;
        let memory = self.memory().ok()?;
        let mut arguments = [0; 6];
        for (index, argument) in (0_u64..).zip(arguments.iter_mut().take(count)) {
            let mut word = [0; 4];
            memory.read(self.arguments[1].wrapping_add(4 * index), &mut word).ok()?;
            *argument = u64::from(u32::from_ne_bytes(word));
        }
        self.arguments = arguments;
        Some(kind)
    }

    /// An argument as a C int.
    pub(super) fn int(&self, index: usize) -> i32 {
        self.arguments.get(index).map_or(0, |argument| *argument as i32)
    }

    /// The first argument as a descriptor.
    pub(super) fn descriptor(&self) -> i32 {
        self.arguments[0] as i32
    }

    /// Whether the caller still waits.
    pub(super) fn is_awaited(&self) -> bool {
        notify_id_valid(self.listener.as_raw_fd(), self.id).is_ok()
    }

    /// The memory of the caller. Fails when the caller is gone, because its id may belong to another process.
    pub(super) fn memory(&self) -> Result<Memory, Errno> {
        let memory = Memory::open(self.thread).map_err(|_| Errno::FAULT)?;
        if self.is_awaited() {
            Ok(memory)
        } else {
            Err(Errno::INTR)
        }
    }

    /// A C string of the caller, truncated at `max` bytes.
    pub(super) fn text(&self, address: u64, max: usize) -> Option<Vec<u8>> {
        self.memory().ok()?.text(address, max)
    }

    fn respond(&self, response: ScmpNotifResp) -> bool {
        response.respond(self.listener.as_raw_fd()).is_ok()
    }

    /// Lets the kernel run the call.
    pub(super) fn proceed(self) {
        self.respond(ScmpNotifResp::new_continue(self.id, ScmpNotifRespFlags::empty()));
    }

    /// Answers with a result. Returns whether the caller got it.
    pub(super) fn finish(self, value: usize) -> bool {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.respond(ScmpNotifResp::new_val(self.id, value, ScmpNotifRespFlags::empty()))
    }

    /// Answers with an error.
    pub(super) fn fail(self, error: Errno) {
        let number = -error.raw_os_error();
        self.respond(ScmpNotifResp::new_error(self.id, number, ScmpNotifRespFlags::empty()));
    }

    /// Answers with success or an error.
    pub(super) fn conclude(self, outcome: Result<(), Errno>) {
        match outcome {
            Ok(()) => {
                self.finish(0);
            }
            Err(error) => self.fail(error),
        }
    }

    /// Answers with a new descriptor in the caller.
    pub(super) fn give(self, fd: BorrowedFd<'_>, close_on_exec: bool) {
        match raw_calls::answer_with_descriptor(self.listener.get_ref(), self.id, fd, close_on_exec) {
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => self.fail(error),
        }
    }
}

//! One system call that waits for its result.
//!
//! In:  a request from the filter's listener. Out: exactly one answer. A call that a signal has interrupted gets no answer,
//! and its program repeats it.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use libseccomp::{ScmpNotifReq, ScmpNotifResp, ScmpNotifRespFlags, notify_id_valid};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::target::Memory;
use crate::lvs_run::raw_calls;

/// The most arguments of a command that are checked, and the most bytes of each.
const ARGUMENTS_MAX: usize = 16;
const ARGUMENT_MAX_BYTES: usize = 256;

/// A call.
pub(super) struct Notification {
    listener: Rc<AsyncFd<OwnedFd>>,
    id: u64,
    /// The thread that calls.
    pub(super) thread: u32,
    pub(super) arguments: [u64; 6],
}

impl Notification {
    pub(super) fn new(listener: Rc<AsyncFd<OwnedFd>>, request: &ScmpNotifReq) -> Self {
        Self {
            listener,
            id: request.id,
            thread: request.pid,
            arguments: request.data.args,
        }
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

    /// Whether this execve would load the kernel's IPVS.
    pub(super) fn loads_kernel_ipvs(&self) -> bool {
        let contains = |text: &[u8], word: &[u8]| text.windows(word.len()).any(|part| part == word);
        let found = || {
            let memory = self.memory().ok()?;
            let path = memory.text(self.arguments[0], ARGUMENT_MAX_BYTES)?;
            if !contains(&path, b"modprobe") {
                return None;
            }
            for index in 0..ARGUMENTS_MAX as u64 {
                let argument = memory.number(self.arguments[1].wrapping_add(index * 8))?;
                if argument == 0 {
                    return None;
                }
                if contains(&memory.text(argument, ARGUMENT_MAX_BYTES)?, b"ip_vs") {
                    return Some(());
                }
            }
            None
        };
        found().is_some()
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

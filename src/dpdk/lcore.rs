//! Runs a closure on a worker's lcore.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::dpdk::{Eal, Mempool, error_text};

/// What a worker's lcore runs.
type Task = Box<dyn FnOnce() + Send>;

/// Why a closure did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum LcoreError {
    /// A worker beyond [`Eal::workers_count`].
    #[error("worker {worker} has no CPU: {workers_count} were given one when DPDK started")]
    NoSuchWorker {
        /// The worker asked for.
        worker: usize,
        /// How many there are.
        workers_count: usize,
    },
    /// The lcore still runs another closure.
    #[error("worker {worker} could not be launched: {cause}")]
    Refused {
        /// The worker asked for.
        worker: usize,
        /// DPDK's text.
        cause: String,
    },
    /// The closure panicked. Its message was printed.
    #[error("worker {worker} panicked")]
    Panicked {
        /// The worker that panicked.
        worker: usize,
    },
}

/// A launched closure. Dropping it does not wait.
#[derive(Debug)]
#[must_use = "a worker that is not joined may outlive what it uses"]
pub struct LcoreHandle {
    worker: usize,
}

/// Runs `task` on the lcore of worker number `worker`, bound to that worker's CPU.
pub fn launch(eal: &Eal, worker: usize, task: impl FnOnce() + Send + 'static) -> Result<LcoreHandle, LcoreError> {
    if worker >= eal.workers_count() {
        return Err(LcoreError::NoSuchWorker {
            worker,
            workers_count: eal.workers_count(),
        });
    }
    let task: Box<Task> = Box::new(Box::new(task));
    let argument = Box::into_raw(task);
    // SAFETY: the lcore exists (checked); `run` takes the box back exactly once, on success only.
    let code = unsafe { dpdk_sys::rte_eal_remote_launch(Some(run), argument.cast::<c_void>(), lcore_of(worker)) };
    if code != 0 {
        // SAFETY: refused, so nobody else took the box.
        drop(unsafe { Box::from_raw(argument) });
        return Err(LcoreError::Refused {
            worker,
            cause: error_text(code),
        });
    }
    Ok(LcoreHandle { worker })
}

impl LcoreHandle {
    /// Waits until the closure has returned.
    pub fn join(self) -> Result<(), LcoreError> {
        // SAFETY: the lcore exists; called from the management core only, like `launch`.
        match unsafe { dpdk_sys::rte_eal_wait_lcore(lcore_of(self.worker)) } {
            0 => Ok(()),
            _ => Err(LcoreError::Panicked { worker: self.worker }),
        }
    }
}

const fn lcore_of(worker: usize) -> u32 {
    worker as u32 + 1
}

/// # Safety
/// `argument` is the raw pointer of a `Box<Task>` from [`launch`], passed here once.
unsafe extern "C" fn run(argument: *mut c_void) -> i32 {
    // SAFETY: see above.
    let task = unsafe { Box::from_raw(argument.cast::<Task>()) };
    // A panic must not unwind into DPDK's C frames.
    match catch_unwind(AssertUnwindSafe(task)) {
        Ok(()) => 0,
        Err(_) => -1,
    }
}

/// Registers the calling thread, which DPDK did not start, as an lcore for as long as this lives. The thread gets a mempool
/// cache of its own, so its allocs and frees seldom touch the shared ring.
#[derive(Debug)]
pub struct Registration(std::marker::PhantomData<*mut ()>);

impl Registration {
    /// Returns `None` when DPDK has no lcore number left. The thread then works without a cache.
    pub fn of_this_thread(_up: &Mempool) -> Option<Self> {
        // SAFETY: there is a pool, so the EAL runs; the number is given back by the same thread in `drop` (the type is not Send).
        (unsafe { dpdk_sys::rte_thread_register() } == 0).then_some(Self(std::marker::PhantomData))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: registered by this thread in `of_this_thread`.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}

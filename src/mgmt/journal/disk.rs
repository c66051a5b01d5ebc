//! The thread that touches the disk, so that a disk that hangs holds nobody else.
//!
//! In:  work, done in the order in which it came. Out: its outcome, or after some seconds the news that the disk is silent.
//! Never: begins what was given up. What had begun by then may still end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// How long a change waits for the disk at most: far longer than the kernel takes to copy an append into memory, and far
/// shorter than systemd's watchdog waits for this process.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pieces of work that may wait. More than one waits only behind a disk that is silent.
const QUEUE_MAX: usize = 16;

type Work = Box<dyn FnOnce() + Send>;

/// See the module. The thread ends with this.
#[derive(Debug)]
pub(super) struct DiskThread {
    queue: SyncSender<Work>,
    pub(super) patience: Duration,
}

impl DiskThread {
    pub(super) fn start() -> io::Result<Self> {
        let (queue, works) = sync_channel::<Work>(QUEUE_MAX);
        let thread = thread::Builder::new().name("lvsd-journal".to_owned());
        thread.spawn(move || works.into_iter().for_each(|work| work()))?;
        Ok(Self {
            queue,
            patience: PATIENCE,
        })
    }

    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (done, outcome) = sync_channel(1);
        let given_up = Arc::new(AtomicBool::new(false));
        let is_given_up = Arc::clone(&given_up);
        let work = Box::new(move || {
            if !is_given_up.load(Ordering::Relaxed) {
                // Who gave up meanwhile does not listen.
                let _ = done.send(work());
            }
        });
        if self.queue.try_send(work).is_ok()
            && let Ok(outcome) = outcome.recv_timeout(self.patience)
        {
            return outcome;
        }
        given_up.store(true, Ordering::Relaxed);
        let message = format!("the disk has been silent for {:?}", self.patience);
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }
}

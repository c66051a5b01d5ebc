//! Messages between the management core and one worker.
//!
//! The worker takes commands between two bursts, and takes one only when there is room for its reply, so a
//! reply is never lost and never waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use lvs_core::ipvs::sync::SyncConn;
use lvs_core::l3::NeighbourKey;
use lvs_core::path::explain::{Explanation, Question};
use lvs_core::snapshot::Snapshot;

pub use lvs_core::conn_record::{ConnRecord, DumpCursor};

use crate::worker::capture::Tap;

/// Commands that may wait for a worker: snapshots follow each other quickly in a mass change, and only the
/// newest matters, so a full mailbox means "try again with a newer one".
pub(super) const COMMANDS_MAX: usize = 64;

/// Replies that may wait for the management core.
const REPLIES_MAX: usize = 1_024;

/// Connections that may wait to be told: those of 2 ms at a million new connections a second and more, 1 MB.
const SYNCED_MAX: usize = 8_192;

/// From the management core to a worker.
#[derive(Debug)]
pub enum Command {
    /// Use this snapshot from the next burst on. Answered by [`Reply::Retired`].
    Publish(Arc<Snapshot>),
    /// Copy connections. Answered by [`Reply::ConnDump`].
    DumpConns(Box<ConnDump>),
    /// Say what would become of a packet. Answered by [`Reply::Explained`].
    Explain(Box<Ask>),
    /// Make connections of another director one's own. Answered by [`Reply::TakenOver`].
    TakeOver(Arc<[SyncConn]>),
    /// Record frames by this tap, until its other end is dropped. Answered by [`Reply::Tap`], then.
    Tap(Box<Tap>),
    /// Leave the loop after this pass.
    Stop,
}

/// From a worker to the management core.
#[derive(Debug)]
pub enum Reply {
    /// The snapshot that was replaced: to be dropped here, not on the worker.
    Retired(Arc<Snapshot>),
    /// Connections that were looked at: to be dropped here, not on the worker.
    TakenOver(Arc<[SyncConn]>),
    /// The request, its records filled in and its cursor moved on.
    ConnDump(Box<ConnDump>),
    /// The request, its answer filled in.
    Explained(Box<Ask>),
    /// A tap whose capture is over, or one too many: to be dropped here, not on the worker.
    Tap(Box<Tap>),
    /// Packets wait for this neighbour; repeated every second while they do.
    Resolve(NeighbourKey),
}

/// A part of a worker's connections.
#[derive(Debug)]
pub struct ConnDump {
    /// From where on; afterwards where to go on, `None` at the end.
    pub cursor: Option<DumpCursor>,
    /// Filled up to its capacity, never grown.
    pub records: Vec<ConnRecord>,
    /// Chosen by the asker, returned unchanged.
    pub ticket: u64,
}

/// A packet that is asked about.
#[derive(Debug)]
pub struct Ask {
    /// Which one.
    pub question: Question,
    /// What the worker says; `None` from one that has no path.
    pub answer: Option<Explanation>,
    /// Chosen by the asker, returned unchanged.
    pub ticket: u64,
}

/// Both directions of one worker's messages. The worker is the only one that takes commands and the only one
/// that sends replies.
#[derive(Debug)]
pub struct Mailbox {
    /// Management core to worker.
    pub commands: ArrayQueue<Command>,
    /// Worker to management core.
    pub replies: ArrayQueue<Reply>,
    /// Worker to management core: connections to tell other directors.
    pub synced: ArrayQueue<SyncConn>,
    /// See [`Self::rest`].
    at_rest: AtomicBool,
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            commands: ArrayQueue::new(COMMANDS_MAX),
            replies: ArrayQueue::new(REPLIES_MAX),
            synced: ArrayQueue::new(SYNCED_MAX),
            at_rest: AtomicBool::new(false),
        }
    }

    /// Rests, for the worker. Behind it the worker obeys what has come meanwhile before it takes a frame.
    pub(super) fn rest(&self, rest: impl FnOnce()) {
        self.at_rest.store(true, Ordering::SeqCst);
        rest();
        self.at_rest.store(false, Ordering::SeqCst);
        // Who pushed a command and then saw the worker at rest did both before this.
        fence(Ordering::SeqCst);
    }

    /// Whether the worker obeys every command pushed so far before it takes its next frame, because it is at rest.
    pub fn is_at_rest(&self) -> bool {
        fence(Ordering::SeqCst);
        // A worker at rest replies nothing, so the room seen here is still there when it obeys.
        self.at_rest.load(Ordering::SeqCst) && self.replies.len() + COMMANDS_MAX <= REPLIES_MAX
    }

    /// Whether a command waits and there is room for its reply, for the worker.
    #[inline]
    pub(super) fn has_command(&self) -> bool {
        // The worker is the only sender of replies, so room seen here is still there when it answers.
        !self.commands.is_empty() && !self.replies.is_full()
    }

    /// The next command, for the worker: `None` also while there is no room for its reply.
    #[inline]
    pub(super) fn next_command(&self) -> Option<Command> {
        if self.has_command() { self.commands.pop() } else { None }
    }

    /// Answers a command, for the worker: there is room, by [`Self::next_command`].
    #[inline]
    pub(super) fn answer(&self, reply: Reply) {
        let _ = self.replies.push(reply);
    }

    /// Asks for a neighbour, for the worker; `false` when the management core is behind. Leaves half of the
    /// room to answers, so a scan over an empty network delays no snapshot.
    #[inline]
    pub(super) fn ask(&self, neighbour: NeighbourKey) -> bool {
        self.replies.len() < REPLIES_MAX / 2 && self.replies.push(Reply::Resolve(neighbour)).is_ok()
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}

//! Messages between the management core and one worker.
//!
//! The worker takes commands between two bursts. It takes one only when the queue of replies has a free slot, so it
//! neither loses a reply nor waits to send it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use lvs_core::explain::{Explanation, Question};
use lvs_core::ipvs::sync::SyncConn;
use lvs_core::l3::NeighbourKey;
use lvs_core::path::sync::bulk::Slice;
use lvs_core::snapshot::Snapshot;

pub use lvs_core::conn_record::{ConnRecord, DumpCursor};

use crate::worker::capture::Tap;

/// The most commands that may wait for a worker. In a mass change snapshots follow each other quickly and only the newest
/// matters, so the sender tries again with a newer one when the mailbox is full.
pub(super) const COMMANDS_MAX: usize = 64;

/// The most replies that may wait for the management core.
const REPLIES_MAX: usize = 1_024;

/// The most connections that may wait to be synced to other directors: those of 2 ms at a million new connections per
/// second and more, 1 MB.
const SYNCED_MAX: usize = 8_192;

/// From the management core to a worker.
#[derive(Debug)]
pub enum Command {
    /// Use this snapshot from the next burst on. Answered by [`Reply::Retired`].
    Publish(Arc<Snapshot>),
    /// Copy connections. Answered by [`Reply::ConnDump`].
    DumpConns(Box<ConnDump>),
    /// Explain what the path would do with a packet. Answered by [`Reply::Explained`].
    Explain(Box<ExplainRequest>),
    /// Import connections of another director. Answered by [`Reply::ImportedSynced`].
    ImportSynced(Arc<[SyncConn]>),
    /// Put connections of the table into [`Mailbox::synced`]. Answered by [`Reply::CopiedConns`].
    CopyConns(CopyConns),
    /// Record frames by this tap until its other side is dropped. Answered by [`Reply::Tap`] at that time.
    Tap(Box<Tap>),
    /// Leave the loop after this pass.
    Stop,
}

/// From a worker to the management core.
#[derive(Debug)]
pub enum Reply {
    /// The replaced snapshot. The management core drops it, not the worker.
    Retired(Arc<Snapshot>),
    /// The connections of the request. The management core drops them, not the worker.
    ImportedSynced(Arc<[SyncConn]>),
    /// How far a bulk sync has come; what it sent is in [`Mailbox::synced`].
    CopiedConns(CopiedConns),
    /// The request with its records filled in and its cursor advanced.
    ConnDump(Box<ConnDump>),
    /// The request with its answer filled in.
    Explained(Box<ExplainRequest>),
    /// A tap whose capture is over, or one too many. The management core drops it, not the worker.
    Tap(Box<Tap>),
    /// Packets wait for this neighbour. The worker repeats this every second while they do.
    Resolve(NeighbourKey),
}

/// A part of a worker's connections.
#[derive(Debug)]
pub struct ConnDump {
    /// Where to begin. In the reply: where to continue, `None` at the end.
    pub cursor: Option<DumpCursor>,
    /// The worker fills it up to its capacity and never grows it.
    pub records: Vec<ConnRecord>,
    /// Chosen by the sender and returned unchanged.
    pub ticket: u64,
}

/// A slice of a bulk sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyConns {
    /// Where to begin.
    pub from: DumpCursor,
    /// The most connections to send.
    pub conns_max: u16,
    /// Chosen by the sender and returned unchanged.
    pub ticket: u64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopiedConns {
    /// How many were sent, and where to continue.
    pub slice: Slice,
    /// As in the request.
    pub ticket: u64,
}

/// A question about one packet.
#[derive(Debug)]
pub struct ExplainRequest {
    /// The packet.
    pub question: Question,
    /// The worker's answer. A worker without a real path leaves it `None`.
    pub answer: Option<Explanation>,
    /// Chosen by the sender and returned unchanged.
    pub ticket: u64,
}

/// Both directions of one worker's messages. Only the worker takes commands and sends replies.
#[derive(Debug)]
pub struct Mailbox {
    /// Management core to worker.
    pub commands: ArrayQueue<Command>,
    /// Worker to management core.
    pub replies: ArrayQueue<Reply>,
    /// Worker to management core: connections for other directors.
    pub synced: ArrayQueue<SyncConn>,
    /// See [`Self::while_asleep`].
    asleep: AtomicBool,
}

impl Mailbox {
    /// An empty mailbox.
    pub fn new() -> Self {
        Self {
            commands: ArrayQueue::new(COMMANDS_MAX),
            replies: ArrayQueue::new(REPLIES_MAX),
            synced: ArrayQueue::new(SYNCED_MAX),
            asleep: AtomicBool::new(false),
        }
    }

    /// Runs `sleep` on the worker, which counts as asleep meanwhile. Afterwards the worker handles the commands that have
    /// come before it takes a frame.
    pub(super) fn while_asleep(&self, sleep: impl FnOnce()) {
        self.asleep.store(true, Ordering::SeqCst);
        sleep();
        self.asleep.store(false, Ordering::SeqCst);
        // Whoever pushed a command and then saw the worker asleep did both before this.
        fence(Ordering::SeqCst);
    }

    /// Whether the worker is asleep, so that it handles every command pushed so far before it takes its next frame.
    pub fn is_asleep(&self) -> bool {
        fence(Ordering::SeqCst);
        // A worker that is asleep sends no reply, so the free slots seen here are still free when it handles commands.
        self.asleep.load(Ordering::SeqCst) && self.replies.len() + COMMANDS_MAX <= REPLIES_MAX
    }

    /// For the worker: whether a command waits and a slot for its reply is free.
    #[inline]
    pub(super) fn has_command(&self) -> bool {
        // Only the worker sends replies, so the slot is still free when it answers.
        !self.commands.is_empty() && !self.replies.is_full()
    }

    /// For the worker: the next command. `None` also while no slot for its reply is free.
    #[inline]
    pub(super) fn next_command(&self) -> Option<Command> {
        if self.has_command() { self.commands.pop() } else { None }
    }

    /// For the worker: answers a command. [`Self::next_command`] made sure that a slot is free.
    #[inline]
    pub(super) fn answer(&self, reply: Reply) {
        let _ = self.replies.push(reply);
    }

    /// For the worker: requests a neighbour. Returns `false` when half of the slots are taken: the other half is for
    /// answers, so a scan of an empty network delays no snapshot.
    #[inline]
    pub(super) fn request_neighbour(&self, neighbour: NeighbourKey) -> bool {
        self.replies.len() < REPLIES_MAX / 2 && self.replies.push(Reply::Resolve(neighbour)).is_ok()
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}

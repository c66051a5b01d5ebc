//! What the management core sees of a worker: publish to it, read its counters, ask it for connections.
//!
//! The mailbox implements it in the daemon; tests implement it with plain memory.

use std::sync::Arc;

use lvs_core::conn_record::{ConnRecord, DumpCursor};
use lvs_core::counters::WorkerCounters;
use lvs_core::explain::{Explanation, Question};
use lvs_core::ipvs::sync::SyncConn;
use lvs_core::snapshot::Snapshot;
use tokio::sync::oneshot;

use crate::worker::capture::Tap;
use crate::worker::mailbox::{CopiedConns, CopyConns};

/// Part of a worker's connection table.
#[derive(Debug)]
pub struct ConnChunk {
    /// Some connections, in the buffer that was lent for them.
    pub records: Vec<ConnRecord>,
    /// Where it goes on; `None` at the end.
    pub next: Option<DumpCursor>,
}

/// A worker, seen from the management core. Nothing here waits.
pub trait WorkerHandle: Send + Sync {
    /// Sends the newest snapshot. Returns `false` when the mailbox is full; then the director tries again.
    fn publish(&self, snapshot: Arc<Snapshot>) -> bool;

    /// Whether the worker sleeps. Then it takes up what was published before it takes its next frame.
    fn is_asleep(&self) -> bool;

    /// What the worker counts.
    fn counters(&self) -> &WorkerCounters;

    /// The core it is pinned to.
    fn lcore(&self) -> Option<u32>;

    /// Time-stamp cycles of a second, in which it counts its time.
    fn cycles_per_sec(&self) -> u64;

    /// Asks for connections behind `cursor`, as many as `buffer` has capacity for. The answer fails when the
    /// mailbox is full or the worker is gone.
    fn dump_conns(&self, cursor: DumpCursor, buffer: Vec<ConnRecord>) -> oneshot::Receiver<ConnChunk>;

    /// Asks what the worker would do with a packet. The answer fails likewise.
    fn explain(&self, question: Question) -> oneshot::Receiver<Explanation>;

    /// Gives the worker a tap for a capture; `false` when the mailbox is full.
    fn tap(&self, tap: Box<Tap>) -> bool;

    /// The oldest connection that the worker syncs out to other directors.
    fn next_synced(&self) -> Option<SyncConn>;

    /// Asks for a slice of a bulk sync, which comes by [`Self::next_synced`]; `false` when the mailbox is full.
    fn copy_conns(&self, request: CopyConns) -> bool;

    /// What became of the last slice, once. All that it sent can be taken when this is known.
    fn copied_conns(&self) -> Option<CopiedConns>;

    /// Sends connections of another director; `false` when the mailbox has no space for them now.
    fn import_synced(&self, conns: Arc<[SyncConn]>) -> bool;
}

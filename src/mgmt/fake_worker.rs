//! A worker of plain memory for tests.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lvs_core::conn_record::{ConnRecord, DumpCursor};
use lvs_core::counters::WorkerCounters;
use lvs_core::explain::{Explanation, Question};
use lvs_core::ipvs::conn::ConnFlags;
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::service::ServiceId;
use lvs_core::ipvs::sync::SyncConn;
use lvs_core::path::sync::bulk::Slice;
use lvs_core::single_writer::SingleWriter;
use lvs_core::snapshot::Snapshot;
use tokio::sync::oneshot;

use super::worker_handle::{ConnChunk, WorkerHandle};
use crate::worker::capture::Tap;
use crate::worker::mailbox::{CopiedConns, CopyConns};

/// See the module.
pub(super) struct FakeWorker {
    pub counters: WorkerCounters,
    pub published: Mutex<Vec<Arc<Snapshot>>>,
    pub mailbox_full: AtomicBool,
    pub silent: AtomicBool,
    pub asleep: AtomicBool,
    pub conns: Mutex<Vec<ConnRecord>>,
    /// How many parts of its table were asked for.
    pub dumps: AtomicUsize,
    /// Connections that it syncs out to other directors.
    pub synced: Mutex<Vec<SyncConn>>,
    /// Connections of its table that it sends in a bulk sync.
    pub table: Mutex<Vec<SyncConn>>,
    /// What became of the last slice.
    copied: Mutex<Option<CopiedConns>>,
    /// Connections of other directors that it imports.
    pub taken_over: Mutex<Vec<SyncConn>>,
}

impl FakeWorker {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            counters: WorkerCounters::new(64),
            published: Mutex::default(),
            mailbox_full: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            conns: Mutex::default(),
            dumps: AtomicUsize::new(0),
            synced: Mutex::default(),
            table: Mutex::default(),
            copied: Mutex::default(),
            taken_over: Mutex::default(),
        })
    }

    /// The snapshot it works with.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.published.lock().unwrap().last().expect("nothing was published"))
    }
}

impl WorkerHandle for FakeWorker {
    fn publish(&self, snapshot: Arc<Snapshot>) -> bool {
        if self.mailbox_full.load(Ordering::Relaxed) {
            return false;
        }
        if !self.silent.load(Ordering::Relaxed) {
            self.counters.generation.set(snapshot.generation);
        }
        self.published.lock().unwrap().push(snapshot);
        true
    }

    fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    fn lcore(&self) -> Option<u32> {
        Some(3)
    }

    fn cycles_per_sec(&self) -> u64 {
        1_000_000_000
    }

    fn dump_conns(&self, cursor: DumpCursor, mut buffer: Vec<ConnRecord>) -> oneshot::Receiver<ConnChunk> {
        let (answer, receiver) = oneshot::channel();
        self.dumps.fetch_add(1, Ordering::Relaxed);
        let DumpCursor::V4(from) = cursor else {
            panic!("never handed out")
        };
        let conns = self.conns.lock().unwrap();
        let rest = &conns[from as usize..];
        let part = &rest[..rest.len().min(buffer.capacity())];
        buffer.extend_from_slice(part);
        let next = (part.len() < rest.len()).then(|| DumpCursor::V4(from + part.len() as u32));
        if !self.silent.load(Ordering::Relaxed) {
            answer.send(ConnChunk { records: buffer, next }).unwrap();
        }
        receiver
    }

    /// Owns nothing, so nobody may ask it.
    fn explain(&self, _: Question) -> oneshot::Receiver<Explanation> {
        oneshot::channel().1
    }

    /// Sees no frames.
    fn tap(&self, tap: Box<Tap>) -> bool {
        drop(tap);
        !self.mailbox_full.load(Ordering::Relaxed)
    }

    fn next_synced(&self) -> Option<SyncConn> {
        self.synced.lock().unwrap().pop()
    }

    fn copy_conns(&self, request: CopyConns) -> bool {
        if self.mailbox_full.load(Ordering::Relaxed) {
            return false;
        }
        let DumpCursor::V4(from) = request.from else {
            panic!("never handed out")
        };
        let table = self.table.lock().unwrap();
        let rest = &table[from as usize..];
        let part = &rest[..rest.len().min(request.conns_max.into())];
        // The oldest is taken from the end.
        self.synced.lock().unwrap().splice(0..0, part.iter().rev().copied());
        let slice = Slice {
            copied: part.len() as u32,
            next: (part.len() < rest.len()).then(|| DumpCursor::V4(from + part.len() as u32)),
        };
        *self.copied.lock().unwrap() = Some(CopiedConns {
            slice,
            ticket: request.ticket,
        });
        true
    }

    fn copied_conns(&self) -> Option<CopiedConns> {
        self.copied.lock().unwrap().take()
    }

    fn import_synced(&self, conns: Arc<[SyncConn]>) -> bool {
        self.taken_over.lock().unwrap().extend_from_slice(&conns);
        true
    }
}

/// An established connection of `tcp:192.0.2.1:80`, another client for every `index`.
pub(super) fn conn(index: u32) -> ConnRecord {
    let client = (
        std::net::Ipv4Addr::from(0xc633_6400 + (index >> 14)).into(),
        (index & 0x3fff) as u16 + 1_024,
    );
    ConnRecord {
        protocol: 6,
        client,
        virt: ("192.0.2.1".parse().unwrap(), 80),
        local: client,
        real: ("198.51.100.1".parse().unwrap(), 80),
        mode: ForwardingMode::Nat,
        state: 1,
        expires_in_ms: 900_000,
        in_packets: 3,
        service: ServiceId(0),
        real_server: RealServerId(0),
        flags: ConnFlags::empty(),
    }
}

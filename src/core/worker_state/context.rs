//! What the path borrows from a worker for one burst: the tables of both families and, as [`Context`], the rest.

use std::sync::Arc;

use crate::address::{Addr4, Addr6, Address, FlowKey};
use crate::counters::WorkerCounters;
use crate::headers::{Flow, Headers};
use crate::ipvs::conn::table::{Candidate, ConnTable};
use crate::ipvs::conn::{Conn, Direction};
use crate::ipvs::load_board::LoadBoard;
use crate::ipvs::local_address::{LocalPortCursor, PortsAhead};
use crate::ipvs::protocol::{self, tcp::TcpState};
use crate::ipvs::resting_ports::RestingPorts;
use crate::ipvs::scheduler::{Localities, SchedulerState};
use crate::ipvs::sync::outbox::Outbox;
use crate::l3::{DeviceId, StackChecks};
use crate::limits::{BURST_MAX, ICMP_ERRORS_BURST, ICMP_ERRORS_PER_SEC, RESETS_BURST, RESETS_PER_SEC, SERVICES_MAX};
use crate::random::Random;
use crate::rss::RssHash;
use crate::snapshot::Snapshot;
use crate::stages::Stage;
use crate::tick::Tick;
use crate::verdict::WorkerId;
use crate::wire::{tcp, udp};
use crate::worker_state::WorkerSettings;
use crate::worker_state::defence::{Defence, Sweep};
use crate::worker_state::generated_frames::GeneratedFrames;
use crate::worker_state::icmp_budget::IcmpBudget;
use crate::worker_state::l3_cache::L3Cache;
use crate::worker_state::path_mtus::PathMtus;
use crate::worker_state::pending_neighbours::PendingNeighbours;
use crate::worker_state::reassembly::Reassembly;
use crate::worker_state::token_bucket::TokenBucket;

/// What the stages behind parsing read and write besides the tables, borrowed for one burst.
///
/// A new helper of theirs is a field of one of the groups below and a line of that group's `new`.
pub(crate) struct Context<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) now: Tick,
    /// The device the frames came from.
    pub(crate) device: DeviceId,
    pub(crate) ownership: Ownership<'a>,
    pub(crate) fast_ms: FastTimeouts,
    /// What the stack is set to refuse of the device's frames.
    pub(crate) checks: StackChecks,
    /// Whether the kernel sends the frames, instead of the device having received them.
    pub(crate) from_host: bool,
    /// Milliseconds since midnight UTC.
    pub(crate) time_of_day: fn() -> u32,
    /// This worker's counters.
    pub(crate) own: &'a WorkerCounters,
    /// All workers' counters, this one's included.
    pub(crate) counters: &'a [Arc<WorkerCounters>],
    pub(crate) random: &'a mut Random,
    pub(crate) defence: &'a mut Defence,
    pub(crate) scheduling: &'a mut Scheduling,
    pub(crate) l3_memory: &'a mut L3Memory,
    pub(crate) out: &'a mut Out,
}

/// By what a worker knows whose a flow is.
#[derive(Clone, Copy)]
pub(crate) struct Ownership<'a> {
    /// Which of the workers this is.
    pub(crate) worker: WorkerId,
    pub(crate) workers_count: u8,
    /// Key of the hash that spreads flows over workers.
    pub(crate) secret: u64,
    /// How the NICs spread flows over workers; `None` where they do not, or where there is one worker.
    pub(crate) rss: Option<&'a RssHash>,
    /// Whether another worker handed these frames to this one: they are not handed on.
    pub(crate) is_handoff: bool,
}

/// Timeouts of almost all connections in milliseconds, by [`crate::ipvs::conn::Direction`]. 0 where packets of that
/// direction must take the slow path.
#[derive(Clone, Copy)]
pub(crate) struct FastTimeouts {
    /// TCP in ESTABLISHED.
    pub(crate) established: [u32; 2],
    /// UDP.
    pub(crate) udp: [u32; 2],
}

/// What a new connection's real server and local port are chosen by.
pub(crate) struct Scheduling {
    /// By [`crate::ipvs::service::ServiceId`].
    pub(crate) schedulers: Box<[SchedulerState]>,
    /// By [`crate::ipvs::service::ServiceId`].
    pub(crate) pools: Box<[PoolState]>,
    /// What lblc and lblcr remember.
    pub(crate) localities: Localities,
    /// Loads of the other workers.
    pub(crate) loads: LoadBoard,
    /// Local ports chosen ahead of their connections.
    pub(crate) ports_ahead: PortsAhead,
    /// Local ports that connections gave up a short time ago.
    pub(crate) resting: RestingPorts,
}

/// Where this worker is in the pool of one service.
#[derive(Clone, Copy)]
pub(crate) struct PoolState {
    pub(crate) cursor: LocalPortCursor,
    /// Whether the last connection found no port that had rested.
    pub(crate) is_short: bool,
}

/// What a worker remembers of the network beside the mirrored tables.
pub(crate) struct L3Memory {
    /// What those tables answered lately.
    pub(crate) cache: Box<L3Cache>,
    /// Paths that are narrower than their first link.
    pub(crate) path_mtus: PathMtus,
    /// The neighbours that frames wait for.
    pub(crate) pending_neighbours: PendingNeighbours,
}

/// What leaves besides the frames of the burst.
pub(crate) struct Out {
    /// Frames that the path generated.
    pub(crate) generated: GeneratedFrames,
    /// How many ICMP errors may be sent.
    pub(crate) icmp_budget: IcmpBudget,
    /// How many TCP resets may be sent.
    pub(crate) resets: TokenBucket,
    /// Connections for another director.
    pub(crate) outbox: Outbox,
}

impl Context<'_> {
    /// Counts a packet of `conn` at its real server.
    #[inline(always)]
    pub(crate) fn count<A: Address>(&self, conn: &Conn<A>, direction: Direction, packet_len: usize) {
        let server = self.own.server(conn.real_server);
        server.count(direction, packet_len as u64);
    }

    /// The end of a stage, in builds with the feature `stages`.
    #[inline(always)]
    pub(crate) fn mark(&self, stage: Stage) {
        #[cfg(feature = "stages")]
        self.own.stages.mark(stage, crate::prefetch::cycles());
        #[cfg(not(feature = "stages"))]
        let _ = stage;
    }
}

impl FastTimeouts {
    /// Those of `snapshot`. A client's packet that is counted for another director takes the slow path.
    #[inline]
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let inbound = |timeout_ms| if snapshot.sync.master { 0 } else { timeout_ms };
        let both = |protocol, state| {
            let timeout_ms = protocol::timeout_ms(&snapshot.timeouts, protocol, state);
            [inbound(timeout_ms), timeout_ms]
        };
        Self {
            established: both(tcp::PROTOCOL, TcpState::Established as u8),
            udp: both(udp::PROTOCOL, protocol::udp::NORMAL),
        }
    }
}

impl Scheduling {
    /// Of a worker with `settings`, for `servers_max` real servers.
    pub(super) fn new(
        settings: &WorkerSettings,
        servers_max: usize,
        resting: RestingPorts,
        random: &mut Random,
    ) -> Self {
        let (worker, workers_count) = (settings.id, settings.workers_count);
        Self {
            schedulers: (0..SERVICES_MAX)
                .map(|_| SchedulerState::seeded(random.next_u64()).at_worker(worker.0, workers_count))
                .collect(),
            pools: (0..SERVICES_MAX)
                .map(|_| PoolState {
                    cursor: LocalPortCursor::seeded(random.next_u64()),
                    is_short: false,
                })
                .collect(),
            localities: Localities::new(),
            loads: LoadBoard::new(servers_max, SERVICES_MAX),
            ports_ahead: PortsAhead::new(),
            resting,
        }
    }
}

impl L3Memory {
    pub(super) fn new() -> Self {
        Self {
            cache: L3Cache::new(),
            path_mtus: PathMtus::new(),
            pending_neighbours: PendingNeighbours::new(),
        }
    }
}

impl Out {
    pub(super) fn new() -> Self {
        Self {
            generated: GeneratedFrames::new(),
            icmp_budget: IcmpBudget::new(ICMP_ERRORS_PER_SEC, ICMP_ERRORS_BURST),
            resets: TokenBucket::new(RESETS_PER_SEC, RESETS_BURST),
            outbox: Outbox::new(),
        }
    }
}

/// The tables of both families, each with the scratch space of the burst under way.
pub(crate) struct Families {
    pub(crate) v4: Family<Addr4>,
    pub(crate) v6: Family<Addr6>,
    pub(crate) reassembly: Reassembly,
}

/// A family of addresses, as flows and a worker's tables have it.
pub(crate) trait InFamilies: Address {
    /// Its tables.
    fn family(families: &mut Families) -> &mut Family<Self>;

    /// The key of a flow of this family.
    fn key(flow: &Flow) -> Option<&FlowKey<Self>>;
}

impl InFamilies for Addr4 {
    #[inline]
    fn family(families: &mut Families) -> &mut Family<Self> {
        &mut families.v4
    }

    #[inline]
    fn key(flow: &Flow) -> Option<&FlowKey<Self>> {
        match flow {
            Flow::V4(key) => Some(key),
            Flow::V6(_) => None,
        }
    }
}

impl InFamilies for Addr6 {
    #[inline]
    fn family(families: &mut Families) -> &mut Family<Self> {
        &mut families.v6
    }

    #[inline]
    fn key(flow: &Flow) -> Option<&FlowKey<Self>> {
        match flow {
            Flow::V4(_) => None,
            Flow::V6(key) => Some(key),
        }
    }
}

impl Families {
    /// The tables for packets of `key`.
    #[inline]
    pub(crate) fn of<A: InFamilies>(&mut self, _key: &FlowKey<A>) -> &mut Family<A> {
        A::family(self)
    }
}

/// The same code for a flow of either family: `in_family!(&flow, |key| …)`.
macro_rules! in_family {
    ($flow:expr, |$key:ident| $code:expr) => {
        match $flow {
            $crate::headers::Flow::V4($key) => $code,
            $crate::headers::Flow::V6($key) => $code,
        }
    };
}
pub(crate) use in_family;

/// One family's connections, and those packets of the burst that are looked up in them.
pub(crate) struct Family<A: Address> {
    pub(crate) table: ConnTable<A>,
    pub(crate) entries: [LookupEntry<A>; BURST_MAX],
    pub(crate) count: usize,
    /// The walk of `drop_entry`.
    pub(crate) idle: Sweep,
    /// The walk of `expire_nodest_conn`.
    pub(crate) orphans: Sweep,
}

/// A packet on its way through lookup.
#[derive(Clone, Copy)]
pub(crate) struct LookupEntry<A: Address> {
    pub(crate) hash: u64,
    pub(crate) key: FlowKey<A>,
    pub(crate) headers: Headers,
    pub(crate) candidate: Candidate,
    /// Its place in the burst.
    pub(crate) slot: u8,
}

impl<A: Address> Family<A> {
    /// Without connections that are looked up.
    pub(super) fn new(table: ConnTable<A>) -> Self {
        let empty = LookupEntry {
            hash: 0,
            key: FlowKey::default(),
            headers: Headers::default(),
            candidate: Candidate::NONE,
            slot: 0,
        };
        Self {
            table,
            entries: [empty; BURST_MAX],
            count: 0,
            idle: Sweep::default(),
            orphans: Sweep::default(),
        }
    }

    /// Forgets the packets of the burst before.
    #[inline]
    pub(crate) const fn clear(&mut self) {
        self.count = 0;
    }

    /// Takes a packet up, and fetches the bucket that its connection is found by.
    #[inline(always)]
    pub(crate) fn push(&mut self, slot: usize, headers: Headers, key: FlowKey<A>) {
        let hash = self.table.hash(&key);
        self.table.prefetch_bucket(hash);
        if let Some(entry) = self.entries.get_mut(self.count) {
            entry.hash = hash;
            entry.key = key;
            entry.headers = headers;
            entry.slot = slot as u8;
            self.count += 1;
        }
    }
}

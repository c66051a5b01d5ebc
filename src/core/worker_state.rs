//! What one worker owns: its connection tables, scheduler cursors, port cursors and scratch space.
//!
//! Only its worker writes it; nothing in it is shared except the counters, which have this worker as
//! their single writer. All of it is allocated in [`WorkerState::new`] and never again.

use std::net::IpAddr;
use std::sync::Arc;

use crate::address::{Addr4, Addr6, Address, FlowKey};
use crate::arena::{Arena, ArenaError};
use crate::counters::{SingleWriter, WorkerCounters};
use crate::ipvs::conn::table::{Candidate, ConnTable};
use crate::ipvs::conn::{Conn, ConnFlags};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::load_board::LoadBoard;
use crate::ipvs::local_address::{LocalPortCursor, PortsAhead};
use crate::ipvs::persistence;
use crate::ipvs::protocol::{self, tcp::TcpState};
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::scheduler::{self, Localities, SchedulerState};
use crate::ipvs::service::{ServiceId, VirtualService};
use crate::ipvs::sync::SyncConn;
use crate::ipvs::sync::outbox::Outbox;
use crate::l3::{DeviceId, NeighbourKey};
use crate::limits::{BURST_MAX, ICMP_ERRORS_BURST, ICMP_ERRORS_PER_SEC, SERVICES_MAX};
use crate::path::Headers;
use crate::path::defence::{Defence, Sweep};
use crate::path::generated_frames::GeneratedFrames;
use crate::path::l3_cache::L3Cache;
use crate::path::path_mtu::PathMtus;
use crate::path::reassemble::Reassembly;
use crate::path::reply::IcmpBudget;
use crate::path::resolve::PendingNeighbours;
use crate::path::verdict::{Verdict, WaitId, WorkerId};
use crate::random::Random;
use crate::rss::RssHash;
use crate::snapshot::Snapshot;
use crate::stages::Stage;
use crate::tick::Tick;
use crate::wire::{tcp, udp};

/// What a worker is made with.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Which of the workers this is.
    pub id: WorkerId,
    /// How many there are: 1 up to [`crate::limits::WORKERS_MAX`].
    pub workers_count: u8,
    /// IPv4 connections this worker can hold.
    pub conns4_max: usize,
    /// IPv6 connections this worker can hold.
    pub conns6_max: usize,
    /// Key of the connection hash and of ownership; the same on all workers, from the system's random source.
    pub secret: [u64; 4],
    /// Seed of everything else that is random.
    pub seed: u64,
}

/// See the module.
pub struct WorkerState {
    settings: WorkerSettings,
    snapshot: Arc<Snapshot>,
    families: Families,
    schedulers: Box<[SchedulerState]>,
    port_cursors: Box<[LocalPortCursor]>,
    counters: Arc<[Arc<WorkerCounters>]>,
    own: Arc<WorkerCounters>,
    random: Random,
    icmp_budget: IcmpBudget,
    defence: Defence,
    localities: Localities,
    loads: LoadBoard,
    generated: GeneratedFrames,
    path_mtus: PathMtus,
    outbox: Outbox,
    rss: Option<RssHash>,
    pending_neighbours: PendingNeighbours,
    l3_cache: Box<L3Cache>,
    ports_ahead: PortsAhead,
}

/// The tables of both families, each with the scratch space of the burst under way.
pub(crate) struct Families {
    pub(crate) v4: Family<Addr4>,
    pub(crate) v6: Family<Addr6>,
    pub(crate) reassembly: Reassembly,
}

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
    fn new(table: ConnTable<A>) -> Self {
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

/// Everything but the tables that the steps behind lookup read and write, borrowed for one burst.
pub(crate) struct Context<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) now: Tick,
    /// The device the frames came from.
    pub(crate) device: DeviceId,
    pub(crate) is_handoff: bool,
    pub(crate) worker: WorkerId,
    pub(crate) workers_count: u8,
    pub(crate) secret: u64,
    /// How the NICs spread flows over workers; `None` where they do not, or where there is one worker.
    pub(crate) rss: Option<&'a RssHash>,
    /// Timeouts of almost all connections in milliseconds, by [`crate::ipvs::conn::Direction`]: TCP in ESTABLISHED, UDP.
    /// 0 where packets of that direction must go the full way.
    pub(crate) established_ms: [u32; 2],
    pub(crate) udp_ms: [u32; 2],
    pub(crate) schedulers: &'a mut [SchedulerState],
    pub(crate) port_cursors: &'a mut [LocalPortCursor],
    /// This worker's counters.
    pub(crate) own: &'a WorkerCounters,
    /// All workers' counters, this one's included.
    pub(crate) counters: &'a [Arc<WorkerCounters>],
    pub(crate) random: &'a mut Random,
    pub(crate) icmp_budget: &'a mut IcmpBudget,
    pub(crate) defence: &'a mut Defence,
    pub(crate) localities: &'a mut Localities,
    pub(crate) loads: &'a mut LoadBoard,
    /// Frames besides those of the burst.
    pub(crate) generated: &'a mut GeneratedFrames,
    pub(crate) path_mtus: &'a mut PathMtus,
    /// What is to be told to another director.
    pub(crate) outbox: &'a Outbox,
    pub(crate) pending_neighbours: &'a mut PendingNeighbours,
    pub(crate) l3_cache: &'a mut L3Cache,
    pub(crate) ports_ahead: &'a mut PortsAhead,
    /// While a datagram that was put together is processed: bytes of the longest piece that it may leave in, its
    /// longest fragment at first. Else 0.
    pub(crate) reassembled: u16,
}

impl Context<'_> {
    /// The end of a step, in builds with the feature `stages`.
    #[inline(always)]
    pub(crate) fn mark(&self, ctx: Stage) {
        #[cfg(feature = "stages")]
        self.own.stages.mark(ctx, crate::prefetch::cycles());
        #[cfg(not(feature = "stages"))]
        let _ = ctx;
    }
}

impl WorkerState {
    /// Bytes that [`Self::new`] carves from its arena.
    pub fn arena_bytes(settings: &WorkerSettings) -> usize {
        ConnTable::<Addr4>::bytes_needed(settings.conns4_max) + ConnTable::<Addr6>::bytes_needed(settings.conns6_max)
    }

    /// A worker without connections.
    ///
    /// # Errors
    /// When `arena` is smaller than [`Self::arena_bytes`].
    pub fn new(
        settings: WorkerSettings,
        arena: &mut Arena,
        snapshot: Arc<Snapshot>,
        counters: Arc<[Arc<WorkerCounters>]>,
        own: Arc<WorkerCounters>,
    ) -> Result<Self, ArenaError> {
        let mut random = Random::new(settings.seed);
        let v4 = ConnTable::new(arena, settings.conns4_max, settings.secret)?;
        let v6 = ConnTable::new(arena, settings.conns6_max, settings.secret)?;
        let loads = LoadBoard::new(own.servers.len(), SERVICES_MAX);
        let mut state = Self {
            families: Families {
                v4: Family::new(v4),
                v6: Family::new(v6),
                reassembly: Reassembly::new(),
            },
            schedulers: (0..SERVICES_MAX)
                .map(|_| SchedulerState::seeded(random.next_u64()).at_worker(settings.id.0, settings.workers_count))
                .collect(),
            port_cursors: (0..SERVICES_MAX)
                .map(|_| LocalPortCursor::seeded(random.next_u64()))
                .collect(),
            counters,
            own,
            random,
            icmp_budget: IcmpBudget::new(ICMP_ERRORS_PER_SEC, ICMP_ERRORS_BURST),
            defence: Defence::default(),
            localities: Localities::new(),
            loads,
            generated: GeneratedFrames::new(),
            path_mtus: PathMtus::new(),
            outbox: Outbox::new(),
            rss: None,
            pending_neighbours: PendingNeighbours::new(),
            l3_cache: L3Cache::new(),
            ports_ahead: PortsAhead::new(),
            snapshot: Arc::new(Snapshot::default()),
            settings,
        };
        state.adopt(snapshot);
        Ok(state)
    }

    /// Takes up a new snapshot and returns the old one, for its publisher to drop.
    pub fn adopt(&mut self, new: Arc<Snapshot>) -> Arc<Snapshot> {
        if !Arc::ptr_eq(&self.snapshot.services, &new.services) {
            for service in new.services.services() {
                let old = self.snapshot.services.service(service.id);
                if old.is_none_or(|old| old.servers_revision != service.servers_revision) {
                    self.reconsider_thresholds(service);
                }
                let Some(state) = self.schedulers.get_mut(service.id.0 as usize) else {
                    continue;
                };
                if old.is_none_or(|old| old.revision != service.revision) {
                    scheduler::adopt(state, old, service);
                }
            }
        }
        let old = std::mem::replace(&mut self.snapshot, new);
        self.update_defence();
        if self.snapshot.sysctls.expire_nodest_conn && !Arc::ptr_eq(&old.services, &self.snapshot.services) {
            self.families.v4.orphans.begin(self.families.v4.table.capacity());
            self.families.v6.orphans.begin(self.families.v6.table.capacity());
        }
        old
    }

    /// Whether a server whose thresholds were edited is overloaded is decided anew: one that was full stays so until
    /// it is below the new lower threshold, one that has as many connections as the new upper one is full at once
    /// (`__ip_vs_update_dest`).
    fn reconsider_thresholds(&self, service: &VirtualService) {
        let thresholds = |server: &RealServer| (server.upper_threshold, server.lower_threshold);
        for server in service.servers.iter() {
            let old = self.snapshot.services.real_server(server.id);
            if old.is_none_or(|old| thresholds(&old.server) == thresholds(server)) {
                continue;
            }
            let own = self.own.server(server.id);
            let was = own.overloaded.get() != 0;
            let conns = WorkerCounters::conns_of_all(&self.counters, server.id);
            own.overloaded.set(u32::from(server.overloaded(was, conns)));
            self.own.publish_conns(server.id);
        }
    }

    fn update_defence(&mut self) {
        let room = |len: usize, capacity: usize| (capacity - len, capacity);
        let (v4, v6) = (&self.families.v4.table, &self.families.v6.table);
        let rooms = [room(v4.len(), v4.capacity()), room(v6.len(), v6.capacity())];
        // The fuller table counts: free / capacity is smaller.
        let [v4, v6] = rooms;
        let (free, capacity) = if v4.0 * v6.1 <= v6.0 * v4.1 { v4 } else { v6 };
        self.defence.update(&self.snapshot.sysctls, free, capacity);
    }

    /// Looks once a second at the room in the tables. Whether `drop_entry` is to walk through them now.
    pub(crate) fn look_at_defences(&mut self, now: Tick) -> bool {
        if !self.defence.is_due(now) {
            return false;
        }
        self.update_defence();
        self.defence.begins_sweep()
    }

    /// Tells the time more finely than the ticks do, in microseconds modulo 2³²: once for each pass of the worker.
    #[inline]
    pub const fn set_us(&mut self, us: u32) {
        self.loads.set_us(us);
    }

    /// The snapshot in use.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// This worker's counters.
    pub fn counters(&self) -> &WorkerCounters {
        &self.own
    }

    /// Which worker this is.
    pub const fn id(&self) -> WorkerId {
        self.settings.id
    }

    /// Takes the next frame that the path made besides those of the burst (pieces of long packets, ICMP errors
    /// about datagrams that never became whole): it belongs into a buffer of its own, which then goes where its
    /// verdict says, as if it had been received. To be called after every call of the path until it gives none.
    #[inline]
    pub fn next_generated(&mut self) -> Option<(Verdict, &[u8])> {
        let generated = self.generated.take()?;
        self.own.generated_frames.add(1);
        Some(generated)
    }

    /// Takes the oldest connection that is to be told to another director. To be called after every call of the
    /// path until it gives none.
    #[inline]
    pub fn next_synced(&mut self) -> Option<SyncConn> {
        self.outbox.take()
    }

    /// All devices spread flows by this hash, one queue a worker: from now on flows belong to the worker to which
    /// they bring them. For all workers alike, before the first burst.
    pub fn follow_rss(&mut self, rss: RssHash) {
        self.rss = (self.settings.workers_count > 1).then_some(rss);
    }

    /// The neighbour that a frame with the verdict [`Verdict::Hold`] waits for.
    pub const fn neighbour(&self, name: WaitId) -> NeighbourKey {
        self.pending_neighbours.key(name)
    }

    /// Connections held at this moment, IPv4 and IPv6.
    pub fn conns_count(&self) -> (usize, usize) {
        (self.families.v4.table.len(), self.families.v6.table.len())
    }

    /// Whether timers of connections wait for [`crate::path::expire`].
    #[inline]
    pub(crate) fn is_timer_due(&self, now: Tick) -> bool {
        self.families.v4.table.is_timer_due(now) || self.families.v6.table.is_timer_due(now)
    }

    /// Splits the state for one burst: what the steps use, and the tables.
    #[inline]
    pub(crate) fn context(&mut self, device: DeviceId, now: Tick, is_handoff: bool) -> (Context<'_>, &mut Families) {
        let timeouts = &self.snapshot.timeouts;
        // While clients' packets are counted for another director none of them is plain: no timeout is 0.
        let inbound = |timeout_ms| if self.snapshot.sync.master { 0 } else { timeout_ms };
        let fast_ms = |protocol, state| {
            let timeout_ms = protocol::timeout_ms(timeouts, protocol, state);
            [inbound(timeout_ms), timeout_ms]
        };
        let ctx = Context {
            snapshot: &self.snapshot,
            now,
            device,
            is_handoff,
            worker: self.settings.id,
            workers_count: self.settings.workers_count,
            secret: self.settings.secret[0],
            rss: self.rss.as_ref(),
            established_ms: fast_ms(tcp::PROTOCOL, TcpState::Established as u8),
            udp_ms: fast_ms(udp::PROTOCOL, protocol::udp::NORMAL),
            schedulers: &mut self.schedulers,
            port_cursors: &mut self.port_cursors,
            own: &self.own,
            counters: &self.counters,
            random: &mut self.random,
            icmp_budget: &mut self.icmp_budget,
            defence: &mut self.defence,
            localities: &mut self.localities,
            loads: &mut self.loads,
            generated: &mut self.generated,
            path_mtus: &mut self.path_mtus,
            outbox: &self.outbox,
            pending_neighbours: &mut self.pending_neighbours,
            l3_cache: &mut self.l3_cache,
            ports_ahead: &mut self.ports_ahead,
            reassembled: 0,
        };
        (ctx, &mut self.families)
    }

    pub(crate) const fn families(&self) -> &Families {
        &self.families
    }

    /// Copies connections behind `cursor` into `out` until its capacity is reached or a bounded part of
    /// the table has been read. `None` when there are no more.
    pub fn dump(&self, cursor: DumpCursor, now: Tick, out: &mut Vec<ConnRecord>) -> Option<DumpCursor> {
        let room = out.capacity() - out.len();
        match cursor {
            DumpCursor::V4(from) => {
                let next = self
                    .families
                    .v4
                    .table
                    .scan(from, room, |_, conn| self.list(conn, now, out));
                Some(next.map_or(DumpCursor::V6(0), DumpCursor::V4))
            }
            DumpCursor::V6(from) => self
                .families
                .v6
                .table
                .scan(from, room, |_, conn| self.list(conn, now, out))
                .map(DumpCursor::V6),
        }
    }

    fn list<A: Address>(&self, conn: &Conn<A>, now: Tick, out: &mut Vec<ConnRecord>) {
        if !conn.flags.contains(ConnFlags::REPLIES_ONLY) {
            out.push(ConnRecord::of(&self.snapshot, conn, now));
        }
    }
}

impl ConnRecord {
    /// A connection as it is now.
    pub(crate) fn of<A: Address>(snapshot: &Snapshot, conn: &Conn<A>, now: Tick) -> Self {
        let end = |endpoint: crate::address::Endpoint<A>| (endpoint.addr.to_ip(), endpoint.port);
        let real_server = conn.real_server;
        let mode = conn.mode();
        // A tunnel may lead to a server of the other family, which only its slot can name.
        let real = match snapshot.services.real_server(real_server) {
            Some(slot) if mode == ForwardingMode::Tunnel => (slot.server.addr, conn.real.port),
            _ => end(conn.real),
        };
        Self {
            protocol: conn.ip_protocol(),
            client: end(conn.client),
            virt: end(conn.virt),
            local: end(conn.local),
            real,
            mode,
            state: conn.state,
            expires_in_ms: conn.timeout_ms.saturating_sub(now.since_ms(conn.last_seen)),
            in_packets: conn.in_packets,
            service: conn.service,
            real_server,
            flags: conn.flags,
        }
    }

    /// The state as `ipvsadm -Lnc` names it.
    pub fn state_name(&self) -> &'static str {
        if !self.flags.contains(ConnFlags::TEMPLATE) {
            protocol::state_name(self.protocol, self.state)
        } else {
            persistence::state_name(self.state)
        }
    }
}

/// Where a dump of connections goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpCursor {
    /// In the IPv4 table, from this slot.
    V4(u32),
    /// In the IPv6 table, from this slot.
    V6(u32),
}

/// A connection as listings show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnRecord {
    /// IP protocol number; 0 for the template of a fwmark service.
    pub protocol: u8,
    /// CIP and client port.
    pub client: (IpAddr, u16),
    /// VIP and service port.
    pub virt: (IpAddr, u16),
    /// FULLNAT: local address and port; otherwise the client again.
    pub local: (IpAddr, u16),
    /// RIP and real port.
    pub real: (IpAddr, u16),
    /// How it is forwarded.
    pub mode: ForwardingMode,
    /// Protocol state, or a template's; named by [`ConnRecord::state_name`].
    pub state: u8,
    /// Milliseconds until it expires if nothing more arrives.
    pub expires_in_ms: u32,
    /// Packets from the client.
    pub in_packets: u32,
    /// The service it was made for.
    pub service: ServiceId,
    /// The real server it goes to.
    pub real_server: RealServerId,
    /// Of the connection.
    pub flags: ConnFlags,
}

//! What one worker owns: its connection tables, scheduler cursors, port cursors and scratch space.
//!
//! Only its worker writes it; nothing in it is shared except the counters, which have this worker as
//! their single writer. All of it is allocated in [`WorkerState::new`] or [`WorkerState::recover`] and never again.

pub(crate) mod context;
pub(crate) mod defence;
pub(crate) mod generated_frames;
pub(crate) mod icmp_budget;
pub(crate) mod l3_cache;
pub(crate) mod path_mtus;
pub(crate) mod pending_neighbours;
pub(crate) mod reassembly;
pub(crate) mod token_bucket;

use std::sync::Arc;

use zerocopy::FromBytes;

use crate::address::{Addr4, Addr6, Address};
use crate::arena::{Arena, ArenaError, FormerArena, slice_bytes};
use crate::conn_record::{ConnRecord, DumpCursor};
use crate::counters::WorkerCounters;
use crate::former::{FormerWorker, Plan};
use crate::ipvs::conn::table::{ConnTable, FormerTable, Recovery};
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags, ConnMut};
use crate::ipvs::real_server::RealServer;
use crate::ipvs::rebinder::Rebinder;
use crate::ipvs::resting_ports::RestingPorts;
use crate::ipvs::scheduler;
use crate::ipvs::service::VirtualService;
use crate::ipvs::sync::SyncConn;
use crate::l3::{DeviceId, NeighbourKey};
use crate::random::Random;
use crate::rss::RssHash;
use crate::single_writer::SingleWriter;
use crate::snapshot::Snapshot;
use crate::tick::Tick;
use crate::verdict::{Verdict, WaitId, WorkerId};
use crate::worker_state::context::{Context, Families, Family, FastTimeouts, L3Memory, Out, Ownership, Scheduling};
use crate::worker_state::defence::Defence;
use crate::worker_state::reassembly::Reassembly;

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
    /// How long a local port of FULLNAT rests; 0 for not at all.
    pub local_port_rest_ms: u32,
    /// Key of the connection hash and of ownership; the same on all workers, from the system's random source.
    pub secret: [u64; 4],
    /// Seed of everything else that is random.
    pub seed: u64,
}

impl WorkerSettings {
    /// Local ends that this worker remembers while they rest, of both families.
    const fn resting_ports_max(&self) -> usize {
        if self.local_port_rest_ms == 0 {
            return 0;
        }
        self.conns4_max + self.conns6_max
    }
}

/// Whose memory an arena is. The same files with other keys, or of another worker, hold connections that nobody finds.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes)]
#[repr(C, align(64))]
struct Owner {
    secret: [u64; 4],
    worker: u64,
    unused: [u64; 3],
}

impl Owner {
    fn of(settings: &WorkerSettings) -> Self {
        Self {
            secret: settings.secret,
            worker: settings.id.0.into(),
            unused: [0; 3],
        }
    }
}

/// What of a worker's state lies in its arena.
struct InArena {
    v4: ConnTable<Addr4>,
    v6: ConnTable<Addr6>,
    resting: RestingPorts,
}

impl<'m> FormerWorker<'m> {
    /// The memory of a worker with these settings, in layout 3; `None` when it is not.
    pub(crate) fn of_layout_3(bytes: &'m [u8], settings: &WorkerSettings) -> Option<Self> {
        let mut arena = FormerArena::of(bytes, 3)?;
        let owner = arena.carve::<Owner>(1)?.get(0)?;
        let former = Self {
            v4: FormerTable::carve(&mut arena, settings.conns4_max, settings.secret)?,
            v6: FormerTable::carve(&mut arena, settings.conns6_max, settings.secret)?,
            resting: RestingPorts::former(&mut arena, settings.resting_ports_max())?,
        };
        (arena.is_whole() && owner == Owner::of(settings)).then_some(former)
    }
}

/// Binds a connection of an earlier process. Copies for replies are counted apart.
fn keep<A: Address>(rebinder: &mut Rebinder<'_>, conn: ConnMut<'_, A>, copies: &mut usize) -> bool {
    let is_copy = conn.flags.contains(ConnFlags::REPLIES_ONLY);
    let stays = rebinder.rebind(conn);
    *copies += usize::from(is_copy && stays);
    stays
}

/// How frames came to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The device that received them, or that the kernel sends them by.
    pub device: DeviceId,
    /// When.
    pub now: Tick,
    /// Whether another worker handed them off because this one owns their connections. This worker does not hand such
    /// frames off again, whatever the tables say.
    pub is_handoff: bool,
}

impl Arrival {
    /// Frames that this worker received itself.
    #[inline]
    pub const fn at(device: DeviceId, now: Tick) -> Self {
        Self {
            device,
            now,
            is_handoff: false,
        }
    }

    /// Frames that another worker handed off.
    #[inline]
    pub const fn handoff(device: DeviceId, now: Tick) -> Self {
        Self {
            device,
            now,
            is_handoff: true,
        }
    }
}

/// See the module.
pub struct WorkerState {
    settings: WorkerSettings,
    snapshot: Arc<Snapshot>,
    families: Families,
    scheduling: Scheduling,
    counters: Arc<[Arc<WorkerCounters>]>,
    own: Arc<WorkerCounters>,
    random: Random,
    defence: Defence,
    l3_memory: L3Memory,
    out: Out,
    rss: Option<RssHash>,
    time_of_day: fn() -> u32,
}

impl WorkerState {
    /// Bytes that [`Self::new`] carves from its arena.
    pub fn arena_bytes(settings: &WorkerSettings) -> usize {
        slice_bytes::<Owner>(1)
            + ConnTable::<Addr4>::bytes_needed(settings.conns4_max)
            + ConnTable::<Addr6>::bytes_needed(settings.conns6_max)
            + RestingPorts::bytes_needed(settings.resting_ports_max())
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
        let mut owner = arena.carve::<Owner>(1)?;
        let tables = InArena {
            v4: ConnTable::new(arena, settings.conns4_max, settings.secret)?,
            v6: ConnTable::new(arena, settings.conns6_max, settings.secret)?,
            resting: RestingPorts::new(arena, settings.resting_ports_max(), settings.local_port_rest_ms)?,
        };
        *owner.at_mut(0) = Owner::of(&settings);
        Ok(Self::over(tables, settings, snapshot, counters, own))
    }

    /// The worker with the connections that an earlier one with these settings left in `arena`, bound to the services
    /// and servers of `snapshot`, and what became of them. `now` goes on from the ticks of the earlier process. After a
    /// failure nothing is counted.
    ///
    /// Connections are forwarded as before; those whose server is not listed any more are kept and their packets
    /// dropped. A tunnel's connection to one of several servers of the other family is refused.
    ///
    /// # Errors
    /// [`ArenaError::OtherLayout`] when `arena` is not of such a worker.
    pub fn recover(
        settings: WorkerSettings,
        arena: &mut Arena,
        now: Tick,
        snapshot: Arc<Snapshot>,
        counters: Arc<[Arc<WorkerCounters>]>,
        own: Arc<WorkerCounters>,
    ) -> Result<(Self, Recovery), ArenaError> {
        let owner = arena.carve::<Owner>(1)?;
        if !arena.is_recovered() || *owner.at(0) != Owner::of(&settings) {
            return Err(ArenaError::OtherLayout);
        }
        let mut rebinder = Rebinder::new(&snapshot.services, own.servers.len());
        let (conns4_max, conns6_max, secret) = (settings.conns4_max, settings.conns6_max, settings.secret);
        let (v4, mut recovery) = ConnTable::recover(arena, conns4_max, secret, now, |conn| rebinder.rebind(conn))?;
        let (v6, of_v6) = ConnTable::recover(arena, conns6_max, secret, now, |conn| rebinder.rebind(conn))?;
        let resting = RestingPorts::recover(arena, settings.resting_ports_max(), settings.local_port_rest_ms, now)?;
        if !arena.has_earlier_layout() {
            return Err(ArenaError::OtherLayout);
        }
        rebinder.count_in(&own);
        recovery += of_v6;
        let state = Self::over(InArena { v4, v6, resting }, settings, snapshot, counters, own);
        Ok((state, recovery))
    }

    /// The worker with the connections that `plan` leads to it from workers of another shape, in the new memory of
    /// `arena`, and what became of them; copies for replies are not counted. Otherwise as [`Self::recover`].
    ///
    /// # Errors
    /// When `arena` is smaller than [`Self::arena_bytes`], or `plan` was not made for such a worker.
    pub fn rehome(
        settings: WorkerSettings,
        arena: &mut Arena,
        now: Tick,
        snapshot: Arc<Snapshot>,
        counters: Arc<[Arc<WorkerCounters>]>,
        own: Arc<WorkerCounters>,
        plan: &Plan<'_, '_>,
    ) -> Result<(Self, Recovery), ArenaError> {
        let mut owner = arena.carve::<Owner>(1)?;
        let mut rebinder = Rebinder::new(&snapshot.services, own.servers.len());
        let (secret, home) = (settings.secret, plan.of(settings.id));
        let mut copies = 0;
        let (v4, mut recovery) = ConnTable::rehome(
            arena,
            settings.conns4_max,
            (secret, now),
            (&home.v4.0, home.v4.1),
            |conn| keep(&mut rebinder, conn, &mut copies),
        )?;
        let (v6, of_v6) = ConnTable::rehome(
            arena,
            settings.conns6_max,
            (secret, now),
            (&home.v6.0, home.v6.1),
            |conn| keep(&mut rebinder, conn, &mut copies),
        )?;
        let mut resting = RestingPorts::new(arena, settings.resting_ports_max(), settings.local_port_rest_ms)?;
        for former in home.resting {
            resting.rehome(former, now);
        }
        *owner.at_mut(0) = Owner::of(&settings);
        rebinder.count_in(&own);
        recovery += of_v6;
        recovery.kept -= copies;
        let state = Self::over(InArena { v4, v6, resting }, settings, snapshot, counters, own);
        Ok((state, recovery))
    }

    fn over(
        tables: InArena,
        settings: WorkerSettings,
        snapshot: Arc<Snapshot>,
        counters: Arc<[Arc<WorkerCounters>]>,
        own: Arc<WorkerCounters>,
    ) -> Self {
        let InArena { v4, v6, resting } = tables;
        let mut random = Random::new(settings.seed);
        let mut state = Self {
            families: Families {
                v4: Family::new(v4),
                v6: Family::new(v6),
                reassembly: Reassembly::new(),
            },
            scheduling: Scheduling::new(&settings, own.servers.len(), resting, &mut random),
            counters,
            own,
            random,
            defence: Defence::default(),
            l3_memory: L3Memory::new(),
            out: Out::new(),
            rss: None,
            time_of_day: || 0,
            snapshot: Arc::new(Snapshot::default()),
            settings,
        };
        state.adopt(snapshot);
        state
    }

    /// Marks servers that are overloaded with the connections of all workers, and shows the other workers how many there
    /// are here: once all workers have recovered theirs, before the first burst.
    pub fn publish_recovered(&self) {
        for slot in self.snapshot.services.real_servers() {
            let id = slot.server.id;
            let conns = WorkerCounters::conns_of_all(&self.counters, id);
            let own = self.own.server(id);
            own.overloaded
                .set(u32::from(slot.server.overloaded(own.overloaded.get() != 0, conns)));
            self.own.publish_conns(id);
        }
    }

    /// Takes up a new snapshot and returns the old one, for its publisher to drop.
    pub fn adopt(&mut self, new: Arc<Snapshot>) -> Arc<Snapshot> {
        if !Arc::ptr_eq(&self.snapshot.services, &new.services) {
            for service in new.services.services() {
                let old = self.snapshot.services.service(service.id);
                if old.is_none_or(|old| old.servers_revision != service.servers_revision) {
                    self.reconsider_thresholds(service);
                }
                let Some(state) = self.scheduling.schedulers.get_mut(service.id.0 as usize) else {
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
        let (v4, v6) = (&self.families.v4.table, &self.families.v6.table);
        let v4 = (v4.capacity() - v4.len(), v4.capacity());
        let v6 = (v6.capacity() - v6.len(), v6.capacity());
        // The fuller table counts: its free / capacity is smaller.
        let (free, capacity) = if v4.0 * v6.1 <= v6.0 * v4.1 { v4 } else { v6 };
        self.defence.update(&self.snapshot.sysctls, free, capacity);
    }

    /// Checks the free slots of the tables once a second. Returns whether `drop_entry` must sweep the tables now.
    pub(crate) fn look_at_defences(&mut self, now: Tick) -> bool {
        if !self.defence.is_due(now) {
            return false;
        }
        self.update_defence();
        self.defence.begins_sweep()
    }

    /// Sets the time in microseconds modulo 2³², which is finer than the ticks. The worker calls this once in each pass.
    #[inline]
    pub const fn set_us(&mut self, us: u32) {
        self.scheduling.loads.set_us(us);
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
        let generated = self.out.generated.take()?;
        self.own.generated_frames.add(1);
        Some(generated)
    }

    /// Takes the oldest connection that another director is to get. To be called after every call of the
    /// path until it gives none.
    #[inline]
    pub fn next_synced(&mut self) -> Option<SyncConn> {
        self.out.outbox.take()
    }

    /// All devices spread flows by this hash, one queue a worker: from now on flows belong to the worker to which
    /// they bring them. For all workers alike, before the first burst.
    pub fn follow_rss(&mut self, rss: RssHash) {
        self.rss = (self.settings.workers_count > 1).then_some(rss);
    }

    /// Gives the worker a clock for the timestamps that it writes into packets whose senders ask for them: milliseconds
    /// since midnight UTC. It must not block. Without one they get midnight.
    pub const fn set_time_of_day(&mut self, clock: fn() -> u32) {
        self.time_of_day = clock;
    }

    /// The neighbour that a frame with the verdict [`Verdict::Hold`] waits for.
    pub const fn neighbour(&self, name: WaitId) -> NeighbourKey {
        self.l3_memory.pending_neighbours.key(name)
    }

    /// Connections held at this moment, IPv4 and IPv6.
    pub fn conns_count(&self) -> (usize, usize) {
        (self.families.v4.table.len(), self.families.v6.table.len())
    }

    /// Whether timers of connections wait for [`crate::path::housekeeping::expire`].
    #[inline]
    pub(crate) fn is_timer_due(&self, now: Tick) -> bool {
        self.families.v4.table.is_timer_due(now) || self.families.v6.table.is_timer_due(now)
    }

    /// Splits the state for one burst: what the stages use, and the tables.
    #[inline]
    pub(crate) fn context(&mut self, arrival: Arrival) -> (Context<'_>, &mut Families) {
        let Arrival {
            device,
            now,
            is_handoff,
        } = arrival;
        let ctx = Context {
            snapshot: &self.snapshot,
            now,
            device,
            ownership: Ownership {
                worker: self.settings.id,
                workers_count: self.settings.workers_count,
                secret: self.settings.secret[0],
                rss: self.rss.as_ref(),
                is_handoff,
            },
            fast_ms: FastTimeouts::of(&self.snapshot),
            checks: self.snapshot.l3.stack_checks(device),
            from_host: false,
            time_of_day: self.time_of_day,
            own: &self.own,
            counters: &self.counters,
            random: &mut self.random,
            defence: &mut self.defence,
            scheduling: &mut self.scheduling,
            l3_memory: &mut self.l3_memory,
            out: &mut self.out,
        };
        (ctx, &mut self.families)
    }

    pub(crate) const fn families(&self) -> &Families {
        &self.families
    }

    /// Copies connections behind `cursor` into `out` until `out` is full or a bounded part of the table has been read.
    /// Returns `None` when there are no more.
    pub fn dump(&self, cursor: DumpCursor, now: Tick, out: &mut Vec<ConnRecord>) -> Option<DumpCursor> {
        let space = out.capacity() - out.len();
        match cursor {
            DumpCursor::V4(from) => {
                let next = self
                    .families
                    .v4
                    .table
                    .scan(from, space, |_, both| self.list(both, now, out));
                Some(next.map_or(DumpCursor::V6(0), DumpCursor::V4))
            }
            DumpCursor::V6(from) => self
                .families
                .v6
                .table
                .scan(from, space, |_, both| self.list(both, now, out))
                .map(DumpCursor::V6),
        }
    }

    fn list<A: Address>(&self, both: (&Conn<A>, &ColdConn), now: Tick, out: &mut Vec<ConnRecord>) {
        if !both.0.flags.contains(ConnFlags::REPLIES_ONLY) {
            out.push(ConnRecord::of(&self.snapshot, both, now));
        }
    }
}

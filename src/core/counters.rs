//! What workers count. One worker writes and the management core reads; nobody else does either.
//!
//! A count is a [`SingleWriter`]. Workers share no cache line: every worker has its own [`WorkerCounters`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use zerocopy::FromBytes;

use crate::address::AddressFamily;
use crate::arena::{Arena, ArenaSlice, HEADER_BYTES, slice_bytes};
use crate::ipvs::conn::Direction;
use crate::ipvs::real_server::RealServerId;
use crate::ipvs::service::ServiceId;
use crate::ipvs::stats::Totals;
use crate::ipvs::sync::policy::ImportRefusal;
use crate::l3::DeviceId;
use crate::latency::LatencyHistogram;
use crate::limits::{DEVICES_MAX, SERVICES_MAX};
use crate::single_writer::SingleWriter;
use crate::stages::StageCycles;
use crate::verdict::DropReason;

/// One real server as one worker sees it, in a cache line of its own.
#[derive(Debug, Default, FromBytes)]
#[repr(C, align(64))]
pub struct ServerCounters {
    /// Connections scheduled to it (one-packet ones too).
    pub connections: AtomicU64,
    /// Packets from clients.
    pub in_packets: AtomicU64,
    /// Packets to clients.
    pub out_packets: AtomicU64,
    /// IP bytes from clients.
    pub in_bytes: AtomicU64,
    /// IP bytes to clients.
    pub out_bytes: AtomicU64,
    /// Gauge: this worker's connections in an active state (`ActiveConn`).
    pub active: AtomicU32,
    /// Gauge: this worker's other connections (`InActConn`); templates are not among them.
    pub inactive: AtomicU32,
    /// 1 while this worker considers the server overloaded (thresholds), else 0.
    pub overloaded: AtomicU32,
    /// Gauge: this worker's persistence templates (`PersistConn`).
    pub persistent: AtomicU32,
    unused: u64,
}

impl ServerCounters {
    /// One connection more with the server, in an active or an inactive state.
    #[inline]
    pub fn bind(&self, active: bool) {
        self.gauge(active).add(1);
    }

    /// One connection fewer with the server.
    #[inline]
    pub fn unbind(&self, active: bool) {
        self.gauge(active).sub(1);
    }

    /// A packet of `bytes` bytes in one direction.
    #[inline]
    pub fn count(&self, direction: Direction, bytes: u64) {
        // Chosen by address, not by branch: directions alternate unpredictably.
        let (packets_of, bytes_of) = match direction {
            Direction::Inbound => (&self.in_packets, &self.in_bytes),
            Direction::Outbound => (&self.out_packets, &self.out_bytes),
        };
        packets_of.add(1);
        bytes_of.add(bytes);
    }

    /// The cumulative counters, for the estimator and listings.
    pub fn totals(&self) -> Totals {
        Totals {
            connections: self.connections.get(),
            in_packets: self.in_packets.get(),
            out_packets: self.out_packets.get(),
            in_bytes: self.in_bytes.get(),
            out_bytes: self.out_bytes.get(),
        }
    }

    #[inline]
    fn gauge(&self, active: bool) -> &AtomicU32 {
        if active { &self.active } else { &self.inactive }
    }
}

/// Connections of one real server at one worker, as that worker publishes them to the others. It is one word, so that a
/// reader never sees half of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnsLoad {
    /// In an active state.
    pub active: u32,
    /// Others; fewer than 2³¹.
    pub inactive: u32,
    /// Whether the worker considers the server overloaded.
    pub overloaded: bool,
}

impl ConnsLoad {
    const OVERLOADED: u64 = 1 << 31;

    fn to_word(self) -> u64 {
        let mark = if self.overloaded { Self::OVERLOADED } else { 0 };
        u64::from(self.active) << 32 | mark | u64::from(self.inactive) & (Self::OVERLOADED - 1)
    }

    const fn of_word(word: u64) -> Self {
        Self {
            active: (word >> 32) as u32,
            inactive: (word & (Self::OVERLOADED - 1)) as u32,
            overloaded: word & Self::OVERLOADED != 0,
        }
    }
}

/// What lt, wlt and wrt measure of one real server at one worker, for the other workers.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct MeasuredLoad {
    /// Bytes a second as the estimator scales them (2⁵).
    pub traffic: AtomicU64,
    /// Connections since the worker's estimator took its last sample.
    pub assigned: AtomicU32,
    /// Smoothed response time in microseconds; 0 for none yet.
    pub response_us: AtomicU32,
    /// When the last response was seen.
    pub responded_at: AtomicU32,
}

/// Bytes of an arena in which a worker counts `servers_max` real servers, whole pages.
pub const fn servers_bytes(servers_max: usize) -> usize {
    (HEADER_BYTES + slice_bytes::<ServerCounters>(servers_max)).next_multiple_of(4_096)
}

/// What a worker of an earlier process has counted, from a copy of the memory that it counted in; `None` if that is not
/// of a worker of this version with so many slots.
pub fn earlier_servers(bytes: &[u8], servers_max: usize) -> Option<ArenaSlice<ServerCounters>> {
    let mut arena = Arena::copied_from(bytes);
    let servers = arena.carve(servers_max).ok()?;
    arena.has_earlier_layout().then_some(servers)
}

/// One device as one worker sees it, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct DeviceCounters {
    /// Frames received.
    pub rx_packets: AtomicU64,
    /// Bytes received, Ethernet header included.
    pub rx_bytes: AtomicU64,
    /// Frames given to the device.
    pub tx_packets: AtomicU64,
    /// Bytes given to the device.
    pub tx_bytes: AtomicU64,
    /// Frames for the kernel twin: at a worker given to the twin thread, at that thread given to the kernel.
    pub punted_packets: AtomicU64,
    /// Their bytes.
    pub punted_bytes: AtomicU64,
    /// Frames taken from the kernel twin.
    pub injected_packets: AtomicU64,
    /// Bytes taken from the kernel twin.
    pub injected_bytes: AtomicU64,
}

/// Packets of one device that this worker received although it has no connection for them, by their owner.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct RssCounters {
    /// Those that another worker owns.
    pub of_others: AtomicU64,
    /// Those that the device's RSS should bring here.
    pub rss_hits: AtomicU64,
    /// Those that the device's RSS should have brought to another worker.
    pub rss_misses: AtomicU64,
    /// Which flows the last packets of `of_others` had: each flow sets one of 64 bits, so many bits mean many flows.
    pub flows: AtomicU64,
}

impl RssCounters {
    /// Packets after which `flows` is cleared.
    const FLOWS_PERIOD: u64 = 1_024;

    /// Counts a packet that another worker owns. `flow` is any number that differs between flows.
    #[inline]
    pub fn count_miss(&self, flow: u64) {
        let seen = match self.of_others.get() % Self::FLOWS_PERIOD {
            0 => 0,
            _ => self.flows.get(),
        };
        self.of_others.add(1);
        self.flows
            .set(seen | 1 << (flow.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58));
    }
}

/// Everything one worker counts. It writes the first lines for every burst, the others less often.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct WorkerCounters {
    /// Bursts with at least one frame.
    pub bursts: AtomicU64,
    /// Polls of all queues that brought nothing.
    pub idle_polls: AtomicU64,
    /// Time-stamp cycles spent with frames in hand.
    pub busy_cycles: AtomicU64,
    /// Time-stamp cycles spent on polls that brought nothing, or asleep.
    pub idle_cycles: AtomicU64,
    /// Passes of the loop, whatever they brought: a worker whose number stays stands still.
    pub passes: AtomicU64,
    /// Sleeps of a worker that found nothing to do.
    pub sleeps: AtomicU64,
    /// Time-stamp cycles asleep, which are among the idle ones.
    pub sleep_cycles: AtomicU64,
    /// Sleeps that a device ended by its interrupt.
    pub interrupts: AtomicU64,
    /// Frames handed off to the worker that owns their connection.
    pub handoff_out: AtomicU64,
    /// Frames that other workers handed off to this one.
    pub handoff_in: AtomicU64,
    /// Connections for which a scheduler was asked.
    pub scheduler_picks: AtomicU64,
    /// ICMP errors sent.
    pub icmp_errors: AtomicU64,
    /// TCP resets sent because a client's segment belongs to no connection.
    pub resets_unknown: AtomicU64,
    /// TCP resets sent because a connection's real server was deleted.
    pub resets_server_gone: AtomicU64,
    /// Gauge: IPv4 entries in the connection table.
    pub conns_ipv4: AtomicU64,
    /// Gauge: IPv6 entries in the connection table.
    pub conns_ipv6: AtomicU64,
    /// Connections whose time ran out.
    pub conns_expired: AtomicU64,
    /// Frames that the path consumed, to reassemble a datagram or to send it in fragments.
    pub consumed_frames: AtomicU64,
    /// Frames that the path generated.
    pub generated_frames: AtomicU64,
    /// Connections synced out to another director.
    pub synced_out: AtomicU64,
    /// Connections that were due to be synced out but were dropped, because the outbox was full.
    pub synced_out_dropped: AtomicU64,
    /// Connections of another director that were imported or updated.
    pub synced_in: AtomicU64,
    /// Gauge: imported entries of the IPv4 and of the IPv6 connection table.
    pub imported: [AtomicU64; 2],
    /// Packets to real servers that carried the client's address.
    pub client_addresses: AtomicU64,
    /// Packets that had no space for it.
    pub client_address_no_room: AtomicU64,
    /// FULLNAT connections whose local port had not rested: they got an initial sequence number of the director's.
    pub local_ports_unrested: AtomicU64,
    /// Gauge: frames held for a neighbour.
    pub held: AtomicU64,
    /// Time-stamp cycles of the longest pass of the loop that had something to do.
    pub longest_pass_cycles: AtomicU64,
    /// Gauge: the generation of the snapshot in use. Every later packet of this worker is processed by it.
    pub generation: AtomicU64,
    /// Only written in builds with the feature `stages`.
    pub stages: StageCycles,
    /// Time from the poll that received frames to their transmission, in sampled passes.
    pub latency: LatencyHistogram,
    /// By [`DeviceId`].
    pub devices: [DeviceCounters; DEVICES_MAX],
    /// By [`DeviceId`].
    pub rss: [RssCounters; DEVICES_MAX],
    /// Connections of another director that were not imported, by [`ImportRefusal`].
    pub import_refusals: [AtomicU64; ImportRefusal::COUNT],
    /// By [`DropReason`].
    pub drops: [AtomicU64; DropReason::COUNT],
    /// Packets answered by an ICMP error instead of being dropped, by the reason.
    pub answers: [AtomicU64; DropReason::COUNT],
    /// By [`RealServerId`].
    pub servers: ArenaSlice<ServerCounters>,
    /// `local_ports_unrested` by [`ServiceId`].
    unrested: Box<[AtomicU64]>,
    /// By [`RealServerId`], for the other workers: [`ConnsLoad`], not in the lines that packets write.
    conns: Box<[AtomicU64]>,
    /// By [`RealServerId`], for the other workers.
    measured: Box<[MeasuredLoad]>,
    /// Counters that nobody reads, for ids that do not exist.
    nowhere_server: ServerCounters,
    nowhere_measured: MeasuredLoad,
    nowhere_device: DeviceCounters,
}

impl WorkerCounters {
    /// Zeroes for `servers_max` real-server slots, at least one, in ordinary memory.
    pub fn new(servers_max: usize) -> Self {
        let servers_max = servers_max.max(1);
        let carved = Arena::in_memory(servers_bytes(servers_max)).carve(servers_max);
        match carved {
            Ok(servers) => Self::counting_in(servers),
            Err(error) => unreachable!("the arena was made for them: {error}"),
        }
    }

    /// Counts real servers in `servers`, which may be memory that outlives the process, and everything else from 0.
    pub fn counting_in(servers: ArenaSlice<ServerCounters>) -> Self {
        let servers_max = servers.len();
        Self {
            bursts: AtomicU64::default(),
            idle_polls: AtomicU64::default(),
            busy_cycles: AtomicU64::default(),
            idle_cycles: AtomicU64::default(),
            passes: AtomicU64::default(),
            sleeps: AtomicU64::default(),
            sleep_cycles: AtomicU64::default(),
            interrupts: AtomicU64::default(),
            handoff_out: AtomicU64::default(),
            handoff_in: AtomicU64::default(),
            scheduler_picks: AtomicU64::default(),
            icmp_errors: AtomicU64::default(),
            resets_unknown: AtomicU64::default(),
            resets_server_gone: AtomicU64::default(),
            conns_ipv4: AtomicU64::default(),
            conns_ipv6: AtomicU64::default(),
            conns_expired: AtomicU64::default(),
            consumed_frames: AtomicU64::default(),
            generated_frames: AtomicU64::default(),
            synced_out: AtomicU64::default(),
            synced_out_dropped: AtomicU64::default(),
            synced_in: AtomicU64::default(),
            imported: [const { AtomicU64::new(0) }; 2],
            client_addresses: AtomicU64::default(),
            client_address_no_room: AtomicU64::default(),
            local_ports_unrested: AtomicU64::default(),
            held: AtomicU64::default(),
            longest_pass_cycles: AtomicU64::default(),
            generation: AtomicU64::default(),
            stages: StageCycles::default(),
            latency: LatencyHistogram::default(),
            devices: std::array::from_fn(|_| DeviceCounters::default()),
            rss: std::array::from_fn(|_| RssCounters::default()),
            import_refusals: [const { AtomicU64::new(0) }; ImportRefusal::COUNT],
            drops: [const { AtomicU64::new(0) }; DropReason::COUNT],
            answers: [const { AtomicU64::new(0) }; DropReason::COUNT],
            servers,
            unrested: (0..SERVICES_MAX).map(|_| AtomicU64::new(0)).collect(),
            conns: (0..servers_max).map(|_| AtomicU64::new(0)).collect(),
            measured: (0..servers_max).map(|_| MeasuredLoad::default()).collect(),
            nowhere_server: ServerCounters::default(),
            nowhere_measured: MeasuredLoad::default(),
            nowhere_device: DeviceCounters::default(),
        }
    }

    /// The counters of a real server; for an unknown id, counters that nobody reads.
    #[inline]
    pub fn server(&self, id: RealServerId) -> &ServerCounters {
        self.servers.get(id.0 as usize).unwrap_or(&self.nowhere_server)
    }

    /// The present connections of a server at all workers, without templates.
    pub fn conns_of_all(workers: &[Arc<Self>], id: RealServerId) -> u32 {
        let servers = workers.iter().map(|worker| worker.server(id));
        let each = servers.map(|server| server.active.get().wrapping_add(server.inactive.get()));
        each.fold(0, u32::wrapping_add)
    }

    /// Publishes the connections of a server to the other workers.
    #[inline]
    pub fn publish_conns(&self, id: RealServerId) {
        let server = self.server(id);
        if let Some(word) = self.conns.get(id.0 as usize) {
            let load = ConnsLoad {
                active: server.active.get(),
                inactive: server.inactive.get(),
                overloaded: server.overloaded.get() != 0,
            };
            word.set(load.to_word());
        }
    }

    /// What [`Self::publish_conns`] published last.
    #[inline]
    pub fn published_conns(&self, id: RealServerId) -> ConnsLoad {
        let word = self.conns.get(id.0 as usize).map_or(0, SingleWriter::get);
        ConnsLoad::of_word(word)
    }

    /// What is measured of a server; for an unknown id, figures that nobody reads.
    #[inline]
    pub fn measured(&self, id: RealServerId) -> &MeasuredLoad {
        self.measured.get(id.0 as usize).unwrap_or(&self.nowhere_measured)
    }

    /// The counters of a device; for an unknown id, counters that nobody reads.
    #[inline]
    pub fn device(&self, id: DeviceId) -> &DeviceCounters {
        self.devices.get(usize::from(id.0)).unwrap_or(&self.nowhere_device)
    }

    /// Counts a connection of a service whose local port had not rested.
    pub fn count_unrested(&self, service: ServiceId) {
        self.local_ports_unrested.add(1);
        if let Some(counter) = self.unrested.get(service.0 as usize) {
            counter.add(1);
        }
    }

    /// How many connections of a service had a local port that had not rested.
    pub fn unrested_of(&self, service: ServiceId) -> u64 {
        self.unrested.get(service.0 as usize).map_or(0, SingleWriter::get)
    }

    /// How many entries of this family's connection table were imported.
    pub fn imported_of(&self, family: AddressFamily) -> &AtomicU64 {
        let [ipv4, ipv6] = &self.imported;
        match family {
            AddressFamily::Ipv4 => ipv4,
            AddressFamily::Ipv6 => ipv6,
        }
    }

    /// Counts a connection of another director that was not imported.
    pub fn refuse_import(&self, refusal: ImportRefusal) {
        if let Some(counter) = self.import_refusals.get(refusal as usize) {
            counter.add(1);
        }
    }

    /// How many connections of another director were not imported for this reason.
    pub fn import_refusals_of(&self, refusal: ImportRefusal) -> u64 {
        self.import_refusals.get(refusal as usize).map_or(0, SingleWriter::get)
    }

    /// Counts a dropped packet.
    #[inline]
    pub fn drop_packet(&self, reason: DropReason) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.add(1);
        }
    }

    /// Counts a packet that was answered by an ICMP error.
    #[inline]
    pub fn answer_packet(&self, reason: DropReason) {
        if let Some(counter) = self.answers.get(reason as usize) {
            counter.add(1);
        }
    }

    /// How many packets were answered for this reason.
    pub fn answers_of(&self, reason: DropReason) -> u64 {
        self.answers.get(reason as usize).map_or(0, SingleWriter::get)
    }

    /// How many packets were dropped for this reason.
    pub fn drops_of(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).map_or(0, SingleWriter::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_devices_have_a_cache_line_each() {
        assert_eq!((size_of::<ServerCounters>(), align_of::<ServerCounters>()), (64, 64));
        assert_eq!((size_of::<DeviceCounters>(), align_of::<DeviceCounters>()), (64, 64));
    }

    #[test]
    fn one_flow_leaves_one_mark_and_many_flows_many_until_the_marks_begin_anew() {
        let rss = RssCounters::default();
        (0..100).for_each(|_| rss.count_miss(7));
        assert_eq!(rss.flows.get().count_ones(), 1);
        (0..924).for_each(|flow| rss.count_miss(flow));
        assert!(rss.flows.get().count_ones() > 50);
        (0..100).for_each(|_| rss.count_miss(7));
        assert_eq!((rss.of_others.get(), rss.flows.get().count_ones()), (1_124, 1));
    }

    #[test]
    fn every_drop_reason_has_its_own_counter() {
        let counters = WorkerCounters::new(0);
        for (index, &reason) in DropReason::ALL.iter().enumerate() {
            for _ in 0..=index {
                counters.drop_packet(reason);
            }
        }
        for (index, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(counters.drops_of(reason), index as u64 + 1, "{}", reason.name());
        }
    }

    #[test]
    fn gauges_follow_connections_and_never_wrap_below_zero() {
        let counters = WorkerCounters::new(2);
        let server = counters.server(RealServerId(1));
        server.bind(false);
        server.bind(true);
        server.unbind(false);
        server.unbind(false);
        assert_eq!((server.active.get(), server.inactive.get()), (1, 0));
        assert_eq!(counters.server(RealServerId(0)).active.get(), 0);
    }

    #[test]
    fn other_workers_see_connections_and_the_mark_as_they_were_published() {
        let counters = WorkerCounters::new(2);
        let id = RealServerId(1);
        counters.server(id).active.set(u32::MAX);
        counters.server(id).inactive.set((1 << 31) - 1);
        assert_eq!(counters.published_conns(id), ConnsLoad::default());
        for mark in [0, 1] {
            counters.server(id).overloaded.set(mark);
            counters.publish_conns(id);
            let load = counters.published_conns(id);
            assert_eq!(
                (load.active, load.inactive, load.overloaded),
                (u32::MAX, (1 << 31) - 1, mark == 1)
            );
        }
        counters.publish_conns(RealServerId(9));
        assert_eq!(counters.published_conns(RealServerId(9)), ConnsLoad::default());
    }

    #[test]
    fn unknown_ids_count_nowhere() {
        let counters = WorkerCounters::new(1);
        counters.server(RealServerId(9)).in_packets.add(5);
        counters.device(DeviceId(200)).rx_packets.add(5);
        assert_eq!(counters.server(RealServerId(0)).totals(), Totals::default());
        assert!(counters.devices.iter().all(|device| device.rx_packets.get() == 0));
    }
}

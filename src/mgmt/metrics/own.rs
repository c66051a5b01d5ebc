//! `lvsd_*`: the metrics that only lvsd has. Counters start at zero when the daemon starts; a zeroing also resets those
//! of services and servers.

use lvs_api::{Device, ServerStatus, ServiceStatus, SyncBulkState, SyncDaemonStatus, SyncRole, Totals, Worker};
use lvs_core::latency::LatencyCounts;

use super::Scrape;
use super::page::{Named, Page, Sample};

/// Upper bounds of the latency histogram in nanoseconds: the same on every director, whatever its clock.
const LATENCY_BOUNDS_NS: [u64; 18] = [
    1_000,
    2_000,
    3_000,
    5_000,
    7_500,
    10_000,
    15_000,
    20_000,
    30_000,
    50_000,
    75_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    5_000_000,
    20_000_000,
    100_000_000,
];

pub(super) fn write(page: &mut Page, scrape: &Scrape) {
    director(page, scrape);
    workers(page, &scrape.workers);
    latency(page, scrape);
    devices(page, &scrape.devices);
    sync_daemons(page, &scrape.sync_daemons);
    services(page, &scrape.services);
    servers(page, &scrape.services);
}

fn director(page: &mut Page, scrape: &Scrape) {
    let version = &scrape.version;
    let labels = [
        ("version", version.lvsd.clone()),
        ("revision", version.revision.clone()),
    ];
    page.gauge(
        ("lvsd_build_info", "Always 1: the version that runs."),
        [Sample(labels, 1.0)],
    );
    page.counter(
        (
            "lvsd_drops_total",
            "Frames dropped, by the reason that lvsctl drops shows.",
        ),
        scrape
            .drops
            .iter()
            .map(|drop| Sample([("reason", drop.reason.clone())], drop.packets as f64)),
    );
    page.counter(
        (
            "lvsd_changes_answered_early_total",
            "Changes answered before every worker had them, because one did not take them up in time.",
        ),
        [plain(scrape.answered_early)],
    );
    page.gauge(
        (
            "lvsd_journal_stale",
            "Whether the journal lacks changes because it could not be written; a restart loses them.",
        ),
        [plain(u64::from(scrape.journal.stale))],
    );
    page.gauge(
        ("lvsd_journal_changes_in_memory", "Changes that a stale journal lacks."),
        [plain(scrape.journal.changes_in_memory)],
    );
    page.gauge(
        (
            "lvsd_connections_max",
            "Connections that fit the tables of all workers together.",
        ),
        [("ipv4", version.conns4_max), ("ipv6", version.conns6_max)].map(|(family, max)| one("family", family, max)),
    );
    page.gauge(
        ("lvsd_buffers", "Packet buffers."),
        [plain(u64::from(scrape.buffers.buffers))],
    );
    page.gauge(
        ("lvsd_buffers_in_use", "Packet buffers in queues, in rings or in work."),
        [plain(u64::from(scrape.buffers.in_use))],
    );
}

fn plain(value: u64) -> Sample<0> {
    Sample([], value as f64)
}

fn one(label: &'static str, name: &str, value: u64) -> Sample<1> {
    Sample([(label, name.to_owned())], value as f64)
}

type OfWorker = (Named, fn(&Worker) -> u64);

const WORKER_COUNTERS: [OfWorker; 26] = [
    (("lvsd_worker_rx_packets_total", "Frames taken from devices."), |of| {
        of.rx_packets
    }),
    (("lvsd_worker_rx_bytes_total", "Bytes taken from devices."), |of| {
        of.rx_bytes
    }),
    (("lvsd_worker_tx_packets_total", "Frames given to devices."), |of| {
        of.tx_packets
    }),
    (("lvsd_worker_tx_bytes_total", "Bytes given to devices."), |of| {
        of.tx_bytes
    }),
    (
        ("lvsd_worker_punt_packets_total", "Frames for the kernel twin."),
        |of| of.punt_packets,
    ),
    (
        (
            "lvsd_worker_handoff_out_packets_total",
            "Frames handed to the worker that owns their connection.",
        ),
        |of| of.handoff_out_packets,
    ),
    (
        (
            "lvsd_worker_handoff_in_packets_total",
            "Frames taken from other workers.",
        ),
        |of| of.handoff_in_packets,
    ),
    (
        ("lvsd_worker_drop_packets_total", "Frames dropped, for any reason."),
        |of| of.drop_packets,
    ),
    (
        ("lvsd_worker_consumed_packets_total", "Frames whose content was kept."),
        |of| of.consumed_packets,
    ),
    (
        (
            "lvsd_worker_generated_packets_total",
            "Frames made besides those received.",
        ),
        |of| of.generated_packets,
    ),
    (
        (
            "lvsd_worker_client_address_packets_total",
            "Packets to real servers that carried the client's address.",
        ),
        |of| of.client_address_packets,
    ),
    (
        (
            "lvsd_worker_client_address_no_room_packets_total",
            "Packets that had no space for the client's address.",
        ),
        |of| of.client_address_no_room_packets,
    ),
    (
        (
            "lvsd_worker_local_ports_unrested_total",
            "FULLNAT connections whose local port had not rested.",
        ),
        |of| of.local_ports_unrested,
    ),
    (
        (
            "lvsd_worker_passes_total",
            "Passes of the worker's loop; one that makes none stands still.",
        ),
        |of| of.passes,
    ),
    (("lvsd_worker_bursts_total", "Polls that brought frames."), |of| {
        of.bursts
    }),
    (("lvsd_worker_idle_polls_total", "Polls that brought none."), |of| {
        of.idle_polls
    }),
    (
        (
            "lvsd_worker_busy_cycles_total",
            "Time-stamp cycles spent with frames in hand.",
        ),
        |of| of.busy_cycles,
    ),
    (
        (
            "lvsd_worker_idle_cycles_total",
            "Time-stamp cycles spent polling in vain.",
        ),
        |of| of.idle_cycles,
    ),
    (("lvsd_worker_sleeps_total", "Sleeps while nothing was to do."), |of| {
        of.sleeps
    }),
    (
        (
            "lvsd_worker_sleep_cycles_total",
            "Time-stamp cycles asleep, which are among the idle ones.",
        ),
        |of| of.sleep_cycles,
    ),
    (
        (
            "lvsd_worker_interrupts_total",
            "Sleeps that a device ended by its receive interrupt.",
        ),
        |of| of.interrupts,
    ),
    (
        (
            "lvsd_worker_scheduler_picks_total",
            "New connections for which a scheduler was asked.",
        ),
        |of| of.scheduler_picks,
    ),
    (
        (
            "lvsd_worker_expired_connections_total",
            "Connections whose time ran out.",
        ),
        |of| of.conns_expired,
    ),
    (("lvsd_worker_icmp_errors_total", "ICMP errors sent."), |of| {
        of.icmp_errors
    }),
    (
        (
            "lvsd_worker_resets_unknown_total",
            "TCP resets sent because a client's segment belongs to no connection.",
        ),
        |of| of.resets_unknown,
    ),
    (
        (
            "lvsd_worker_resets_server_gone_total",
            "TCP resets sent because a connection's real server was deleted.",
        ),
        |of| of.resets_server_gone,
    ),
];

const WORKER_GAUGES: [OfWorker; 3] = [
    (
        (
            "lvsd_worker_stands_still",
            "Whether the worker has made no pass for longer than workers.standstill_sec.",
        ),
        |of| u64::from(of.standstill_ms > 0),
    ),
    (
        ("lvsd_worker_held_packets", "Frames that wait for a neighbour."),
        |of| of.held_packets,
    ),
    (
        ("lvsd_worker_cycles_per_second", "Time-stamp cycles of a second."),
        |of| of.cycles_per_sec,
    ),
];

fn workers(page: &mut Page, workers: &[Worker]) {
    let named = |of: &Worker| of.worker.to_string();
    for (name, read) in WORKER_COUNTERS {
        let samples = workers.iter().map(|of| one("worker", &named(of), read(of)));
        page.counter(name, samples);
    }
    for (name, read) in WORKER_GAUGES {
        let samples = workers.iter().map(|of| one("worker", &named(of), read(of)));
        page.gauge(name, samples);
    }
    let conns = workers.iter().flat_map(|of| {
        [("ipv4", of.conns4), ("ipv6", of.conns6)].map(|(family, conns)| {
            let labels = [("worker", named(of)), ("family", family.to_owned())];
            Sample(labels, conns as f64)
        })
    });
    page.gauge(
        ("lvsd_worker_connections", "Connections in the worker's tables."),
        conns,
    );
}

fn latency(page: &mut Page, scrape: &Scrape) {
    let histograms = scrape.workers.iter().zip(&scrape.latencies).map(|(worker, counts)| {
        let hz = worker.cycles_per_sec.max(1);
        let labels = [("worker", worker.worker.to_string())];
        let sum_sec = counts.sum_cycles as f64 / hz as f64;
        (Sample(labels, sum_sec), cumulated(counts, hz))
    });
    page.histogram(
        (
            "lvsd_worker_latency_seconds",
            "From the poll that took frames to their transmission, of sampled passes.",
        ),
        histograms,
    );
}

/// Samples up to each bound; a sample belongs to the first bound that its bucket does not exceed.
fn cumulated(counts: &LatencyCounts, hz: u64) -> Vec<(f64, u64)> {
    let mut bounds: Vec<_> = LATENCY_BOUNDS_NS.iter().map(|ns| (*ns as f64 / 1e9, 0)).collect();
    bounds.push((f64::INFINITY, 0));
    for (cycles, samples) in counts.filled() {
        let sec = cycles as f64 / hz as f64;
        for (_, sum) in bounds.iter_mut().filter(|(bound, _)| sec <= *bound) {
            *sum += samples;
        }
    }
    bounds
}

type OfDevice = (Named, fn(&Device) -> u64);

/// What is counted of each device.
pub const DEVICE_METRICS: [OfDevice; 10] = [
    (("lvsd_device_rx_packets_total", "Frames received."), |of| of.rx_packets),
    (("lvsd_device_rx_bytes_total", "Bytes received."), |of| of.rx_bytes),
    (("lvsd_device_tx_packets_total", "Frames sent."), |of| of.tx_packets),
    (("lvsd_device_tx_bytes_total", "Bytes sent."), |of| of.tx_bytes),
    (
        (
            "lvsd_device_rx_missed_total",
            "Frames lost because no worker came in time.",
        ),
        |of| of.rx_missed,
    ),
    (("lvsd_device_rx_errors_total", "Frames that arrived damaged."), |of| {
        of.rx_errors
    }),
    (
        ("lvsd_device_tx_errors_total", "Frames that could not be sent."),
        |of| of.tx_errors,
    ),
    (
        ("lvsd_device_rx_no_buffer_total", "Frames lost for want of a buffer."),
        |of| of.rx_no_mbuf,
    ),
    (
        ("lvsd_device_punt_packets_total", "Frames given to the kernel twin."),
        |of| of.punt_packets,
    ),
    (
        ("lvsd_device_inject_packets_total", "Frames taken from the kernel twin."),
        |of| of.inject_packets,
    ),
];

fn devices(page: &mut Page, devices: &[Device]) {
    for (name, read) in DEVICE_METRICS {
        page.counter(name, devices.iter().map(|of| one("device", &of.name, read(of))));
    }
    page.gauge(
        ("lvsd_device_up", "Whether the link is up."),
        devices.iter().map(|of| one("device", &of.name, u64::from(of.link_up))),
    );
    let as_claimed = |of: &Device| u64::from(of.rss.is_as_claimed());
    page.gauge(
        (
            "lvsd_device_rss_as_claimed",
            "Whether flows come by its receive queues as it claims; 0 costs handoffs between workers.",
        ),
        devices.iter().map(|of| one("device", &of.name, as_claimed(of))),
    );
}

fn sync_daemons(page: &mut Page, daemons: &[SyncDaemonStatus]) {
    type Read = fn(&SyncDaemonStatus) -> u64;
    let role = |status: &SyncDaemonStatus| status.daemon.role.name();
    let up = daemons.iter().map(|of| one("role", role(of), u64::from(of.running)));
    page.gauge(("lvsd_sync_up", "Whether the sync daemon's sockets are open."), up);
    let signed = daemons
        .iter()
        .map(|of| one("role", role(of), u64::from(of.authenticated)));
    page.gauge(
        (
            "lvsd_sync_authenticated",
            "Whether sync messages are signed, and no others taken.",
        ),
        signed,
    );
    let backups = daemons.iter().filter(|of| of.daemon.role == SyncRole::Backup);
    page.gauge(
        ("lvsd_sync_imported", "Imported connections in the connection tables."),
        backups.clone().map(|of| one("role", role(of), of.imported_connections)),
    );
    let is_complete = |of: &SyncDaemonStatus| u64::from(of.bulk.state == SyncBulkState::Complete);
    page.gauge(
        (
            "lvsd_sync_complete",
            "Whether a backup knows all connections of its master, which must be an lvsd.",
        ),
        backups.map(|of| one("role", role(of), is_complete(of))),
    );
    let counters: [(Named, Read); 4] = [
        (
            (
                "lvsd_sync_bulk_runs_total",
                "How often all connections were sent, or heard.",
            ),
            |of| of.bulk.runs,
        ),
        (
            (
                "lvsd_sync_bulk_connections_total",
                "Connections sent in bulk, or heard.",
            ),
            |of| of.bulk.connections,
        ),
        (("lvsd_sync_messages_total", "Sync messages sent or received."), |of| {
            of.messages
        }),
        (("lvsd_sync_connections_total", "Connections in sync messages."), |of| {
            of.connections
        }),
    ];
    for (name, read) in counters {
        page.counter(name, daemons.iter().map(|of| one("role", role(of), read(of))));
    }
    let refused = daemons.iter().flat_map(|of| {
        let labels = move |reason: &String| [("role", role(of).to_owned()), ("reason", reason.clone())];
        let sample = move |(reason, count): (&String, &u64)| Sample(labels(reason), *count as f64);
        of.refused.iter().map(sample)
    });
    page.counter(
        (
            "lvsd_sync_refused_total",
            "Messages, entries and connections that were not synced out or not imported.",
        ),
        refused,
    );
}

/// Name and help for a service, for a real server, and the number.
type OfTotals = (Named, Named, fn(&Totals) -> u64);

const TOTALS: [OfTotals; 5] = [
    (
        ("lvsd_service_connections_total", "Connections scheduled."),
        (
            "lvsd_server_connections_total",
            "Connections scheduled to the real server.",
        ),
        |totals| totals.connections,
    ),
    (
        ("lvsd_service_incoming_packets_total", "Packets from clients."),
        (
            "lvsd_server_incoming_packets_total",
            "Packets from clients to the real server.",
        ),
        |totals| totals.in_packets,
    ),
    (
        ("lvsd_service_outgoing_packets_total", "Packets from real servers."),
        ("lvsd_server_outgoing_packets_total", "Packets from the real server."),
        |totals| totals.out_packets,
    ),
    (
        ("lvsd_service_incoming_bytes_total", "Bytes of IP packets from clients."),
        (
            "lvsd_server_incoming_bytes_total",
            "Bytes of IP packets from clients to the real server.",
        ),
        |totals| totals.in_bytes,
    ),
    (
        (
            "lvsd_service_outgoing_bytes_total",
            "Bytes of IP packets from real servers.",
        ),
        (
            "lvsd_server_outgoing_bytes_total",
            "Bytes of IP packets from the real server.",
        ),
        |totals| totals.out_bytes,
    ),
];

fn services(page: &mut Page, services: &[ServiceStatus]) {
    page.gauge(("lvsd_services", "Virtual services."), [plain(services.len() as u64)]);
    page.gauge(
        ("lvsd_service_servers", "Real servers of the virtual service."),
        services
            .iter()
            .map(|of| one("service", &of.service.to_string(), of.servers.len() as u64)),
    );
    page.counter(
        (
            "lvsd_service_local_ports_unrested_total",
            "FULLNAT connections whose local port had not rested.",
        ),
        services
            .iter()
            .map(|of| one("service", &of.service.to_string(), of.local_ports_unrested)),
    );
    for (name, _, read) in TOTALS {
        let samples = services
            .iter()
            .map(|of| one("service", &of.service.to_string(), read(&of.totals)));
        page.counter(name, samples);
    }
}

fn servers(page: &mut Page, services: &[ServiceStatus]) {
    let labels = |service: &ServiceStatus, server: &ServerStatus| {
        [
            ("service", service.service.to_string()),
            ("server", server.config.server.to_string()),
        ]
    };
    for (_, name, read) in TOTALS {
        let samples = services.iter().flat_map(|service| {
            let of = move |server: &ServerStatus| Sample(labels(service, server), read(&server.totals) as f64);
            service.servers.iter().map(of)
        });
        page.counter(name, samples);
    }
    let templates = services.iter().flat_map(|service| {
        let of = move |server: &ServerStatus| Sample(labels(service, server), f64::from(server.persistent_conns));
        service.servers.iter().map(of)
    });
    page.gauge(
        (
            "lvsd_server_persistence_templates",
            "Clients that stick to the real server.",
        ),
        templates,
    );
}

//! The tables, one per view. Their numbers come from two samples.

use lvs_api::{Device, ServiceStatus, Worker};

use super::sample::Sample;

/// One of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Workers,
    Services,
    Servers,
    Drops,
    Devices,
}

impl View {
    pub(super) const ALL: [Self; 5] = [Self::Workers, Self::Services, Self::Servers, Self::Drops, Self::Devices];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Workers => "Workers",
            Self::Services => "Services",
            Self::Servers => "Servers",
            Self::Drops => "Drops",
            Self::Devices => "Devices",
        }
    }

    /// Names and widths of the columns. The first one also takes the remaining width.
    pub(super) const fn columns(self) -> &'static [(&'static str, u16)] {
        match self {
            Self::Workers => &[
                ("Worker", 6),
                ("Busy%", 5),
                ("Rx/s", 6),
                ("Tx/s", 6),
                ("Cyc/Pkt", 7),
                ("Handoff/s", 9),
                ("Punt/s", 6),
                ("Drop/s", 6),
                ("Held", 5),
                ("Conns", 6),
                ("P99us", 7),
            ],
            Self::Services => &[
                ("Service", 22),
                ("Sched", 6),
                ("Servers", 7),
                ("Active", 6),
                ("InAct", 6),
                ("Conn/s", 6),
                ("In/s", 6),
                ("Out/s", 6),
            ],
            Self::Servers => &[
                ("Server", 21),
                ("Service", 20),
                ("Forward", 7),
                ("Weight", 6),
                ("Active", 6),
                ("InAct", 6),
                ("Conn/s", 6),
            ],
            Self::Drops => &[("Reason", 28), ("Packets", 12), ("Drop/s", 8)],
            Self::Devices => &[
                ("Device", 15),
                ("Link", 4),
                ("Rx/s", 7),
                ("Tx/s", 7),
                ("Missed", 8),
                ("Errors", 8),
                ("Punt/s", 7),
                ("Inject/s", 8),
            ],
        }
    }
}

/// A cell: its text and how it sorts.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Text(String),
    /// A whole number.
    Count(u64),
    /// A rate or another measure, shortened: `1.2k`.
    Measure(f64),
}

impl Cell {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) if *count < 100_000 => count.to_string(),
            Self::Count(count) => short(*count as f64),
            Self::Measure(number) => short(*number),
        }
    }

    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Text(_) => None,
            Self::Count(count) => Some(*count as f64),
            Self::Measure(number) => Some(*number),
        }
    }
}

/// `0`, `0.3`, `87`, `1.2k`, `12M`: at most five characters.
pub(super) fn short(number: f64) -> String {
    if number < 9.95 && number > 0.0 {
        return format!("{number:.1}");
    }
    let mut scaled = number;
    for unit in ["", "k", "M", "G", "T"] {
        if scaled < 9.95 && !unit.is_empty() {
            return format!("{scaled:.1}{unit}");
        }
        if scaled < 999.5 {
            return format!("{scaled:.0}{unit}");
        }
        scaled /= 1_000.0;
    }
    format!("{scaled:.0}P")
}

/// Growth per second between two samples. 0 when the counter was reset.
struct Pace {
    seconds: f64,
}

impl Pace {
    fn of(&self, before: u64, now: u64) -> Cell {
        Cell::Measure(now.saturating_sub(before) as f64 / self.seconds)
    }
}

/// The rows of a view.
pub(super) fn rows(view: View, before: &Sample, now: &Sample) -> Vec<Vec<Cell>> {
    let elapsed = now.taken.duration_since(before.taken).as_secs_f64();
    let pace = Pace {
        seconds: elapsed.max(0.001),
    };
    match view {
        View::Workers => now
            .workers
            .iter()
            .map(|worker| of_worker(&pace, before, worker))
            .collect(),
        View::Services => now.services.iter().map(of_service).collect(),
        View::Servers => now.services.iter().flat_map(of_servers).collect(),
        View::Drops => drops(&pace, before, now),
        View::Devices => now
            .devices
            .iter()
            .map(|device| of_device(&pace, before, device))
            .collect(),
    }
}

fn of_worker(pace: &Pace, before: &Sample, now: &Worker) -> Vec<Cell> {
    let was = before.workers.iter().find(|was| was.worker == now.worker);
    let was = was.cloned().unwrap_or_default();
    let grown = |read: fn(&Worker) -> u64| read(now).saturating_sub(read(&was));
    let (busy, idle) = (grown(|of| of.busy_cycles), grown(|of| of.idle_cycles));
    let packets = grown(|of| of.rx_packets) + grown(|of| of.handoff_in_packets);
    let share = if busy + idle == 0 {
        0.0
    } else {
        busy as f64 / (busy + idle) as f64
    };
    let cycles = if packets == 0 {
        0.0
    } else {
        busy as f64 / packets as f64
    };
    vec![
        Cell::Text(now.worker.to_string()),
        Cell::Measure((share * 100.0).round()),
        pace.of(was.rx_packets, now.rx_packets),
        pace.of(was.tx_packets, now.tx_packets),
        Cell::Measure(cycles.round()),
        pace.of(was.handoff_out_packets, now.handoff_out_packets),
        pace.of(was.punt_packets, now.punt_packets),
        pace.of(was.drop_packets, now.drop_packets),
        Cell::Count(now.held_packets),
        Cell::Count(now.conns4 + now.conns6),
        Cell::Measure(now.latency.p99_ns as f64 / 1_000.0),
    ]
}

fn of_service(service: &ServiceStatus) -> Vec<Cell> {
    let sum = |read: fn(&lvs_api::ServerStatus) -> u32| service.servers.iter().map(|of| u64::from(read(of))).sum();
    vec![
        Cell::Text(service.service.to_string()),
        Cell::Text(service.scheduler.clone()),
        Cell::Count(service.servers.len() as u64),
        Cell::Count(sum(|of| of.active_conns)),
        Cell::Count(sum(|of| of.inactive_conns)),
        Cell::Measure(service.rates.connections_cps as f64),
        Cell::Measure(service.rates.in_pps as f64),
        Cell::Measure(service.rates.out_pps as f64),
    ]
}

fn of_servers(service: &ServiceStatus) -> Vec<Vec<Cell>> {
    let row = |server: &lvs_api::ServerStatus| {
        vec![
            Cell::Text(server.config.server.to_string()),
            Cell::Text(service.service.to_string()),
            Cell::Text(server.forward.clone()),
            Cell::Count(u64::from(server.config.weight)),
            Cell::Count(u64::from(server.active_conns)),
            Cell::Count(u64::from(server.inactive_conns)),
            Cell::Measure(server.rates.connections_cps as f64),
        ]
    };
    service.servers.iter().map(row).collect()
}

fn drops(pace: &Pace, before: &Sample, now: &Sample) -> Vec<Vec<Cell>> {
    let mut drops: Vec<_> = now.drops.iter().filter(|drop| drop.packets > 0).collect();
    drops.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
    let row = |drop: &&lvs_api::DropCount| {
        let was = before.drops.iter().find(|was| was.reason == drop.reason);
        vec![
            Cell::Text(drop.reason.clone()),
            Cell::Count(drop.packets),
            pace.of(was.map_or(0, |was| was.packets), drop.packets),
        ]
    };
    drops.iter().map(row).collect()
}

fn of_device(pace: &Pace, before: &Sample, now: &Device) -> Vec<Cell> {
    let was = before.devices.iter().find(|was| was.name == now.name);
    let was = was.cloned().unwrap_or_default();
    vec![
        Cell::Text(now.name.clone()),
        Cell::Text(if now.link_up { "up" } else { "down" }.to_owned()),
        pace.of(was.rx_packets, now.rx_packets),
        pace.of(was.tx_packets, now.tx_packets),
        Cell::Count(now.rx_missed),
        Cell::Count(now.rx_errors + now.tx_errors + now.rx_no_mbuf),
        pace.of(was.punt_packets, now.punt_packets),
        pace.of(was.inject_packets, now.inject_packets),
    ]
}

/// The two lines above every table.
pub(super) fn summary(before: &Sample, now: &Sample) -> [String; 2] {
    let conns: u64 = now.workers.iter().map(|worker| worker.conns4 + worker.conns6).sum();
    let servers: usize = now.services.iter().map(|service| service.servers.len()).sum();
    let seconds = now.taken.duration_since(before.taken).as_secs_f64().max(0.001);
    let sum = |sample: &Sample| sample.drops.iter().map(|drop| drop.packets).sum::<u64>();
    let dropped = sum(now).saturating_sub(sum(before)) as f64 / seconds;
    let rates = now.stats.rates;
    let bits = |bytes: u64| short(bytes as f64 * 8.0);
    [
        format!(
            "lvsd {}: {} services, {servers} servers, {} of {} connections, {} of {} buffers",
            now.version.lvsd,
            now.services.len(),
            short(conns as f64),
            short((now.version.conns4_max + now.version.conns6_max) as f64),
            short(f64::from(now.buffers.in_use)),
            short(f64::from(now.buffers.buffers)),
        ),
        format!(
            "in {} p/s {} bit/s, out {} p/s {} bit/s, new {} conn/s, dropped {} p/s",
            short(rates.in_pps as f64),
            bits(rates.in_bytes_per_sec),
            short(rates.out_pps as f64),
            bits(rates.out_bytes_per_sec),
            short(rates.connections_cps as f64),
            short(dropped),
        ),
    ]
}

//! `lvsctl status`: checks the director. Each line is one finding, with the next command where something is wrong.
//!
//! In:  two reports of the daemon, a second apart, its sync daemons and its journal. Out: lines that begin with `ok` or `WRONG`.

use std::time::Duration;

use lvs_api::{JournalStatus, RestartStatus, ServerStatus, ServiceStatus, SyncDaemonStatus};

use crate::lvsctl::client::Client;
use crate::lvsctl::run::{Failure, put};
use crate::lvsctl::table;
use crate::lvsctl::top::sample::Sample;

/// Time between the two reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// A table or worker above this load cannot take a peak.
const FULL_PERCENT: u64 = 90;

/// Runs the command.
pub async fn run(client: &Client) -> Result<(), Failure> {
    let before = Sample::take(client).await?;
    let daemons: Vec<SyncDaemonStatus> = client.get("/sync-daemons").await?;
    let journal: JournalStatus = client.get("/journal").await?;
    let restart: RestartStatus = client.get("/restart").await?;
    tokio::time::sleep(INTERVAL).await;
    let now = Sample::take(client).await?;
    put(&text(&before, &now, &daemons, &journal, &restart))
}

/// The result of one check.
struct Finding {
    what: &'static str,
    now: String,
    /// The next command to type when something is wrong.
    cure: Option<&'static str>,
}

impl Finding {
    fn new(what: &'static str, now: String, is_wrong: bool, cure: &'static str) -> Self {
        Self {
            what,
            now,
            cure: is_wrong.then_some(cure),
        }
    }

    fn line(&self) -> String {
        match self.cure {
            None => format!("ok     {:<12} {}\n", self.what, self.now),
            Some(cure) => format!("WRONG  {:<12} {}\n{:20}-> {cure}\n", self.what, self.now, ""),
        }
    }
}

fn text(
    before: &Sample,
    now: &Sample,
    daemons: &[SyncDaemonStatus],
    of_journal: &JournalStatus,
    of_restart: &RestartStatus,
) -> String {
    let mut text = format!(
        "lvsd {} ({}), pid {}\n",
        now.version.lvsd, now.version.revision, now.version.pid
    );
    for finding in [
        devices(before, now),
        missed(before, now),
        workers(before, now),
        services(now),
        servers(now),
        connections(now),
        local_ports(before, now),
        buffers(now),
        drops(before, now),
        sync(daemons),
        journal(of_journal),
        restart(of_restart),
    ] {
        text += &finding.line();
    }
    text
}

fn devices(before: &Sample, now: &Sample) -> Finding {
    let of = |device: &lvs_api::Device| {
        let was = before.devices.iter().find(|was| was.name == device.name);
        let grown = |read: fn(&lvs_api::Device) -> u64| read(device).saturating_sub(was.map_or(0, read));
        let link = if device.link_up { "up" } else { "DOWN" };
        let (rx, tx) = (grown(|of| of.rx_packets), grown(|of| of.tx_packets));
        let twin = match device.twin.as_str() {
            "" => ", NO KERNEL TWIN".to_owned(),
            name if name != device.name => format!(", its twin is called {name}"),
            _ => String::new(),
        };
        format!("{} {link}{twin}, in {rx} out {tx} p/s", device.name)
    };
    let is_wrong = now
        .devices
        .iter()
        .any(|device| !device.link_up || device.twin != device.name);
    let all: Vec<_> = now.devices.iter().map(of).collect();
    Finding::new(
        "devices",
        or_none(&all.join("; ")),
        is_wrong,
        "the cable, the switch; ip link; lvsctl devices, lvs-nic status",
    )
}

fn missed(before: &Sample, now: &Sample) -> Finding {
    let sum = |sample: &Sample| -> u64 {
        let of = |device: &lvs_api::Device| device.rx_missed + device.rx_no_mbuf + device.rx_errors;
        sample.devices.iter().map(of).sum()
    };
    let grown = sum(now).saturating_sub(sum(before));
    let shown = format!("{} frames since start, {grown} in the last second", sum(now));
    Finding::new(
        "lost at NIC",
        shown,
        grown > 0,
        "workers too slow, or stopped by others: lvsctl workers, lvs-host check",
    )
}

fn workers(before: &Sample, now: &Sample) -> Finding {
    let busy = |worker: &lvs_api::Worker| {
        let was = before.workers.iter().find(|was| was.worker == worker.worker);
        let grown = |read: fn(&lvs_api::Worker) -> u64| read(worker).saturating_sub(was.map_or(0, read));
        let (busy, idle) = (grown(|of| of.busy_cycles), grown(|of| of.idle_cycles));
        percent(busy, busy + idle)
    };
    let shares: Vec<_> = now.workers.iter().map(busy).collect();
    let mut shown: Vec<_> = shares.iter().map(|share| format!("{share} %")).collect();
    let standing = || now.workers.iter().filter(|worker| worker.standstill_ms > 0);
    shown.extend(standing().map(|worker| {
        let (number, sec) = (worker.worker, worker.standstill_ms / 1_000);
        format!("worker {number} stands still: no pass for {sec} s")
    }));
    let is_busy = shares.iter().any(|share| *share > FULL_PERCENT);
    let cure = if standing().next().is_some() {
        "lvs-host check, dmesg: what holds its core? systemctl restart lvsd, if the watchdog does not"
    } else {
        "lvsctl top; more worker_cores"
    };
    let is_wrong = is_busy || standing().next().is_some();
    Finding::new(
        "workers",
        format!("busy {}", or_none(&shown.join(", "))),
        is_wrong,
        cure,
    )
}

/// Whether new connections may go to this server.
const fn takes_connections(server: &ServerStatus) -> bool {
    let upper = server.config.upper_threshold_conns;
    let conns = server.active_conns as u64 + server.inactive_conns as u64;
    server.config.weight > 0 && (upper == 0 || conns < upper as u64)
}

fn services(now: &Sample) -> Finding {
    let without = now
        .services
        .iter()
        .filter(|service| !service.servers.iter().any(takes_connections));
    let without: Vec<_> = without.map(|service| service.service.to_string()).collect();
    let count = now.services.len();
    let shown = if without.is_empty() {
        format!("{count}, each with a server that takes connections")
    } else {
        format!("{count}, no server takes connections of {}", without.join(", "))
    };
    let cure = "lvsctl list --thresholds; journalctl -u keepalived";
    Finding::new("services", shown, !without.is_empty(), cure)
}

fn servers(now: &Sample) -> Finding {
    let all = || now.services.iter().flat_map(|service| &service.servers);
    let quiesced = all().filter(|server| server.config.weight == 0).count();
    let full = all()
        .filter(|server| server.config.weight > 0 && !takes_connections(server))
        .count();
    let shown = format!(
        "{}, {quiesced} with weight 0, {full} at their upper threshold",
        all().count()
    );
    Finding::new("servers", shown, false, "")
}

fn connections(now: &Sample) -> Finding {
    let conns4: u64 = now.workers.iter().map(|worker| worker.conns4).sum();
    let conns6: u64 = now.workers.iter().map(|worker| worker.conns6).sum();
    let (max4, max6) = (now.version.conns4_max, now.version.conns6_max);
    let is_wrong = percent(conns4, max4).max(percent(conns6, max6)) > FULL_PERCENT;
    let shown = format!("IPv4 {conns4} of {max4}, IPv6 {conns6} of {max6}");
    Finding::new(
        "connections",
        shown,
        is_wrong,
        "[connections] in lvsd.toml; meanwhile lvsctl sysctl drop_entry=1",
    )
}

/// Pools in which no local port rests as long as real servers keep TIME_WAIT. Their connections are served all the same.
fn local_ports(before: &Sample, now: &Sample) -> Finding {
    let grown = |service: &ServiceStatus| {
        let was = before.services.iter().find(|was| was.service == service.service);
        let was = was.map_or(0, |was| was.local_ports_unrested);
        service.local_ports_unrested.saturating_sub(was)
    };
    let short: Vec<_> = now
        .services
        .iter()
        .filter(|service| grown(service) > 0)
        .map(|service| format!("{} ({} connections)", service.service, grown(service)))
        .collect();
    let shown = if short.is_empty() {
        "rest before they are used again".to_owned()
    } else {
        format!("did not rest in the last second: {}", short.join(", "))
    };
    Finding::new(
        "local ports",
        shown,
        !short.is_empty(),
        "more addresses: lvsctl local-address set SERVICE ADDRESS ADDRESS; nothing is lost meanwhile",
    )
}

fn buffers(now: &Sample) -> Finding {
    let (in_use, all) = (u64::from(now.buffers.in_use), u64::from(now.buffers.buffers));
    let is_wrong = percent(in_use, all) > FULL_PERCENT;
    Finding::new(
        "buffers",
        format!("{in_use} of {all} in use"),
        is_wrong,
        "[eal] mbufs in lvsd.toml",
    )
}

/// Drops because the director lacked a server, a route or capacity. The other reasons are about what clients send.
const LOSSES: [&str; 12] = [
    "no_real_server",
    "real_server_gone",
    "conn_table_full",
    "local_ports_exhausted",
    "no_route",
    "neighbour_failed",
    "held_queue_full",
    "no_mbuf",
    "generated_frames_full",
    "handoff_ring_full",
    "punt_ring_full",
    "tx_queue_full",
];

fn drops(before: &Sample, now: &Sample) -> Finding {
    let mut grown = Vec::new();
    for drop in &now.drops {
        let was = before.drops.iter().find(|was| was.reason == drop.reason);
        let count = drop.packets.saturating_sub(was.map_or(0, |was| was.packets));
        if count > 0 {
            grown.push((drop.reason.as_str(), count));
        }
    }
    grown.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let is_wrong = grown.iter().any(|(reason, _)| LOSSES.contains(reason));
    let shown: Vec<_> = grown
        .iter()
        .map(|(reason, count)| format!("{reason} {count} p/s"))
        .collect();
    let cure = "lvsctl drops says what each means, lvsctl capture --drop shows the frames";
    Finding::new("drops", or_none(&shown.join(", ")), is_wrong, cure)
}

fn sync(daemons: &[SyncDaemonStatus]) -> Finding {
    let of = |status: &SyncDaemonStatus| {
        let running = if status.running { "runs" } else { "DOES NOT RUN" };
        let signed = if status.authenticated { ", signed" } else { "" };
        let total: u64 = status.refused.values().sum();
        let reasons = status.refused.iter().map(|(reason, count)| format!("{reason} {count}"));
        let refused = match reasons.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => String::new(),
            reasons => format!(" ({reasons})"),
        };
        let (role, interface) = (status.daemon.role.name(), &status.daemon.interface);
        format!(
            "{role} on {interface} {running}{signed}, {} connections, bulk {}, {total} refused{refused}",
            status.connections,
            table::bulk(&status.bulk)
        )
    };
    let all: Vec<_> = daemons.iter().map(of).collect();
    let is_wrong = daemons.iter().any(|status| !status.running);
    Finding::new(
        "sync",
        or_none(&all.join("; ")),
        is_wrong,
        "lvsctl sync stats; ip -br address: is the interface there?",
    )
}

/// Changes that a restart would lose.
fn journal(journal: &JournalStatus) -> Finding {
    let shown = if journal.stale {
        format!(
            "stale, {} changes are in memory only: {}",
            journal.changes_in_memory, journal.reason
        )
    } else {
        "holds every change".to_owned()
    };
    Finding::new(
        "journal",
        shown,
        journal.stale,
        "df, dmesg: the disk of [journal] path; lvsd writes it anew by itself, restart lvsd only then",
    )
}

/// What the next lvsd will have, and what this one took over. To keep nothing is a choice.
fn restart(restart: &RestartStatus) -> Finding {
    let mut shown = match &restart.kept_in {
        Some(place) => format!("connections outlive lvsd, in {place}"),
        None => "connections do not outlive lvsd".to_owned(),
    };
    if let Some(taken) = &restart.taken_over {
        let lost = taken.damaged + taken.without_server + taken.without_space;
        shown += &format!("; {} of the lvsd before go on, {lost} were lost", taken.connections);
    }
    let total_ms: u64 = restart.stages.iter().map(|stage| stage.ms).sum();
    let stages: Vec<_> = restart
        .stages
        .iter()
        .map(|stage| format!("{} {}", stage.stage, stage.ms))
        .collect();
    shown += &format!("; started in {total_ms} ms: {}", or_none(&stages.join(", ")));
    Finding::new("restart", shown, false, "")
}

fn percent(part: u64, whole: u64) -> u64 {
    (u128::from(part) * 100).checked_div(u128::from(whole)).unwrap_or(0) as u64
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none" } else { text }.to_owned()
}

//! Tables other than ipvsadm's listing.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use lvs_api::{
    Buffers, ConnRecord, Device, DropCount, MarkRule, PortRange, Protocol, ReloadReport, StateDiff, Stats, SyncBulk,
    SyncBulkState, SyncDaemonStatus, Worker, ipvsadm_text,
};

pub use lvs_api::ipvsadm_text::CONNECTIONS_TITLE;

/// A line of `ipvsadm -Lnc`. For FULLNAT it also shows the local address.
pub fn connection(record: &ConnRecord) -> String {
    let line = ipvsadm_text::conn(&ipvsadm_text::Conn {
        protocol: match record.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        },
        expires_sec: record.expires_in_ms / 1_000,
        state: record.state.clone(),
        client: record.client,
        virt: record.virt,
        real: record.real,
    });
    if record.local == record.client {
        line
    } else {
        format!("{} via {}\n", line.trim_end(), record.local)
    }
}

/// A table whose first column holds words and whose others hold numbers.
fn table(title: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    laid_out(title, rows, title.len())
}

/// A table whose first and last columns hold words.
fn table_with_remarks(title: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    laid_out(title, rows, title.len() - 1)
}

/// A table. The columns from the second to number `numbers_end` hold numbers.
fn laid_out(title: &[&str], rows: impl Iterator<Item = Vec<String>>, numbers_end: usize) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(title).add_rows(rows);
    for column in table.column_iter_mut().take(numbers_end).skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// `lvsctl workers`.
pub fn workers(workers: Vec<Worker>) -> String {
    let title = [
        "Worker",
        "Lcore",
        "RxPackets",
        "TxPackets",
        "Punted",
        "HandoffOut",
        "HandoffIn",
        "Dropped",
        "Held",
        "Conns4",
        "Conns6",
        "Busy%",
        "Asleep%",
        "Cyc/Pkt",
        "MaxPass",
        "P50us",
        "P99us",
        "P99.9us",
    ];
    let shared = shared(&workers);
    let rows = workers.into_iter().map(|worker| {
        let cycles = worker.busy_cycles + worker.idle_cycles;
        let percent = |part: u64| (part / 100).checked_div(cycles / 10_000).unwrap_or(0).to_string();
        let packets = worker.rx_packets + worker.handoff_in_packets;
        vec![
            worker.worker.to_string(),
            worker.lcore.map_or_else(|| "-".to_owned(), |lcore| lcore.to_string()),
            worker.rx_packets.to_string(),
            worker.tx_packets.to_string(),
            worker.punt_packets.to_string(),
            worker.handoff_out_packets.to_string(),
            worker.handoff_in_packets.to_string(),
            worker.drop_packets.to_string(),
            worker.held_packets.to_string(),
            worker.conns4.to_string(),
            worker.conns6.to_string(),
            percent(worker.busy_cycles),
            percent(worker.sleep_cycles),
            worker.busy_cycles.checked_div(packets).unwrap_or(0).to_string(),
            format!("{}us", worker.longest_pass_us),
            microseconds(worker.latency.p50_ns),
            microseconds(worker.latency.p99_ns),
            microseconds(worker.latency.p999_ns),
        ]
    });
    table(&title, rows) + &shared
}

/// A line below the table of several workers: how evenly they share the frames, if there are any.
fn shared(workers: &[Worker]) -> String {
    let processed = |of: &Worker| (of.rx_packets + of.handoff_in_packets).saturating_sub(of.handoff_out_packets);
    let (received, handed_off, all, most) = workers.iter().fold((0, 0, 0, 0), |(rx, handoff, all, most), of| {
        let own = processed(of);
        (
            rx + of.rx_packets,
            handoff + of.handoff_out_packets,
            all + own,
            own.max(most),
        )
    });
    if workers.len() < 2 || received == 0 || all == 0 {
        return String::new();
    }
    let imbalance = most as f64 * workers.len() as f64 / all as f64;
    let share = handed_off as f64 * 100.0 / received as f64;
    format!("Imbalance {imbalance:.2}: the busiest worker to the mean; {share:.1} % of frames handed off\n")
}

/// `12.3`, or `-` when nothing was timed.
fn microseconds(ns: u64) -> String {
    match ns {
        0 => "-".to_owned(),
        ns => format!("{}.{}", ns / 1_000, ns % 1_000 / 100),
    }
}

/// `lvsctl devices`.
pub fn devices(devices: Vec<Device>) -> String {
    let title = [
        "Device",
        "Twin",
        "MAC",
        "Driver",
        "Link",
        "MTU",
        "Queues",
        "RSS",
        "RxPackets",
        "RxMissed",
        "RxErrors",
        "TxPackets",
        "Punted",
        "Injected",
    ];
    let rows = devices.into_iter().map(|device| {
        vec![
            device.name,
            device.twin,
            device.mac,
            device.driver,
            if device.link_up { "up" } else { "down" }.to_owned(),
            device.mtu.to_string(),
            device.rx_queues.to_string(),
            device.rss.name().to_owned(),
            device.rx_packets.to_string(),
            device.rx_missed.to_string(),
            device.rx_errors.to_string(),
            device.tx_packets.to_string(),
            device.punt_packets.to_string(),
            device.inject_packets.to_string(),
        ]
    });
    table(&title, rows)
}

/// `lvsctl buffers`.
pub fn buffers(buffers: Buffers) -> String {
    let row = [buffers.buffers, buffers.in_use, buffers.available].map(|count| count.to_string());
    table(&["Buffers", "InUse", "Available"], [row.to_vec()].into_iter())
}

/// `lvsctl mark list`.
pub fn marks(rules: Vec<MarkRule>) -> String {
    if rules.is_empty() {
        return "there are no mark rules\n".to_owned();
    }
    let any = || "any".to_owned();
    let ports = |ranges: &[PortRange]| match ranges {
        [] => any(),
        ranges => ranges.iter().map(PortRange::to_string).collect::<Vec<_>>().join(","),
    };
    let rows = rules.into_iter().enumerate().map(|(index, rule)| {
        vec![
            (index + 1).to_string(),
            rule.mark.to_string(),
            rule.protocol.map_or_else(any, |protocol| protocol.name().to_owned()),
            rule.source.map_or_else(any, |prefix| prefix.to_string()),
            ports(&rule.source_ports),
            rule.destination.map_or_else(any, |prefix| prefix.to_string()),
            ports(&rule.destination_ports),
            rule.device.unwrap_or_else(any),
            if rule.divert { "yes" } else { "no" }.to_owned(),
        ]
    });
    let title = [
        "No",
        "Mark",
        "Protocol",
        "Source",
        "Ports",
        "Destination",
        "Ports",
        "Device",
        "Divert",
    ];
    table(&title, rows)
}

/// `lvsctl drops`: reasons that occurred, the most frequent first.
pub fn drops(mut drops: Vec<DropCount>) -> String {
    drops.retain(|drop| drop.packets > 0);
    if drops.is_empty() {
        return "nothing was dropped\n".to_owned();
    }
    drops.sort_by(|a, b| b.packets.cmp(&a.packets).then_with(|| a.reason.cmp(&b.reason)));
    let rows = drops
        .into_iter()
        .map(|drop| vec![drop.reason, drop.packets.to_string(), drop.meaning]);
    table_with_remarks(&["Reason", "Packets", "Meaning"], rows)
}

/// `lvsctl stats`.
pub fn stats(stats: &Stats) -> String {
    let Stats { totals, rates } = stats;
    let row = |name: &str, total: u64, rate: u64| vec![name.to_owned(), total.to_string(), rate.to_string()];
    let rows = [
        row("Connections", totals.connections, rates.connections_cps),
        row("InPackets", totals.in_packets, rates.in_pps),
        row("OutPackets", totals.out_packets, rates.out_pps),
        row("InBytes", totals.in_bytes, rates.in_bytes_per_sec),
        row("OutBytes", totals.out_bytes, rates.out_bytes_per_sec),
    ];
    table(&["", "Total", "PerSecond"], rows.into_iter())
}

/// `lvsctl sync`: the output of `ipvsadm -L --daemon`.
pub fn sync_daemons(daemons: Vec<SyncDaemonStatus>) -> String {
    let shown = |status: &SyncDaemonStatus| ipvsadm_text::Daemon {
        role: status.daemon.role.name(),
        interface: status.daemon.interface.clone(),
        sync_id: u32::from(status.daemon.sync_id),
        max_len: status.max_len_bytes,
        group: status.daemon.group,
        port: status.daemon.port,
        ttl: status.daemon.ttl,
    };
    ipvsadm_text::daemons(&daemons.iter().map(shown).collect::<Vec<_>>())
}

/// How bulk sync stands, in a word or two.
pub fn bulk(bulk: &SyncBulk) -> String {
    match bulk.state {
        SyncBulkState::Running => format!("running {} %", bulk.progress_percent),
        state => state.name().to_owned(),
    }
}

/// `lvsctl sync stats`.
pub fn sync_stats(daemons: Vec<SyncDaemonStatus>) -> String {
    let yes = |is_so: bool| if is_so { "yes" } else { "no" }.to_owned();
    let rows = daemons.into_iter().map(|status| {
        let refused = status.refused.iter().map(|(reason, count)| format!("{reason}={count}"));
        let refused: Vec<String> = refused.collect();
        vec![
            status.daemon.role.to_string(),
            status.daemon.interface,
            yes(status.running),
            yes(status.authenticated),
            status.messages.to_string(),
            status.connections.to_string(),
            status.imported_connections.to_string(),
            bulk(&status.bulk),
            refused.join(" "),
        ]
    });
    let titles = [
        "Daemon",
        "Interface",
        "Running",
        "Signed",
        "Messages",
        "Connections",
        "Imported",
        "Bulk",
        "Refused",
    ];
    table(&titles, rows)
}

/// What `lvsctl state apply` changed.
pub fn diff(diff: &StateDiff) -> String {
    if diff.is_empty() {
        return "nothing differs\n".to_owned();
    }
    let mut text = String::new();
    let services = [
        ("+ service", &diff.services_added),
        ("~ service", &diff.services_changed),
        ("~ local addresses of", &diff.local_addresses_changed),
        ("- service", &diff.services_removed),
    ];
    for (mark, services) in services {
        for service in services {
            text += &format!("{mark} {service}\n");
        }
    }
    let servers = [
        ("+ server", &diff.servers_added),
        ("~ server", &diff.servers_changed),
        ("- server", &diff.servers_removed),
    ];
    for (mark, servers) in servers {
        for of in servers {
            text += &format!("{mark} {} of {}\n", of.server, of.service);
        }
    }
    if diff.timeouts_changed {
        text += "~ timeouts\n";
    }
    for role in &diff.sync_daemons_changed {
        text += &format!("~ {role} sync daemon\n");
    }
    for name in &diff.sysctls_changed {
        text += &format!("~ sysctl {name}\n");
    }
    if diff.marks_changed {
        text += "~ marks\n";
    }
    if diff.dry_run {
        text += "dry run: nothing was changed\n";
    }
    text
}

/// What `lvsctl reload` did.
pub fn reload(report: &ReloadReport) -> String {
    let mut text = diff(&report.applied);
    for left_out in &report.left_out {
        text += &format!("left out: {left_out}\n");
    }
    for key in &report.restart_needed {
        text += &format!("needs a restart: {key}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_show_the_cost_of_a_packet_their_sleep_and_how_evenly_they_share() {
        let worker = |number, rx_packets, handoff_out_packets, handoff_in_packets| Worker {
            worker: number,
            rx_packets,
            handoff_out_packets,
            handoff_in_packets,
            busy_cycles: 300_000,
            idle_cycles: 700_000,
            sleep_cycles: 600_000,
            ..Worker::default()
        };
        let shown = workers(vec![worker(0, 4_000, 1_000, 0), worker(1, 0, 0, 1_000)]);
        let cells = |line: usize| shown.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>();
        let at = |name| cells(0).iter().position(|title| *title == name).unwrap();
        for (name, values) in [
            ("HandoffOut", ["1000", "0"]),
            ("HandoffIn", ["0", "1000"]),
            ("Busy%", ["30", "30"]),
            ("Asleep%", ["60", "60"]),
            ("Cyc/Pkt", ["75", "300"]),
        ] {
            assert_eq!([cells(1)[at(name)], cells(2)[at(name)]], values, "{name}: {shown}");
        }
        // The workers processed 3,000 and 1,000 of 4,000 frames.
        let end = "Imbalance 1.50: the busiest worker to the mean; 25.0 % of frames handed off\n";
        assert!(shown.ends_with(end), "{shown}");
        assert!(
            !workers(vec![worker(0, 4_000, 0, 0)]).contains("Imbalance"),
            "a single worker shares with nobody"
        );
    }

    #[test]
    fn a_connection_reads_as_in_ipvsadm_and_names_its_local_address() {
        let mut record: ConnRecord = serde_json::from_str(
            r#"{"protocol": "tcp", "state": "ESTABLISHED", "client": "10.0.0.2:40000", "virt": "10.0.0.100:80",
                "local": "10.0.0.2:40000", "real": "10.1.0.11:80", "forward": "Masq", "expires_in_ms": 899999,
                "in_packets": 3, "worker": 0}"#,
        )
        .unwrap();
        let line = "TCP 14:59  ESTABLISHED 10.0.0.2:40000     10.0.0.100:80      10.1.0.11:80";
        assert_eq!(connection(&record), format!("{line}\n"));
        record.local = "10.1.0.1:1024".parse().unwrap();
        assert_eq!(connection(&record), format!("{line} via 10.1.0.1:1024\n"));
    }

    #[test]
    fn drops_show_only_what_occurred_most_frequent_first() {
        let drop = |reason: &str, packets| DropCount {
            reason: reason.to_owned(),
            packets,
            meaning: format!("why {reason}"),
        };
        let text = drops(vec![drop("truncated", 1), drop("malformed", 0), drop("no_route", 20)]);
        let reasons: Vec<_> = text
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().next().unwrap())
            .collect();
        assert_eq!(reasons, ["no_route", "truncated"]);
        assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
        assert!(text.contains("no_route        20  why no_route\n"), "{text}");
    }

    #[test]
    fn a_difference_is_one_line_an_object() {
        let mut changed = StateDiff {
            dry_run: true,
            ..StateDiff::default()
        };
        assert_eq!(diff(&changed), "nothing differs\n");
        changed.services_added.push("tcp:192.0.2.1:80".parse().unwrap());
        assert_eq!(
            diff(&changed),
            "+ service tcp:192.0.2.1:80\ndry run: nothing was changed\n"
        );
    }
}

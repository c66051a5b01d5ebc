//! Metrics: against the real node_exporter on our own `/proc/net/ip_vs`, and against the dashboard.

use std::collections::BTreeSet;
use std::process::Command;

use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::single_writer::SingleWriter;
use lvs_core::verdict::DropReason;

use super::*;

/// Services of every kind that `/proc/net/ip_vs` and node_exporter both know, with counts on two workers.
fn busy_stand() -> Testbed {
    let testbed = Testbed::new(AdminLimits::default());
    testbed.run_silently(&[
        "service add tcp:192.0.2.10:80 --scheduler wrr",
        "server add tcp:192.0.2.10:80 198.51.100.1:80 --mode nat --weight 3",
        "server add tcp:192.0.2.10:80 198.51.100.2:8080 --mode nat --weight 0",
        "service add udp:192.0.2.10:53 -s rr",
        "server add udp:192.0.2.10:53 198.51.100.1 -g",
        "service add tcp:[2001:db8::10]:443 -s sh",
        "server add tcp:[2001:db8::10]:443 2001:db8::1 -m",
        "service add fwm:66 -p 300",
        "server add fwm:66 198.51.100.7:80 -i --weight 65535",
        "service add fwm6:3000000000",
        "server add fwm6:3000000000 [2001:db8::7]:80 -g",
    ]);
    for (number, worker) in testbed.workers.iter().enumerate() {
        let number = number as u64 + 1;
        for id in 0..6 {
            let server = worker.counters.server(RealServerId(id));
            let base = number * 1_000_000 + u64::from(id);
            server.connections.add(base);
            server.in_packets.add(base * 3);
            server.out_packets.add(base * 2);
            // More than 32 bits hold.
            server.in_bytes.add(base * 5_000);
            server.out_bytes.add(base * 70_000);
            server.active.add(id + 1);
            server.inactive.add(id * 100);
        }
    }
    testbed
}

/// The lines of a metrics page about `prefix`: comments as they are, samples with their numbers as numbers.
fn lines_of(page: &str, prefix: &str) -> Vec<(String, Option<f64>)> {
    let about = page.lines().filter(|line| {
        line.trim_start_matches("# HELP ")
            .trim_start_matches("# TYPE ")
            .starts_with(prefix)
    });
    let mut lines: Vec<_> = about
        .map(|line| match line.rsplit_once(' ') {
            Some((sample, value)) if !line.starts_with('#') => (sample.to_owned(), value.parse().ok()),
            _ => (line.to_owned(), None),
        })
        .collect();
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    lines
}

/// What the distribution's node_exporter says of a procfs, in a network namespace of its own.
fn node_exporter(procfs: &std::path::Path) -> String {
    let script = "ip link set lo up
        prometheus-node-exporter --collector.disable-defaults --collector.ipvs --path.procfs=\"$1\" \
            --web.listen-address=127.0.0.1:9100 2>\"$1/log\" & exporter=$!
        curl -sS --retry 100 --retry-connrefused --retry-delay 1 --max-time 20 http://127.0.0.1:9100/metrics
        status=$?
        kill $exporter
        exit $status";
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", script, "sh"])
        .arg(procfs)
        .output()
        .unwrap();
    let log = std::fs::read_to_string(procfs.join("log")).unwrap_or_default();
    assert!(
        output.status.success(),
        "{}{log}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn names_labels_help_and_numbers_are_those_of_the_real_node_exporter() {
    let testbed = busy_stand();
    let procfs = TempDir::new().unwrap();
    let folder = procfs.path().display();
    assert_eq!(testbed.printed(&format!("proc --to {folder}")), "");
    let theirs = lines_of(&node_exporter(procfs.path()), "node_ipvs_");
    let (status, page) = testbed.ask("GET", "/metrics", "");
    assert_eq!(status, 200, "{page}");
    assert_eq!(lines_of(&page, "node_ipvs_"), theirs);
    assert!(theirs.len() == 8 * 2 + 5 + 3 * 6, "{theirs:#?}");
    let total = theirs
        .iter()
        .find(|line| line.0 == "node_ipvs_outgoing_bytes_total")
        .unwrap();
    assert_eq!(
        total.1,
        Some((0..6).map(|id| 3_000_000 + 2 * id).sum::<u64>() as f64 * 70_000.0)
    );
}

#[test]
fn an_exported_file_is_what_the_daemon_shows_and_an_unknown_one_is_refused_with_the_list() {
    let testbed = busy_stand();
    let shown = testbed.printed("proc ip_vs");
    assert!(
        shown.starts_with("IP Virtual Server version 1.2.1 (size=4096)\n"),
        "{shown}"
    );
    assert!(
        shown.contains("FWM  00000042 wlc persistent 75000 FFFFFFFF\n"),
        "{shown}"
    );
    let refused = testbed.lvsctl("proc ip_vs_nothing");
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("ip_vs_stats_percpu"), "{message}");
}

/// The names of all families of a page, and of the series that histograms add.
fn names(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| line.split(['{', ' ']).next().map(str::to_owned))
        .collect()
}

/// Every `expr` and `query` of the dashboard.
fn queries(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(text) if name == "expr" || name == "query" => found.push(text.to_owned()),
                    _ => queries(field, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

#[test]
fn every_query_of_the_dashboard_names_metrics_that_exist() {
    let testbed = busy_stand();
    testbed.workers[0].counters.latency.record(1_000);
    testbed.printed("sync start master --interface lo");
    testbed.workers[0].counters.synced_out_dropped.add(1);
    let mut exist = names(&testbed.ask("GET", "/metrics", "").1);
    // This testbed has no NIC.
    exist.extend(crate::mgmt::metrics::DEVICE_METRICS.map(|((name, _), _)| name.to_owned()));
    exist.insert("lvsd_device_up".to_owned());
    exist.insert("lvsd_device_rss_as_claimed".to_owned());
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/grafana/lvsd.json")).unwrap();
    let mut found = Vec::new();
    queries(&serde_json::from_str(&text).unwrap(), &mut found);
    found.retain(|query| query != "prometheus");
    assert!(found.len() > 20, "{found:?}");
    for query in found {
        let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let named: Vec<_> = words
            .filter(|word| word.starts_with("lvsd_") || word.starts_with("node_"))
            .collect();
        assert!(!named.is_empty(), "{query}");
        for name in named {
            assert!(exist.contains(name), "{name} in {query}");
        }
    }
}

#[test]
fn drops_have_their_names_and_latencies_fall_below_the_bounds_they_do_not_exceed() {
    let testbed = Testbed::new(AdminLimits::default());
    let counters = &testbed.workers[1].counters;
    counters.drop_packet(DropReason::NoRoute);
    // At a billion cycles a second these are nanoseconds.
    for (ns, times) in [(900, 97), (45_000, 2), (2_000_000_000, 1)] {
        (0..times).for_each(|_| counters.latency.record(ns));
    }
    let page = testbed.ask("GET", "/metrics", "").1;
    for reason in DropReason::ALL {
        let packets = u64::from(*reason == DropReason::NoRoute);
        let line = format!("lvsd_drops_total{{reason=\"{}\"}} {packets}\n", reason.name());
        assert!(page.contains(&line), "{line}");
    }
    assert_contains_all(
        &page,
        &[
            "lvsd_worker_latency_seconds_bucket{worker=\"1\",le=\"0.000001\"} 97\n",
            "lvsd_worker_latency_seconds_bucket{worker=\"1\",le=\"0.00003\"} 97\n",
            "lvsd_worker_latency_seconds_bucket{worker=\"1\",le=\"0.00005\"} 99\n",
            "lvsd_worker_latency_seconds_bucket{worker=\"1\",le=\"0.1\"} 99\n",
            "lvsd_worker_latency_seconds_bucket{worker=\"1\",le=\"+Inf\"} 100\n",
            "lvsd_worker_latency_seconds_count{worker=\"1\"} 100\n",
            "lvsd_worker_latency_seconds_count{worker=\"0\"} 0\n",
        ],
    );
    let shown = testbed.printed("workers");
    let second: Vec<_> = shown.lines().nth(2).unwrap().split_whitespace().collect();
    let percentiles: Vec<f64> = second[second.len() - 3..]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    assert!((0.9..1.1).contains(&percentiles[0]), "{shown}");
    assert!((45.0..51.0).contains(&percentiles[1]), "{shown}");
    assert!((2_000_000.0..2_250_000.0).contains(&percentiles[2]), "{shown}");
}

//! The metrics of a real daemon, by its socket and by TCP.

use lvs_test_support::daemon::Testbed;
use lvs_test_support::waits::until;

#[test]
fn metrics_are_served_by_tcp_where_configured_and_nothing_else_is() {
    let testbed = Testbed::create();
    testbed.inside("ip link set lo up");
    testbed.configure("[metrics]\nlisten = \"127.0.0.1:9190\"\n[[device]]\nname = \"dp0\"\ndpdk = \"net_null0\"\n");
    let daemon = testbed.start();
    let scrape = |path: &str| testbed.inside(&format!("curl -sS -w %{{http_code}} http://127.0.0.1:9190{path}"));
    // net_null receives without end, so passes are timed.
    until("latency was sampled", || {
        let page = scrape("/metrics");
        let count = page
            .lines()
            .find_map(|line| line.strip_prefix("lvsd_worker_latency_seconds_count{worker=\"0\"} "));
        count.is_some_and(|count| count != "0")
    });
    let page = scrape("/metrics");
    assert!(page.ends_with("200"), "{page}");
    for line in [
        "node_ipvs_connections_total 0\n",
        "lvsd_device_up{device=\"dp0\"} 1\n",
        "lvsd_connections_max{family=\"ipv4\"} 4096\n",
        "lvsd_services 0\n",
        "# TYPE lvsd_drops_total counter\n",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
    for path in ["/v1/version", "/v1/services", "/"] {
        assert!(scrape(path).ends_with("404"), "{path}");
    }
    let by_socket = daemon.ask("GET", "/metrics", "");
    assert_eq!(by_socket.0, 200);
    assert!(
        by_socket.1.contains("lvsd_worker_busy_cycles_total{worker=\"0\"} "),
        "{}",
        by_socket.1
    );
    let workers = daemon.printed("workers");
    assert!(!workers.lines().nth(1).unwrap().ends_with('-'), "{workers}");
    daemon.stop();
}

#[test]
fn a_listener_that_cannot_be_had_refuses_the_start_and_names_the_key() {
    let testbed = Testbed::create();
    // Of a link, but which?
    testbed.configure("[metrics]\nlisten = \"[fe80::1]:9190\"\n");
    let said = testbed.refused();
    let cure = "give an address of this machine and a free port";
    assert!(
        said.starts_with("metrics.listen [fe80::1]:9190: ") && said.contains(cure),
        "{said}"
    );
}

//! What a worker of the real daemon asks of the kernel while connections come and expire: nothing.

use lvs_api::Worker;
use lvs_core::testing::{CapturedFrame, udp4, write_pcap};
use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::process::{WORKERS, threads};
use lvs_test_support::strace::Traced;
use lvs_test_support::waits::until;

const FLOWS: u16 = 2_000;

/// Flows without end, and a worker that polls.
fn testbed() -> Testbed {
    let testbed = Testbed::create();
    testbed.wan_and_lan();
    testbed.inside("ip neigh add 198.51.100.11 lladdr 02:00:00:00:02:11 dev lan nud permanent");
    let frame = |flow: u16| {
        let ends = format!("192.0.2.7:{} > 192.0.2.100:53", 10_000 + flow);
        let bytes = udp4(&ends).dst_mac([2, 0, 0, 0, 0, 1]).build();
        CapturedFrame::of(bytes)
    };
    let frames: Vec<_> = (0..FLOWS).map(frame).collect();
    std::fs::write(testbed.path("in.pcap"), write_pcap(&frames)).unwrap();
    testbed.configure(&format!(
        "[sysctl]\nexpire_nodest_conn = 1\n\
         [[device]]\nname = \"wan\"\ndpdk = \"net_pcap0,rx_pcap={},infinite_rx=1\"\nmac = \"02:00:00:00:00:01\"\npromiscuous = true\n\
         [[device]]\nname = \"lan\"\ndpdk = \"net_null0,no-rx=1\"\nmac = \"02:00:00:00:00:02\"\n\
         [[service]]\nprotocol = \"udp\"\naddress = \"192.0.2.100\"\nport = 53\n",
        testbed.path("in.pcap").display()
    ));
    let text = std::fs::read_to_string(testbed.path("lvsd.toml")).unwrap();
    testbed.write_config(&text.replace("idle = \"sleep\"", "idle = \"pause\""));
    testbed
}

fn conns(daemon: &Daemon<'_>) -> u64 {
    let workers: Vec<Worker> = daemon.get("/v1/workers");
    workers.iter().map(|worker| worker.conns4).sum()
}

#[test]
fn a_worker_makes_no_system_call_while_connections_come_and_expire_and_services_change() {
    let testbed = testbed();
    let daemon = testbed.start();
    let process = daemon.pid().to_string();
    let traced = Traced::attach(&process, &threads(&process, WORKERS)[0], &testbed.path("calls"));
    for _ in 0..3 {
        daemon.printed("server add udp:192.0.2.100:53 198.51.100.11:53 --mode nat");
        until("every flow has a connection", || conns(&daemon) == u64::from(FLOWS));
        // Their packets then find no server: each lets its connection expire at once.
        daemon.printed("server delete udp:192.0.2.100:53 198.51.100.11:53");
        until("all are gone", || conns(&daemon) == 0);
    }
    assert_eq!(traced.calls(), "");
    daemon.stop();
}

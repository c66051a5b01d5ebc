//! A connection table that is full: new connections are refused by name, old ones go on.

use lvs_api::{ServiceStatus, Worker};
use lvs_core::testing::{CapturedFrame, tcp4, write_pcap};
use lvs_test_support::daemon::Testbed;
use lvs_test_support::waits::until;

/// The least that can be configured.
const CONNS_MAX: u16 = 1_024;
const TOO_MANY: u16 = 1_000;

#[test]
fn a_full_connection_table_refuses_new_connections_and_old_ones_go_on() {
    let testbed = Testbed::create();
    testbed.twin("wan", "02:00:00:00:00:01");
    testbed.address("wan", "192.0.2.1/24");
    testbed.address("wan", "192.0.2.100/32");
    testbed.inside("ip neigh add 192.0.2.11 lladdr 02:00:00:00:01:0b dev wan nud permanent");
    testbed.configure_with_conns4_max(
        u32::from(CONNS_MAX),
        &format!(
            "[[device]]\nname = \"wan\"\ndpdk = \"net_pcap0,rx_pcap={}\"\nmac = \"02:00:00:00:00:01\"\npromiscuous = true\n\
             [[service]]\nprotocol = \"tcp\"\naddress = \"192.0.2.100\"\nport = 80\n\
             [[service.real_server]]\naddress = \"192.0.2.11\"\n",
            testbed.path("wan.pcap").display()
        ),
    );
    let ends = |client: u16| format!("192.0.2.2:{} > 192.0.2.100:80", 10_000 + client);
    let syns = (0..CONNS_MAX + TOO_MANY).map(|client| tcp4(&ends(client)).syn().build());
    let acks = (0..CONNS_MAX).map(|client| tcp4(&ends(client)).ack().build());
    let frames: Vec<_> = syns.chain(acks).map(CapturedFrame::of).collect();
    std::fs::write(testbed.path("wan.pcap"), write_pcap(&frames)).unwrap();

    let daemon = testbed.start();
    let all = u64::from(2 * CONNS_MAX + TOO_MANY);
    until("all frames were received", || {
        daemon.get::<Vec<Worker>>("/v1/workers")[0].rx_packets == all
    });
    let workers: Vec<Worker> = daemon.get("/v1/workers");
    assert_eq!(workers[0].conns4, u64::from(CONNS_MAX));
    assert_eq!(daemon.drops_of("conn_table_full"), u64::from(TOO_MANY));
    let drops = daemon.printed("drops");
    let line: Vec<_> = drops.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line[..2], ["conn_table_full", "1000"], "{drops}");
    assert!(
        drops.contains("The connection table holds as many connections as configured."),
        "{drops}"
    );
    let services: Vec<ServiceStatus> = daemon.get("/v1/services");
    let totals = services[0].totals;
    assert_eq!(
        (totals.connections, totals.in_packets),
        (u64::from(CONNS_MAX), u64::from(2 * CONNS_MAX))
    );
    daemon.stop();
}

//! A device that claims several receive queues but delivers all frames to one of them.

use lvs_api::{Device, RssState, Worker};
use lvs_core::testing::{CapturedFrame, tcp4, write_pcap};
use lvs_test_support::daemon::Testbed;
use lvs_test_support::waits::until;

/// By a secret hash, the other worker owns half of these flows, about 1,500. That is far from a multiple of 1,024, at
/// which the worker clears its record of flows: too few frames would follow to fill the record again.
const FLOWS: u16 = 3_000;

/// Two workers, and a capture for each of the two queues of "wan": all flows in the first, nothing in the second.
fn configure(testbed: &Testbed) {
    let frames: Vec<_> = (0..FLOWS)
        .map(|flow| {
            tcp4(&format!(
                "192.0.2.{}:{} > 192.0.2.100:80",
                150 + flow % 100,
                10_000 + flow
            ))
        })
        .map(|packet| packet.syn().build())
        .map(CapturedFrame::of)
        .collect();
    std::fs::write(testbed.path("all.pcap"), write_pcap(&frames)).unwrap();
    std::fs::write(testbed.path("none.pcap"), write_pcap(&[])).unwrap();
    let cpus = lvsd::dpdk::eal::available_cpus();
    let worker_cpu = cpus[1 % cpus.len()];
    testbed.write_config(&format!(
        "[eal]\nhugepages = \"never\"\nmain_core = {}\nworker_cores = [{worker_cpu}, {worker_cpu}]\n\
         [workers]\nidle = \"sleep\"\n[connections]\nstate_dir = {:?}\n[api]\nsocket = {:?}\n[journal]\npath = {:?}\n\
         [[device]]\nname = \"wan\"\npromiscuous = true\nmac = \"02:00:00:00:00:01\"\ndpdk = \"net_pcap0,rx_pcap={},rx_pcap={}\"\n\
         [[service]]\nprotocol = \"tcp\"\naddress = \"192.0.2.100\"\nport = 80\nscheduler = \"rr\"\n\
         [[service.real_server]]\naddress = \"192.0.2.5\"\nmode = \"dr\"\n",
        cpus[0],
        testbed.state_dir(),
        testbed.socket(),
        testbed.path("journal"),
        testbed.path("all.pcap").display(),
        testbed.path("none.pcap").display(),
    ));
}

#[test]
fn a_device_that_brings_all_flows_by_one_queue_is_shown_and_its_load_is_shared_all_the_same() {
    let testbed = Testbed::create();
    testbed.twin("wan", "02:00:00:00:00:01");
    testbed.address("wan", "192.0.2.1/24");
    testbed.address("wan", "192.0.2.100/32");
    testbed.inside("ip neigh add 192.0.2.5 lladdr 02:00:00:00:01:05 dev wan nud permanent");
    configure(&testbed);
    let daemon = testbed.start();
    until("every flow has its connection", || {
        let workers: Vec<Worker> = daemon.get("/v1/workers");
        workers.iter().map(|worker| worker.conns4).sum::<u64>() == u64::from(FLOWS)
    });
    let workers: Vec<Worker> = daemon.get("/v1/workers");
    assert_eq!((workers[0].rx_packets, workers[1].rx_packets), (u64::from(FLOWS), 0));
    assert_eq!(workers[0].handoff_out_packets, workers[1].handoff_in_packets);
    for worker in &workers {
        assert!(worker.conns4 > u64::from(FLOWS) * 2 / 5, "shared: {workers:?}");
    }
    until("the device is judged", || {
        daemon.get::<Vec<Device>>("/v1/devices")[0].rss == RssState::None
    });
    assert_eq!(daemon.get::<Vec<Device>>("/v1/devices")[0].rx_queues, 2);
    let (_, metrics) = daemon.ask("GET", "/metrics", "");
    assert!(metrics.contains("lvsd_device_rss_as_claimed{device=\"wan\"} 0\n"));
    let shown = daemon.printed("devices");
    assert!(shown.contains("RSS") && shown.contains(" none "), "{shown}");
    let shown = daemon.printed("workers");
    assert!(
        shown.contains("Imbalance 1.") && shown.contains("frames handed off"),
        "{shown}"
    );
    let log = daemon.stop();
    assert_eq!(
        log.matches("device \"wan\" has 2 receive queues, but all flows come by one")
            .count(),
        1,
        "{log}"
    );
}

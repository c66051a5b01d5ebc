//! A director that sleeps when idle, on software devices without receive interrupts.

use std::fs;

use lvs_api::Worker;
use lvs_core::testing::{CapturedFrame, udp4, write_pcap};
use lvs_test_support::daemon::Testbed;
use lvs_test_support::process::WORKERS;
use lvs_test_support::waits::until;

#[test]
fn a_director_without_traffic_leaves_its_core_alone_and_connections_expire() {
    let testbed = Testbed::create();
    for (name, number) in [("wan", 1), ("lan", 2)] {
        testbed.twin(name, &format!("02:00:00:00:00:0{number}"));
    }
    testbed.address("wan", "192.0.2.1/24");
    testbed.address("wan", "192.0.2.100/32");
    testbed.inside("ip neigh add 192.0.2.5 lladdr 02:00:00:00:01:05 dev wan nud permanent");
    testbed.inside("ip link add near type veth peer name far");
    testbed.inside("ip link set near up");
    testbed.inside("ip link set far up");
    let bytes = udp4("192.0.2.9:5000 > 192.0.2.100:53").build();
    let frame = CapturedFrame::of(bytes);
    fs::write(testbed.path("one.pcap"), write_pcap(&[frame])).unwrap();
    testbed.configure(&format!(
        "[timeouts]\nudp_sec = 2\n\
         [[device]]\nname = \"wan\"\npromiscuous = true\nmac = \"02:00:00:00:00:01\"\ndpdk = \"net_pcap0,rx_pcap={}\"\n\
         [[device]]\nname = \"lan\"\ndpdk = \"net_af_packet0,iface=near\"\n\
         [[service]]\nprotocol = \"udp\"\naddress = \"192.0.2.100\"\nport = 53\nscheduler = \"rr\"\n\
         [[service.real_server]]\naddress = \"192.0.2.5\"\nmode = \"dr\"\n",
        testbed.path("one.pcap").display(),
    ));
    let text = fs::read_to_string(testbed.path("lvsd.toml")).unwrap();
    testbed.write_config(&text.replace("idle = \"sleep\"", "idle = \"adaptive\""));
    let daemon = testbed.start();
    let worker = || daemon.get::<Vec<Worker>>("/v1/workers").remove(0);
    until("its connection has expired", || {
        let worker = worker();
        worker.scheduler_picks == 1 && worker.conns_expired == 1 && worker.conns4 == 0
    });
    let (before, cpu_before) = (worker(), daemon.cpu_time(WORKERS));
    until("it has slept a hundred times more", || {
        worker().sleeps >= before.sleeps + 100
    });
    let (after, spent) = (worker(), daemon.cpu_time(WORKERS) - cpu_before);
    let (sleeps, passes) = (after.sleeps - before.sleeps, after.passes - before.passes);
    println!("{sleeps} sleeps, {passes} passes, {spent:?} of CPU");
    // What a pass costs depends on what else runs on the core; how many there are does not.
    assert!(passes <= 3 * sleeps, "{passes} passes for {sleeps} sleeps");
    assert!(daemon.printed("workers").contains("Asleep%"));
    let log = daemon.stop();
    assert!(
        log.contains("device \"lan\" has no receive interrupts: workers that sleep look every 1000 us"),
        "{log}"
    );
}

//! What a worker of the real daemon asks of the kernel while connections come and expire: nothing.

use lvs_api::Worker;
use lvs_core::testing::{CapturedFrame, udp4, write_pcap};

use crate::stand::{Daemon, Stand, until};
use crate::traced::{Traced, threads};

const FLOWS: u16 = 2_000;

/// Flows without end, and a worker that polls.
fn stand() -> Stand {
    let stand = Stand::new();
    for (device, number, address) in [("wan", 1, "192.0.2.1/24"), ("lan", 2, "198.51.100.1/24")] {
        stand.twin(device, &format!("02:00:00:00:00:0{number}"));
        stand.address(device, address);
    }
    stand.address("wan", "192.0.2.100/32");
    stand.inside("ip neigh add 198.51.100.11 lladdr 02:00:00:00:02:11 dev lan nud permanent");
    let frame = |flow: u16| {
        let ends = format!("192.0.2.7:{} > 192.0.2.100:53", 10_000 + flow);
        let bytes = udp4(&ends).dst_mac([2, 0, 0, 0, 0, 1]).build();
        CapturedFrame {
            time_ns: 0,
            wire_len: bytes.len() as u32,
            bytes,
        }
    };
    let frames: Vec<_> = (0..FLOWS).map(frame).collect();
    std::fs::write(stand.path("in.pcap"), write_pcap(&frames)).unwrap();
    stand.configure(&format!(
        "[sysctl]\nexpire_nodest_conn = 1\n\
         [[device]]\nname = \"wan\"\ndpdk = \"net_pcap0,rx_pcap={},infinite_rx=1\"\nmac = \"02:00:00:00:00:01\"\npromiscuous = true\n\
         [[device]]\nname = \"lan\"\ndpdk = \"net_null0,no-rx=1\"\nmac = \"02:00:00:00:00:02\"\n\
         [[service]]\nprotocol = \"udp\"\naddress = \"192.0.2.100\"\nport = 53\n",
        stand.path("in.pcap").display()
    ));
    let text = std::fs::read_to_string(stand.path("lvsd.toml")).unwrap();
    stand.write_config(&text.replace("idle = \"sleep\"", "idle = \"pause\""));
    stand
}

fn conns(daemon: &Daemon<'_>) -> u64 {
    let workers: Vec<Worker> = daemon.get("/v1/workers");
    workers.iter().map(|worker| worker.conns4).sum()
}

#[test]
fn a_worker_makes_no_system_call_while_connections_come_and_expire_and_services_change() {
    let stand = stand();
    let daemon = stand.start();
    let process = daemon.pid().to_string();
    let traced = Traced::attach(&process, &threads(&process, "rte-worker")[0], &stand.path("calls"));
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

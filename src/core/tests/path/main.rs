//! Frames in, frames and counters out: every forwarding mode, both families, one worker and several.

mod client_address;
mod errors;
mod explanations;
mod fast_path;
mod fragment_orders;
mod fragments;
mod modes;
mod options;
mod own_client;
mod passes;
mod persistence;
mod refusals;
mod resets;
mod response_times;
mod restart;
mod shapes;
mod stack;
mod sync;
mod sync_belief;
mod sync_bulk;
mod sync_every;
mod time_wait;
mod timeouts;
mod workers;

use std::net::IpAddr;

use lvs_core::ipvs::desired::{ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::describe;
use lvs_core::testing::director::TestDirector;
use lvs_core::testing::network::network;

/// Connections a family and worker.
const CONNS_MAX: usize = 1_024;

/// `tcp` or `udp` service on a VIP.
fn service(protocol: ServiceProtocol, vip: &str, port: u16) -> ServiceKey {
    ServiceKey::Address {
        protocol,
        addr: addr(vip),
        port,
    }
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A director with one service and real servers `198.51.100.11…` or `2001:db8:b::11…` at `port`.
fn director(workers: u8, key: ServiceKey, mode: ForwardingMode, servers: &[&str], port: u16) -> TestDirector {
    let director = TestDirector::new(workers, CONNS_MAX, network().build(1));
    with_service(director, key, mode, servers, port)
}

/// The same with a director that has no service yet.
fn with_service(
    mut director: TestDirector,
    key: ServiceKey,
    mode: ForwardingMode,
    servers: &[&str],
    port: u16,
) -> TestDirector {
    director.change(|desired| {
        desired
            .add_service(ServiceSpec::new(key, SchedulerKind::Rr))
            .expect("a new service");
        for server in servers {
            let mode = if mode == ForwardingMode::FullNat {
                ForwardingMode::Nat
            } else {
                mode
            };
            desired
                .add_server(&key, ServerSpec::new(addr(server), port, mode, 1))
                .expect("a new server");
        }
        if mode == ForwardingMode::FullNat {
            let ServiceKey::Address { addr: vip, .. } = key else {
                panic!("the tests' services have addresses")
            };
            let local = if vip.is_ipv4() {
                "198.51.100.200"
            } else {
                "2001:db8:b::200"
            };
            desired
                .set_local_addresses(&key, vec![addr(local)])
                .expect("a local address");
        }
    });
    director
}

/// What `describe` says of a frame, up to the MAC addresses.
fn packet(frame: &[u8]) -> String {
    describe(frame).split(" |").next().unwrap_or_default().to_owned()
}

/// connections, packets in, out, bytes in, out, active, inactive of a server over all workers.
fn counts(director: &TestDirector, id: u32) -> [u64; 7] {
    director.counters.iter().fold([0; 7], |sum, worker| {
        let server = worker.server(RealServerId(id));
        let one = [
            server.connections.get(),
            server.in_packets.get(),
            server.out_packets.get(),
            server.in_bytes.get(),
            server.out_bytes.get(),
            u64::from(server.active.get()),
            u64::from(server.inactive.get()),
        ];
        std::array::from_fn(|at| sum[at] + one[at])
    })
}

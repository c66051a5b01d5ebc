//! Clients that stick to their servers, with one worker and several; deleted servers under `expire_nodest_conn`.

use lvs_core::ipvs::conn::ConnFlags;
use lvs_core::ipvs::desired::ServiceSpec;
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::persistence::{ClientMask, Persistence};
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac};
use lvs_core::testing::tcp4;

use super::{addr, director, packet, service};

const SERVERS: [&str; 3] = ["198.51.100.11", "198.51.100.12", "198.51.100.13"];

fn persistent(workers: u8, mask: &str) -> (TestDirector, ServiceKey) {
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let mut director = director(workers, key, ForwardingMode::Nat, &SERVERS, 80);
    let spec = ServiceSpec {
        persistence: Some(Persistence {
            timeout_sec: 300,
            mask: ClientMask::Ipv4(mask.parse().expect("a mask")),
        }),
        ..ServiceSpec::new(key, SchedulerKind::Rr)
    };
    director
        .change(|desired| desired.edit_service(spec))
        .expect("the service is there");
    (director, key)
}

/// Destination of a client's first packet, as polled by `worker`.
fn server_of(director: &mut TestDirector, worker: usize, client: &str) -> String {
    let ends = format!("{client} > 192.0.2.100:80");
    let (_, frame) = director
        .inject_at(worker, WAN, &tcp4(&ends).syn().build())
        .transmitted();
    packet(&frame).split(' ').nth(4).expect("a destination").to_owned()
}

#[test]
fn all_connections_of_a_client_go_to_one_server_whichever_worker_polls_them() {
    for workers in [1u8, 2, 3, 7] {
        let (mut director, _) = persistent(workers, "255.255.255.255");
        for client in 2..9 {
            let mut servers: Vec<String> = (0..40u16)
                .map(|port| {
                    let worker = usize::from(port) % usize::from(workers);
                    server_of(&mut director, worker, &format!("192.0.2.{client}:{}", 10_000 + port))
                })
                .collect();
            let reply = format!("{} > 192.0.2.{client}:10007", servers[0]);
            let reply = tcp4(&reply).syn().ack().dst_mac(director_mac(LAN)).build();
            let polled_by = usize::from(workers - 1);
            assert!(matches!(
                director.inject_at(polled_by, LAN, &reply),
                Outcome::Transmitted(WAN, _)
            ));
            servers.dedup();
            assert_eq!(servers.len(), 1, "client {client} of {workers} workers");
        }
        let templates = director
            .conns()
            .iter()
            .filter(|conn| conn.flags.contains(ConnFlags::TEMPLATE))
            .count();
        assert_eq!(templates, 7, "one template a client");
    }
}

#[test]
fn a_network_sticks_together_by_the_mask() {
    let (mut director, _) = persistent(3, "255.255.255.0");
    let first = server_of(&mut director, 0, "203.0.113.1:1");
    assert_eq!(server_of(&mut director, 1, "203.0.113.200:2"), first);
    assert_eq!(server_of(&mut director, 2, "203.0.113.77:3"), first);
}

#[test]
fn with_a_mask_of_nothing_all_clients_are_one() {
    let (mut director, _) = persistent(3, "0.0.0.0");
    let first = server_of(&mut director, 0, "203.0.113.1:1");
    for (worker, client) in ["192.0.2.2:1", "192.0.2.3:2", "203.0.113.77:3"].into_iter().enumerate() {
        assert_eq!(server_of(&mut director, worker, client), first, "{client}");
    }
    let templates = director
        .conns()
        .iter()
        .filter(|conn| conn.flags.contains(ConnFlags::TEMPLATE))
        .count();
    assert_eq!(templates, 1);
}

#[test]
fn a_template_outlives_its_timeout_while_it_has_connections_and_then_goes() {
    let (mut director, _) = persistent(1, "255.255.255.255");
    let first = server_of(&mut director, 0, "192.0.2.2:1");
    let keep_alive = tcp4("192.0.2.2:1 > 192.0.2.100:80").ack().build();
    for _ in 0..20 {
        director.advance_ms(30_000);
        director.inject(WAN, &keep_alive);
    }
    assert_eq!(
        director.conns().len(),
        2,
        "600 s later the connection and its template are there"
    );
    assert_eq!(server_of(&mut director, 0, "192.0.2.2:2"), first);
    director.advance_ms(900_000 + 120_000);
    assert!(director.conns().is_empty());
    let counters = &director.counters[0];
    assert!(counters.servers.iter().all(|server| server.persistent.get() == 0));
    assert!(
        counters
            .servers
            .iter()
            .all(|server| server.active.get() + server.inactive.get() == 0)
    );
}

#[test]
fn a_drained_server_keeps_its_clients_unless_templates_expire_with_it() {
    let (mut director, key) = persistent(1, "255.255.255.255");
    let first = server_of(&mut director, 0, "192.0.2.2:1");
    director.change(|desired| {
        let listing = desired.listing(&key).expect("the service is there");
        let drained: Vec<_> = listing
            .servers()
            .filter(|server| first == format!("{}:80", server.spec.addr))
            .map(|server| server.spec)
            .collect();
        let mut spec = drained[0];
        spec.weight = 0;
        desired.edit_server(&key, spec).expect("the server is there");
    });
    assert_eq!(server_of(&mut director, 0, "192.0.2.2:2"), first);
    let mut sysctls = *director.sysctls();
    sysctls.expire_quiescent_template = true;
    director.set_sysctls(sysctls);
    let second = server_of(&mut director, 0, "192.0.2.2:3");
    assert_ne!(second, first);
    assert_eq!(server_of(&mut director, 0, "192.0.2.2:4"), second);
}

#[test]
fn with_expire_nodest_conn_the_connections_of_a_deleted_server_end_in_the_background() {
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let mut director = director(2, key, ForwardingMode::Nat, &SERVERS, 80);
    let mut sysctls = *director.sysctls();
    sysctls.expire_nodest_conn = true;
    director.set_sysctls(sysctls);
    for port in 0..300u16 {
        server_of(&mut director, 0, &format!("192.0.2.2:{}", 10_000 + port));
    }
    director
        .change(|desired| desired.delete_server(&key, addr(SERVERS[0]), 80))
        .expect("the server is there");
    director.advance_ms(1_000);
    let conns = director.conns();
    assert!(conns.iter().all(|conn| conn.real.0 != addr(SERVERS[0])));
    assert!((190..=210).contains(&conns.len()), "{} connections", conns.len());
}

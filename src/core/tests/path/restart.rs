//! Another process goes on with the connections of one that was killed: packets leave as before, counts are right.
//!
//! Its numbers of services and servers are others: there is a service more, and servers are added in another order.

use lvs_core::ipvs::conn::ConnFlags;
use lvs_core::ipvs::conn::table::Recovery;
use lvs_core::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::persistence::{ClientMask, Persistence};
use lvs_core::ipvs::protocol::tcp::TcpState;
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::ipvs::sync::{SyncConn, SyncRoles};
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{tcp4, tcp6};
use lvs_core::verdict::DropReason;

use super::{CONNS_MAX, addr, packet, service};

const CLIENTS: u16 = 24;

/// A service, its servers and its local address.
struct Rules {
    spec: ServiceSpec,
    servers: Vec<ServerSpec>,
    local: Option<&'static str>,
}

impl Rules {
    fn new(key: ServiceKey, mode: ForwardingMode, servers: &[&str], port: u16) -> Self {
        let is_full_nat = mode == ForwardingMode::FullNat;
        let configured = if is_full_nat { ForwardingMode::Nat } else { mode };
        let local = match key {
            ServiceKey::Address { addr, .. } if addr.is_ipv6() => "2001:db8:b::200",
            _ => "198.51.100.200",
        };
        Self {
            spec: ServiceSpec::new(key, SchedulerKind::Rr),
            servers: servers
                .iter()
                .map(|server| ServerSpec::new(addr(server), port, configured, 1))
                .collect(),
            local: is_full_nat.then_some(local),
        }
    }

    fn add<'a>(&'a self, desired: &mut DesiredServices, servers: impl Iterator<Item = &'a ServerSpec>) {
        desired.add_service(self.spec).expect("a new service");
        if let Some(local) = self.local {
            let locals = vec![addr(local)];
            desired
                .set_local_addresses(&self.spec.key, locals)
                .expect("a local address");
        }
        for server in servers {
            desired.add_server(&self.spec.key, *server).expect("a new server");
        }
    }

    fn director(&self, workers: u8) -> TestDirector {
        let mut director = TestDirector::new(workers, CONNS_MAX, network().build(1));
        director.change(|desired| self.add(desired, self.servers.iter()));
        director
    }

    /// With a service and a server before these, and servers the other way round.
    fn restart(&self, director: &mut TestDirector) -> Recovery {
        director.restart(|desired| {
            let key = service(ServiceProtocol::Udp, "192.0.2.101", 9);
            Self::new(key, ForwardingMode::Nat, &["198.51.100.19"], 9).add(desired, std::iter::empty());
            self.add(desired, self.servers.iter().rev());
        })
    }
}

/// Active, inactive and persistent connections of all workers by the server's address.
fn counts(director: &TestDirector) -> Vec<(String, [u32; 3])> {
    let services = &director.workers[0].snapshot().services;
    let of = |id: RealServerId| {
        director.counters.iter().fold([0; 3], |sum, worker| {
            let server = worker.server(id);
            let own = [server.active.get(), server.inactive.get(), server.persistent.get()];
            std::array::from_fn(|at| sum[at] + own[at])
        })
    };
    let mut counts: Vec<_> = services
        .real_servers()
        .map(|slot| (slot.server.addr.to_string(), of(slot.server.id)))
        .filter(|(_, counts)| *counts != [0; 3])
        .collect();
    counts.sort();
    counts
}

/// Listed connections without the numbers of the process.
fn listed(director: &TestDirector) -> Vec<String> {
    let mut listed: Vec<String> = director
        .conns()
        .iter()
        .map(|conn| {
            let ends = (conn.client, conn.virt, conn.local, conn.real, conn.mode, conn.flags);
            format!(
                "{} {ends:?} {} {}",
                conn.protocol,
                conn.state_name(),
                conn.expires_in_ms
            )
        })
        .collect();
    listed.sort();
    listed
}

fn ends(from: &str, to: &str) -> String {
    format!("{from} > {to}")
}

fn build(text: &str) -> lvs_core::testing::PacketBuilder {
    if text.starts_with('[') { tcp6(text) } else { tcp4(text) }
}

/// The first packet of every client, from another worker each.
fn begin_all(director: &mut TestDirector, client: &str, virt: &str) {
    for port in 0..CLIENTS {
        let syn = build(&ends(&format!("{client}:{}", 20_000 + port), virt)).syn().build();
        let worker = usize::from(port) % director.workers.len();
        director.inject_at(worker, WAN, &syn).transmitted();
    }
}

/// What becomes of a data packet of every client, and of what each server answers where the director sees replies.
fn go_on(director: &mut TestDirector, client: &str, virt: &str) -> Vec<String> {
    let workers = director.workers.len();
    let mut seen = Vec::new();
    for port in 0..CLIENTS {
        let ack = build(&ends(&format!("{client}:{}", 20_000 + port), virt)).ack().build();
        let (_, frame) = director.inject_at(usize::from(port) % workers, WAN, &ack).transmitted();
        seen.push(packet(&frame));
    }
    for conn in director.conns() {
        if !conn.mode.sees_replies() || conn.flags.contains(ConnFlags::TEMPLATE) {
            continue;
        }
        let end = |(addr, port): (std::net::IpAddr, u16)| std::net::SocketAddr::new(addr, port).to_string();
        let reply = build(&ends(&end(conn.real), &end(conn.local))).ack();
        let reply = reply.dst_mac(director_mac(LAN)).build();
        let (device, frame) = director.inject_at(workers - 1, LAN, &reply).transmitted();
        assert_eq!(device, WAN);
        seen.push(packet(&frame));
    }
    seen.sort();
    seen
}

#[test]
fn connections_of_every_mode_and_family_go_on_with_the_numbers_of_the_new_process() {
    const V4: (&str, &str, [&str; 2]) = ("192.0.2.2", "192.0.2.100", ["198.51.100.11", "198.51.100.12"]);
    const V6: (&str, &str, [&str; 2]) = (
        "[2001:db8:a::2]",
        "2001:db8:a::100",
        ["2001:db8:b::11", "2001:db8:b::12"],
    );
    for workers in [1, 3] {
        for (client, vip, servers) in [V4, V6] {
            for (mode, port) in [
                (ForwardingMode::Nat, 8_080),
                (ForwardingMode::Nat, 0),
                (ForwardingMode::FullNat, 8_080),
                (ForwardingMode::Tunnel, 80),
                (ForwardingMode::DirectRouting, 80),
            ] {
                let what = format!("{mode:?} to {vip}, {workers} workers");
                let rules = Rules::new(service(ServiceProtocol::Tcp, vip, 80), mode, &servers, port);
                let mut director = rules.director(workers);
                let virt = std::net::SocketAddr::new(addr(vip), 80).to_string();
                begin_all(&mut director, client, &virt);
                let before = (
                    go_on(&mut director, client, &virt),
                    listed(&director),
                    counts(&director),
                );
                director.advance_ms(10);
                let quiet = listed(&director);
                let recovery = rules.restart(&mut director);
                assert_eq!(
                    (recovery.kept, recovery.torn, recovery.refused),
                    (CLIENTS.into(), 0, 0),
                    "{what}"
                );
                assert_eq!(listed(&director), quiet, "{what}: times go on");
                assert_eq!(counts(&director), before.2, "{what}");
                let after = (
                    go_on(&mut director, client, &virt),
                    listed(&director),
                    counts(&director),
                );
                assert_eq!(after, before, "{what}");
                let begun: u64 = director
                    .counters
                    .iter()
                    .map(|worker| worker.scheduler_picks.get())
                    .sum();
                assert_eq!(begun, 0, "{what}: none began anew");
                director.skip_ms(1_000_000);
                assert_eq!((director.conns().len(), counts(&director)), (0, Vec::new()), "{what}");
            }
        }
    }
}

fn persistent(port: u16) -> Rules {
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", port);
    let servers = ["198.51.100.11", "198.51.100.12", "198.51.100.13"];
    let mut rules = Rules::new(key, ForwardingMode::Nat, &servers, port);
    rules.spec.persistence = Some(Persistence {
        timeout_sec: 300,
        mask: ClientMask::Ipv4("255.255.255.255".parse().unwrap()),
    });
    rules
}

#[test]
fn clients_of_a_persistent_service_stay_with_their_servers() {
    // Of one port, of FTP, whose data connections have others, and of every port.
    for (service_port, port) in [(80, 80), (21, 21), (21, 3_000), (0, 443)] {
        let rules = persistent(service_port);
        let mut director = rules.director(1);
        let server_of = |director: &mut TestDirector, host: u16, client_port: u16| {
            let ends = format!("192.0.2.{host}:{client_port} > 192.0.2.100:{port}");
            let (_, frame) = director.inject(WAN, &tcp4(&ends).syn().build()).transmitted();
            packet(&frame).split(' ').nth(4).expect("a destination").to_owned()
        };
        let before: Vec<String> = (2..8).map(|host| server_of(&mut director, host, 1)).collect();
        let before_counts = counts(&director);
        assert_eq!(before_counts.iter().map(|(_, counts)| counts[2]).sum::<u32>(), 6);
        let recovery = rules.restart(&mut director);
        assert_eq!((recovery.kept, recovery.torn, recovery.refused), (12, 0, 0));
        assert_eq!(counts(&director), before_counts, "service {service_port}, port {port}");
        let after: Vec<String> = (2..8).map(|host| server_of(&mut director, host, 2)).collect();
        assert_eq!(after, before, "service {service_port}, port {port}");
    }
}

#[test]
fn a_connection_whose_server_or_service_was_deleted_stays_and_its_packets_are_dropped_as_before() {
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let other = service(ServiceProtocol::Tcp, "192.0.2.100", 81);
    let rules = Rules::new(key, ForwardingMode::Nat, &["198.51.100.11"], 80);
    let gone = DropReason::RealServerGone;
    let ack = tcp4("192.0.2.2:40000 > 192.0.2.100:80").ack().build();
    for is_service_there in [true, false] {
        let mut director = rules.director(1);
        director
            .inject(WAN, &tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().build())
            .transmitted();
        let recovery = director.restart(|desired| {
            let key = if is_service_there { key } else { other };
            let spec = ServiceSpec::new(key, SchedulerKind::Rr);
            desired.add_service(spec).expect("a new service");
            let server = ServerSpec::new(addr("198.51.100.12"), 80, ForwardingMode::Nat, 1);
            desired.add_server(&key, server).expect("a new server");
        });
        assert_eq!(recovery.kept, 1);
        assert_eq!((counts(&director), director.conns().len()), (Vec::new(), 1));
        assert_eq!(director.inject(WAN, &ack), Outcome::Dropped(gone));
        // It has its server again when the rules have it again at a later restart.
        rules.restart(&mut director);
        assert_eq!(counts(&director), [("198.51.100.11".to_owned(), [1, 0, 0])]);
        director.inject(WAN, &ack).transmitted();
    }
}

#[test]
fn a_tunnel_to_the_other_family_goes_on_where_only_one_server_can_be_meant() {
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let one = Rules::new(key, ForwardingMode::Tunnel, &["2001:db8:b::11", "198.51.100.11"], 80);
    let two = Rules::new(key, ForwardingMode::Tunnel, &["2001:db8:b::11", "2001:db8:b::12"], 80);
    for (rules, kept) in [(one, 2), (two, 0)] {
        let mut director = rules.director(1);
        let outer = |director: &mut TestDirector, port: u16| {
            let ack = tcp4(&format!("192.0.2.2:{port} > 192.0.2.100:80")).ack().build();
            // The outer header has a random identification.
            match director.inject(WAN, &ack) {
                Outcome::Transmitted(_, frame) => packet(&frame),
                other => format!("{other:?}"),
            }
        };
        for port in [1, 2] {
            let syn = tcp4(&format!("192.0.2.2:{port} > 192.0.2.100:80")).syn().build();
            director.inject(WAN, &syn).transmitted();
        }
        let before = [outer(&mut director, 1), outer(&mut director, 2)];
        let before_counts = counts(&director);
        let recovery = rules.restart(&mut director);
        assert_eq!((recovery.kept, recovery.refused), (kept, 2 - kept));
        assert_eq!(director.conns().len(), kept);
        if kept == 2 {
            assert_eq!([outer(&mut director, 1), outer(&mut director, 2)], before);
            assert_eq!(counts(&director), before_counts);
        } else {
            assert_eq!(counts(&director), Vec::new());
        }
    }
}

#[test]
fn a_server_that_was_full_is_full_after_a_restart_whichever_worker_has_its_connections() {
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let mut rules = Rules::new(key, ForwardingMode::Nat, &["198.51.100.11"], 80);
    rules.servers[0].upper_threshold = 4;
    let mut director = rules.director(3);
    let begins = |director: &mut TestDirector, port: u16| {
        let syn = tcp4(&format!("192.0.2.2:{port} > 192.0.2.100:80")).syn().build();
        let outcome = director.inject_at(usize::from(port) % 3, WAN, &syn);
        matches!(outcome, Outcome::Transmitted(device, _) if device == LAN)
    };
    let before = (1..40).filter(|port| begins(&mut director, *port)).count();
    assert!(before >= 4);
    rules.restart(&mut director);
    let after = (40..80).filter(|port| begins(&mut director, *port)).count();
    assert_eq!(after, 0);
}

#[test]
fn connections_that_another_director_announced_still_count_as_imported() {
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let rules = Rules::new(key, ForwardingMode::Nat, &["198.51.100.11"], 80);
    let mut director = rules.director(1);
    director.set_sync(SyncRoles {
        master: false,
        backup: true,
    });
    let announced = |port: u16| SyncConn {
        protocol: 6,
        flags: 0,
        state: TcpState::Established as u16,
        client: (addr("192.0.2.2"), port),
        virt: (addr("192.0.2.100"), 80),
        real: (addr("198.51.100.11"), 80),
        local: None,
        fwmark: 0,
        timeout_sec: 900,
        shifts: None,
    };
    director.import_synced(&[announced(1_000), announced(1_001)]);
    let imported = |director: &TestDirector| director.counters[0].imported[0].get();
    assert_eq!(imported(&director), 2);
    assert_eq!(rules.restart(&mut director).kept, 2);
    assert_eq!(imported(&director), 2);
    director.advance_ms(1_000_000);
    assert_eq!((director.conns().len(), imported(&director)), (0, 0));
}

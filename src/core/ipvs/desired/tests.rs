//! Examples of slots and the trash, error messages, and random actions compared with a naive twin.

use proptest::prelude::*;

use super::*;
use crate::ipvs::client_address::ClientAddress;
use crate::ipvs::scheduler::{SchedulerFlags, SchedulerKind};
use crate::ipvs::service::ServiceProtocol;

const WEB: ServiceKey = ServiceKey::Address {
    protocol: ServiceProtocol::Tcp,
    addr: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    port: 80,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn nat(addr: &str, weight: u32) -> ServerSpec {
    ServerSpec::new(ip(addr), 80, ForwardingMode::Nat, weight)
}

fn web(servers: &[ServerSpec]) -> DesiredServices {
    let mut desired = DesiredServices::default();
    desired.add_service(ServiceSpec::new(WEB, SchedulerKind::Wlc)).unwrap();
    servers
        .iter()
        .for_each(|spec| assert!(desired.add_server(&WEB, *spec).is_ok()));
    desired
}

#[test]
fn workers_see_the_newest_server_first_and_listings_the_oldest() {
    let desired = web(&[nat("198.51.100.1", 1), nat("198.51.100.2", 2), nat("198.51.100.3", 3)]);
    let table = desired.build();
    let seen: Vec<u32> = table.services()[0].servers.iter().map(|server| server.weight).collect();
    assert_eq!(seen, [3, 2, 1]);
    let listed: Vec<u32> = desired
        .listing(&WEB)
        .unwrap()
        .servers()
        .map(|server| server.spec.weight)
        .collect();
    assert_eq!(listed, [1, 2, 3]);
}

#[test]
fn an_edit_keeps_slot_and_order() {
    let mut desired = web(&[nat("198.51.100.1", 1), nat("198.51.100.2", 2)]);
    let before = desired.build();
    desired
        .edit_server(
            &WEB,
            ServerSpec {
                mode: ForwardingMode::Tunnel,
                ..nat("198.51.100.1", 9)
            },
        )
        .unwrap();
    desired.edit_service(ServiceSpec::new(WEB, SchedulerKind::Sh)).unwrap();
    let after = desired.build();
    let (old, new) = (&before.services()[0], &after.services()[0]);
    assert_eq!(new.servers[0], old.servers[0]);
    assert_eq!((new.servers[1].id, new.servers[1].weight), (old.servers[1].id, 9));
    assert_eq!(new.servers[1].mode, ForwardingMode::Tunnel);
    assert_eq!((new.id, new.born, new.scheduler), (old.id, old.born, SchedulerKind::Sh));
    assert!(new.revision > old.revision && new.servers_revision > old.servers_revision);
}

#[test]
fn only_changes_of_servers_count_as_such() {
    let mut desired = web(&[nat("198.51.100.1", 1)]);
    let before = desired.build().services()[0].servers_revision;
    desired.edit_service(ServiceSpec::new(WEB, SchedulerKind::Wlc)).unwrap();
    desired.set_local_addresses(&WEB, vec![ip("203.0.113.1")]).unwrap();
    desired.set_overhead(Overhead::Current);
    let after = desired.build();
    assert_eq!(after.services()[0].servers_revision, before);
    assert_eq!(after.services()[0].overhead, Overhead::Current);
    desired.edit_server(&WEB, nat("198.51.100.1", 1)).unwrap();
    assert!(desired.build().services()[0].servers_revision > before);
}

#[test]
fn a_deleted_server_keeps_its_slot_while_it_has_connections_and_two_minutes_longer() {
    let mut desired = web(&[nat("198.51.100.1", 1), nat("198.51.100.2", 2)]);
    let id = desired.listing(&WEB).unwrap().servers().next().unwrap().id;
    desired.delete_server(&WEB, ip("198.51.100.1"), 80).unwrap();
    let slot = desired.build().real_server(id).cloned().unwrap();
    assert_eq!((slot.available, slot.server.addr), (false, ip("198.51.100.1")));
    assert_eq!(desired.collect_trash(1_000, |_| false), 0);
    assert_eq!(desired.collect_trash(5_000, |_| true), 0);
    assert_eq!(desired.collect_trash(5_119, |_| true), 0);
    assert!(desired.build().real_server(id).is_some());
    assert_ne!(desired.add_server(&WEB, nat("198.51.100.3", 1)).unwrap(), id);
    assert_eq!(desired.collect_trash(5_120, |_| true), 1);
    assert!(desired.build().real_server(id).is_none());
    assert_eq!(desired.add_server(&WEB, nat("198.51.100.4", 1)).unwrap(), id);
}

#[test]
fn a_deleted_server_of_an_earlier_process_is_remembered_as_if_deleted_now() {
    let mut earlier = web(&[nat("198.51.100.1", 1), nat("198.51.100.2", 7)]);
    earlier.delete_server(&WEB, ip("198.51.100.2"), 80).unwrap();
    let deleted: Vec<_> = earlier.deleted().collect();
    assert_eq!(deleted, [(&WEB, &nat("198.51.100.2", 7), 7)]);
    let mut desired = web(&[nat("198.51.100.1", 1)]);
    for (key, spec, last_weight) in deleted {
        desired.remember_deleted(key, *spec, last_weight).unwrap();
    }
    assert_eq!(desired.build().deleted_servers().count(), 1);
    let listed = desired.remember_deleted(&WEB, nat("198.51.100.1", 1), 1);
    assert_eq!((listed, desired.deleted().count()), (Ok(()), 1), "it is listed");
    let id = desired.add_server(&WEB, nat("198.51.100.2", 0)).unwrap();
    assert_eq!(id, RealServerId(1));
    let again = desired.listing(&WEB).unwrap().servers().last().unwrap();
    assert_eq!((again.last_weight, desired.deleted().count()), (7, 0));
}

#[test]
fn a_deleted_server_of_a_deleted_service_keeps_a_slot_for_the_service() {
    let mut desired = DesiredServices::default();
    desired.remember_deleted(&WEB, nat("198.51.100.1", 1), 1).unwrap();
    desired.remember_deleted(&WEB, nat("198.51.100.2", 1), 1).unwrap();
    let table = desired.build();
    let slots: Vec<_> = table.real_servers().collect();
    assert_eq!((slots.len(), slots[0].service), (2, slots[1].service));
    let id = desired.add_service(ServiceSpec::new(WEB, SchedulerKind::Rr)).unwrap();
    assert_eq!(id, slots[0].service);
    assert_eq!(
        desired.collect_trash(0, |_| true) + desired.collect_trash(120, |_| true),
        2
    );
    assert_eq!(desired.build().real_servers().count(), 0);
}

#[test]
fn a_connection_in_the_meantime_starts_the_two_minutes_again() {
    let mut desired = web(&[nat("198.51.100.1", 1)]);
    desired.delete_server(&WEB, ip("198.51.100.1"), 80).unwrap();
    for (now_sec, idle, freed) in [
        (0, true, 0),
        (60, false, 0),
        (121, true, 0),
        (240, true, 0),
        (241, true, 1),
    ] {
        assert_eq!(desired.collect_trash(now_sec, |_| idle), freed, "at {now_sec} s");
    }
}

#[test]
fn a_server_added_again_gets_its_slot_back_as_the_newest() {
    let mut desired = web(&[nat("198.51.100.1", 1), nat("198.51.100.2", 2)]);
    let ids: Vec<RealServerId> = desired
        .listing(&WEB)
        .unwrap()
        .servers()
        .map(|server| server.id)
        .collect();
    desired.delete_server(&WEB, ip("198.51.100.1"), 80).unwrap();
    assert_eq!(desired.add_server(&WEB, nat("198.51.100.1", 5)).unwrap(), ids[0]);
    let table = desired.build();
    let order: Vec<RealServerId> = table.services()[0].servers.iter().map(|server| server.id).collect();
    assert_eq!(order, [ids[0], ids[1]]);
    assert!(table.real_server(ids[0]).unwrap().available);
}

#[test]
fn another_port_or_service_does_not_inherit_a_slot() {
    let mut desired = web(&[nat("198.51.100.1", 1)]);
    let old = desired.listing(&WEB).unwrap().servers().next().unwrap().id;
    desired.delete_server(&WEB, ip("198.51.100.1"), 80).unwrap();
    assert_ne!(
        desired
            .add_server(
                &WEB,
                ServerSpec {
                    port: 81,
                    ..nat("198.51.100.1", 1)
                }
            )
            .unwrap(),
        old
    );
    let other = ServiceKey::Address {
        protocol: ServiceProtocol::Udp,
        addr: ip("192.0.2.1"),
        port: 80,
    };
    desired.add_service(ServiceSpec::new(other, SchedulerKind::Rr)).unwrap();
    assert_ne!(desired.add_server(&other, nat("198.51.100.1", 1)).unwrap(), old);
}

fn web_at(addr: &str) -> ServiceKey {
    ServiceKey::Address {
        protocol: ServiceProtocol::Tcp,
        addr: ip(addr),
        port: 80,
    }
}

#[test]
fn a_deleted_service_makes_its_servers_unavailable_and_keeps_its_slot_until_they_are_gone() {
    let mut desired = web(&[nat("198.51.100.1", 1)]);
    let listing = desired.listing(&WEB).unwrap();
    let (service, server) = (listing.id, listing.servers().next().unwrap().id);
    desired.delete_service(&WEB).unwrap();
    assert!(!desired.build().real_server(server).unwrap().available);
    let other = web_at("192.0.2.2");
    assert_ne!(
        desired.add_service(ServiceSpec::new(other, SchedulerKind::Rr)).unwrap(),
        service
    );
    // Added again under the same key, they get the same slots, because connections still refer to them.
    assert_eq!(
        desired.add_service(ServiceSpec::new(WEB, SchedulerKind::Rr)).unwrap(),
        service
    );
    assert_eq!(desired.add_server(&WEB, nat("198.51.100.1", 1)).unwrap(), server);
    desired.delete_service(&WEB).unwrap();
    desired.collect_trash(0, |_| true);
    assert_eq!(desired.collect_trash(200, |_| true), 1);
    let third = web_at("192.0.2.3");
    assert_eq!(
        desired.add_service(ServiceSpec::new(third, SchedulerKind::Rr)).unwrap(),
        service
    );
}

#[test]
fn the_last_weight_above_0_survives_quiescing_and_deletion() {
    let mut desired = web(&[nat("198.51.100.1", 0)]);
    let last_weight = |desired: &DesiredServices| desired.listing(&WEB).unwrap().servers().next().unwrap().last_weight;
    assert_eq!(last_weight(&desired), 0);
    desired.edit_server(&WEB, nat("198.51.100.1", 7)).unwrap();
    desired.edit_server(&WEB, nat("198.51.100.1", 0)).unwrap();
    assert_eq!(last_weight(&desired), 7);
    desired.delete_server(&WEB, ip("198.51.100.1"), 80).unwrap();
    desired.add_server(&WEB, nat("198.51.100.1", 0)).unwrap();
    assert_eq!(last_weight(&desired), 7);
}

#[test]
fn services_have_a_limit() {
    let mut desired = DesiredServices::default();
    let spec = |n: usize| {
        let addr = IpAddr::from([198, 18, (n / 200) as u8, (n % 200) as u8 + 1]);
        ServiceSpec::new(
            ServiceKey::Address {
                protocol: ServiceProtocol::Tcp,
                addr,
                port: 80,
            },
            SchedulerKind::Rr,
        )
    };
    (0..SERVICES_MAX).for_each(|n| assert!(desired.add_service(spec(n)).is_ok()));
    assert_eq!(
        desired.add_service(spec(SERVICES_MAX)),
        Err(ServiceError::TooManyServices)
    );
    desired.delete_service(&spec(5).key).unwrap();
    assert_eq!(desired.add_service(spec(SERVICES_MAX)), Ok(ServiceId(5)));
}

#[test]
fn real_servers_have_a_limit_that_deleted_ones_count_towards() {
    let mut desired = DesiredServices::default();
    let key = |n: usize| {
        let addr = IpAddr::from([198, 18, 0, n as u8 + 1]);
        ServiceKey::Address {
            protocol: ServiceProtocol::Tcp,
            addr,
            port: 80,
        }
    };
    let spec = |n: usize| ServerSpec {
        port: n as u16 + 1,
        ..nat("198.51.100.1", 1)
    };
    for service in 0..128 {
        desired
            .add_service(ServiceSpec::new(key(service), SchedulerKind::Rr))
            .unwrap();
        (0..REAL_SERVERS_MAX / 128).for_each(|n| assert!(desired.add_server(&key(service), spec(n)).is_ok()));
    }
    assert_eq!(
        desired.add_server(&key(0), spec(60_000)),
        Err(ServiceError::TooManyServers)
    );
    desired.delete_server(&key(7), spec(3).addr, spec(3).port).unwrap();
    assert_eq!(
        desired.add_server(&key(0), spec(60_000)),
        Err(ServiceError::TooManyServers)
    );
    assert!(desired.add_server(&key(7), spec(3)).is_ok());
    desired.delete_service(&key(0)).unwrap();
    desired.collect_trash(0, |_| true);
    assert_eq!(desired.collect_trash(120, |_| true), REAL_SERVERS_MAX / 128);
    assert!(desired.add_server(&key(1), spec(60_000)).is_ok());
}

#[test]
fn refusals_say_cause_and_cure() {
    let mut desired = web(&[nat("198.51.100.1", 1)]);
    let good = nat("198.51.100.2", 1);
    let mut message = |spec: ServerSpec| desired.add_server(&WEB, spec).unwrap_err().to_string();
    assert_eq!(
        message(ServerSpec {
            upper_threshold: 1 << 31,
            ..good
        }),
        "upper threshold 2147483648 of real server 198.51.100.2:80 is out of range: give 0 (none) to 2147483647"
    );
    assert_eq!(
        message(ServerSpec {
            mode: ForwardingMode::FullNat,
            ..good
        }),
        "mode FullNat cannot be configured for real server 198.51.100.2:80: choose nat, dr or tunnel; \
         nat becomes fullnat by a local-address pool"
    );
    assert_eq!(
        message(ServerSpec {
            addr: ip("255.255.255.255"),
            ..good
        }),
        "255.255.255.255 cannot be the address of a real server: give a unicast address"
    );
    assert_eq!(
        message(ServerSpec {
            addr: ip("fe80::1"),
            ..good
        }),
        "fe80::1 cannot be the address of a real server: give a unicast address"
    );
    let missing = ServiceKey::Address {
        protocol: ServiceProtocol::Udp,
        addr: ip("192.0.2.1"),
        port: 80,
    };
    assert_eq!(
        desired.delete_service(&missing).unwrap_err().to_string(),
        "there is no service udp:192.0.2.1:80: add it first, or check protocol, address and port"
    );
    assert_eq!(
        desired.edit_server(&WEB, good).unwrap_err().to_string(),
        "service tcp:192.0.2.1:80 has no real server 198.51.100.2:80: add it first, or check address and port"
    );
    let many = vec![ip("203.0.113.1"); 1_025];
    assert_eq!(
        desired.set_local_addresses(&WEB, many).unwrap_err().to_string(),
        "1025 local addresses for service tcp:192.0.2.1:80 are too many: give at most 1024"
    );
}

#[derive(Clone, Debug)]
enum Action {
    AddService(ServiceSpec),
    EditService(ServiceSpec),
    DeleteService(ServiceKey),
    AddServer(ServiceKey, ServerSpec),
    EditServer(ServiceKey, ServerSpec),
    DeleteServer(ServiceKey, IpAddr, u16),
    SetLocalAddresses(ServiceKey, Vec<IpAddr>),
    Flush,
    /// Seconds pass; either the servers of even slots are idle or all servers are.
    Collect(u64, bool),
}

/// What the twin remembers of a server that once had a slot.
#[derive(Clone, Debug)]
struct Remembered {
    key: ServiceKey,
    end: (IpAddr, u16),
    id: RealServerId,
    idle_since_sec: Option<u64>,
}

/// Oldest first.
type TwinServers = Vec<(RealServerId, ServerSpec)>;

/// The same behaviour in the simplest code.
#[derive(Clone, Debug, Default)]
struct ServicesTwin {
    services: Vec<(ServiceSpec, Vec<IpAddr>, TwinServers)>,
    deleted: Vec<Remembered>,
    now_sec: u64,
}

impl ServicesTwin {
    fn is_good(key: &ServiceKey, spec: &ServerSpec) -> bool {
        let ServiceKey::Address { addr, .. } = key else {
            panic!("no address: {key}")
        };
        spec.weight <= 0x7FFF_FFFF
            && spec.lower_threshold <= spec.upper_threshold
            && spec.mode != ForwardingMode::FullNat
            && (addr.is_ipv4() == spec.addr.is_ipv4() || spec.mode == ForwardingMode::Tunnel)
    }

    fn find(&self, key: &ServiceKey) -> Option<usize> {
        self.services.iter().position(|(spec, ..)| spec.key == *key)
    }

    fn find_server(&self, key: &ServiceKey, end: (IpAddr, u16)) -> Option<(usize, usize)> {
        let service = self.find(key)?;
        let server = self.services[service]
            .2
            .iter()
            .position(|(_, spec)| (spec.addr, spec.port) == end)?;
        Some((service, server))
    }

    fn forget(&mut self, service: usize, server: usize) {
        let key = self.services[service].0.key;
        let (id, spec) = self.services[service].2.remove(server);
        self.deleted.push(Remembered {
            key,
            end: (spec.addr, spec.port),
            id,
            idle_since_sec: None,
        });
    }

    fn delete(&mut self, service: usize) {
        while !self.services[service].2.is_empty() {
            self.forget(service, 0);
        }
        self.services.remove(service);
    }

    /// lt and wlt want all servers in one mode.
    fn can_compare(scheduler: SchedulerKind, modes: &[ForwardingMode]) -> bool {
        !matches!(scheduler.name(), "lt" | "wlt") || modes.windows(2).all(|pair| pair[0] == pair[1])
    }

    fn suits(&self, key: &ServiceKey, spec: &ServerSpec) -> bool {
        self.find(key).is_none_or(|service| {
            let (service, _, servers) = &self.services[service];
            let others = servers.iter().map(|(_, server)| server);
            let others = others.filter(|server| (server.addr, server.port) != (spec.addr, spec.port));
            let modes: Vec<_> = others.map(|server| server.mode).chain([spec.mode]).collect();
            Self::can_compare(service.scheduler, &modes)
        })
    }

    /// Applies the action to both and returns whether both accepted it.
    fn act(&mut self, action: &Action, desired: &mut DesiredServices) -> Result<(), TestCaseError> {
        let took = match action {
            Action::AddService(spec) => {
                let port = spec.key.port();
                let good = port != 0 && self.find(&spec.key).is_none();
                if good {
                    self.services.push((*spec, vec![], vec![]));
                }
                (desired.add_service(*spec).is_ok(), good)
            }
            Action::EditService(spec) => {
                let found = self.find(&spec.key).filter(|service| {
                    let modes: Vec<_> = self.services[*service]
                        .2
                        .iter()
                        .map(|(_, server)| server.mode)
                        .collect();
                    Self::can_compare(spec.scheduler, &modes)
                });
                found.into_iter().for_each(|service| self.services[service].0 = *spec);
                (desired.edit_service(*spec).is_ok(), found.is_some())
            }
            Action::DeleteService(key) => {
                let found = self.find(key);
                found.into_iter().for_each(|service| self.delete(service));
                (desired.delete_service(key).is_ok(), found.is_some())
            }
            Action::AddServer(key, spec) => {
                let end = (spec.addr, spec.port);
                let good = Self::is_good(key, spec) && self.find_server(key, end).is_none() && self.suits(key, spec);
                let added = desired.add_server(key, *spec);
                let good = good && self.find(key).is_some();
                if let (true, Some(service), Ok(id)) = (good, self.find(key), &added) {
                    let old = self.deleted.iter().position(|old| old.key == *key && old.end == end);
                    if let Some(old) = old.map(|position| self.deleted.remove(position)) {
                        prop_assert_eq!(*id, old.id, "the old slot comes back");
                    }
                    self.services[service].2.push((*id, *spec));
                }
                (added.is_ok(), good)
            }
            Action::EditServer(key, spec) => {
                let found = self
                    .find_server(key, (spec.addr, spec.port))
                    .filter(|_| Self::is_good(key, spec) && self.suits(key, spec));
                found
                    .into_iter()
                    .for_each(|(service, server)| self.services[service].2[server].1 = *spec);
                (desired.edit_server(key, *spec).is_ok(), found.is_some())
            }
            Action::DeleteServer(key, addr, port) => {
                let found = self.find_server(key, (*addr, *port));
                found
                    .into_iter()
                    .for_each(|(service, server)| self.forget(service, server));
                (desired.delete_server(key, *addr, *port).is_ok(), found.is_some())
            }
            Action::SetLocalAddresses(key, pool) => {
                let ServiceKey::Address { addr, .. } = key else {
                    panic!("no address: {key}")
                };
                let distinct: std::collections::HashSet<_> = pool.iter().collect();
                let good = pool.iter().all(|local| local.is_ipv4() == addr.is_ipv4()) && distinct.len() == pool.len();
                let found = self.find(key).filter(|_| good);
                found
                    .into_iter()
                    .for_each(|service| self.services[service].1 = pool.clone());
                (desired.set_local_addresses(key, pool.clone()).is_ok(), found.is_some())
            }
            Action::Flush => {
                (0..self.services.len()).rev().for_each(|service| self.delete(service));
                desired.flush();
                (true, true)
            }
            Action::Collect(seconds, all_idle) => {
                self.now_sec += seconds;
                let now_sec = self.now_sec;
                let before = self.deleted.len();
                self.deleted.retain_mut(|old| {
                    let is_idle = *all_idle || old.id.0 % 2 == 0;
                    old.idle_since_sec = if is_idle {
                        old.idle_since_sec.or(Some(now_sec))
                    } else {
                        None
                    };
                    old.idle_since_sec.is_none_or(|since_sec| now_sec - since_sec < 120)
                });
                let freed = desired.collect_trash(now_sec, |id| *all_idle || id.0 % 2 == 0);
                prop_assert_eq!(freed, before - self.deleted.len());
                (true, true)
            }
        };
        prop_assert_eq!(took.0, took.1, "{:?}", action);
        Ok(())
    }

    fn assert_same(&self, desired: &DesiredServices) -> Result<(), TestCaseError> {
        let table = desired.build();
        prop_assert_eq!(desired.services().len(), self.services.len());
        prop_assert_eq!(table.services().len(), self.services.len());
        let mut ids = std::collections::HashSet::new();
        for ((listing, built), (spec, pool, servers)) in desired.services().zip(table.services()).zip(&self.services) {
            prop_assert_eq!((listing.spec, listing.local_addresses), (spec, &pool[..]));
            let listed: Vec<_> = listing.servers().map(|server| (server.id, server.spec)).collect();
            prop_assert_eq!(&listed, servers);
            prop_assert_eq!(
                (built.id, built.key, built.scheduler),
                (listing.id, spec.key, spec.scheduler)
            );
            prop_assert_eq!(table.service(built.id).map(|service| service.key), Some(spec.key));
            prop_assert_eq!(built.local_addresses.is_some(), !pool.is_empty());
            prop_assert_eq!(built.servers.len(), servers.len());
            for (server, (id, spec)) in built.servers.iter().zip(servers.iter().rev()) {
                let is_full = spec.mode == ForwardingMode::Nat && !pool.is_empty();
                let mode = if is_full { ForwardingMode::FullNat } else { spec.mode };
                prop_assert_eq!((server.id, server.addr, server.port), (*id, spec.addr, spec.port));
                prop_assert_eq!((server.weight, server.mode), (spec.weight, mode));
                let slot = table.real_server(*id).unwrap();
                prop_assert_eq!((slot.available, slot.service, &slot.server), (true, built.id, server));
                prop_assert!(ids.insert(*id), "slot {:?} is used twice", id);
            }
        }
        for old in &self.deleted {
            let slot = table.real_server(old.id).unwrap();
            prop_assert_eq!(
                (slot.available, slot.server.addr, slot.server.port),
                (false, old.end.0, old.end.1)
            );
            let holder = table.service(slot.service).map(|service| service.key);
            prop_assert!(
                holder.is_none_or(|key| key == old.key),
                "a service took the slot of {}",
                old.key
            );
            prop_assert!(ids.insert(old.id), "slot {:?} is used twice", old.id);
        }
        prop_assert_eq!(table.real_servers().count(), ids.len());
        Ok(())
    }
}

/// The services again, from their listing.
fn rebuilt(desired: &DesiredServices) -> DesiredServices {
    let mut copy = DesiredServices::default();
    for listing in desired.services() {
        copy.add_service(*listing.spec).unwrap();
        copy.set_local_addresses(&listing.spec.key, listing.local_addresses.to_vec())
            .unwrap();
        for server in listing.servers() {
            let weighed = ServerSpec {
                weight: server.last_weight,
                ..server.spec
            };
            copy.add_server(&listing.spec.key, weighed).unwrap();
            copy.edit_server(&listing.spec.key, server.spec).unwrap();
        }
    }
    copy
}

/// Everything that workers see, without ids and revisions. The start of wrr depends on history and is left out.
fn essence(desired: &DesiredServices) -> Vec<String> {
    let server = |server: &RealServer| {
        format!(
            "{} {} {} {:?} {}",
            server.addr, server.port, server.weight, server.mode, server.upper_threshold
        )
    };
    let table = |table: &SchedulerTable| match table {
        SchedulerTable::Weights { gcd, top, .. } => format!("{gcd} {top}"),
        other => format!("{other:?}"),
    };
    let describe = |service: &VirtualService| {
        let servers: Vec<String> = service.servers.iter().map(server).collect();
        format!(
            "{} {} {:?} {servers:?} {}",
            service.key,
            service.scheduler.name(),
            service.local_addresses,
            table(&service.table)
        )
    };
    desired.build().services().iter().map(describe).collect()
}

fn any_key() -> impl Strategy<Value = ServiceKey> {
    let protocol = prop_oneof![Just(ServiceProtocol::Tcp), Just(ServiceProtocol::Udp)];
    let addr = prop_oneof![4 => Just("192.0.2.1"), 1 => Just("2001:db8::1")];
    let port = prop_oneof![9 => Just(80u16), 1 => Just(0)];
    (protocol, addr, port).prop_map(|(protocol, addr, port)| ServiceKey::Address {
        protocol,
        addr: ip(addr),
        port,
    })
}

fn any_service() -> impl Strategy<Value = ServiceSpec> {
    let scheduler = prop::sample::select(SchedulerKind::ALL);
    (any_key(), scheduler, 0u8..4).prop_map(|(key, scheduler, flags)| ServiceSpec {
        key,
        scheduler,
        scheduler_flags: SchedulerFlags(flags),
        persistence: None,
        unused_persistence: None,
        one_packet: false,
        client_address: ClientAddress::None,
        mss_max: 0,
        established_timeout_sec: 0,
        reset_unknown: false,
    })
}

fn any_server() -> impl Strategy<Value = ServerSpec> {
    let addr = prop::sample::select(&["198.51.100.1", "198.51.100.2", "198.51.100.3", "2001:db8::2"][..]);
    let port = prop::sample::select(&[80u16, 80, 80, 81, 0][..]);
    let weight = prop::sample::select(&[0, 1, 3, 0x7FFF_FFFF, 0x8000_0000][..]);
    let modes = [
        ForwardingMode::Nat,
        ForwardingMode::Nat,
        ForwardingMode::Tunnel,
        ForwardingMode::FullNat,
    ];
    let mode = prop::sample::select(modes.to_vec());
    let thresholds = prop::sample::select(&[(0, 0), (4, 0), (4, 2), (2, 4)][..]);
    (addr, port, weight, mode, thresholds).prop_map(|(addr, port, weight, mode, (upper, lower))| ServerSpec {
        upper_threshold: upper,
        lower_threshold: lower,
        ..ServerSpec::new(ip(addr), port, mode, weight)
    })
}

fn any_action() -> impl Strategy<Value = Action> {
    let pool = prop::collection::vec(
        prop::sample::select(&["203.0.113.1", "203.0.113.2", "2001:db8:9::1"][..]),
        0..3,
    );
    prop_oneof![
        3 => any_service().prop_map(Action::AddService),
        1 => any_service().prop_map(Action::EditService),
        1 => any_key().prop_map(Action::DeleteService),
        8 => (any_key(), any_server()).prop_map(|(key, spec)| Action::AddServer(key, spec)),
        3 => (any_key(), any_server()).prop_map(|(key, spec)| Action::EditServer(key, spec)),
        3 => (any_key(), any_server()).prop_map(|(key, spec)| Action::DeleteServer(key, spec.addr, spec.port)),
        2 => (any_key(), pool)
            .prop_map(|(key, pool)| Action::SetLocalAddresses(key, pool.into_iter().map(ip).collect())),
        1 => Just(Action::Flush),
        2 => (0u64..200, any::<bool>()).prop_map(|(seconds, all_idle)| Action::Collect(seconds, all_idle)),
    ]
}

proptest! {
    #![proptest_config(crate::testing::properties())]

    #[test]
    fn any_actions_end_where_the_naive_twin_ends(actions in prop::collection::vec(any_action(), 1..80)) {
        let mut desired = DesiredServices::default();
        let mut twin = ServicesTwin::default();
        for action in &actions {
            let before = (desired.revision(), essence(&desired));
            let services_before = twin.services.len();
            twin.act(action, &mut desired)?;
            twin.assert_same(&desired)?;
            if desired.revision() == before.0 {
                prop_assert_eq!(essence(&desired), before.1, "changed without a new revision by {:?}", action);
                prop_assert_eq!(twin.services.len(), services_before);
            }
        }
        prop_assert_eq!(essence(&rebuilt(&desired)), essence(&desired));
    }
}

fn spec_of(protocol: ServiceProtocol, carrier: ClientAddress, mss_max: u16) -> ServiceSpec {
    let key = ServiceKey::Address {
        protocol,
        addr: ip("192.0.2.9"),
        port: 80,
    };
    ServiceSpec {
        client_address: carrier,
        mss_max,
        ..ServiceSpec::new(key, SchedulerKind::Rr)
    }
}

#[test]
fn a_service_carries_the_clients_address_only_where_a_pool_hides_it() {
    let mut desired = DesiredServices::default();
    let carrying = spec_of(ServiceProtocol::Tcp, ClientAddress::Toa, 0);
    let plain = spec_of(ServiceProtocol::Tcp, ClientAddress::None, 0);
    let (service, carrier) = (carrying.key, "toa");
    let without_pool = Err(ServiceError::ClientAddressWithoutPool { service, carrier });
    assert_eq!(desired.add_service(carrying).map(|_| ()), without_pool);
    desired.add_service(plain).unwrap();
    assert_eq!(desired.edit_service(carrying), without_pool);
    desired
        .set_local_addresses(&service, vec![ip("198.51.100.200")])
        .unwrap();
    desired.edit_service(carrying).unwrap();
    assert_eq!(desired.build().services()[0].client_address, ClientAddress::Toa);
    assert_eq!(
        desired.set_local_addresses(&service, Vec::new()),
        Err(ServiceError::PoolCarriesClientAddress { service, carrier })
    );
    desired.edit_service(plain).unwrap();
    desired.set_local_addresses(&service, Vec::new()).unwrap();
}

#[test]
fn carriers_and_mss_limits_fit_the_protocol_of_their_service() {
    use ServiceProtocol::{Sctp, Tcp, Udp};
    let mut desired = DesiredServices::default();
    for (protocol, carrier) in [
        (Udp, ClientAddress::Toa),
        (Sctp, ClientAddress::ProxyV1),
        (Udp, ClientAddress::ProxyV2),
        (Tcp, ClientAddress::Uoa),
    ] {
        let spec = spec_of(protocol, carrier, 0);
        let (service, carrier) = (spec.key, carrier.name());
        assert_eq!(
            desired.add_service(spec),
            Err(ServiceError::ClientAddressProtocol { service, carrier })
        );
    }
    for (protocol, mss_max, refused) in [
        (Tcp, 87, true),
        (Tcp, 88, false),
        (Udp, 1_400, true),
        (Tcp, 65_496, true),
    ] {
        let added = desired.add_service(spec_of(protocol, ClientAddress::None, mss_max));
        assert_eq!(added.is_err(), refused, "{protocol:?} {mss_max}: {added:?}");
    }
}

#[test]
fn one_packet_scheduling_and_a_local_address_pool_exclude_each_other() {
    let mut desired = DesiredServices::default();
    let spec = ServiceSpec {
        one_packet: true,
        ..spec_of(ServiceProtocol::Udp, ClientAddress::None, 0)
    };
    let plain = ServiceSpec {
        one_packet: false,
        ..spec
    };
    let refused = Err(ServiceError::OnePacketWithPool { service: spec.key });
    desired.add_service(spec).unwrap();
    let pool = vec![ip("198.51.100.200")];
    assert_eq!(desired.set_local_addresses(&spec.key, pool.clone()), refused);
    desired.edit_service(plain).unwrap();
    desired.set_local_addresses(&spec.key, pool).unwrap();
    assert_eq!(desired.edit_service(spec), refused);
}

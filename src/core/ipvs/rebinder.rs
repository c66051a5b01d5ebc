//! Connections of an earlier process, and those that another director announces, find their services and servers here.
//!
//! In:  a connection whose numbers of service and server mean nothing in this process. Out: the same with the numbers of
//!      this process, and how many connections each server has.
//! Never: touches an end, a rewrite, a state or a time. Allocates: not for a worker that forwards.
//! Ref: Linux ip_vs_ctl.c `ip_vs_find_dest()`, `ip_vs_service_find()`.

use std::iter::once_with;
use std::net::IpAddr;

use hashbrown::HashMap;

use crate::address::{Address, AddressFamily, Endpoint};
use crate::counters::WorkerCounters;
use crate::ipvs::conn::{Conn, ConnFlags, ConnMut};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::persistence::PORT_FTP;
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::service::{ServiceId, ServiceKey, ServiceProtocol, VirtualService};
use crate::ipvs::service_table::ServiceTable;
use crate::single_writer::SingleWriter;
use crate::wire::tcp;

/// The service of connections to `virt`, of its mark if they have one.
pub(crate) fn find_service<A: Address>(
    services: &ServiceTable,
    fwmark: u32,
    protocol: u8,
    virt: Endpoint<A>,
) -> Option<&VirtualService> {
    let marked = (fwmark != 0).then(|| services.find_marked::<A>(fwmark)).flatten();
    marked.or_else(|| services.find(protocol, virt))
}

/// The ports on which the server of a connection to its `port` may be listed, the likelier first; 0 is every port.
pub(crate) const fn ports_of_server(fwmark: u32, mode: ForwardingMode, port: u16) -> [u16; 2] {
    if fwmark != 0 && !mode.sees_replies() {
        [0, port]
    } else {
        [port, 0]
    }
}

/// The services that a connection may be of, the likeliest first: a service for its very port may have come later.
pub(crate) fn services_of<'s, A: Address>(
    services: &'s ServiceTable,
    conn: &Conn<A>,
    fwmark: u32,
) -> impl Iterator<Item = &'s VirtualService> + use<'s, A> {
    let (virt, protocol) = (conn.virt(), conn.ip_protocol());
    let on = move |port| services.find(protocol, Endpoint::new(virt.addr, port));
    let own = once_with(move || find_service(services, fwmark, protocol, virt));
    // A template for every port may be of FTP.
    let ftp = once_with(move || {
        (protocol == tcp::PROTOCOL && virt.port == 0)
            .then(|| on(PORT_FTP))
            .flatten()
    });
    own.chain(ftp).chain(once_with(move || on(0))).flatten()
}

/// See the module.
pub(crate) struct Rebinder<'s> {
    services: &'s ServiceTable,
    servers: HashMap<(ServiceId, IpAddr, u16), RealServerId>,
    /// The first one listed with an address, whatever its port.
    by_address: HashMap<(ServiceId, IpAddr), RealServerId>,
    /// Servers that no service lists any more, with the slot of the service that did.
    deleted: HashMap<(ServiceKey, IpAddr, u16), (ServiceId, RealServerId)>,
    /// By [`RealServerId`].
    counts: Vec<Counts>,
    /// Connections that another director announced, of IPv4 and of IPv6.
    imported: [u64; 2],
}

/// Connections of a server.
#[derive(Clone, Copy, Default)]
struct Counts {
    active: u32,
    inactive: u32,
    persistent: u32,
}

/// What a service has for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Server(RealServerId),
    Nothing,
    /// Several servers of the other family, whose addresses the connection does not hold.
    TooMany,
}

impl<'s> Rebinder<'s> {
    /// For `services`, and counters of `servers_max` servers.
    pub(crate) fn new(services: &'s ServiceTable, servers_max: usize) -> Self {
        let (mut servers, mut by_address) = (HashMap::new(), HashMap::new());
        for service in services.services() {
            for server in service.servers.iter() {
                servers.insert((service.id, server.addr, server.port), server.id);
                by_address.entry((service.id, server.addr)).or_insert(server.id);
            }
        }
        let deleted = services.deleted_servers().map(|(key, slot)| {
            let server = &slot.server;
            ((*key, server.addr, server.port), (slot.service, server.id))
        });
        Self {
            services,
            servers,
            by_address,
            deleted: deleted.collect(),
            counts: vec![Counts::default(); servers_max],
            imported: [0; 2],
        }
    }

    /// Binds a connection to its service and server, and counts it. If the server is not listed any more, the
    /// connection stays and its packets are dropped, until the server is added again. `false` when nobody can know which server it had.
    pub(crate) fn rebind<A: Address>(&mut self, mut conn: ConnMut<'_, A>) -> bool {
        let stays = self.bind(&mut conn);
        // A template that controls connections ends with the last of them.
        if (stays || conn.cold.controlled > 0) && conn.flags.contains(ConnFlags::SYNCED) {
            self.imported[usize::from(A::FAMILY == AddressFamily::Ipv6)] += 1;
        }
        stays
    }

    fn bind<A: Address>(&mut self, conn: &mut ConnMut<'_, A>) -> bool {
        let (mut service, mut found) = (ServiceId::UNBOUND, Found::Nothing);
        for candidate in services_of(self.services, conn, conn.cold.fwmark) {
            if service == ServiceId::UNBOUND {
                service = candidate.id;
            }
            found = self.server_of(candidate, conn, conn.cold.fwmark);
            if found != Found::Nothing {
                service = candidate.id;
                break;
            }
        }
        if found == Found::Nothing
            && let Some((of, id)) = self.deleted_server_of(conn, conn.cold.fwmark)
        {
            (service, found) = (of, Found::Server(id));
        }
        conn.cold.service = service;
        if conn.real_server == RealServerId::UNBOUND {
            // It came from another director for which this one had no server.
            return true;
        }
        match found {
            Found::Server(id) => {
                conn.real_server = id;
                self.count(conn);
                true
            }
            Found::Nothing => {
                conn.real_server = RealServerId::GONE;
                true
            }
            Found::TooMany => {
                conn.real_server = RealServerId::GONE;
                false
            }
        }
    }

    /// Adds the connections that were bound to the counters of their worker.
    pub(crate) fn count_in(&self, own: &WorkerCounters) {
        for (id, counts) in (0..).map(RealServerId).zip(&self.counts) {
            let server = own.server(id);
            server.active.add(counts.active);
            server.inactive.add(counts.inactive);
            server.persistent.add(counts.persistent);
        }
        for (family, imported) in [AddressFamily::Ipv4, AddressFamily::Ipv6]
            .into_iter()
            .zip(self.imported)
        {
            own.imported_of(family).add(imported);
        }
    }

    fn server_of<A: Address>(&self, service: &VirtualService, conn: &Conn<A>, fwmark: u32) -> Found {
        let ports = ports_of_server(fwmark, conn.mode(), conn.real().port);
        // Where ports are not mapped, the server may be listed with one that the connection does not have.
        let is_mapped = service.key.port() == conn.virt().port && conn.real().port != 0;
        if conn.mode() == ForwardingMode::Tunnel && conn.real().addr == A::default() {
            let is_one = |server: &&RealServer| {
                AddressFamily::of(&server.addr) != A::FAMILY && (!is_mapped || ports.contains(&server.port))
            };
            let mut servers = service.servers.iter().filter(is_one);
            return match (servers.next(), servers.next()) {
                (Some(server), None) => Found::Server(server.id),
                (Some(_), Some(_)) => Found::TooMany,
                (None, _) => Found::Nothing,
            };
        }
        let addr = conn.real().addr.to_ip();
        let listed = ports
            .into_iter()
            .find_map(|port| self.servers.get(&(service.id, addr, port)));
        let listed = listed.or_else(|| (!is_mapped).then(|| self.by_address.get(&(service.id, addr))).flatten());
        listed.map_or(Found::Nothing, |id| Found::Server(*id))
    }

    /// The server of a connection among those that no service lists any more.
    fn deleted_server_of<A: Address>(&self, conn: &Conn<A>, fwmark: u32) -> Option<(ServiceId, RealServerId)> {
        if self.deleted.is_empty() {
            return None;
        }
        let virt = conn.virt();
        let protocol = ServiceProtocol::ALL
            .into_iter()
            .find(|protocol| protocol.number() == conn.ip_protocol());
        let marked = (fwmark != 0).then_some(ServiceKey::Fwmark {
            mark: fwmark,
            family: A::FAMILY,
        });
        let on = |port| {
            protocol.map(|protocol| ServiceKey::Address {
                protocol,
                addr: virt.addr.to_ip(),
                port,
            })
        };
        let keys = [marked, on(virt.port), on(PORT_FTP), on(0)].into_iter().flatten();
        let (addr, ports) = (
            conn.real().addr.to_ip(),
            ports_of_server(fwmark, conn.mode(), conn.real().port),
        );
        keys.flat_map(|key| ports.map(|port| (key, addr, port)))
            .find_map(|end| self.deleted.get(&end).copied())
    }

    fn count<A: Address>(&mut self, conn: &Conn<A>) {
        let Some(counts) = self.counts.get_mut(conn.real_server.0 as usize) else {
            return;
        };
        let counter = if conn.flags.contains(ConnFlags::TEMPLATE) {
            &mut counts.persistent
        } else if conn.flags.contains(ConnFlags::INACTIVE) {
            &mut counts.inactive
        } else {
            &mut counts.active
        };
        *counter += 1;
    }
}

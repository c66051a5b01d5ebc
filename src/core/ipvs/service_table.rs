//! Finds the virtual service of a packet: the immutable table that workers read.
//!
//! In: protocol and destination of a packet that missed the connection table. Out: its service.
//! Built by [`crate::ipvs::desired::DesiredServices::build`]; lookups never allocate.
//! Order of the lookup: mark, exact port, FTP for what may be its data, port 0 (Linux ip_vs_ctl.c
//! `ip_vs_service_find()`).

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};

use crate::address::{Addr4, Addr6, Address, AddressFamily, Endpoint};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::persistence::{PORT_FTP, Spread};
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::service::{ServerSlot, ServiceId, ServiceKey, VirtualService};
use crate::wire::tcp;

/// Source port of active FTP data connections.
pub const PORT_FTP_DATA: u16 = 20;
/// Where passive FTP data connections go (`ip_unprivileged_port_start`).
const PORT_UNPRIVILEGED_FIRST: u16 = 1_024;

/// An address of either family as two words.
type AddressWords = (u64, u64);

/// An address with port and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct L4Key {
    addr: AddressWords,
    port: u16,
    protocol: u8,
}

/// The lookup tables of one address family.
#[derive(Clone, Debug, Default)]
struct FamilyIndex {
    services: HashMap<L4Key, u32>,
    /// fwmark services by mark.
    marks: HashMap<u32, u32>,
    /// Whether some service is for port 21 of TCP, whose data connections go to other ports.
    has_ftp: bool,
    vips: HashSet<AddressWords>,
    /// Protocol 0 for those of fwmark services.
    nat_servers: HashSet<L4Key>,
    /// By the address of a masqueraded server, because later fragments have no port: how the clients of its services
    /// are spread over workers.
    nat_spreads: HashMap<AddressWords, Spread>,
    local_addresses: HashSet<AddressWords>,
}

/// All services, immutable.
#[derive(Clone, Debug, Default)]
pub struct ServiceTable {
    services: Box<[VirtualService]>,
    /// Index into `services` by [`ServiceId`].
    positions: Box<[Option<u32>]>,
    /// By [`RealServerId`].
    servers: Box<[Option<ServerSlot>]>,
    /// Servers that no service lists any more, by the service that did.
    deleted: Box<[(ServiceKey, RealServerId)]>,
    /// Servers whose scheduler wants their traffic measured.
    measured: Box<[RealServerId]>,
    ipv4: FamilyIndex,
    ipv6: FamilyIndex,
}

impl ServiceTable {
    /// A table of `services`, in their order, and of deleted servers that may still have connections, with the service
    /// that they belonged to.
    pub(super) fn new(services: Vec<VirtualService>, deleted: impl Iterator<Item = (ServiceKey, ServerSlot)>) -> Self {
        let mut table = Self {
            services: services.into_boxed_slice(),
            ..Self::default()
        };
        table.make_room();
        let mut positions = Vec::new();
        let mut servers = Vec::new();
        for (position, service) in table.services.iter().enumerate() {
            place(&mut positions, service.id.0 as usize, position as u32);
            let protocol = service.key.protocol_number();
            table_key(&mut table.ipv4, &mut table.ipv6, &service.key, position as u32);
            for local in service.local_addresses.iter().flat_map(|pool| pool.addresses.iter()) {
                family_of(&mut table.ipv4, &mut table.ipv6, *local)
                    .local_addresses
                    .insert(words(*local));
            }
            for server in service.servers.iter() {
                index_nat_server(&mut table.ipv4, &mut table.ipv6, protocol, server);
                place(&mut servers, server.id.0 as usize, ServerSlot::listed(service, server));
            }
        }
        let mut deleted_servers = Vec::new();
        for (key, slot) in deleted {
            index_nat_server(&mut table.ipv4, &mut table.ipv6, key.protocol_number(), &slot.server);
            deleted_servers.push((key, slot.server.id));
            place(&mut servers, slot.server.id.0 as usize, slot);
        }
        table.deleted = deleted_servers.into_boxed_slice();
        table.positions = positions.into_boxed_slice();
        table.servers = servers.into_boxed_slice();
        let measured = table.services.iter().filter(|service| service.scheduler.is_measured());
        table.measured = measured
            .flat_map(|service| service.servers.iter().map(|server| server.id))
            .collect();
        table.spread_clients();
        table
    }

    /// Allocates hash tables of the final size, because a table is built for every change.
    fn make_room(&mut self) {
        let servers = |family| {
            let of_family =
                |server: &&RealServer| server.mode == ForwardingMode::Nat && AddressFamily::of(&server.addr) == family;
            let all = self.services.iter().flat_map(|service| service.servers.iter());
            all.filter(of_family).count()
        };
        let services = |family| {
            let all = self.services.iter();
            all.filter(|service| service.key.family() == family).count()
        };
        let counts = [AddressFamily::Ipv4, AddressFamily::Ipv6].map(|family| (services(family), servers(family)));
        for (index, (services, servers)) in [&mut self.ipv4, &mut self.ipv6].into_iter().zip(counts) {
            index.services.reserve(services);
            index.vips.reserve(services);
            index.nat_servers.reserve(servers);
            index.nat_spreads.reserve(servers);
        }
    }

    /// Decides how each service's clients are spread over workers. Its persistence must be met, and a reply, which
    /// shows only the real server, must have the same owner as the request. Therefore services that masquerade to the
    /// same address are spread alike.
    fn spread_clients(&mut self) {
        let Self {
            services, ipv4, ipv6, ..
        } = self;
        for service in services.iter_mut() {
            service.spread = Spread::of(service.persistence.as_ref());
        }
        // Without persistence all services are spread alike anyway.
        let mut settled = services.iter().all(|service| service.spread == Spread::ENDS);
        while !settled {
            settled = true;
            for service in services.iter_mut() {
                for server in service.servers.iter() {
                    let index = family_of(ipv4, ipv6, server.addr);
                    if let Some(shared) = index.nat_spreads.get_mut(&words(server.addr)) {
                        let both = shared.meet(service.spread);
                        settled &= both == *shared && both == service.spread;
                        (*shared, service.spread) = (both, both);
                    }
                }
            }
        }
        for service in services.iter_mut() {
            let masquerades = service.servers.iter().any(|server| server.mode == ForwardingMode::Nat);
            service.is_spread_by_flow = service.spread == Spread::ENDS && !masquerades;
        }
    }

    /// The service of packets with this mark.
    #[inline]
    pub fn find_marked<A: Address>(&self, mark: u32) -> Option<&VirtualService> {
        let position = self.family::<A>().marks.get(&mark)?;
        self.services.get(*position as usize)
    }

    /// The service that balances `protocol` to `dst`: the one of exactly this port, otherwise the FTP service if the
    /// packet may belong to a data connection, otherwise the one of port 0.
    #[inline]
    pub fn find<A: Address>(&self, protocol: u8, dst: Endpoint<A>) -> Option<&VirtualService> {
        let index = self.family::<A>();
        let exact = L4Key {
            addr: dst.addr.words(),
            port: dst.port,
            protocol,
        };
        let position = index
            .services
            .get(&exact)
            .or_else(|| {
                let may_be_data = index.has_ftp
                    && protocol == tcp::PROTOCOL
                    && (dst.port == PORT_FTP_DATA || dst.port >= PORT_UNPRIVILEGED_FIRST);
                let ftp = L4Key {
                    port: PORT_FTP,
                    ..exact
                };
                may_be_data.then(|| index.services.get(&ftp)).flatten()
            })
            .or_else(|| index.services.get(&L4Key { port: 0, ..exact }))?;
        self.services.get(*position as usize)
    }

    /// The service in a slot.
    #[inline]
    pub fn service(&self, id: ServiceId) -> Option<&VirtualService> {
        let position = (*self.positions.get(id.0 as usize)?)?;
        self.services.get(position as usize)
    }

    /// All services in the order of their addition.
    pub fn services(&self) -> &[VirtualService] {
        &self.services
    }

    /// Whether any service is on this address, whatever protocol and port.
    #[inline]
    pub fn has_vip<A: Address>(&self, addr: A) -> bool {
        self.family::<A>().vips.contains(&addr.words())
    }

    /// The real server in a slot. Deleted ones stay, not available, until their connections are gone and the trash
    /// period is over.
    #[inline]
    pub fn real_server(&self, id: RealServerId) -> Option<&ServerSlot> {
        self.servers.get(id.0 as usize)?.as_ref()
    }

    /// All slots in use, in the order of their ids.
    pub fn real_servers(&self) -> impl Iterator<Item = &ServerSlot> {
        self.servers.iter().flatten()
    }

    /// Servers that no service lists any more, each with the service that did.
    pub fn deleted_servers(&self) -> impl Iterator<Item = (&ServiceKey, &ServerSlot)> {
        let slots = self.deleted.iter();
        slots.filter_map(|(key, id)| Some((key, self.real_server(*id)?)))
    }

    /// Servers of services whose scheduler compares traffic or response times.
    #[inline]
    pub fn measured_servers(&self) -> &[RealServerId] {
        &self.measured
    }

    /// Whether some service masquerades to this address and port (`Nat`, not `FullNat`), so that packets from there are
    /// replies. Deleted servers count until their slot is freed.
    #[inline]
    pub fn is_nat_server<A: Address>(&self, protocol: u8, src: Endpoint<A>) -> bool {
        let key = L4Key {
            addr: src.addr.words(),
            port: src.port,
            protocol,
        };
        let servers = &self.family::<A>().nat_servers;
        servers.contains(&key) || servers.contains(&L4Key { protocol: 0, ..key })
    }

    /// How the clients of the real server at `src` are spread over workers, if some service masquerades to it on this
    /// port or on every port.
    #[inline]
    pub fn nat_spread<A: Address>(&self, protocol: u8, src: Endpoint<A>) -> Option<Spread> {
        let every_port = Endpoint::new(src.addr, 0);
        let is_server = self.is_nat_server(protocol, src) || self.is_nat_server(protocol, every_port);
        let spreads = &self.family::<A>().nat_spreads;
        is_server.then(|| spreads.get(&src.addr.words()).copied())?
    }

    /// Whether some service masquerades to this address, whatever protocol and port.
    #[inline]
    pub fn is_nat_server_address<A: Address>(&self, addr: A) -> bool {
        self.family::<A>().nat_spreads.contains_key(&addr.words())
    }

    /// Whether the address belongs to some service's local-address pool.
    #[inline]
    pub fn is_local_address<A: Address>(&self, addr: A) -> bool {
        self.family::<A>().local_addresses.contains(&addr.words())
    }

    /// Whether there is no service at all. Then packets of existing connections are not balanced either, because the
    /// kernel unregisters its hooks with its last service.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    #[inline]
    fn family<A: Address>(&self) -> &FamilyIndex {
        match A::FAMILY {
            AddressFamily::Ipv4 => &self.ipv4,
            AddressFamily::Ipv6 => &self.ipv6,
        }
    }
}

impl L4Key {
    fn new(addr: IpAddr, port: u16, protocol: u8) -> Self {
        Self {
            addr: words(addr),
            port,
            protocol,
        }
    }
}

fn words(addr: IpAddr) -> AddressWords {
    match addr {
        IpAddr::V4(v4) => Addr4(v4.octets()).words(),
        IpAddr::V6(v6) => Addr6(v6.octets()).words(),
    }
}

fn family_of<'index>(
    ipv4: &'index mut FamilyIndex,
    ipv6: &'index mut FamilyIndex,
    addr: IpAddr,
) -> &'index mut FamilyIndex {
    match addr {
        IpAddr::V4(_) => ipv4,
        IpAddr::V6(_) => ipv6,
    }
}

fn table_key(ipv4: &mut FamilyIndex, ipv6: &mut FamilyIndex, key: &ServiceKey, position: u32) {
    match *key {
        ServiceKey::Address { protocol, addr, port } => {
            let index = family_of(ipv4, ipv6, addr);
            let key = L4Key::new(addr, port, protocol.number());
            index.has_ftp |= key.protocol == tcp::PROTOCOL && port == PORT_FTP;
            index.services.insert(key, position);
            index.vips.insert(words(addr));
        }
        ServiceKey::Fwmark { mark, family } => {
            let index = match family {
                AddressFamily::Ipv4 => ipv4,
                AddressFamily::Ipv6 => ipv6,
            };
            index.marks.insert(mark, position);
        }
    }
}

fn index_nat_server(ipv4: &mut FamilyIndex, ipv6: &mut FamilyIndex, protocol: u8, server: &RealServer) {
    if server.mode == ForwardingMode::Nat {
        let index = family_of(ipv4, ipv6, server.addr);
        index.nat_servers.insert(L4Key::new(server.addr, server.port, protocol));
        index.nat_spreads.insert(words(server.addr), Spread::ENDS);
    }
}

/// Puts `value` at `index`, growing the vector as needed.
fn place<T>(slots: &mut Vec<Option<T>>, index: usize, value: T) {
    if slots.len() <= index {
        slots.resize_with(index + 1, || None);
    }
    slots[index] = Some(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
    use crate::ipvs::scheduler::SchedulerKind;
    use crate::ipvs::service::ServiceProtocol;

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    fn key(protocol: ServiceProtocol, addr: &str, port: u16) -> ServiceKey {
        ServiceKey::Address {
            protocol,
            addr: addr.parse().unwrap(),
            port,
        }
    }

    fn server(addr: &str, port: u16, mode: ForwardingMode) -> ServerSpec {
        ServerSpec::new(addr.parse().unwrap(), port, mode, 1)
    }

    fn end4(addr: &str, port: u16) -> Endpoint<Addr4> {
        Endpoint::new(Addr4::from_ip(addr.parse().unwrap()).unwrap(), port)
    }

    fn end6(addr: &str, port: u16) -> Endpoint<Addr6> {
        Endpoint::new(Addr6::from_ip(addr.parse().unwrap()).unwrap(), port)
    }

    fn built(services: &[(ServiceKey, &[ServerSpec])]) -> DesiredServices {
        let mut desired = DesiredServices::default();
        for (key, servers) in services {
            desired.add_service(ServiceSpec::new(*key, SchedulerKind::Rr)).unwrap();
            servers
                .iter()
                .for_each(|spec| assert!(desired.add_server(key, *spec).is_ok()));
        }
        desired
    }

    #[test]
    fn a_service_is_found_by_protocol_address_and_port_of_its_family_only() {
        let web = key(ServiceProtocol::Tcp, "192.0.2.1", 80);
        let dns = key(ServiceProtocol::Udp, "2001:db8::1", 53);
        let table = built(&[(web, &[]), (dns, &[])]).build();
        let found = |service: Option<&VirtualService>| service.map(|service| service.key);
        assert_eq!(found(table.find(TCP, end4("192.0.2.1", 80))), Some(web));
        assert_eq!(found(table.find(UDP, end6("2001:db8::1", 53))), Some(dns));
        assert_eq!(found(table.find(UDP, end4("192.0.2.1", 80))), None);
        assert_eq!(found(table.find(TCP, end4("192.0.2.1", 81))), None);
        assert_eq!(found(table.find(TCP, end4("192.0.2.2", 80))), None);
        assert!(table.has_vip(end4("192.0.2.1", 0).addr) && !table.has_vip(end4("192.0.2.2", 0).addr));
        assert!(table.has_vip(end6("2001:db8::1", 0).addr));
        // An IPv4 address must not match an IPv6 address that begins with the same bytes.
        assert!(!table.has_vip(end6("c000:201::", 0).addr));
        assert_eq!(
            table.service(table.services()[1].id).map(|service| service.key),
            Some(dns)
        );
        assert!(table.service(ServiceId(7)).is_none());
    }

    #[test]
    fn the_exact_port_wins_over_port_0() {
        let web = key(ServiceProtocol::Tcp, "192.0.2.1", 80);
        let mut services = built(&[(web, &[]), (key(ServiceProtocol::Tcp, "192.0.2.1", 81), &[])])
            .build()
            .services()
            .to_vec();
        services[1].spec.key = key(ServiceProtocol::Tcp, "192.0.2.1", 0);
        let table = ServiceTable::new(services, std::iter::empty());
        let port_of = |port| table.find(TCP, end4("192.0.2.1", port)).unwrap().key.port();
        assert_eq!([port_of(80), port_of(443)], [80, 0]);
    }

    #[test]
    fn replies_are_expected_from_nat_servers_only_and_from_deleted_ones_too() {
        let web = key(ServiceProtocol::Tcp, "192.0.2.1", 80);
        let servers = [
            server("198.51.100.1", 8080, ForwardingMode::Nat),
            server("198.51.100.2", 80, ForwardingMode::DirectRouting),
            server("2001:db8::2", 80, ForwardingMode::Tunnel),
        ];
        let mut desired = built(&[(web, &servers)]);
        for _deleted in [false, true] {
            let table = desired.build();
            assert!(table.is_nat_server(TCP, end4("198.51.100.1", 8080)));
            assert!(!table.is_nat_server(UDP, end4("198.51.100.1", 8080)));
            assert!(!table.is_nat_server(TCP, end4("198.51.100.1", 80)));
            assert!(!table.is_nat_server(TCP, end4("198.51.100.2", 80)));
            assert!(!table.is_nat_server(TCP, end6("2001:db8::2", 80)));
            desired.flush();
        }
        assert!(desired.build().is_empty());
    }

    #[test]
    fn a_pool_turns_nat_into_fullnat_whose_replies_come_to_a_local_address() {
        let web = key(ServiceProtocol::Tcp, "192.0.2.1", 80);
        let servers = [
            server("198.51.100.1", 8080, ForwardingMode::Nat),
            server("198.51.100.2", 80, ForwardingMode::DirectRouting),
        ];
        let mut desired = built(&[(web, &servers)]);
        desired
            .set_local_addresses(&web, vec!["203.0.113.1".parse().unwrap()])
            .unwrap();
        let table = desired.build();
        let modes: Vec<ForwardingMode> = table.services()[0].servers.iter().map(|server| server.mode).collect();
        assert_eq!(modes, [ForwardingMode::DirectRouting, ForwardingMode::FullNat]);
        assert!(!table.is_nat_server(TCP, end4("198.51.100.1", 8080)));
        assert!(table.is_local_address(end4("203.0.113.1", 0).addr));
        assert!(!table.is_local_address(end4("203.0.113.2", 0).addr));
        desired.set_local_addresses(&web, vec![]).unwrap();
        let table = desired.build();
        assert!(table.is_nat_server(TCP, end4("198.51.100.1", 8080)));
        assert!(!table.is_local_address(end4("203.0.113.1", 0).addr));
        assert_eq!(table.services()[0].local_addresses, None);
    }
}

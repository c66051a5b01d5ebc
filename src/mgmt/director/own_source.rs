//! Local addresses that the machine itself speaks from, which the core cannot know: answers to its own connections to a
//! real server, like health checks, would be taken for answers to clients.
//!
//! In:  a pool or a real server that is about to be set. Out: a refusal; in IPv6 a warning. It is asked of what is new
//! only, because networks come and go, and what was once taken stays.
//! Ref: Linux net/ipv4/devinet.c `inet_select_addr`, net/ipv6/addrconf.c `ipv6_dev_get_saddr`.

use std::net::IpAddr;

use lvs_api::{Action, ApiError, ErrorCode, ServiceId};
use lvs_core::address::{Addr4, Addr6, Address};
use lvs_core::ipvs::desired::{DesiredServices, ServiceListing};
use lvs_core::l3::L3;

use super::convert;

/// Refuses an action, or warns of one, after which a pool holds the address that the kernel uses towards one of its servers.
pub(super) fn check(l3: &L3, services: &DesiredServices, action: &Action) -> Result<(), ApiError> {
    match action {
        Action::AddService(service) => {
            let servers = service.servers.iter().map(|server| server.server.ip());
            differ(l3, &service.local_addresses, servers).map_err(|error| error.at("local_addresses"))
        }
        Action::SetLocalAddresses { service, addresses } => {
            let servers = listing(services, service)
                .into_iter()
                .flat_map(|listing| listing.servers());
            differ(l3, addresses, servers.map(|server| server.spec.addr)).map_err(|error| error.at("local_addresses"))
        }
        Action::AddServer { service, server } => {
            let pool = listing(services, service).map_or(&[][..], |listing| listing.local_addresses);
            differ(l3, pool, std::iter::once(server.server.ip())).map_err(|error| error.at("server"))
        }
        _ => Ok(()),
    }
}

fn listing<'s>(services: &'s DesiredServices, id: &ServiceId) -> Option<ServiceListing<'s>> {
    let key = convert::key(id);
    services.services().find(|listing| listing.spec.key == key)
}

fn differ(l3: &L3, pool: &[IpAddr], servers: impl Iterator<Item = IpAddr>) -> Result<(), ApiError> {
    let Some((own, server)) = shared(l3, pool, servers) else {
        return Ok(());
    };
    let message = format!(
        "local address {own} is the one from which this machine itself speaks to real server {server}, so its own \
         connections there, like health checks, may lose their answers"
    );
    match own {
        IpAddr::V4(_) => Err(ApiError::new(
            ErrorCode::Refused,
            format!("{message}: give the kernel twin a further address and name that"),
        )),
        // The newest address of an interface is the one (RFC 6724), which every local address is when it has been added.
        IpAddr::V6(_) => {
            log::warn!("{message}: add it to the twin with 'preferred_lft 0', so that the kernel takes another one");
            Ok(())
        }
    }
}

/// The address of `pool` from which the kernel speaks to one of `servers`, and that server.
fn shared(l3: &L3, pool: &[IpAddr], mut servers: impl Iterator<Item = IpAddr>) -> Option<(IpAddr, IpAddr)> {
    servers.find_map(|server| {
        let own = source_towards(l3, server).filter(|own| pool.contains(own))?;
        Some((own, server))
    })
}

fn source_towards(l3: &L3, server: IpAddr) -> Option<IpAddr> {
    match server {
        IpAddr::V4(v4) => l3.source_for(Addr4(v4.octets())).map(Address::to_ip),
        IpAddr::V6(v6) => l3.source_for(Addr6(v6.octets())).map(Address::to_ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lvs_core::testing::network::network;

    fn ask(pool: &str, server: &str) -> (Option<IpAddr>, bool) {
        let l3 = network().build(1);
        let (pool, server) = ([pool.parse().unwrap()], server.parse().unwrap());
        let found = shared(&l3, &pool, std::iter::once(server));
        let is_refused = differ(&l3, &pool, std::iter::once(server)).is_err();
        (found.map(|(own, _)| own), is_refused)
    }

    #[test]
    fn the_address_that_the_machine_uses_towards_a_server_is_no_local_address() {
        let own = |addr: &str| Some(addr.parse().unwrap());
        assert_eq!(ask("198.51.100.1", "198.51.100.11"), (own("198.51.100.1"), true));
        assert_eq!(ask("198.51.100.200", "198.51.100.11"), (None, false));
        assert_eq!(
            ask("192.0.2.1", "198.51.100.11"),
            (None, false),
            "towards another network"
        );
        assert_eq!(
            ask("2001:db8:b::1", "2001:db8:b::11"),
            (own("2001:db8:b::1"), false),
            "warned of"
        );
    }
}

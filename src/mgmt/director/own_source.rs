//! Local addresses that the machine itself speaks from, which the core cannot know: answers to its own connections to a
//! real server, like health checks, would be taken for answers to clients.
//!
//! In:  a pool or a real server that is about to be set. Out: a refusal. Asked of what is new only: networks come and go,
//! and what was once taken stays. Ref: Linux net/ipv4/devinet.c `inet_select_addr`.

use std::net::IpAddr;

use lvs_api::{Action, ApiError, ErrorCode, ServiceId};
use lvs_core::address::{Addr4, Address};
use lvs_core::ipvs::desired::{DesiredServices, ServiceListing};
use lvs_core::l3::L3;

use super::convert;

/// Refuses an action after which a pool holds the address that the kernel uses towards one of its servers.
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
    if pool.is_empty() {
        return Ok(());
    }
    for server in servers {
        if let Some(own) = source_towards(l3, server).filter(|own| pool.contains(own)) {
            let message = format!(
                "local address {own} is the one from which this machine itself speaks to real server {server}, so its own \
                 connections there, like health checks, would lose their answers: give the kernel twin a further address \
                 and name that"
            );
            return Err(ApiError::new(ErrorCode::Refused, message));
        }
    }
    Ok(())
}

/// In IPv6 the kernel takes the newest address of an interface (RFC 6724). That would be an address of the pool on
/// every twin, so the operator must exclude them by `preferred_lft 0`.
fn source_towards(l3: &L3, server: IpAddr) -> Option<IpAddr> {
    match server {
        IpAddr::V4(v4) => l3.source_for(Addr4(v4.octets())).map(Address::to_ip),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lvs_core::testing::network::network;

    fn refusal(pool: &str, server: &str) -> Option<String> {
        let l3 = network().build(1);
        let server = std::iter::once(server.parse().unwrap());
        differ(&l3, &[pool.parse().unwrap()], server)
            .err()
            .map(|error| error.message)
    }

    #[test]
    fn the_address_that_the_machine_uses_towards_a_server_is_no_local_address() {
        assert!(
            refusal("198.51.100.1", "198.51.100.11")
                .unwrap()
                .contains("health checks")
        );
        assert_eq!(refusal("2001:db8:b::1", "2001:db8:b::11"), None, "IPv6");
        assert_eq!(refusal("198.51.100.200", "198.51.100.11"), None);
        assert_eq!(refusal("192.0.2.1", "198.51.100.11"), None, "towards another network");
    }
}

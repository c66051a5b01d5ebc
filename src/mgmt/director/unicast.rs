//! Refuses real servers with a broadcast address of the director's networks. The core cannot know these addresses.
//!
//! In:  a server or service that is about to be added. Out: a refusal. Only what is new is checked, because networks
//! come and go, and a server once taken stays. Ref: Linux ip_vs_ctl.c `ip_vs_add_dest()`, `inet_addr_type()`.

use lvs_api::{ApiError, Server, Service};
use lvs_core::address::{Addr4, Address};
use lvs_core::ipvs::desired::ServiceError;
use lvs_core::l3::L3;

use super::convert;

pub(super) fn server(l3: &L3, server: &Server) -> Result<(), ApiError> {
    let addr = server.server.ip();
    // IPv6 has no broadcasts, and the kernel takes a subnet's anycast address.
    if Addr4::from_ip(addr).is_some_and(|addr| l3.is_broadcast(addr)) {
        return Err(convert::refusal(ServiceError::ServerNotUnicast { addr }));
    }
    Ok(())
}

pub(super) fn servers_of(l3: &L3, service: &Service) -> Result<(), ApiError> {
    for (index, of_service) in service.servers.iter().enumerate() {
        server(l3, of_service).map_err(|error| error.at(format!("servers[{index}].server")))?;
    }
    Ok(())
}

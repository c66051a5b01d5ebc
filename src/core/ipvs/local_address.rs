//! Addresses from which FULLNAT reaches real servers.

use std::net::IpAddr;
use std::sync::Arc;

/// The local addresses of one service, in the order the operator gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddressPool {
    /// At least one, all of the real servers' family.
    pub addresses: Arc<[IpAddr]>,
}

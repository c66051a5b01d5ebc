//! What clients and the daemon share: REST types of lvsd, and the kernel's IPVS netlink protocol.

pub mod netlink;

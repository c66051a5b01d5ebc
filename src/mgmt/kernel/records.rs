//! What the kernel reports, as plain records.
//!
//! Routes and nexthop objects need none of their own: they are as [`lvs_core::l3::fib`] has them.

use std::net::IpAddr;

use ipnet::IpNet;
use lvs_core::l3::InterfaceAddress;
use lvs_core::l3::fib::{NexthopObject, Placement, RouteEntry, Rule};

/// What a kernel interface is, as far as packets notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// Something that stands on nothing, or on nothing that matters.
    Plain,
    /// An 802.1Q VLAN of this id on another interface.
    Vlan { below: u32, id: u16 },
    /// A VLAN of another protocol on another interface, whose tags are the kernel's to understand.
    ServiceVlan { below: u32, id: u16 },
    /// A MAC address of its own on another interface.
    Macvlan { below: u32 },
    /// A VRF with its table.
    Vrf { table: u32 },
    /// A bridge.
    Bridge,
}

/// A kernel interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkRecord {
    pub(super) ifindex: u32,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u16,
    pub(super) kind: LinkKind,
    /// The VRF or bridge that it belongs to.
    pub(super) master: Option<u32>,
    /// `ip link set … group`.
    pub(super) group: u32,
    pub(super) is_up: bool,
    pub(super) has_carrier: bool,
}

/// An address of an interface that is in use (not tentative).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressRecord {
    pub(super) ifindex: u32,
    pub(super) address: InterfaceAddress,
}

/// A policy rule. Interfaces are named: the kernel finds them by name whenever one comes or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RuleRecord {
    pub(super) is_v4: bool,
    pub(super) rule: Rule,
    pub(super) iif: Option<String>,
}

/// A route with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteRecord {
    pub(super) table: u32,
    pub(super) prefix: IpNet,
    pub(super) entry: RouteEntry,
}

/// What the kernel says about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reported {
    /// It has a MAC; `idle` when the kernel has not confirmed it lately (STALE).
    Valid {
        mac: [u8; 6],
        idle: bool,
    },
    Failed,
    /// Being asked for (INCOMPLETE) or not even that (NONE).
    Pending,
    /// Its entry was removed.
    Gone,
}

/// A neighbour entry or the end of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NeighbourRecord {
    pub(super) ifindex: u32,
    pub(super) addr: IpAddr,
    pub(super) reported: Reported,
}

/// Something happened in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Neighbour(NeighbourRecord),
    /// A route came, where it says.
    Route(RouteRecord, Placement),
    RouteGone(RouteRecord),
    Object(u32, NexthopObject),
    ObjectGone(u32),
    Link(LinkRecord),
    LinkGone(u32),
    AddressCame,
    AddressGone,
    Rules,
    /// The socket overflowed.
    Lost,
    /// The socket is dead.
    Closed,
}

//! Listings of what the kernel has, on a thread of their own: a million routes take seconds.
//!
//! In:  what to list. Out: plain records, and the tables as the path reads them.
//! Never: decides what matters; see `network`.

use lvs_core::l3::fib::{Fib, Objects, Placement};
use nix::libc::{RTM_GETADDR, RTM_GETLINK, RTM_GETNEIGH, RTM_GETROUTE, RTM_GETRULE};
use rtnetlink::packet_core::{NetlinkDeserializable, NetlinkHeader};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Route};

use super::legs::Legs;
use super::records::{AddressRecord, LinkRecord, NeighbourRecord, RuleRecord};
use super::socket::{Message, Socket};
use super::{KernelError, parse};

// What neither libc nor the netlink crates have (uapi/linux/rtnetlink.h).
pub(super) const RTM_NEWNEXTHOP: u16 = 104;
pub(super) const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

/// What is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// Links, addresses, rules and nexthop objects.
    pub(super) topology: bool,
    pub(super) routes: bool,
    pub(super) neighbours: bool,
}

impl Parts {
    pub(super) const EVERYTHING: Self = Self {
        topology: true,
        routes: true,
        neighbours: true,
    };

    pub(super) const fn is_any(self) -> bool {
        self.topology || self.routes || self.neighbours
    }

    pub(super) const fn add(&mut self, other: Self) {
        self.topology |= other.topology;
        self.routes |= other.routes;
        self.neighbours |= other.neighbours;
    }
}

/// Links, addresses, rules and nexthop objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Topology {
    pub(super) links: Vec<LinkRecord>,
    pub(super) addresses: Vec<AddressRecord>,
    pub(super) rules: Vec<RuleRecord>,
    pub(super) objects: Objects,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) topology: Option<Topology>,
    pub(super) routes: Option<(Fib, Legs)>,
    pub(super) neighbours: Option<Vec<NeighbourRecord>>,
    /// Whether nothing changed meanwhile.
    pub(super) is_whole: bool,
}

/// Lists; blocks until it is done. Routes that `known` has too are taken from there.
///
/// # Errors
/// The kernel refuses.
pub(super) fn list(wanted: Parts, known: &Fib) -> Result<Listing, KernelError> {
    let mut socket = Socket::open()?;
    let mut listing = Listing {
        is_whole: true,
        ..Listing::default()
    };
    if wanted.topology {
        listing.topology = Some(topology(&mut socket, &mut listing.is_whole)?);
    }
    if wanted.routes {
        let (mut fib, legs) = routes(&mut socket, &mut listing.is_whole)?;
        // What is new otherwise, which may be a million routes, goes here and holds nobody up.
        fib.reuse_routes_of(known);
        listing.routes = Some((fib, legs));
    }
    if wanted.neighbours {
        listing.neighbours = Some(neighbours(&mut socket)?);
    }
    Ok(listing)
}

fn topology(socket: &mut Socket, is_whole: &mut bool) -> Result<Topology, KernelError> {
    let mut topology = Topology::default();
    *is_whole &= dump(socket, "links", RTM_GETLINK, &[0; 16], |message| {
        if let Some(Route::NewLink(link)) = decode(message) {
            topology.links.push(parse::link(&link));
        }
    })?;
    *is_whole &= dump(socket, "addresses", RTM_GETADDR, &[0; 8], |message| {
        if let Some(Route::NewAddress(address)) = decode(message) {
            topology.addresses.extend(parse::address(&address));
        }
    })?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        *is_whole &= dump(socket, "rules", RTM_GETRULE, &family_header::<12>(family), |message| {
            if let Some(Route::NewRule(rule)) = decode(message) {
                topology.rules.extend(parse::rule::rule(&rule));
            }
        })?;
    }
    let objects = dump(socket, "nexthop objects", RTM_GETNEXTHOP, &[0; 8], |message| {
        if message.kind == RTM_NEWNEXTHOP {
            topology.objects.extend(parse::object::object(message.body));
        }
    });
    // Kernels before 5.3 have none.
    *is_whole &= objects.unwrap_or(true);
    Ok(topology)
}

fn routes(socket: &mut Socket, is_whole: &mut bool) -> Result<(Fib, Legs), KernelError> {
    let (mut fib, mut legs) = (Fib::default(), Legs::default());
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        *is_whole &= dump(
            socket,
            "routes",
            RTM_GETROUTE,
            &family_header::<12>(family),
            |message| {
                if let Some(Route::NewRoute(route)) = decode(message)
                    && let Some(mut record) = parse::route(&route)
                {
                    legs.share(&mut record.entry.leg);
                    fib.add(record.table, record.prefix, record.entry, Placement::Last);
                }
            },
        )?;
    }
    Ok((fib, legs))
}

fn neighbours(socket: &mut Socket) -> Result<Vec<NeighbourRecord>, KernelError> {
    let mut listed = Vec::new();
    dump(socket, "neighbours", RTM_GETNEIGH, &[0; 12], |message| {
        if let Some(Route::NewNeighbour(neighbour)) = decode(message) {
            listed.extend(parse::neighbour(&neighbour, false));
        }
    })?;
    Ok(listed)
}

fn dump(
    socket: &mut Socket,
    what: &'static str,
    kind: u16,
    body: &[u8],
    look: impl FnMut(Message<'_>),
) -> Result<bool, KernelError> {
    let refused = |source| KernelError::Dump { what, source };
    socket.dump(kind, body, look).map_err(refused)
}

/// A header whose first byte is the family and whose others are 0.
fn family_header<const LEN: usize>(family: AddressFamily) -> [u8; LEN] {
    let mut header = [0; LEN];
    header[0] = u8::from(family);
    header
}

/// A message as the netlink crate decodes it; `None` for what it does not know.
pub(super) fn decode(message: Message<'_>) -> Option<Route> {
    let mut header = NetlinkHeader::default();
    header.message_type = message.kind;
    header.flags = message.flags;
    Route::deserialize(&header, message.body).ok()
}

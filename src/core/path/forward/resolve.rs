//! Stage 7, last part: the next hop, and the Ethernet header for it.
//!
//! In:  where the packet goes; the mirrored routes and neighbours; the hop the connection remembers.
//! Out: [`Verdict::Transmit`], or [`Verdict::Hold`] while the kernel resolves the neighbour.
//!
//! A connection remembers its hops together with the generation of the tables they come from, so an
//! established packet looks nothing up; after any change of the tables each connection looks up once.

use std::net::IpAddr;

use crate::address::{Address, AddressFamily};
use crate::frame::Frame;
use crate::headers::Headers;
use crate::ipvs::conn::{Conn, Direction};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::real_server::RealServer;
use crate::l3::fib::RouteQuery;
use crate::l3::{Hop, HopId, Interface, InterfaceId, L3, NeighbourKey, Route};
use crate::packet::Packet;
use crate::path::forward::ethernet;
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Verdict, WaitId};
use crate::worker_state::WorkerState;
use crate::worker_state::context::Context;

/// Where IP begins in frames that the director builds or holds: behind an untagged Ethernet header.
pub(crate) const L3_OFFSET: u16 = 14;

/// How a packet leaves.
#[derive(Clone, Copy)]
pub(crate) struct NextHop<'a> {
    /// Device, MACs and MTU; the destination MAC is void while `waits_for` is set.
    pub(crate) hop: &'a Hop,
    /// The neighbour that must be resolved first.
    pub(crate) waits_for: Option<WaitId>,
}

/// Where a packet goes that leaves for a real server.
pub(crate) struct ToServer<'a> {
    pub(crate) server: &'a RealServer,
    pub(crate) next_hop: NextHop<'a>,
    /// Bytes of the longest packet that gets there whole.
    pub(crate) mtu: u16,
}

/// Why there is no next hop.
pub(crate) enum RouteError {
    /// The address is the director's own.
    Local,
    /// No route, or one that says unreachable: the sender is to be answered with ICMP.
    Unreachable,
    /// A route that says blackhole.
    Drop(DropReason),
}

/// The hop that `conn` remembers for `direction`, where that still holds.
#[inline]
fn remembered<'a, A: Address>(ctx: &Context<'a>, conn: &Conn<A>, direction: Direction) -> Option<NextHop<'a>> {
    let snapshot: &'a Snapshot = ctx.snapshot;
    let l3 = &*snapshot.l3;
    let id = conn.hops[direction as usize];
    (conn.hop_generation == l3.generation && id != Conn::<A>::NO_HOP).then(|| NextHop {
        hop: l3.hop(HopId(id)),
        waits_for: None,
    })
}

/// The next hop to the connection's real server.
#[inline]
pub(crate) fn to_server<'a, A: Address>(
    ctx: &mut Context<'a>,
    conn: &mut Conn<A>,
    server: &RealServer,
) -> Result<NextHop<'a>, RouteError> {
    match remembered(ctx, conn, Direction::Inbound) {
        Some(next_hop) => Ok(next_hop),
        None => look_up_server(ctx, conn, server.addr),
    }
}

#[inline(never)]
fn look_up_server<'a, A: Address>(
    ctx: &mut Context<'a>,
    conn: &mut Conn<A>,
    server: IpAddr,
) -> Result<NextHop<'a>, RouteError> {
    let snapshot: &'a Snapshot = ctx.snapshot;
    let l3 = &*snapshot.l3;
    let mode = conn.mode();
    let server = match mode {
        ForwardingMode::Bypass => conn.virt().addr.to_ip(),
        _ => server,
    };
    if mode == ForwardingMode::Local {
        return Err(RouteError::Local);
    }
    // The same real servers come again and again; clients do not.
    let found = if l3.is_by_destination(AddressFamily::of(&server)) {
        let routes = &mut ctx.l3_memory.cache.routes;
        routes.get_or_look_up(l3, server, || l3.resolve(&RouteQuery::output(server)))
    } else {
        let query = match mode {
            ForwardingMode::Tunnel => l3.tunnel_query(server),
            ForwardingMode::FullNat => RouteQuery::output(server).from(conn.local().addr.to_ip()),
            _ => RouteQuery::output(server),
        };
        let queries = &mut ctx.l3_memory.cache.queries;
        queries.get_or_look_up(l3, query, || l3.resolve(&query))
    };
    remember(conn, l3, Direction::Inbound, found);
    next_hop_by(ctx, found)
}

fn remember<A: Address>(conn: &mut Conn<A>, l3: &L3, direction: Direction, found: Route) {
    if conn.hop_generation != l3.generation {
        conn.hop_generation = l3.generation;
        conn.hops = [Conn::<A>::NO_HOP; 2];
    }
    if let Route::Hop(HopId(id)) = found {
        conn.hops[direction as usize] = id;
    }
}

/// The next hop to the connection's client for a packet of its real server.
#[inline]
pub(crate) fn to_client<'a, A: Address, F: Frame>(
    ctx: &mut Context<'a>,
    conn: &mut Conn<A>,
    packet: &Packet<'_, A, F>,
) -> Result<NextHop<'a>, RouteError> {
    match remembered(ctx, conn, Direction::Outbound) {
        Some(next_hop) => Ok(next_hop),
        None => look_up_client(ctx, conn, packet),
    }
}

/// The kernel routes a reply twice: as a router, from the real server, and, with `snat_reroute`, once more from the VIP
/// as if it were its own (`ip_vs_route_me_harder`). A packet to a FULLNAT server's client is the director's own.
#[cold]
fn look_up_client<'a, A: Address, F: Frame>(
    ctx: &mut Context<'a>,
    conn: &mut Conn<A>,
    packet: &Packet<'_, A, F>,
) -> Result<NextHop<'a>, RouteError> {
    let snapshot: &'a Snapshot = ctx.snapshot;
    let l3 = &*snapshot.l3;
    let own = RouteQuery::output(conn.client().addr.to_ip());
    let selectors = l3.selectors(A::FAMILY);
    if selectors.are_none() {
        let found = l3.resolve(&own);
        remember(conn, l3, Direction::Outbound, found);
        return next_hop_by(ctx, found);
    }
    let received = received_query(ctx, packet, own.dst);
    let is_routed = conn.mode() != ForwardingMode::FullNat;
    let by_router = is_routed.then(|| l3.resolve(&received));
    if let Some(found @ (Route::Unreachable | Route::Blackhole)) = by_router {
        return next_hop_by(ctx, found);
    }
    let reroutes = !is_routed || snapshot.sysctls.snat_reroute;
    let found = match by_router {
        Some(found) if !reroutes => found,
        _ => {
            let own = RouteQuery {
                mark: received.mark,
                tos: received.tos,
                ..own.from(conn.virt().addr.to_ip())
            };
            match l3.resolve(&own) {
                Route::Unreachable if is_routed => return Err(RouteError::Drop(DropReason::NoRoute)),
                found => found,
            }
        }
    };
    // Packets of one connection may differ in these.
    if !selectors.tos && (reroutes || !selectors.iif) {
        remember(conn, l3, Direction::Outbound, found);
    }
    next_hop_by(ctx, found)
}

/// What the kernel's routing is asked about a packet that a device received and that goes on to `dst`.
pub(crate) fn received_query<A: Address, F: Frame>(
    ctx: &Context<'_>,
    packet: &Packet<'_, A, F>,
    dst: IpAddr,
) -> RouteQuery {
    let (frame, key) = (packet.frame.bytes(), packet.key);
    let interface = receiver(ctx, packet);
    let mark = ctx
        .snapshot
        .marks
        .classify(ctx.device, key)
        .map_or(0, |marked| marked.mark);
    RouteQuery {
        dst,
        src: Some(key.src.addr.to_ip()),
        mark,
        iif: interface.map_or(InterfaceId::NONE, |interface| interface.id),
        vrf: interface.and_then(|interface| interface.vrf),
        tos: tos_of(frame, &packet.headers),
        protocol: key.protocol,
        ports: (key.src.port, key.dst.port),
    }
}

/// The interface that received a packet.
pub(crate) fn receiver<'a, A: Address, F: Frame>(
    ctx: &Context<'a>,
    packet: &Packet<'_, A, F>,
) -> Option<&'a Interface> {
    let snapshot: &'a Snapshot = ctx.snapshot;
    let mac = packet.frame.bytes().first_chunk().copied().unwrap_or_default();
    snapshot.l3.receiver(ctx.device, packet.headers.vlan, mac)
}

/// The bits of TOS and traffic class that the kernel routes by (`IPTOS_RT_MASK`).
pub(crate) fn tos_of(frame: &[u8], headers: &Headers) -> u8 {
    let mask = match headers.family {
        AddressFamily::Ipv4 => 0x1C,
        AddressFamily::Ipv6 => 0xFC,
    };
    class_of(frame, headers).unwrap_or(0) & mask
}

/// TOS or traffic class; `None` of a frame that is too short.
pub(crate) fn class_of(frame: &[u8], headers: &Headers) -> Option<u8> {
    let offset = usize::from(headers.l3_offset);
    match (headers.family, frame.get(offset..offset + 2)?) {
        (AddressFamily::Ipv4, [_, tos]) => Some(*tos),
        (AddressFamily::Ipv6, [first, second]) => Some(first << 4 | second >> 4),
        _ => None,
    }
}

/// The next hop for a packet that the director itself sends.
pub(crate) fn route<'a>(ctx: &mut Context<'a>, query: &RouteQuery) -> Result<NextHop<'a>, RouteError> {
    let found = ctx.snapshot.l3.resolve(query);
    next_hop_by(ctx, found)
}

fn next_hop_by<'a>(ctx: &mut Context<'a>, route: Route) -> Result<NextHop<'a>, RouteError> {
    let snapshot: &'a Snapshot = ctx.snapshot;
    let l3 = &*snapshot.l3;
    match route {
        Route::Hop(id) => Ok(NextHop {
            hop: l3.hop(id),
            waits_for: None,
        }),
        // A failed neighbour is asked for again, like the kernel does with each new packet; packets wait
        // and are dropped by name if it stays silent.
        Route::Unresolved(key) | Route::NeighbourFailed(key) => Ok(NextHop {
            hop: l3.unresolved_hop(&key),
            waits_for: Some(ctx.l3_memory.pending_neighbours.name(key)),
        }),
        Route::Local => Err(RouteError::Local),
        Route::Unreachable => Err(RouteError::Unreachable),
        Route::Blackhole => Err(RouteError::Drop(DropReason::NoRoute)),
        Route::Elsewhere => Err(RouteError::Drop(DropReason::RouteElsewhere)),
    }
}

/// Writes the Ethernet header of a packet that has been forwarded in place.
#[inline(always)]
pub(crate) fn depart<A: Address, F: Frame>(packet: &mut Packet<'_, A, F>, next_hop: &NextHop<'_>) -> Verdict {
    // Padding of a short frame was the incoming link's, not the packet's.
    packet.frame.truncate(usize::from(packet.headers.packet_end));
    depart_from(packet.frame, packet.headers.l3_offset, A::FAMILY, next_hop)
}

/// Writes the Ethernet header in front of the packet that begins at `l3_offset`.
#[inline]
pub(crate) fn depart_from<F: Frame>(
    frame: &mut F,
    l3_offset: u16,
    family: AddressFamily,
    next_hop: &NextHop<'_>,
) -> Verdict {
    match (
        ethernet::write(frame, l3_offset, next_hop.hop, family),
        next_hop.waits_for,
    ) {
        (Ok(()), None) => Verdict::Transmit(next_hop.hop.device),
        (Ok(()), Some(neighbour)) => Verdict::Hold(neighbour),
        (Err(reason), _) => Verdict::Drop(reason),
    }
}

/// Looks again at a held packet after the tables changed: complete now, or to be dropped; `None` while its neighbour
/// is still not resolved.
pub fn finish<F: Frame>(worker: &WorkerState, frame: &mut F, key: NeighbourKey) -> Option<Verdict> {
    let l3 = &worker.snapshot().l3;
    let family = match frame.bytes().get(usize::from(L3_OFFSET)) {
        Some(first) if first >> 4 == 6 => AddressFamily::Ipv6,
        _ => AddressFamily::Ipv4,
    };
    match l3.neighbour(&key) {
        Route::Hop(id) => {
            let next_hop = NextHop {
                hop: l3.hop(id),
                waits_for: None,
            };
            Some(depart_from(frame, L3_OFFSET, family, &next_hop))
        }
        Route::Unresolved(_) => None,
        _ => Some(Verdict::Drop(DropReason::NeighbourFailed)),
    }
}

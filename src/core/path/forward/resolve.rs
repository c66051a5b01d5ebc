//! Stage 7, last part: the next hop, and the Ethernet header for it.
//!
//! In:  where the packet goes; the mirrored routes and neighbours; the hop the connection remembers.
//! Out: [`Verdict::Transmit`], or [`Verdict::Hold`] while the kernel resolves the neighbour.
//!
//! A connection remembers its hops together with the generation of the tables they come from, so an
//! established packet looks nothing up; after any change of the tables each connection looks up once.

use std::net::IpAddr;

use crate::address::{Addr4, Addr6, Address, AddressFamily};
use crate::frame::Frame;
use crate::ipvs::conn::{Conn, Direction};
use crate::ipvs::real_server::RealServer;
use crate::l3::{Hop, HopId, L3, NeighbourKey, Route};
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

/// The next hop to `target`: the one that `conn` remembers for `direction` where that still holds.
#[inline]
pub(crate) fn next_hop<'a, A: Address>(
    ctx: &mut Context<'a>,
    conn: &mut Conn<A>,
    direction: Direction,
    target: IpAddr,
) -> Result<NextHop<'a>, RouteError> {
    let snapshot: &'a Snapshot = ctx.snapshot;
    let l3 = &*snapshot.l3;
    if conn.hop_generation == l3.generation
        && let id = conn.hops[direction as usize]
        && id != Conn::<A>::NO_HOP
    {
        return Ok(NextHop {
            hop: l3.hop(HopId(id)),
            waits_for: None,
        });
    }
    look_up(ctx, conn, direction, target)
}

#[cold]
fn look_up<'a, A: Address>(
    ctx: &mut Context<'a>,
    conn: &mut Conn<A>,
    direction: Direction,
    target: IpAddr,
) -> Result<NextHop<'a>, RouteError> {
    let snapshot: &'a Snapshot = ctx.snapshot;
    let l3 = &*snapshot.l3;
    if conn.hop_generation != l3.generation {
        conn.hop_generation = l3.generation;
        conn.hops = [Conn::<A>::NO_HOP; 2];
    }
    // The same real servers come again and again; clients do not.
    let found = match direction {
        Direction::Inbound => ctx
            .l3_memory
            .cache
            .routes
            .get_or_look_up(l3, target, || route_to(l3, target)),
        Direction::Outbound => route_to(l3, target),
    };
    if let Route::Hop(HopId(id)) = found {
        conn.hops[direction as usize] = id;
    }
    next_hop_by(ctx, found)
}

/// The next hop to `target` for a packet without a connection.
pub(crate) fn route<'a>(ctx: &mut Context<'a>, target: IpAddr) -> Result<NextHop<'a>, RouteError> {
    let found = route_to(&ctx.snapshot.l3, target);
    next_hop_by(ctx, found)
}

/// What the mirrored tables say of `target`.
pub(crate) fn route_to(l3: &L3, target: IpAddr) -> Route {
    match target {
        IpAddr::V4(v4) => l3.route(Addr4(v4.octets())),
        IpAddr::V6(v6) => l3.route(Addr6(v6.octets())),
    }
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
    }
}

/// Writes the Ethernet header of a packet that has been forwarded in place.
#[inline]
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

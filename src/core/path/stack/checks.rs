//! Beside the stages: what the kernel's stack is set to refuse before IPVS sees it.
//!
//! In:  a packet, the settings of the interface that received it. Out: whether the stack would drop it.
//! Never: is asked while nothing is set, nor by the fast path but for one comparison of devices.
//! Ref:  Linux net/ipv4/route.c `ip_route_input_slow`, net/ipv4/ip_input.c `ip_rcv_finish_core`.

use crate::address::{Address, AddressFamily};
use crate::frame::Frame;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{Conn, ConnIndex, Direction};
use crate::l3::fib::RouteQuery;
use crate::l3::{HopId, InterfaceId, Route};
use crate::packet::Packet;
use crate::path::forward::resolve;
use crate::verdict::{DropReason, Verdict};
use crate::worker_state::context::Context;

/// Whether the reverse-path filter drops a packet.
#[inline]
pub(crate) fn is_from_elsewhere<A: Address, F: Frame>(ctx: &Context<'_>, packet: &Packet<'_, A, F>) -> bool {
    ctx.checks.is_any && A::FAMILY == AddressFamily::Ipv4 && is_filtered(ctx, packet)
}

#[cold]
fn is_filtered<A: Address, F: Frame>(ctx: &Context<'_>, packet: &Packet<'_, A, F>) -> bool {
    let received = resolve::received_query(ctx, packet, packet.key.dst.addr.to_ip());
    !ctx.snapshot.l3.accepts_source(&received)
}

/// What becomes of a packet that the reverse-path filter drops; `None` for one that may pass.
#[cold]
pub(crate) fn refuse<A: Address, F: Frame>(
    ctx: &Context<'_>,
    table: &mut ConnTable<A>,
    found: Option<(ConnIndex, Direction)>,
    packet: &Packet<'_, A, F>,
) -> Option<Verdict> {
    if is_from_elsewhere(ctx, packet) {
        let concerns_us = found.is_some() || ctx.snapshot.services.has_vip(packet.key.dst.addr);
        return Some(if concerns_us {
            Verdict::Drop(DropReason::ReversePath)
        } else {
            Verdict::Punt
        });
    }
    if ctx.checks.is_strict
        && let Some((index, Direction::Inbound)) = found
    {
        remember_way_back(ctx, table.conn_mut(index));
    }
    None
}

/// Whether the stack forwards a packet to somebody else.
#[inline]
pub(crate) fn may_forward<A: Address, F: Frame>(ctx: &Context<'_>, packet: &Packet<'_, A, F>) -> bool {
    !ctx.checks.is_any || is_forwarded(ctx, packet)
}

#[cold]
fn is_forwarded<A: Address, F: Frame>(ctx: &Context<'_>, packet: &Packet<'_, A, F>) -> bool {
    let (l3, dst) = (&ctx.snapshot.l3, packet.key.dst.addr);
    let is_ours = || l3.is_local(dst) || ctx.snapshot.services.is_local_address(dst);
    let receiver = resolve::receiver(ctx, packet).map_or(InterfaceId::NONE, |interface| interface.id);
    l3.stack.forwards(A::FAMILY, receiver) || is_ours()
}

/// Lets a connection of which replies are not seen remember the way back to its client, by which the fast path knows the
/// interface that its packets come by. One whose replies are seen remembers where they went, if they may go there.
fn remember_way_back<A: Address>(ctx: &Context<'_>, conn: &mut Conn<A>) {
    let l3 = &ctx.snapshot.l3;
    let place = Direction::Outbound as usize;
    if !conn.mode().sees_replies()
        && conn.hop_generation == l3.generation
        && conn.hops[place] == Conn::<A>::NO_HOP
        && let Route::Hop(HopId(id)) =
            l3.resolve(&RouteQuery::output(conn.client().addr.to_ip()).from(conn.virt().addr.to_ip()))
    {
        conn.hops[place] = id;
    }
}

/// Whether a packet that goes `direction` came by the untagged interface by which `conn` reaches its sender.
#[inline(always)]
pub(crate) fn came_by_way_back<A: Address>(ctx: &Context<'_>, conn: &Conn<A>, direction: Direction) -> bool {
    let hop = ctx.snapshot.l3.hop(HopId(conn.hops[direction.reverse() as usize]));
    hop.device == ctx.device && hop.vlan == 0 && hop.mtu != 0
}

//! Beside the packets' path: connections that go before their time, because the table fills or because their server
//! was deleted.
//!
//! In:  the walks that [`Defence`](crate::worker_state::defence::Defence) and a new snapshot began.
//! Out: fewer connections; a bounded number is looked at a call.
//! Ref: Linux ip_vs_conn.c `ip_vs_random_dropentry`, `ip_vs_expire_nodest_conn_flush`.

use crate::address::Address;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{Conn, ConnIndex};
use crate::ipvs::real_server::RealServerId;
use crate::limits::SWEEP_SLOTS_MAX;
use crate::path::track;
use crate::worker_state::context::Context;
use crate::worker_state::defence::Sweep;

/// The walk of `drop_entry`, as far as one pass goes.
pub(crate) fn drop_idle<A: Address>(ctx: &mut Context<'_>, table: &mut ConnTable<A>, sweep: &mut Sweep) {
    let now = ctx.now;
    walk(ctx, table, sweep, |ctx, conn| ctx.defence.takes(conn, now));
}

/// The walk of `expire_nodest_conn`, as far as one pass goes.
pub(crate) fn drop_orphans<A: Address>(ctx: &mut Context<'_>, table: &mut ConnTable<A>, sweep: &mut Sweep) {
    walk(ctx, table, sweep, |ctx, conn| {
        let id = RealServerId(conn.real_server);
        let slot = ctx.snapshot.services.real_server(id);
        conn.controlled == 0 && id != RealServerId::UNBOUND && slot.is_none_or(|slot| !slot.available)
    });
}

fn walk<A: Address>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    sweep: &mut Sweep,
    mut goes: impl FnMut(&mut Context<'_>, &Conn<A>) -> bool,
) {
    if sweep.left == 0 {
        return;
    }
    let slots = sweep.left.min(SWEEP_SLOTS_MAX);
    let mut found = [ConnIndex(0); SWEEP_SLOTS_MAX];
    let mut count = 0;
    let next = table.scan(sweep.next, slots, |index, conn| {
        if goes(ctx, conn)
            && let Some(place) = found.get_mut(count)
        {
            *place = index;
            count += 1;
        }
    });
    sweep.left -= slots;
    sweep.next = next.unwrap_or(0);
    for index in found.into_iter().take(count) {
        let template = table.conn(index).control;
        track::forget(ctx, table, index);
        if template != Conn::<A>::NO_CONTROL && table.conn(ConnIndex(template)).controlled == 0 {
            track::forget(ctx, table, ConnIndex(template));
        }
    }
}

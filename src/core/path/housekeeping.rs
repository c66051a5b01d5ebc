//! Beside the packets' path: connections and datagrams whose time is over, connections that go before their time
//! because the table fills or because their server was deleted, and gauges.
//!
//! In:  the time. Out: fewer connections, published loads and gauges; a bounded number of each a call.
//! Ref: Linux ip_vs_conn.c `ip_vs_random_dropentry`, `ip_vs_expire_nodest_conn_flush`.

use crate::address::Address;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{ColdConn, Conn, ConnIndex};
use crate::ipvs::real_server::RealServerId;
use crate::l3::DeviceId;
use crate::limits::{SWEEP_SLOTS_MAX, TIMERS_PER_PASS_MAX};
use crate::path::fragments::reassemble;
use crate::path::track;
use crate::single_writer::SingleWriter;
use crate::tick::Tick;
use crate::worker_state::context::Context;
use crate::worker_state::context::Family;
use crate::worker_state::defence::Sweep;
use crate::worker_state::{Arrival, WorkerState};

/// Serves the timers of connections that are due, a bounded number a call; returns whether there were any. To be called
/// in every pass of the loop: so expiry keeps up with what one burst can begin, however fast bursts come.
#[inline]
pub fn expire(worker: &mut WorkerState, now: Tick) -> bool {
    let is_due = worker.is_timer_due(now);
    if is_due {
        serve_timers(worker, now);
    }
    is_due
}

#[inline(never)]
fn serve_timers(worker: &mut WorkerState, now: Tick) {
    let (mut ctx, families) = worker.context(Arrival::at(DeviceId(0), now));
    track::expire(&mut ctx, &mut families.v4.table, TIMERS_PER_PASS_MAX);
    track::expire(&mut ctx, &mut families.v6.table, TIMERS_PER_PASS_MAX);
}

/// What is due besides packets about every millisecond: walks through the tables, incomplete datagrams, samples and
/// gauges, and what [`expire`] does; a bounded number of each a call.
pub fn run(worker: &mut WorkerState, now: Tick) {
    let defends = worker.look_at_defences(now);
    let (mut ctx, families) = worker.context(Arrival::at(DeviceId(0), now));
    if defends {
        families.v4.idle.begin_part(&families.v4.table);
        families.v6.idle.begin_part(&families.v6.table);
    }
    sweep(&mut ctx, &mut families.v4);
    sweep(&mut ctx, &mut families.v6);
    reassemble::expire(&mut ctx, &mut families.reassembly);
    ctx.scheduling.loads.sample(&ctx.snapshot.services, ctx.own, now);
    ctx.own.conns_ipv4.set(families.v4.table.len() as u64);
    ctx.own.conns_ipv6.set(families.v6.table.len() as u64);
    expire(worker, now);
}

/// Connections that must go before their time, a bounded number a call.
fn sweep<A: Address>(ctx: &mut Context<'_>, family: &mut Family<A>) {
    drop_idle(ctx, &mut family.table, &mut family.idle);
    drop_orphans(ctx, &mut family.table, &mut family.orphans);
}

/// The walk of `drop_entry`, as far as one pass goes.
pub(crate) fn drop_idle<A: Address>(ctx: &mut Context<'_>, table: &mut ConnTable<A>, sweep: &mut Sweep) {
    let now = ctx.now;
    walk(ctx, table, sweep, |ctx, both| ctx.defence.takes(both, now));
}

/// The walk of `expire_nodest_conn`, as far as one pass goes.
pub(crate) fn drop_orphans<A: Address>(ctx: &mut Context<'_>, table: &mut ConnTable<A>, sweep: &mut Sweep) {
    walk(ctx, table, sweep, |ctx, (conn, cold)| {
        let id = conn.real_server;
        let slot = ctx.snapshot.services.real_server(id);
        cold.controlled == 0 && id != RealServerId::UNBOUND && slot.is_none_or(|slot| !slot.available)
    });
}

fn walk<A: Address>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    sweep: &mut Sweep,
    mut goes: impl FnMut(&mut Context<'_>, (&Conn<A>, &ColdConn)) -> bool,
) {
    if sweep.left == 0 {
        return;
    }
    let slots = sweep.left.min(SWEEP_SLOTS_MAX);
    let mut found = [ConnIndex(0); SWEEP_SLOTS_MAX];
    let mut count = 0;
    let next = table.scan(sweep.next, slots, |index, both| {
        if goes(ctx, both)
            && let Some(place) = found.get_mut(count)
        {
            *place = index;
            count += 1;
        }
    });
    sweep.left -= slots;
    sweep.next = next.unwrap_or(0);
    for index in found.into_iter().take(count) {
        let template = table.cold(index).control;
        track::forget(ctx, table, index);
        if template != ColdConn::NO_CONTROL && table.cold(ConnIndex(template)).controlled == 0 {
            track::forget(ctx, table, ConnIndex(template));
        }
    }
}

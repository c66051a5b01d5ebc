//! SPINE: what happens to a burst of frames, one line a step, in call order.
//!
//! In:  up to [`BURST_MAX`] frames that one device received, the worker's own state, the time.
//! Out: one [`Verdict`] a frame; frames that are to be transmitted have been rewritten in place. Besides, the
//!      frames that [`WorkerState::next_generated`] gives: to be asked until it gives none, after every call here.
//! Never: allocates, locks, logs, reads a clock, panics, or loops without bound.
//!
//! The stages run as loops over the burst so that the cache misses of 32 packets overlap; behind
//! [`lookup`] a packet is finished before the next one begins, so packets of one connection
//! keep their order and see each other's effects.

pub mod admit;
pub mod announce;
pub mod classify;
pub mod client_address;
pub mod defence;
pub mod established;
pub mod explain;
pub mod fast_path;
pub mod forward;
pub mod fragment;
pub mod from_host;
pub mod generated_frames;
pub mod headers;
pub mod icmp;
pub mod import;
pub mod l3_cache;
pub mod lookup;
pub mod outer_error;
pub mod parse;
pub mod path_mtu;
pub mod persist;
pub mod reassemble;
pub mod related;
pub mod reply;
pub mod resolve;
pub mod schedule;
pub mod track;
pub mod tunnelled;
pub mod undelivered;
pub mod verdict;

pub use headers::{Flow, Fragment, Headers};
pub use verdict::{DropReason, Verdict};

use crate::address::{Address, FlowKey};
use crate::counters::SingleWriter;
use crate::frame::Frame;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{ConnIndex, Direction};
use crate::l3::DeviceId;
use crate::limits::{BURST_MAX, TIMERS_PER_PASS_MAX};
use crate::stages::Stage;
use crate::tick::Tick;
use crate::worker_state::{Context, Families, Family, LookupEntry, WorkerState};

use admit::Admission;
use classify::{Class, is_balanced};
use established::Known;
use fast_path::FastPath;
use parse::Parsed;

/// Decides about frames that `device` received. Frames beyond [`BURST_MAX`] are left as they are with
/// their verdicts untouched; callers never pass more.
pub fn process<F: Frame>(
    worker: &mut WorkerState,
    device: DeviceId,
    now: Tick,
    frames: &mut [F],
    verdicts: &mut [Verdict],
) {
    run(worker, device, now, false, frames, verdicts);
}

/// The same for frames that another worker handed over because this one owns their connections:
/// whatever the tables say, they are not handed over again.
pub fn process_handoff<F: Frame>(
    worker: &mut WorkerState,
    device: DeviceId,
    now: Tick,
    frames: &mut [F],
    verdicts: &mut [Verdict],
) {
    run(worker, device, now, true, frames, verdicts);
}

/// Serves the timers of connections that are due, a bounded number a call, and tells whether there were any. To be called
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
    let (ctx, families) = worker.context(DeviceId(0), now, false);
    track::expire(&ctx, &mut families.v4.table, TIMERS_PER_PASS_MAX);
    track::expire(&ctx, &mut families.v6.table, TIMERS_PER_PASS_MAX);
}

/// What is due besides packets about every millisecond: walks through the tables, incomplete datagrams, samples and
/// gauges, and what [`expire`] does; a bounded number of each a call.
pub fn housekeeping(worker: &mut WorkerState, now: Tick) {
    let defends = worker.look_at_defences(now);
    let (mut ctx, families) = worker.context(DeviceId(0), now, false);
    if defends {
        families.v4.idle.begin_part(&families.v4.table);
        families.v6.idle.begin_part(&families.v6.table);
    }
    sweep(&mut ctx, &mut families.v4);
    sweep(&mut ctx, &mut families.v6);
    reassemble::expire(&mut ctx, &mut families.reassembly);
    ctx.loads.sample(&ctx.snapshot.services, ctx.own, now);
    ctx.own.conns_ipv4.set(families.v4.table.len() as u64);
    ctx.own.conns_ipv6.set(families.v6.table.len() as u64);
    expire(worker, now);
}

/// Connections that must go before their time, a bounded number a call.
fn sweep<A: Address>(ctx: &mut Context<'_>, family: &mut Family<A>) {
    defence::drop_idle(ctx, &mut family.table, &mut family.idle);
    defence::drop_orphans(ctx, &mut family.table, &mut family.orphans);
}

fn run<F: Frame>(
    worker: &mut WorkerState,
    device: DeviceId,
    now: Tick,
    is_handoff: bool,
    frames: &mut [F],
    verdicts: &mut [Verdict],
) {
    let (mut ctx, families) = worker.context(device, now, is_handoff);
    if ctx.snapshot.services.is_empty() {
        // Like the kernel, which unhooks itself with its last service: even known connections are left alone.
        verdicts.fill(Verdict::Punt);
        return;
    }
    families.v4.clear();
    families.v6.clear();
    if ctx.snapshot.leaves_clients_alone() {
        run_as_backup(&mut ctx, families, frames, verdicts);
        return;
    }
    let mac = ctx.snapshot.l3.mac(device);
    for slot in 0..frames.len().min(verdicts.len()).min(BURST_MAX) {
        let (Some(frame), Some(verdict)) = (frames.get_mut(slot), verdicts.get_mut(slot)) else {
            break;
        };
        // What is plain and sent to the device is looked up.
        if let Some((headers, key)) = parse::fast_v4(frame.bytes(), mac) {
            families.v4.push(slot, headers, key);
            continue;
        }
        if let Some(decided) = any_frame(&mut ctx, families, slot, frame) {
            *verdict = decided;
        }
    }
    ctx.mark(Stage::Parse);
    run_family(&mut ctx, &mut families.v4, frames, verdicts);
    run_family(&mut ctx, &mut families.v6, frames, verdicts);
}

/// While another director serves the clients: only replies of connections that are known here are ours.
#[cold]
fn run_as_backup<F: Frame>(ctx: &mut Context<'_>, families: &mut Families, frames: &mut [F], verdicts: &mut [Verdict]) {
    for (frame, verdict) in frames.iter_mut().zip(verdicts.iter_mut()).take(BURST_MAX) {
        *verdict = match parse::parse(frame.bytes()) {
            Ok(Parsed::Ip(headers, Flow::V4(key))) => reply_only(ctx, &mut families.v4.table, &headers, &key, frame),
            Ok(Parsed::Ip(headers, Flow::V6(key))) => reply_only(ctx, &mut families.v6.table, &headers, &key, frame),
            Ok(Parsed::Other) => Verdict::Punt,
            Err(reason) => Verdict::Drop(reason),
        };
    }
}

fn reply_only<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    headers: &Headers,
    key: &FlowKey<A>,
    frame: &mut F,
) -> Verdict {
    match classify::classify(ctx, frame.bytes(), headers) {
        Class::Balanced => {}
        Class::Decided(verdict) => return verdict,
        Class::Fragment | Class::Icmp => return Verdict::Punt,
    }
    match table.lookup(key) {
        Some((index, Direction::Outbound)) => established::outbound(ctx, table, &Known { index, headers, key }, frame),
        _ => Verdict::Punt,
    }
}

/// A frame that is not plainly to be looked up: its verdict, or `None` when it went onto a family after all.
#[inline(never)]
fn any_frame<F: Frame>(ctx: &mut Context<'_>, families: &mut Families, slot: usize, frame: &mut F) -> Option<Verdict> {
    if let Some((headers, key)) = parse::fast_v6(frame.bytes(), ctx.snapshot.l3.mac(ctx.device)) {
        families.v6.push(slot, headers, key);
        return None;
    }
    let (headers, flow) = match parse::parse(frame.bytes()) {
        Ok(Parsed::Ip(headers, flow)) => (headers, flow),
        Ok(Parsed::Other) => return Some(Verdict::Punt),
        Err(reason) => return Some(Verdict::Drop(reason)),
    };
    match classify::classify(ctx, frame.bytes(), &headers) {
        Class::Balanced => match flow {
            Flow::V4(key) => families.v4.push(slot, headers, key),
            Flow::V6(key) => families.v6.push(slot, headers, key),
        },
        Class::Fragment => return Some(reassemble::fragment(ctx, families, &headers, &flow, frame)),
        Class::Icmp => {
            let (v4, v6) = (&mut families.v4.table, &mut families.v6.table);
            return Some(related::icmp(ctx, v4, v6, &headers, &flow, frame));
        }
        Class::Decided(decided) => return Some(decided),
    }
    None
}

/// The stages behind parsing for the packets of one family.
fn run_family<A: FastPath, F: Frame>(
    ctx: &mut Context<'_>,
    family: &mut Family<A>,
    frames: &mut [F],
    verdicts: &mut [Verdict],
) {
    lookup::prefetch_conns(family);
    ctx.mark(Stage::Tags);
    let Family {
        table, entries, count, ..
    } = family;
    let changes = table.changes();
    for entry in entries.get(..*count).unwrap_or_default() {
        let (Some(frame), Some(verdict)) = (
            frames.get_mut(usize::from(entry.slot)),
            verdicts.get_mut(usize::from(entry.slot)),
        ) else {
            continue;
        };
        *verdict = one_entry(ctx, table, changes, entry, frame);
    }
    ctx.mark(Stage::Forward);
}

/// Almost every packet is plainly of an established connection, the one that its tag meant; the others go the full way.
#[inline(always)]
fn one_entry<A: FastPath, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    changes: u32,
    entry: &LookupEntry<A>,
    frame: &mut F,
) -> Verdict {
    if let Some((conn, direction)) = lookup::confirm(table, changes, entry)
        && let Some(verdict) = fast_path::forward(ctx, conn, direction, &entry.headers, frame)
    {
        return verdict;
    }
    other_entry(ctx, table, entry, frame)
}

/// A packet whose connection the first tag did not mean, or that is not plain.
#[inline(never)]
fn other_entry<A: FastPath, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    entry: &LookupEntry<A>,
    frame: &mut F,
) -> Verdict {
    let found = table.find(entry.hash, &entry.key);
    if let Some((index, direction)) = found
        && let Some(verdict) = fast_path::forward(ctx, table.conn_mut(index), direction, &entry.headers, frame)
    {
        return verdict;
    }
    decide(ctx, table, found, &entry.headers, &entry.key, frame)
}

/// From lookup to verdict for one TCP, UDP or SCTP packet.
fn one_packet<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    hash: u64,
    headers: &Headers,
    key: &FlowKey<A>,
    frame: &mut F,
) -> Verdict {
    let found = table.find(hash, key);
    decide(ctx, table, found, headers, key, frame)
}

/// The full way from lookup to verdict.
#[inline(never)]
fn decide<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    found: Option<(ConnIndex, Direction)>,
    headers: &Headers,
    key: &FlowKey<A>,
    frame: &mut F,
) -> Verdict {
    match found {
        Some((index, Direction::Inbound)) if !established::must_reschedule(ctx, table, index, headers) => {
            established::inbound(ctx, table, &Known { index, headers, key }, frame)
        }
        Some((index, Direction::Outbound)) => established::outbound(ctx, table, &Known { index, headers, key }, frame),
        _ => match admit::admit(ctx, headers, key) {
            Admission::Decided(verdict) => verdict,
            Admission::Schedule(service) => schedule::first_packet(ctx, table, service, headers, key, frame),
            Admission::Refuse => established::refuse_stray(ctx, headers, key, frame),
        },
    }
}

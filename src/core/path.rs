//! SPINE: what happens to a burst of frames, in call order, one line a stage.
//!
//! In:  up to [`BURST_MAX`] frames that one device received, the worker's own state, the time.
//! Out: one [`Verdict`] a frame; frames that are to be transmitted have been rewritten in place. Besides, the
//!      frames that [`WorkerState::next_generated`] gives: to be asked until it gives none, after every call here.
//! Never: allocates, locks, logs, reads a clock, panics, or loops without bound.
//!
//! Parsing runs as a loop over the burst, and [`lookup`] is some packets ahead, so that cache misses overlap. Behind it
//! a packet is finished before the next one begins, so packets of one connection keep their order and see each
//! other's effects.

// Stage 1: what is it?
pub mod parse;
// Stage 2: to look up, a fragment, ICMP, or the kernel's?
pub mod classify;
pub mod fragments;
pub mod icmp;
// Stage 3: which connection, in which direction?
pub mod lookup;
// Stages 6 and 7 in one, for data of an established connection.
pub mod fast_path;
// Stages 4 to 7 in order, for every other packet.
pub mod slow_path;
// Stage 4: no connection. Whose is the packet, and may it begin one?
pub mod admit;
pub mod ownership;
// A client's segment that cannot go on, of a service that resets.
pub(crate) mod reset;
// Stage 5: which real server, which local address?
pub mod schedule;
// Stage 6: the connection's state, and what other directors and the real server are to know of it.
pub mod client_address;
pub mod sync;
pub mod track;
// Stage 7: the bytes change and the packet leaves.
pub mod forward;
// Beside the packets' path.
pub mod from_host;
pub mod housekeeping;
pub(crate) mod stack;

use crate::frame::Frame;
use crate::ipvs::conn::table::ConnTable;
use crate::limits::BURST_MAX;
use crate::packet::Packet;
use crate::stages::Stage;
use crate::verdict::Verdict;
use crate::worker_state::context::{Context, Families, Family, LookupEntry, in_family};
use crate::worker_state::{Arrival, WorkerState};

use classify::Class;
use fast_path::FastPath;
use fragments::reassemble;
use icmp::relay;
use parse::Parsed;

/// Decides about the frames of one burst. Frames beyond [`BURST_MAX`] are left as they are with
/// their verdicts untouched; callers never pass more.
pub fn process<F: Frame>(worker: &mut WorkerState, arrival: Arrival, frames: &mut [F], verdicts: &mut [Verdict]) {
    let (mut ctx, families) = worker.context(arrival);
    if ctx.snapshot.services.is_empty() {
        // Like the kernel, which unhooks itself with its last service: even known connections are left alone.
        verdicts.fill(Verdict::Punt);
        return;
    }
    families.v4.clear();
    families.v6.clear();
    if ctx.snapshot.leaves_clients_alone() {
        slow_path::only_replies(&mut ctx, families, frames, verdicts);
        return;
    }
    let mac = ctx.snapshot.l3.mac(ctx.device);
    for slot in 0..frames.len().min(verdicts.len()).min(BURST_MAX) {
        let (Some(frame), Some(verdict)) = (frames.get_mut(slot), verdicts.get_mut(slot)) else {
            break;
        };
        // Stage 1. Nearly every frame is a whole packet without options, sent to the device.
        if let Some((headers, key)) = parse::fast_v4(frame.bytes(), mac) {
            families.v4.push(slot, headers, key);
            continue;
        }
        // Stages 1 and 2 for any other.
        if let Some(decided) = parse_rest(&mut ctx, families, slot, frame) {
            *verdict = decided;
        }
    }
    ctx.mark(Stage::Parse);
    if ctx.checks.is_strict {
        forward_strictly(&mut ctx, &mut families.v4, frames, verdicts);
    } else {
        forward_family::<_, _, false>(&mut ctx, &mut families.v4, frames, verdicts);
    }
    forward_family::<_, _, false>(&mut ctx, &mut families.v6, frames, verdicts);
}

/// Any other frame: its verdict, or `None` when it is to be looked up like those.
#[inline(never)]
fn parse_rest<F: Frame>(ctx: &mut Context<'_>, families: &mut Families, slot: usize, frame: &mut F) -> Option<Verdict> {
    let l3 = &ctx.snapshot.l3;
    if let Some((headers, key)) = parse::fast_v6(frame.bytes(), l3.mac(ctx.device)) {
        families.v6.push(slot, headers, key);
        return None;
    }
    // To a virtual MAC address, as VRRP has them.
    if let Some(mac) = l3.other_mac(ctx.device, frame.bytes()) {
        if let Some((headers, key)) = parse::fast_v4(frame.bytes(), mac) {
            families.v4.push(slot, headers, key);
            return None;
        }
        if let Some((headers, key)) = parse::fast_v6(frame.bytes(), mac) {
            families.v6.push(slot, headers, key);
            return None;
        }
    }
    let (headers, flow) = match parse::parse(frame.bytes()) {
        Ok(Parsed::Ip(headers, flow)) => (headers, flow),
        Ok(Parsed::Other) => return Some(Verdict::Punt),
        Err(reason) => return Some(Verdict::Drop(reason)),
    };
    match classify::classify(ctx, frame.bytes(), &headers) {
        Class::Balanced => {
            in_family!(&flow, |key| families.of(key).push(slot, headers, *key));
            None
        }
        Class::Fragment => Some(in_family!(&flow, |key| {
            reassemble::fragment(ctx, families, &Packet::whole(headers, key, frame))
        })),
        Class::Icmp => Some(in_family!(&flow, |key| {
            relay::icmp_error(ctx, families, &mut Packet::whole(headers, key, frame))
        })),
        Class::Decided(decided) => Some(decided),
    }
}

/// Apart from the other, so that nobody pays for it who has not asked for it.
#[inline(never)]
fn forward_strictly<A: FastPath, F: Frame>(
    ctx: &mut Context<'_>,
    family: &mut Family<A>,
    frames: &mut [F],
    verdicts: &mut [Verdict],
) {
    forward_family::<A, F, true>(ctx, family, frames, verdicts);
}

/// Stages 3 to 7 for the packets of one family. `STRICT`: see [`fast_path::forward`].
fn forward_family<A: FastPath, F: Frame, const STRICT: bool>(
    ctx: &mut Context<'_>,
    family: &mut Family<A>,
    frames: &mut [F],
    verdicts: &mut [Verdict],
) {
    let Family {
        table, entries, count, ..
    } = family;
    let entries = entries.get_mut(..*count).unwrap_or_default();
    // Stage 3: the tags of some packets ahead, then packet by packet the connection.
    lookup::begin(table, entries);
    ctx.mark(Stage::Tags);
    for at in 0..entries.len() {
        lookup::look_ahead(table, entries, at);
        let Some(entry) = entries.get(at) else { break };
        let (Some(frame), Some(verdict)) = (
            frames.get_mut(usize::from(entry.slot)),
            verdicts.get_mut(usize::from(entry.slot)),
        ) else {
            continue;
        };
        *verdict = forward_entry::<A, F, STRICT>(ctx, table, entry, frame);
    }
    ctx.mark(Stage::Forward);
}

/// Almost every packet is data of an established connection, of the one that its tag meant.
#[inline(always)]
fn forward_entry<A: FastPath, F: Frame, const STRICT: bool>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    entry: &LookupEntry<A>,
    frame: &mut F,
) -> Verdict {
    // Stages 6 and 7, the fast path.
    if let Some((conn, direction)) = table.confirm(entry.candidate, &entry.key)
        && let Some(verdict) = fast_path::forward::<A, F, STRICT>(ctx, (conn, direction), &entry.headers, frame)
    {
        return verdict;
    }
    look_up_again::<A, F, STRICT>(ctx, table, entry, frame)
}

/// A packet whose connection the first tag did not mean, or that needs more than the fast path does.
#[inline(never)]
fn look_up_again<A: FastPath, F: Frame, const STRICT: bool>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    entry: &LookupEntry<A>,
    frame: &mut F,
) -> Verdict {
    let found = table.find(entry.hash, &entry.key);
    if let Some((index, direction)) = found
        && let Some(verdict) =
            fast_path::forward::<A, F, STRICT>(ctx, (table.conn_mut(index), direction), &entry.headers, frame)
    {
        return verdict;
    }
    // Stages 4 to 7, the slow path.
    slow_path::process(ctx, table, found, &mut Packet::whole(entry.headers, &entry.key, frame))
}

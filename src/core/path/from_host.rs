//! Beside the packets' way: what the kernel sends through a twin, which may be a reply of a server on the director.
//!
//! In:  a frame that the kernel wants to leave by a device.
//! Out: the same frame; when its sender is a local real server, with the connection's state and counters
//!      advanced and, in NAT and FULLNAT, from the VIP. Or the worker that has the connection.
//! Never: drops, resolves a next hop, or changes a TTL: the kernel has done all that.
//! Ref:  Linux net/netfilter/ipvs/ip_vs_core.c `ip_vs_out_hook` on NF_INET_LOCAL_OUT, ip_vs_conn.c `ip_vs_conn_out_get`.

use crate::address::{Address, FlowKey};
use crate::frame::Frame;
use crate::headers::{Flow, Fragment, Headers};
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{Conn, ConnFlags, ConnIndex, Direction};
use crate::l3::DeviceId;
use crate::path::classify::is_balanced;
use crate::path::forward::rewrite::{self, Rewrite};
use crate::path::icmp::relay;
use crate::path::ownership;
use crate::path::parse::{Embedded, Parsed, embedded, parse};
use crate::path::track;
use crate::tick::Tick;
use crate::verdict::Verdict;
use crate::wire::checksum::complement;
use crate::worker_state::WorkerState;
use crate::worker_state::context::Context;

/// See the module. `handed_over`: another worker gave it to this one.
pub fn process<F: Frame>(
    worker: &mut WorkerState,
    device: DeviceId,
    now: Tick,
    is_handoff: bool,
    frame: &mut F,
) -> Verdict {
    let (mut ctx, families) = worker.context(device, now, is_handoff);
    if ctx.snapshot.services.is_empty() {
        return Verdict::Transmit(device);
    }
    let elsewhere = match parse(frame.bytes()) {
        Ok(Parsed::Ip(headers, flow)) if headers.fragment == Fragment::Whole => {
            let quoted = embedded(frame.bytes(), &headers).filter(|_| relay::is_passed_on(frame.bytes(), &headers));
            match (quoted.as_ref().map_or(flow, |quoted| quoted.reply), quoted) {
                (Flow::V4(key), Some(quoted)) => {
                    error(&mut ctx, &mut families.v4.table, &headers, &quoted, &key, frame)
                }
                (Flow::V6(key), Some(quoted)) => {
                    error(&mut ctx, &mut families.v6.table, &headers, &quoted, &key, frame)
                }
                _ if !is_balanced(headers.protocol) => None,
                (Flow::V4(key), None) => reply(&mut ctx, &mut families.v4.table, &headers, &key, frame),
                (Flow::V6(key), None) => reply(&mut ctx, &mut families.v6.table, &headers, &key, frame),
            }
        }
        _ => None,
    };
    elsewhere.unwrap_or(Verdict::Transmit(device))
}

/// A connection of which packets with `key` are replies: its server's, or, in modes in which servers answer
/// clients themselves, the VIP's.
enum Replied {
    /// To be translated.
    Translated(ConnIndex),
    /// As it is.
    Direct(ConnIndex),
    /// It may be another worker's.
    Elsewhere(Option<Verdict>),
}

fn replied<A: Address>(ctx: &Context<'_>, table: &ConnTable<A>, key: &FlowKey<A>) -> Replied {
    let asked = key.reversed();
    match (table.lookup(key), table.lookup(&asked)) {
        (Some((index, Direction::Outbound)), _) => Replied::Translated(index),
        (_, Some((index, Direction::Inbound))) if !has_outbound_key(table.conn(index)) => Replied::Direct(index),
        _ => {
            let owner = ownership::other_owner(ctx, key).or_else(|| ownership::other_owner(ctx, &asked));
            Replied::Elsewhere(owner.map(Verdict::Handoff))
        }
    }
}

const fn has_outbound_key<A: Address>(conn: &Conn<A>) -> bool {
    conn.flags.contains(ConnFlags::OUTBOUND_INDEXED)
}

fn reply<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    headers: &Headers,
    key: &FlowKey<A>,
    frame: &mut F,
) -> Option<Verdict> {
    let (index, is_translated) = match replied(ctx, table, key) {
        Replied::Translated(index) => (index, true),
        Replied::Direct(index) => (index, false),
        Replied::Elsewhere(verdict) => return verdict,
    };
    let conn = table.conn_mut(index);
    conn.last_seen = ctx.now;
    relay::count_out(ctx, conn, headers.packet_len());
    if is_translated {
        let rewrite = Rewrite {
            src: conn.virt,
            dst: conn.client,
            l3_delta: complement(conn.l3_delta),
            l4_delta: complement(conn.l4_delta),
        };
        rewrite::apply_keeping_ttl(frame.bytes_mut(), headers, &rewrite);
    }
    track::packet(ctx, table, index, Direction::Outbound, headers);
    None
}

/// The local stack refuses a packet that went to a server on the director.
fn error<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    headers: &Headers,
    quoted: &Embedded,
    key: &FlowKey<A>,
    frame: &mut F,
) -> Option<Verdict> {
    match replied(ctx, table, key) {
        Replied::Translated(index) => {
            let conn = table.conn(index);
            relay::count_out(ctx, conn, headers.packet_len());
            relay::translate_to_client(frame.bytes_mut(), headers, quoted, conn);
        }
        Replied::Direct(index) => relay::count_out(ctx, table.conn(index), headers.packet_len()),
        Replied::Elsewhere(verdict) => return verdict,
    }
    None
}

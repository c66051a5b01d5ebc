//! Beside the packets' path: what the kernel sends through a twin, which may be a reply of a server on the director.
//!
//! In:  a frame that the kernel wants to leave by a device.
//! Out: the same frame; when its sender is a local real server, with the connection's state and counters
//!      advanced and, in NAT and FULLNAT, from the VIP. Or the worker that has the connection.
//! Never: drops, resolves a next hop, or changes a TTL: the kernel has done all that.
//! Ref:  Linux net/netfilter/ipvs/ip_vs_core.c `ip_vs_out_hook` on NF_INET_LOCAL_OUT, ip_vs_conn.c `ip_vs_conn_out_get`.

use crate::address::{Address, FlowKey};
use crate::frame::Frame;
use crate::headers::Fragment;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{Conn, ConnFlags, ConnIndex, Direction};
use crate::packet::Packet;
use crate::path::classify::is_balanced;
use crate::path::forward::rewrite::{self, Rewrite};
use crate::path::icmp::relay::Relayed;
use crate::path::ownership;
use crate::path::parse::{Parsed, parse};
use crate::path::track;
use crate::verdict::Verdict;
use crate::worker_state::context::Context;
use crate::worker_state::context::in_family;
use crate::worker_state::{Arrival, WorkerState};

/// See the module.
pub fn process<F: Frame>(worker: &mut WorkerState, arrival: Arrival, frame: &mut F) -> Verdict {
    let (mut ctx, families) = worker.context(arrival);
    if ctx.snapshot.services.is_empty() {
        return Verdict::Transmit(arrival.device);
    }
    let elsewhere = match parse(frame.bytes()) {
        Ok(Parsed::Ip(headers, flow)) if headers.fragment == Fragment::Whole => in_family!(&flow, |key| {
            let mut packet = Packet::whole(headers, key, frame);
            let table = &mut families.of(key).table;
            if let Some(mut relayed) = Relayed::of(&mut packet) {
                error(&mut ctx, table, &mut relayed)
            } else if is_balanced(headers.protocol) {
                reply(&mut ctx, table, &mut packet)
            } else {
                None
            }
        }),
        _ => None,
    };
    elsewhere.unwrap_or(Verdict::Transmit(arrival.device))
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
    packet: &mut Packet<'_, A, F>,
) -> Option<Verdict> {
    let (index, is_translated) = match replied(ctx, table, packet.key) {
        Replied::Translated(index) => (index, true),
        Replied::Direct(index) => (index, false),
        Replied::Elsewhere(verdict) => return verdict,
    };
    let conn = table.conn_mut(index);
    conn.last_seen = ctx.now;
    ctx.count(conn, Direction::Outbound, packet.headers.packet_len());
    if is_translated {
        let rewrite = Rewrite::of(conn, Direction::Outbound);
        rewrite::apply_keeping_ttl(packet.frame.bytes_mut(), &packet.headers, &rewrite);
    }
    track::packet(ctx, table, (index, Direction::Outbound), &packet.headers);
    None
}

/// The local stack refuses a packet that went to a server on the director.
fn error<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    relayed: &mut Relayed<'_, '_, A, F>,
) -> Option<Verdict> {
    let (index, is_translated) = match replied(ctx, table, &relayed.reply) {
        Replied::Translated(index) => (index, true),
        Replied::Direct(index) => (index, false),
        Replied::Elsewhere(verdict) => return verdict,
    };
    let conn = table.conn(index);
    ctx.count(conn, Direction::Outbound, relayed.packet.headers.packet_len());
    if is_translated {
        relayed.translate_to_client(conn);
    }
    None
}

//! Beside the packets' path: what the kernel sends through a twin, which may be a reply of a server on the director, or
//! a request of the director to one of its own services.
//!
//! In:  a frame that the kernel wants to leave by a device.
//! Out: the same frame; when its sender is a local real server, with the connection's state and counters
//!      advanced and, in NAT and FULLNAT, from the VIP. Or the worker that has the connection. A packet to a service on
//!      an address of the director itself, which comes here only by a policy rule, gets a client's packet's verdict.
//! Never: drops, resolves a next hop, or changes a TTL of any other packet: the kernel has done all that.
//! Ref:  Linux net/netfilter/ipvs/ip_vs_core.c `ip_vs_out_hook`, `ip_vs_in_hook` on NF_INET_LOCAL_OUT, ip_vs_conn.c
//!      `ip_vs_conn_out_get`.

use crate::address::{Address, FlowKey};
use crate::frame::Frame;
use crate::headers::Fragment;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{Conn, ConnFlags, ConnIndex, Direction};
use crate::l3::StackChecks;
use crate::packet::Packet;
use crate::path::admit;
use crate::path::classify::is_balanced;
use crate::path::forward::rewrite::{self, Rewrite};
use crate::path::icmp::relay::Relayed;
use crate::path::ownership;
use crate::path::parse::{Parsed, parse};
use crate::path::slow_path;
use crate::path::sync::announce;
use crate::path::track;
use crate::verdict::{DropReason, Verdict};
use crate::worker_state::context::Context;
use crate::worker_state::context::in_family;
use crate::worker_state::{Arrival, WorkerState};

/// See the module.
pub fn process<F: Frame>(worker: &mut WorkerState, arrival: Arrival, frame: &mut F) -> Verdict {
    let (mut ctx, families) = worker.context(arrival);
    if ctx.snapshot.services.is_empty() {
        return Verdict::Transmit(arrival.device);
    }
    ctx.from_host = true;
    let decided = match parse(frame.bytes()) {
        Ok(Parsed::Ip(headers, flow)) if headers.fragment == Fragment::Whole => in_family!(&flow, |key| {
            let mut packet = Packet::whole(headers, key, frame);
            let table = &mut families.of(key).table;
            if let Some(mut relayed) = Relayed::of(&mut packet) {
                error(&mut ctx, table, &mut relayed)
            } else if !is_balanced(headers.protocol) {
                None
            } else if is_request(&ctx, table, key) {
                Some(request(&mut ctx, table, &mut packet))
            } else {
                reply(&mut ctx, table, &mut packet)
            }
        }),
        _ => None,
    };
    decided.unwrap_or(Verdict::Transmit(arrival.device))
}

/// Whether the director is a client of its own service. The kernel delivers packets to its own addresses itself, unless
/// a rule of the operator sends them out by a twin.
fn is_request<A: Address>(ctx: &Context<'_>, table: &ConnTable<A>, key: &FlowKey<A>) -> bool {
    ctx.snapshot.l3.is_own(key.dst.addr)
        && (matches!(table.lookup(key), Some((_, Direction::Inbound))) || admit::service_of(ctx, key).is_some())
}

/// The stack's own settings are not asked about what the stack itself sends.
fn request<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    packet: &mut Packet<'_, A, F>,
) -> Verdict {
    ctx.checks = StackChecks::default();
    let found = table.lookup(packet.key);
    let verdict = match slow_path::process(ctx, table, found, packet) {
        // The stack refuses it, where another client gets an ICMP error.
        Verdict::Drop(DropReason::NoRealServer) => Verdict::Punt,
        decided => decided,
    };
    if verdict == Verdict::Punt {
        // The stack takes what is sent to its MAC address.
        let mac = ctx.snapshot.l3.mac(ctx.device);
        if let Some(to) = packet.frame.bytes_mut().first_chunk_mut() {
            *to = mac;
        }
    }
    verdict
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
    announce::reply(ctx, &mut table.both_mut(index));
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
        relayed.translate_to_client(table.both(index));
    }
    None
}

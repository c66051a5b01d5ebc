//! Step 4: a packet without a connection. Whose is it, and may it start one?
//!
//! In:  a packet that missed this worker's table.
//! Out: the service to schedule it for, or its verdict: hand it to the worker that owns its connection,
//!      or leave it to the kernel (which answers a stray TCP segment with RST and forwards the rest).
//! Ref: Linux net/netfilter/ipvs/ip_vs_proto_tcp.c `tcp_conn_schedule`, ip_vs_core.c `ip_vs_schedule`, `ip_vs_out`.

use std::net::IpAddr;

use crate::address::{Address, Endpoint, FlowKey};
use crate::headers::Headers;
use crate::ipvs::local_address;
use crate::ipvs::mark::Marked;
use crate::ipvs::persistence::Spread;
use crate::ipvs::protocol::tcp;
use crate::ipvs::service::VirtualService;
use crate::ipvs::service_table::PORT_FTP_DATA;
use crate::rss::RssHash;
use crate::single_writer::SingleWriter;
use crate::verdict::{Verdict, WorkerId};
use crate::wire::{sctp, tcp as tcp_wire};
use crate::worker_state::context::Context;

/// What to do with a packet that has no connection here.
pub(crate) enum Admission<'a> {
    /// Nothing to schedule.
    Decided(Verdict),
    /// It may start a connection to this service.
    Schedule(&'a VirtualService),
    /// A real server's packet that belongs to no connection, and it is to be told so.
    Refuse,
}

/// A service, and whether it takes packets to addresses that are not the director's.
struct Found<'a> {
    service: &'a VirtualService,
    divert: bool,
}

/// See the module.
pub(crate) fn admit<'a, A: Address>(ctx: &mut Context<'a>, headers: &Headers, key: &FlowKey<A>) -> Admission<'a> {
    let snapshot = ctx.snapshot;
    let found = find(ctx, ctx.snapshot.marks.classify(ctx.device, key), key);
    if let Some(place) = place(ctx, found.as_ref().map(|found| found.service), key)
        && !ctx.ownership.is_handoff
    {
        count(ctx, place, key);
        if place.owner != ctx.ownership.worker {
            return Admission::Decided(Verdict::Handoff(place.owner));
        }
    }
    if let Some(Found { service, .. }) = found
        && !may_start(ctx, headers, key)
        && let Some(former) = former_owner(ctx, service, key)
    {
        return Admission::Decided(Verdict::Handoff(former));
    }
    match found {
        // Like the kernel's LOCAL_IN hook: a service on an address the director does not have is not seen.
        Some(Found { service, divert })
            if may_start(ctx, headers, key)
                && (divert || is_local(ctx, key.dst.addr))
                && !is_martian(ctx, key.src.addr) =>
        {
            Admission::Schedule(service)
        }
        None if snapshot.sysctls.nat_icmp_send && is_stray_reply(ctx, headers, key) => Admission::Refuse,
        _ => Admission::Decided(Verdict::Punt),
    }
}

/// Whether the address is the director's own.
fn is_local<A: Address>(ctx: &mut Context<'_>, addr: A) -> bool {
    let l3 = &ctx.snapshot.l3;
    ctx.l3_memory
        .cache
        .locals
        .get_or_look_up(l3, addr.to_ip(), || l3.is_local(addr))
}

/// What `schedule_icmp` asks: who takes a connection that an ICMP error quotes a reply of? `outer` is the flow of
/// the error itself, which is what marks are given to; `key` that of the connection's client.
pub(crate) fn admit_error<'a, A: Address>(
    ctx: &Context<'a>,
    outer: &FlowKey<A>,
    key: &FlowKey<A>,
) -> Option<Admission<'a>> {
    let marked = ctx.snapshot.marks.classify(ctx.device, outer);
    let Found { service, divert } = find(ctx, marked, key)?;
    let is_heard = divert || ctx.snapshot.l3.is_local(outer.dst.addr);
    if !is_heard || key.src.port == PORT_FTP_DATA {
        return None;
    }
    let elsewhere =
        owner(ctx, Some(service), key).filter(|owner| *owner != ctx.ownership.worker && !ctx.ownership.is_handoff);
    Some(match elsewhere {
        Some(owner) => Admission::Decided(Verdict::Handoff(owner)),
        None => Admission::Schedule(service),
    })
}

/// The service of a packet: that of its mark before that of its destination.
fn find<'a, A: Address>(ctx: &Context<'a>, marked: Option<Marked>, key: &FlowKey<A>) -> Option<Found<'a>> {
    let snapshot = ctx.snapshot;
    let by_mark = marked.and_then(|marked| {
        let service = snapshot.services.find_marked::<A>(marked.mark)?;
        let divert = marked.divert;
        Some(Found { service, divert })
    });
    by_mark.or_else(|| {
        let service = snapshot.services.find(key.protocol, key.dst)?;
        Some(Found { service, divert: false })
    })
}

/// The service of a packet, for explanations.
pub(crate) fn service_of<'a, A: Address>(ctx: &Context<'a>, key: &FlowKey<A>) -> Option<&'a VirtualService> {
    find(ctx, ctx.snapshot.marks.classify(ctx.device, key), key).map(|found| found.service)
}

/// Whether a packet of this kind may create a connection at all.
fn may_start<A: Address>(ctx: &Context<'_>, headers: &Headers, key: &FlowKey<A>) -> bool {
    let sysctls = &ctx.snapshot.sysctls;
    let kind = match headers.protocol {
        tcp_wire::PROTOCOL if sysctls.sloppy_tcp => headers.tcp_flags & tcp_wire::RST == 0,
        tcp_wire::PROTOCOL => tcp::begins_connection(headers.tcp_flags),
        sctp::PROTOCOL if sysctls.sloppy_sctp => headers.sctp_chunk != sctp::CHUNK_ABORT,
        sctp::PROTOCOL => headers.sctp_chunk == sctp::CHUNK_INIT,
        _ => true,
    };
    kind && key.src.port != PORT_FTP_DATA
}

/// Whether no packet may come from this address (`ip_route_input_slow`, `fib_validate_source`, `ip6_rcv_core`); the
/// kernel's stack drops it.
fn is_martian<A: Address>(ctx: &Context<'_>, src: A) -> bool {
    match src.to_ip() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.octets()[0] == 0
                || v4.is_multicast()
                || v4.is_broadcast()
                || ctx.snapshot.l3.is_own(src)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_multicast(),
    }
}

/// Whether it comes from a real server's port and asks for an answer: a reset or abort does not.
fn is_stray_reply<A: Address>(ctx: &Context<'_>, headers: &Headers, key: &FlowKey<A>) -> bool {
    let ends = match headers.protocol {
        tcp_wire::PROTOCOL => headers.tcp_flags & tcp_wire::RST != 0,
        sctp::PROTOCOL => headers.sctp_chunk == sctp::CHUNK_ABORT,
        _ => false,
    };
    !ends && ctx.snapshot.services.is_nat_server(key.protocol, key.src)
}

/// The worker to hand a packet of this flow to, when it is not this one.
pub(crate) fn other_owner<A: Address>(ctx: &Context<'_>, key: &FlowKey<A>) -> Option<WorkerId> {
    let marked = ctx.snapshot.marks.classify(ctx.device, key);
    let service = find(ctx, marked, key).map(|found| found.service);
    owner(ctx, service, key).filter(|owner| *owner != ctx.ownership.worker && !ctx.ownership.is_handoff)
}

/// The worker that a packet belongs to, and whether the NICs' RSS decides so.
#[derive(Clone, Copy)]
struct Place {
    owner: WorkerId,
    by_rss: bool,
}

/// Leaves the management core to see whether a device spreads flows as it claims.
#[inline]
fn count<A: Address>(ctx: &Context<'_>, place: Place, key: &FlowKey<A>) {
    let Some(rss) = ctx.own.rss.get(usize::from(ctx.device.0)) else {
        return;
    };
    // The pieces of a datagram come where their addresses say, without ports.
    if ctx.reassembled != 0 {
        return;
    }
    if place.owner != ctx.ownership.worker {
        let ends = key.src.addr.words().0 ^ key.dst.addr.words().0.rotate_left(16);
        rss.count_miss(ends ^ u64::from(key.src.port) << 16 ^ u64::from(key.dst.port));
        if place.by_rss {
            rss.rss_misses.add(1);
        }
    } else if place.by_rss {
        rss.rss_hits.add(1);
    }
}

/// The worker that has, or will have, the connection of this packet; `None` when it is nobody's.
pub(crate) fn owner<A: Address>(
    ctx: &Context<'_>,
    service: Option<&VirtualService>,
    key: &FlowKey<A>,
) -> Option<WorkerId> {
    place(ctx, service, key).map(|place| place.owner)
}

/// Every end of a connection leads to the same answer without knowing the connection: inbound packets
/// and NAT replies by the client's end, FULLNAT replies by the local port, which was chosen for that. Where NICs
/// have RSS, FULLNAT replies belong to the worker to which they bring them, and so do inbound packets unless
/// the service's persistence, or NAT replies that show the client's end only, demand the other way.
fn place<A: Address>(ctx: &Context<'_>, service: Option<&VirtualService>, key: &FlowKey<A>) -> Option<Place> {
    if ctx.ownership.workers_count <= 1 {
        return None;
    }
    let services = &ctx.snapshot.services;
    let by_rss = |rss: &RssHash| Place {
        owner: rss.worker(key.src, key.dst, ctx.ownership.workers_count),
        by_rss: true,
    };
    let computed = |owner| Place { owner, by_rss: false };
    if let Some(service) = service {
        if let Some(rss) = ctx.ownership.rss.filter(|_| service.is_spread_by_flow) {
            return Some(by_rss(rss));
        }
        Some(computed(owner_of_client(ctx, service.spread, key.src)))
    } else if services.is_local_address(key.dst.addr) {
        if let Some(rss) = ctx.ownership.rss {
            return Some(by_rss(rss));
        }
        Some(computed(local_address::owner_of(
            key.dst.port,
            ctx.ownership.workers_count,
        )))
    } else {
        let spread = services.nat_spread(key.protocol, key.src)?;
        Some(computed(owner_of_client(ctx, spread, key.dst)))
    }
}

/// Who has this packet's connection if it began while the service was not spread by flows (a masquerading server or
/// persistence that is gone since).
fn former_owner<A: Address>(ctx: &Context<'_>, service: &VirtualService, key: &FlowKey<A>) -> Option<WorkerId> {
    if ctx.ownership.rss.is_none() || ctx.ownership.is_handoff || !service.is_spread_by_flow {
        return None;
    }
    Some(owner_of_client(ctx, service.spread, key.src)).filter(|former| *former != ctx.ownership.worker)
}

/// Spreads clients over workers by a keyed hash, so that nobody can aim all their connections at one.
pub(crate) fn owner_of_client<A: Address>(ctx: &Context<'_>, spread: Spread, client: Endpoint<A>) -> WorkerId {
    let (low, high) = client.addr.words();
    let words = (low & spread.words.0, high & spread.words.1);
    let port = if spread.by_port { client.port } else { 0 };
    worker_of_hash(ctx, keyed_hash(ctx, words, port))
}

/// A keyed hash of one end of a flow.
pub(crate) fn hash_of_end<A: Address>(ctx: &Context<'_>, end: Endpoint<A>) -> u32 {
    keyed_hash(ctx, end.addr.words(), end.port)
}

fn keyed_hash(ctx: &Context<'_>, (low, high): (u64, u64), port: u16) -> u32 {
    let input = low ^ high.rotate_left(32) ^ (u64::from(port) << 40) ^ ctx.ownership.secret;
    let mixed = u128::from(input) * 0x9E37_79B9_7F4A_7C15;
    let hash = (mixed >> 64) as u64 ^ mixed as u64;
    (hash >> 32) as u32
}

/// Spreads hashes evenly over the workers.
pub(crate) const fn worker_of_hash(ctx: &Context<'_>, hash: u32) -> WorkerId {
    WorkerId(((hash as u64 * ctx.ownership.workers_count as u64) >> 32) as u8)
}

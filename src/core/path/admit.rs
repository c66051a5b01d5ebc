//! Stage 4: a packet without a connection. Whose is it, and may it start one?
//!
//! In:  a packet that missed this worker's table.
//! Out: the service to schedule it for, or its verdict: hand it to the worker that owns its connection,
//!      or leave it to the kernel (which answers a stray TCP segment with RST and forwards the rest); or that the
//!      director answers it itself.
//! Ref: Linux net/netfilter/ipvs/ip_vs_proto_tcp.c `tcp_conn_schedule`, ip_vs_core.c `ip_vs_schedule`, `ip_vs_out`.

use std::net::IpAddr;

use crate::address::{Address, FlowKey};
use crate::headers::Headers;
use crate::ipvs::mark::Marked;
use crate::ipvs::protocol::tcp;
use crate::ipvs::service::{ServiceKey, VirtualService};
use crate::ipvs::service_table::PORT_FTP_DATA;
use crate::packet::Origin;
use crate::packet::Packet;
use crate::path::{ownership, reset};
use crate::verdict::Verdict;
use crate::wire::{sctp, tcp as tcp_wire};
use crate::worker_state::context::Context;

/// What to do with a packet that has no connection here.
pub(crate) enum Admission<'a> {
    /// Nothing to schedule.
    Decided(Verdict),
    /// It may start a connection to this service.
    Schedule(&'a VirtualService),
    /// A real server's packet that belongs to no connection: it is answered with an ICMP error.
    Refuse,
    /// A client's segment that belongs to no connection: it is answered with a TCP reset.
    Reset,
}

/// A service, and whether it takes packets to addresses that are not the director's.
struct Found<'a> {
    service: &'a VirtualService,
    divert: bool,
}

/// See the module.
#[inline(always)]
pub(crate) fn admit<'a, A: Address, F>(ctx: &mut Context<'a>, packet: &Packet<'_, A, F>) -> Admission<'a> {
    let (headers, key) = (&packet.headers, packet.key);
    let snapshot = ctx.snapshot;
    let found = find(ctx, ctx.snapshot.marks.classify(ctx.device, key), key);
    if let Some(place) = ownership::place(ctx, found.as_ref().map(|found| found.service), key)
        && !ctx.ownership.is_handoff
    {
        // The pieces of a datagram come where their addresses say, without ports, and the host's packets to any worker.
        if packet.origin == Origin::Whole && !ctx.from_host {
            ownership::count(ctx, place, key);
        }
        if place.owner != ctx.ownership.worker {
            return Admission::Decided(Verdict::Handoff(place.owner));
        }
    }
    let starts = found.is_some() && may_start(ctx, headers, key);
    if let Some(Found { service, .. }) = found
        && !starts
        && let Some(former) = ownership::former_owner(ctx, service, key)
    {
        return Admission::Decided(Verdict::Handoff(former));
    }
    match found {
        // Like the kernel's LOCAL_IN hook: a service on an address the director does not have is not seen.
        Some(Found { service, divert })
            if (starts || is_reset(ctx, service, packet))
                && (divert || is_local(ctx, key.dst.addr))
                && (ctx.from_host || !is_martian(ctx, key.src.addr)) =>
        {
            if starts {
                Admission::Schedule(service)
            } else {
                Admission::Reset
            }
        }
        None if snapshot.sysctls.nat_icmp_send && is_stray_reply(ctx, headers, key) => Admission::Refuse,
        _ => Admission::Decided(Verdict::Punt),
    }
}

/// Whether a packet of no connection, which starts none, is answered with a reset. A service of every port, and FTP for
/// what may be its data, cover ports from which the director's own programs speak: those segments are the kernel's,
/// which resets what it does not know either.
fn is_reset<A: Address, F>(ctx: &Context<'_>, service: &VirtualService, packet: &Packet<'_, A, F>) -> bool {
    let key = packet.key;
    let names_it = match service.key {
        ServiceKey::Address { port, .. } => port == key.dst.port,
        ServiceKey::Fwmark { .. } => true,
    };
    reset::is_due(ctx, service, packet)
        && names_it
        && key.src.port != PORT_FTP_DATA
        && ownership::is_last_to_look(ctx, service, key)
}

/// Whether the address is the director's own.
fn is_local<A: Address>(ctx: &mut Context<'_>, addr: A) -> bool {
    let l3 = &ctx.snapshot.l3;
    ctx.l3_memory
        .cache
        .locals
        .get_or_look_up(l3, addr.to_ip(), || l3.is_local(addr))
}

/// What `schedule_icmp` asks: who takes a connection that an ICMP error quotes a reply of? `error_flow` is
/// the flow of the error itself, which is what marks are given to; `key` that of the connection's client.
pub(crate) fn admit_error<'a, A: Address>(
    ctx: &Context<'a>,
    error_flow: &FlowKey<A>,
    key: &FlowKey<A>,
) -> Option<Admission<'a>> {
    let marked = ctx.snapshot.marks.classify(ctx.device, error_flow);
    let Found { service, divert } = find(ctx, marked, key)?;
    let is_heard = divert || ctx.snapshot.l3.is_local(error_flow.dst.addr);
    if !is_heard || key.src.port == PORT_FTP_DATA {
        return None;
    }
    Some(match ownership::other(ctx, Some(service), key) {
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

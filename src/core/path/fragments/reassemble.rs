//! Stage 2, fragments: the datagram is put together, takes the path of any packet, and leaves in pieces again.
//!
//! In:  a fragment that may belong to one of our connections. Ports are in the first one only, which may come last.
//! Out: [`Verdict::Consumed`] until the datagram is whole; then its pieces, rewritten, with the verdict of the whole.
//!      Of an incomplete one the sender gets an error when its time is over. Fragments of others are the kernel's.
//!      Drops: `fragment_duplicate`, `fragment_overlap`, `fragment_timeout`, `fragment_malformed`.
//! Never: keeps a buffer of the worker's, takes part of a datagram whose fragments overlap.
//! Many workers: a hash of the fields that all fragments share selects the worker that reassembles the datagram. If
//! another worker owns the connection, this worker hands the fragments off to it, and the owner reassembles them again.
//! Ref:  RFC 791 3.2, RFC 8200 4.5, RFC 5722; Linux net/ipv4/ip_fragment.c, nf_conntrack_reasm.c.

use crate::address::{Address, AddressFamily, FlowKey};
use crate::frame::Frame;
use crate::headers::Headers;
use crate::limits::FRAGMENTS_PER_DATAGRAM_MAX;
use crate::packet::{Origin, Packet};
use crate::path::classify::is_balanced;
use crate::path::forward::resolve;
use crate::path::forward::rewrite;
use crate::path::fragments::cut::{self, Cuts};
use crate::path::icmp::answer::Answer;
use crate::path::icmp::build::IcmpError;
use crate::path::icmp::{answer, relay};
use crate::path::ownership;
use crate::path::parse::{self, Parsed};
use crate::path::slow_path;
use crate::path::stack::checks;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{icmp, ipv6};
use crate::worker_state::context::in_family;
use crate::worker_state::context::{Context, Families};
use crate::worker_state::reassembly::piece::Piece;
use crate::worker_state::reassembly::{Assembled, Datagram, Reassembly};

/// See the module.
#[cold]
pub(crate) fn fragment<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    families: &mut Families,
    packet: &Packet<'_, A, F>,
) -> Verdict {
    if !concerns_us(ctx, &packet.headers, packet.key) || is_spent(ctx, packet) {
        return Verdict::Punt;
    }
    if checks::is_from_elsewhere(ctx, packet) {
        return Verdict::Drop(DropReason::ReversePath);
    }
    if !checks::may_forward(ctx, packet) {
        return Verdict::Drop(DropReason::NotForwarding);
    }
    let frame = packet.frame.bytes();
    let piece = match Piece::read(frame, &packet.headers, packet.key) {
        Ok(piece) => piece,
        Err(reason) => return Verdict::Drop(reason),
    };
    let owner = ownership::worker_of_hash(ctx.ownership.workers_count, piece.key.hash(ctx.ownership.secret));
    if owner != ctx.ownership.worker && !ctx.ownership.is_handoff {
        return Verdict::Handoff(owner);
    }
    // The worker that reassembled the datagram handed its fragments off to us: we own the connection, whatever the
    // tables say.
    let is_final = owner != ctx.ownership.worker;
    let Some(slot) = families.reassembly.slot(&piece.key, ctx.now) else {
        return Verdict::Drop(DropReason::FragmentMalformed);
    };
    match families.reassembly.add(slot, frame, &piece) {
        Ok(false) => Verdict::Consumed,
        Ok(true) => whole(ctx, families, slot, is_final),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Whether a packet between these hosts can be one of a service's.
fn concerns_us<A: Address>(ctx: &Context<'_>, headers: &Headers, key: &FlowKey<A>) -> bool {
    let services = &ctx.snapshot.services;
    let is_icmp = matches!(headers.protocol, icmp::PROTOCOL_V4 | icmp::PROTOCOL_V6);
    (is_icmp || is_balanced(headers.protocol))
        && (services.has_vip(key.dst.addr)
            || services.is_local_address(key.dst.addr)
            || services.is_nat_server_address(key.src.addr)
            || ctx.snapshot.marks.may_mark(ctx.device, key))
}

/// Whether the kernel would not forward an IPv4 fragment, so that it never gets to put the datagram together.
fn is_spent<A: Address, F>(ctx: &Context<'_>, packet: &Packet<'_, A, F>) -> bool {
    A::FAMILY == AddressFamily::Ipv4 && packet.headers.ttl <= 1 && !ctx.snapshot.l3.is_local(packet.key.dst.addr)
}

/// The datagram in `slot` is complete.
fn whole(ctx: &mut Context<'_>, families: &mut Families, slot: usize, is_final: bool) -> Verdict {
    let mut reassembly = std::mem::take(&mut families.reassembly);
    let mut received = [0; FRAGMENTS_PER_DATAGRAM_MAX];
    let verdict = match reassembly.assemble(slot, &mut received) {
        Some(mut assembled) => {
            let was_handoff = std::mem::replace(&mut ctx.ownership.is_handoff, is_final);
            let (verdict, longest) = process(ctx, families, &mut assembled);
            ctx.ownership.is_handoff = was_handoff;
            leave(ctx, &assembled, longest, verdict)
        }
        None => Verdict::Drop(DropReason::FragmentMalformed),
    };
    reassembly.free(slot);
    families.reassembly = reassembly;
    verdict
}

/// What becomes of a whole datagram, and the bytes of the longest piece that it may leave in.
fn process(ctx: &mut Context<'_>, families: &mut Families, assembled: &mut Assembled<'_>) -> (Verdict, u16) {
    let longest = assembled.longest;
    let (mut headers, flow) = match parse::parse(assembled.datagram.bytes()) {
        Ok(Parsed::Ip(headers, flow)) => (headers, flow),
        Ok(Parsed::Other) => return (Verdict::Drop(DropReason::FragmentMalformed), longest),
        Err(reason) => return (Verdict::Drop(reason), longest),
    };
    headers.dont_fragment = assembled.dont_fragment;
    in_family!(&flow, |key| {
        let mut packet = Packet {
            headers,
            key,
            frame: &mut assembled.datagram,
            origin: Origin::Reassembled { longest },
        };
        let verdict = if is_balanced(headers.protocol) {
            let table = &mut families.of(key).table;
            let found = table.lookup(key);
            slow_path::process(ctx, table, found, &mut packet)
        } else {
            relay::icmp_error(ctx, families, &mut packet)
        };
        let Origin::Reassembled { longest } = packet.origin else {
            return (verdict, longest);
        };
        (verdict, longest)
    })
}

/// Sends the pieces of a datagram with the verdict of the whole. Where they were cut stays only where it stays in
/// the kernel: not in IPv4 to the director itself (which joins the buffers), nor in IPv6 where buffers are copied. IPv6
/// is never cut below the smallest MTU; what fits it leaves as one fragment.
fn leave(ctx: &mut Context<'_>, assembled: &Assembled<'_>, longest: u16, verdict: Verdict) -> Verdict {
    let frame = assembled.datagram.bytes();
    let whole_up_to = longest;
    let is_forwarded = matches!(verdict, Verdict::Transmit(_) | Verdict::Hold(_));
    let (longest, keeps_cuts) = if !is_forwarded {
        (longest, true)
    } else if longest == u16::MAX {
        (longest, false)
    } else if assembled.is_ipv6 && is_ipv4(frame) {
        (longest, true)
    } else if assembled.is_ipv6 {
        let keeps = if assembled.is_wrapped() {
            assembled.keeps_pieces_in_tunnel
        } else {
            assembled.keeps_pieces
        };
        (longest.max(ipv6::MTU_MIN), keeps)
    } else {
        (longest, !assembled.dst.is_some_and(|dst| ctx.snapshot.l3.is_local(dst)))
    };
    let cuts = Cuts {
        longest,
        whole_up_to,
        as_received: if keeps_cuts { assembled.received } else { &[] },
    };
    cut::in_pieces(ctx, frame, &cuts, verdict)
}

/// Whether an outer IPv4 header stands in front of a datagram.
fn is_ipv4(frame: &[u8]) -> bool {
    frame
        .get(usize::from(resolve::L3_OFFSET))
        .is_some_and(|first| first >> 4 == 4)
}

/// Gives up datagrams whose time is over; the sender gets an error when the first fragment came in (RFC 792, RFC 4443
/// 3.3).
pub(crate) fn expire(ctx: &mut Context<'_>, reassembly: &mut Reassembly) {
    while let Some(slot) = reassembly.next_expired(ctx.now) {
        if let Some(mut datagram) = reassembly.first_fragment(slot) {
            answer_sender(ctx, &mut datagram);
        }
        reassembly.free(slot);
    }
}

fn answer_sender(ctx: &mut Context<'_>, datagram: &mut Datagram<'_>) {
    let Ok(Parsed::Ip(headers, flow)) = parse::parse(datagram.bytes()) else {
        return;
    };
    let verdict = in_family!(&flow, |key| time_exceeded(
        ctx,
        &mut Packet::whole(headers, key, datagram)
    ));
    if matches!(verdict, Verdict::Transmit(_) | Verdict::Hold(_)) {
        // Without space the sender gets no error, as without budget.
        let _ = ctx.out.generated.push(verdict, &[datagram.bytes()]);
    }
}

fn time_exceeded<A: Address>(ctx: &mut Context<'_>, packet: &mut Packet<'_, A, Datagram<'_>>) -> Verdict {
    let reason = DropReason::FragmentTimeout;
    let source = if ctx.snapshot.l3.is_local(packet.key.dst.addr) {
        packet.key.dst.addr
    } else if let Some(own) = ctx.snapshot.l3.source_for(packet.key.src.addr) {
        if A::FAMILY == AddressFamily::Ipv4 {
            // The kernel puts a server's IPv4 datagram together when it is about to forward it.
            rewrite::decrement_ttl(packet.frame.bytes_mut(), &packet.headers);
        }
        own
    } else {
        return Verdict::Drop(reason);
    };
    let answer = Answer {
        error: IcmpError::ReassemblyTimeExceeded,
        source,
        reason,
    };
    answer::send(ctx, packet, &answer)
}

#[cfg(test)]
mod tests;

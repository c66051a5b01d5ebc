//! Beside the packets' way: a packet waited for its next hop in vain, and its sender is told.
//!
//! In:  a held frame, complete but for its MAC addresses.
//! Out: in its place ICMP host unreachable about the packet as its sender knows it: to the client in the name of
//!      the VIP (NAT, FULLNAT) or of the director (DR), to the real server about a silent client. Else a named drop.
//! Never: changes a connection.
//! Ref:  Linux net/ipv4/route.c `ipv4_link_failure`; the error goes through ip_vs_core.c `ip_vs_out_icmp`, `ip_vs_in_icmp`.

use crate::address::{Address, AddressFamily, Endpoint, FlowKey};
use crate::frame::Frame;
use crate::headers::{Flow, Fragment, Headers};
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{Conn, Direction};
use crate::ipvs::forwarding::ForwardingMode;
use crate::l3::DeviceId;
use crate::path::classify::is_balanced;
use crate::path::forward::rewrite;
use crate::path::icmp::build::IcmpError;
use crate::path::icmp::{answer, relay, relay_tunnel};
use crate::path::parse::{Parsed, parse};
use crate::tick::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ipv4::Ipv4Header;
use crate::worker_state::WorkerState;
use crate::worker_state::context::Context;

/// See the module. `device` is that of the silent neighbour.
#[cold]
pub fn give_up<F: Frame>(worker: &mut WorkerState, device: DeviceId, now: Tick, frame: &mut F) -> Verdict {
    let (mut ctx, families) = worker.context(device, now, true);
    let Ok(Parsed::Ip(headers, flow)) = parse(frame.bytes()) else {
        return Verdict::Drop(DropReason::NeighbourFailed);
    };
    let told = match &flow {
        _ if !is_balanced(headers.protocol) || headers.fragment == Fragment::Later => None,
        Flow::V4(key) => tell(&mut ctx, &mut families.v4.table, &headers, key, frame),
        Flow::V6(key) => tell(&mut ctx, &mut families.v6.table, &headers, key, frame),
    };
    told.unwrap_or_else(|| {
        if headers.family == AddressFamily::Ipv4 {
            relay_tunnel::count_undelivered(&ctx, &families.v4.table, &headers, frame.bytes());
        }
        Verdict::Drop(DropReason::NeighbourFailed)
    })
}

/// `None` when the packet is of no connection.
fn tell<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    headers: &Headers,
    key: &FlowKey<A>,
    frame: &mut F,
) -> Option<Verdict> {
    let back = key.reversed();
    let (error, reason) = (IcmpError::HostUnreachable, DropReason::NeighbourFailed);
    match table.lookup(&back) {
        Some((index, Direction::Outbound)) => {
            let conn = table.conn(index);
            let (sent, vip) = (conn.inbound_key(), conn.virt.addr);
            set_ends(frame.bytes_mut(), headers, sent.src, sent.dst);
            let verdict = answer::answer(ctx, headers, &sent, frame, error, vip, reason);
            count_to_client(ctx, conn, frame, verdict);
            Some(verdict)
        }
        Some((index, Direction::Inbound)) => {
            let conn = table.conn(index);
            let sent = conn.outbound_key();
            let speaker = if conn.local == conn.client {
                conn.virt
            } else {
                conn.local
            };
            set_ends(frame.bytes_mut(), headers, sent.src, sent.dst);
            let verdict = answer::answer(ctx, headers, &sent, frame, error, speaker.addr, reason);
            count_to_server(ctx, conn, frame, verdict);
            Some(verdict)
        }
        None => {
            let (index, _) = table.lookup(key)?;
            let conn = table.conn(index);
            if conn.mode() != ForwardingMode::DirectRouting {
                return None;
            }
            let source = ctx.snapshot.l3.source_for(key.src.addr)?;
            let verdict = answer::answer(ctx, headers, key, frame, error, source, reason);
            count_to_client(ctx, conn, frame, verdict);
            Some(verdict)
        }
    }
}

fn count_to_client<A: Address, F: Frame>(ctx: &Context<'_>, conn: &Conn<A>, frame: &F, verdict: Verdict) {
    if !matches!(verdict, Verdict::Drop(_)) {
        relay::count_out(ctx, conn, answer::sent_len(frame.bytes()));
    }
}

/// The kernel sends it to the VIP, itself, and forwards it as any error about the connection: one hop more.
fn count_to_server<A: Address, F: Frame>(ctx: &Context<'_>, conn: &Conn<A>, frame: &mut F, verdict: Verdict) {
    if matches!(verdict, Verdict::Drop(_)) {
        return;
    }
    ctx.own
        .server(conn.real_server)
        .count(Direction::Inbound, answer::sent_len(frame.bytes()) as u64);
    if let Ok(Parsed::Ip(headers, _)) = parse(frame.bytes()) {
        rewrite::decrement_ttl(frame.bytes_mut(), &headers);
    }
}

/// Gives the packet back the ends that its sender gave it. The upper checksum stays, as in the kernel.
fn set_ends<A: Address>(frame: &mut [u8], headers: &Headers, src: Endpoint<A>, dst: Endpoint<A>) {
    rewrite::set_addresses(frame, headers.l3_offset, Some(src.addr), dst.addr);
    relay::set_ports(frame, headers.l4_offset, headers.packet_end, src.port, dst.port);
    if A::FAMILY == AddressFamily::Ipv4 {
        Ipv4Header::fill_checksum_at(frame, headers.l3_offset);
    }
}

//! Beside the packets' path: the neighbour that a packet waited for did not answer, and its sender gets an error.
//!
//! In:  a held frame, complete but for its MAC addresses.
//! Out: in its place ICMP host unreachable about the packet as its sender knows it: to the client in the name of
//!      the VIP (NAT, FULLNAT) or of the director (DR), to the real server about a silent client. Else a named drop.
//! Never: changes a connection.
//! Ref:  Linux net/ipv4/route.c `ipv4_link_failure`; the error goes through ip_vs_core.c `ip_vs_out_icmp`, `ip_vs_in_icmp`.

use crate::address::{Address, AddressFamily, FlowKey};
use crate::frame::Frame;
use crate::headers::{Fragment, Headers};
use crate::ipvs::conn::Direction;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::forwarding::ForwardingMode;
use crate::l3::DeviceId;
use crate::packet::Packet;
use crate::path::classify::is_balanced;
use crate::path::forward::rewrite;
use crate::path::icmp::answer::Answer;
use crate::path::icmp::build::IcmpError;
use crate::path::icmp::{answer, relay_tunnel};
use crate::path::parse::{Parsed, parse};
use crate::tick::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ipv4::Ipv4Header;
use crate::worker_state::context::Context;
use crate::worker_state::context::in_family;
use crate::worker_state::{Arrival, WorkerState};

/// See the module. `device` is that of the silent neighbour.
#[cold]
pub fn give_up<F: Frame>(worker: &mut WorkerState, device: DeviceId, now: Tick, frame: &mut F) -> Verdict {
    let (mut ctx, families) = worker.context(Arrival::handoff(device, now));
    let Ok(Parsed::Ip(headers, flow)) = parse(frame.bytes()) else {
        return Verdict::Drop(DropReason::NeighbourFailed);
    };
    let answered = if is_balanced(headers.protocol) && headers.fragment != Fragment::Later {
        in_family!(&flow, |key| {
            let mut packet = Packet::whole(headers, key, frame);
            answer_sender(&mut ctx, &families.of(key).table, &mut packet)
        })
    } else {
        None
    };
    answered.unwrap_or_else(|| {
        if headers.family == AddressFamily::Ipv4 {
            relay_tunnel::count_undelivered(&ctx, &families.v4.table, &headers, frame.bytes());
        }
        Verdict::Drop(DropReason::NeighbourFailed)
    })
}

/// `None` when the packet is of no connection.
fn answer_sender<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &ConnTable<A>,
    packet: &mut Packet<'_, A, F>,
) -> Option<Verdict> {
    let back = packet.key.reversed();
    // As the packet was received, whom the error is from, and whom the error is counted for.
    let (conn, sent, source, direction) = match table.lookup(&back) {
        Some((index, Direction::Outbound)) => {
            let conn = table.conn(index);
            (conn, conn.inbound_key(), conn.virt().addr, Direction::Outbound)
        }
        Some((index, Direction::Inbound)) => {
            let conn = table.conn(index);
            let speaker = if conn.local() == conn.client() {
                conn.virt()
            } else {
                conn.local()
            };
            (conn, conn.outbound_key(), speaker.addr, Direction::Inbound)
        }
        None => {
            let (index, _) = table.lookup(packet.key)?;
            let conn = table.conn(index);
            if !matches!(conn.mode(), ForwardingMode::DirectRouting | ForwardingMode::Bypass) {
                return None;
            }
            let source = ctx.snapshot.l3.source_for(packet.key.src.addr)?;
            (conn, *packet.key, source, Direction::Outbound)
        }
    };
    if sent != *packet.key {
        set_ends(packet.frame.bytes_mut(), &packet.headers, &sent);
    }
    let answer = Answer {
        error: IcmpError::HostUnreachable,
        source,
        reason: DropReason::NeighbourFailed,
    };
    let mut packet = Packet::whole(packet.headers, &sent, &mut *packet.frame);
    let verdict = answer::send(ctx, &mut packet, &answer);
    if !matches!(verdict, Verdict::Drop(_)) {
        ctx.count(conn, direction, answer::sent_len(packet.frame.bytes()));
        if direction == Direction::Inbound {
            take_another_hop(packet.frame);
        }
    }
    Some(verdict)
}

/// The kernel sends an error for a real server to the VIP, itself, and forwards it as any error about the connection:
/// one hop more.
fn take_another_hop<F: Frame>(frame: &mut F) {
    if let Ok(Parsed::Ip(headers, _)) = parse(frame.bytes()) {
        rewrite::decrement_ttl(frame.bytes_mut(), &headers);
    }
}

/// Gives the packet back the ends that its sender gave it. The upper checksum stays, as in the kernel.
fn set_ends<A: Address>(frame: &mut [u8], headers: &Headers, sent: &FlowKey<A>) {
    rewrite::set_addresses(frame, headers.l3_offset, Some(sent.src.addr), sent.dst.addr);
    if let Some(segment) = frame.get_mut(usize::from(headers.l4_offset)..usize::from(headers.packet_end)) {
        rewrite::set_ports(segment, sent.src.port, sent.dst.port);
    }
    if A::FAMILY == AddressFamily::Ipv4 {
        Ipv4Header::fill_checksum_at(frame, headers.l3_offset);
    }
}

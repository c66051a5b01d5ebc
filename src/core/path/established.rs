//! Steps 6 and 7 in order for a packet that has a connection: count it, follow its protocol, send it on.
//!
//! Order of the kernel: `ip_vs_in` counts and changes state before it looks at TTL and MTU, so a packet
//! that expires here still made or moved its connection. On the way back the stack's `ip_forward` comes
//! first, so there TTL and MTU are looked at before anything is counted.

use std::net::IpAddr;

use crate::address::{Addr4, Addr6, Address, AddressFamily, FlowKey};
use crate::counters::SingleWriter;
use crate::frame::Frame;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{Conn, ConnIndex, Direction, FLAG_CONTROLLED, FLAG_NO_OUTPUT};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::protocol::sctp::SctpState;
use crate::ipvs::protocol::tcp::TcpState;
use crate::ipvs::real_server::RealServerId;
use crate::path::forward::rewrite::{self, Rewrite};
use crate::path::forward::tunnel;
use crate::path::headers::Headers;
use crate::path::icmp::IcmpError;
use crate::path::resolve::{self, Obstacle, Way};
use crate::path::verdict::{DropReason, Verdict};
use crate::path::{reply, track};
use crate::wire::checksum::complement;
use crate::wire::ethernet::{ETHERTYPE_VLAN, EthernetHeader};
use crate::wire::vlan::VlanTag;
use crate::wire::{sctp, tcp};
use crate::worker_state::Step;

/// A packet of a known connection, on its way to its verdict.
pub(crate) struct Known<'a, A: Address> {
    pub(crate) index: ConnIndex,
    pub(crate) headers: &'a Headers,
    pub(crate) key: &'a FlowKey<A>,
}

/// Whether a client's packet of the connection at `index` must begin anew: the connection is gone then
/// (`ip_vs_in`: `is_new_conn_expected`, `expire_nodest_conn`).
#[inline]
pub(crate) fn gives_way<A: Address>(
    step: &Step<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    headers: &Headers,
) -> bool {
    let plain = headers.tcp_flags & tcp::SYN == 0 && headers.protocol != sctp::PROTOCOL;
    if plain && !step.snapshot.sysctls.expire_nodest_conn {
        return false;
    }
    let must = is_over(step, table.conn(index), headers);
    if must {
        track::forget(step, table, index);
    }
    must
}

#[cold]
fn is_over<A: Address>(step: &Step<'_>, conn: &Conn<A>, headers: &Headers) -> bool {
    let sysctls = &step.snapshot.sysctls;
    let slot = step.snapshot.services.real_server(RealServerId(conn.real_server));
    let begins = headers.tcp_flags & tcp::SYN != 0 || headers.sctp_chunk == sctp::CHUNK_INIT;
    let is_nodest = match slot {
        Some(slot) => !slot.available || begins && slot.server.weight == 0,
        None => true,
    };
    if sysctls.expire_nodest_conn && is_nodest {
        return true;
    }
    let mode = sysctls.conn_reuse_mode;
    if !begins || mode == 0 || conn.flags & FLAG_CONTROLLED != 0 {
        return false;
    }
    match headers.protocol {
        tcp::PROTOCOL => match TcpState::from_u8(conn.state) {
            Some(TcpState::TimeWait | TcpState::Close) => true,
            Some(TcpState::FinWait) => mode & 2 != 0 && conn.flags & FLAG_NO_OUTPUT != 0,
            _ => false,
        },
        _ => conn.state == SctpState::Closed as u8,
    }
}

/// Client → real server.
#[inline]
pub(crate) fn inbound<A: Address, F: Frame>(
    step: &mut Step<'_>,
    table: &mut ConnTable<A>,
    packet: &Known<'_, A>,
    frame: &mut F,
) -> Verdict {
    let headers = packet.headers;
    let conn = table.conn_mut(packet.index);
    let id = RealServerId(conn.real_server);
    let Some(slot) = step.snapshot.services.real_server(id).filter(|slot| slot.available) else {
        return Verdict::Drop(DropReason::RealServerGone);
    };
    conn.last_seen = step.now;
    conn.in_packets = conn.in_packets.wrapping_add(1);
    let counters = step.own.server(id);
    counters.in_packets.add(1);
    counters.in_bytes.add(headers.packet_len() as u64);
    track::packet(step, table, packet.index, Direction::Inbound, headers);

    let conn = table.conn_mut(packet.index);
    let server = slot.server.addr;
    let way = match resolve::way(step, conn, Direction::Inbound, server) {
        Ok(way) => way,
        Err(Obstacle::Local) => return to_local_server(conn),
        // Towards real servers the kernel tells the client even when the route says blackhole.
        Err(Obstacle::Drop(_) | Obstacle::Unreachable) => {
            let mode = ForwardingMode::from_u8(conn.mode);
            let verdict = refuse(step, packet, frame, IcmpError::HostUnreachable, DropReason::NoRoute);
            return count_refusal(step, id, mode, frame, verdict);
        }
    };
    let mode = ForwardingMode::from_u8(conn.mode);
    if headers.ttl <= 1 {
        let verdict = refuse(step, packet, frame, IcmpError::TimeExceeded, DropReason::TtlExpired);
        return count_refusal(step, id, mode, frame, verdict);
    }
    let mtu = match mode {
        ForwardingMode::Tunnel => way.hop.mtu.saturating_sub(tunnel::overhead(AddressFamily::of(&server))),
        _ => way.hop.mtu,
    };
    if headers.packet_len() > usize::from(mtu) {
        let verdict = too_big(step, packet, frame, mtu);
        return count_refusal(step, id, mode, frame, verdict);
    }
    match mode {
        ForwardingMode::Nat | ForwardingMode::FullNat => {
            let rewrite = Rewrite {
                src: conn.local,
                dst: conn.real,
                l3_delta: conn.l3_delta,
                l4_delta: conn.l4_delta,
            };
            rewrite::apply(frame.bytes_mut(), headers, &rewrite);
            resolve::depart(frame, headers, A::FAMILY, &way)
        }
        ForwardingMode::DirectRouting | ForwardingMode::Local => {
            rewrite::decrement_ttl(frame.bytes_mut(), headers);
            resolve::depart(frame, headers, A::FAMILY, &way)
        }
        ForwardingMode::Tunnel => into_tunnel(step, headers, frame, server, &way),
    }
}

/// Real server → client, in NAT and FULLNAT.
#[inline]
pub(crate) fn outbound<A: Address, F: Frame>(
    step: &mut Step<'_>,
    table: &mut ConnTable<A>,
    packet: &Known<'_, A>,
    frame: &mut F,
) -> Verdict {
    let headers = packet.headers;
    let conn = table.conn_mut(packet.index);
    let way = match resolve::way(step, conn, Direction::Outbound, conn.client.addr.to_ip()) {
        Ok(way) => way,
        Err(Obstacle::Local) => return Verdict::Drop(DropReason::NoRoute),
        Err(Obstacle::Drop(reason)) => return Verdict::Drop(reason),
        Err(Obstacle::Unreachable) => {
            return refuse_as_router(step, packet, frame, IcmpError::HostUnreachable, DropReason::NoRoute);
        }
    };
    if headers.ttl <= 1 {
        return refuse_as_router(step, packet, frame, IcmpError::TimeExceeded, DropReason::TtlExpired);
    }
    if headers.packet_len() > usize::from(way.hop.mtu) {
        return match too_big_error(headers, way.hop.mtu) {
            Some(error) => refuse_as_router(step, packet, frame, error, DropReason::MtuExceeded),
            None => Verdict::Drop(DropReason::MtuExceeded),
        };
    }
    let id = RealServerId(conn.real_server);
    let rewrite = Rewrite {
        src: conn.virt,
        dst: conn.client,
        l3_delta: complement(conn.l3_delta),
        l4_delta: complement(conn.l4_delta),
    };
    conn.last_seen = step.now;
    if step
        .snapshot
        .services
        .real_server(id)
        .is_some_and(|slot| slot.available)
    {
        let counters = step.own.server(id);
        counters.out_packets.add(1);
        counters.out_bytes.add(headers.packet_len() as u64);
    }
    track::packet(step, table, packet.index, Direction::Outbound, headers);
    rewrite::apply(frame.bytes_mut(), headers, &rewrite);
    resolve::depart(frame, headers, A::FAMILY, &way)
}

/// The director itself is the real server. Its stack takes DR and TUN connections as they are, because
/// the VIP is its own; a rewritten one could not be brought back, as the reply never enters a device.
#[cold]
fn to_local_server<A: Address>(conn: &Conn<A>) -> Verdict {
    match ForwardingMode::from_u8(conn.mode) {
        ForwardingMode::Nat | ForwardingMode::FullNat => Verdict::Drop(DropReason::LocalRealServer),
        _ => Verdict::Punt,
    }
}

fn into_tunnel<F: Frame>(step: &mut Step<'_>, headers: &Headers, frame: &mut F, server: IpAddr, way: &Way) -> Verdict {
    let l3 = &step.snapshot.l3;
    let source = match server {
        IpAddr::V4(v4) => l3.source_for(Addr4(v4.octets())).map(Address::to_ip),
        IpAddr::V6(v6) => l3.source_for(Addr6(v6.octets())).map(Address::to_ip),
    };
    let Some(source) = source else {
        return Verdict::Drop(DropReason::NoRoute);
    };
    let identification = step.random.next_u32() as u16;
    match tunnel::encapsulate(
        frame,
        headers,
        source,
        server,
        identification,
        step.snapshot.sysctls.pmtu_disc,
    ) {
        Ok(()) => resolve::depart_from(frame, resolve::L3_OFFSET, AddressFamily::of(&server), way),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Larger than fits: the sender is told, or (IPv4 without DF) the packet is dropped by name.
#[cold]
fn too_big<A: Address, F: Frame>(step: &mut Step<'_>, packet: &Known<'_, A>, frame: &mut F, mtu: u16) -> Verdict {
    match too_big_error(packet.headers, mtu) {
        Some(error) => refuse(step, packet, frame, error, DropReason::MtuExceeded),
        None => Verdict::Drop(DropReason::MtuExceeded),
    }
}

const fn too_big_error(headers: &Headers, mtu: u16) -> Option<IcmpError> {
    if headers.dont_fragment {
        Some(IcmpError::FragmentationNeeded { mtu })
    } else {
        None
    }
}

/// The director's own ICMP errors pass IPVS on their way out, which finds DR and TUN connections by the VIP
/// and counts them as replies (`ip_vs_out_icmp`).
#[cold]
fn count_refusal<F: Frame>(
    step: &Step<'_>,
    id: RealServerId,
    mode: ForwardingMode,
    frame: &F,
    verdict: Verdict,
) -> Verdict {
    let answered = matches!(verdict, Verdict::Transmit(_) | Verdict::Hold(_));
    if answered && !mode.sees_replies() {
        let octets = frame.bytes();
        let is_tagged = octets.get(12..14) == Some(&ETHERTYPE_VLAN.to_be_bytes());
        let l2_len = EthernetHeader::LEN + if is_tagged { VlanTag::LEN } else { 0 };
        let counters = step.own.server(id);
        counters.out_packets.add(1);
        counters.out_bytes.add(octets.len().saturating_sub(l2_len) as u64);
    }
    verdict
}

/// Answers a client's packet in the name of the VIP it was sent to.
#[cold]
fn refuse<A: Address, F: Frame>(
    step: &mut Step<'_>,
    packet: &Known<'_, A>,
    frame: &mut F,
    error: IcmpError,
    reason: DropReason,
) -> Verdict {
    reply::answer(
        step,
        packet.headers,
        packet.key,
        frame,
        error,
        packet.key.dst.addr,
        reason,
    )
}

/// Tells a real server that its packet belongs to no connection (`nat_icmp_send`).
#[cold]
pub(crate) fn refuse_stray<A: Address, F: Frame>(
    step: &mut Step<'_>,
    headers: &Headers,
    key: &FlowKey<A>,
    frame: &mut F,
) -> Verdict {
    // The stack was about to forward it: what is quoted has been through that.
    rewrite::decrement_ttl(frame.bytes_mut(), headers);
    let packet = Known {
        index: ConnIndex(0),
        headers,
        key,
    };
    refuse_as_router(
        step,
        &packet,
        frame,
        IcmpError::PortUnreachable,
        DropReason::NoConnection,
    )
}

/// Answers a real server's packet in the name of the director's address on that link.
#[cold]
fn refuse_as_router<A: Address, F: Frame>(
    step: &mut Step<'_>,
    packet: &Known<'_, A>,
    frame: &mut F,
    error: IcmpError,
    reason: DropReason,
) -> Verdict {
    match step.snapshot.l3.source_address::<A>(step.device) {
        Some(source) => reply::answer(step, packet.headers, packet.key, frame, error, source, reason),
        None => Verdict::Drop(reason),
    }
}

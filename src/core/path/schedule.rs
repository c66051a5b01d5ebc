//! Stage 5: the first packet of a connection. Which real server, which local address?
//!
//! In:  a packet that may start a connection, and its service.
//! Out: a new [`Conn`] in this worker's table, through which the packet goes on like any other; or the
//!      refusal that the kernel would send, or a named drop.
//! Never: touches packet bytes except to answer a refusal.
//! Ref: Linux net/netfilter/ipvs/ip_vs_core.c `ip_vs_schedule`, `ip_vs_leave`, ip_vs_conn.c `ip_vs_conn_new`.

pub(crate) mod local_end;
pub(crate) mod persist;

use crate::address::{Address, Endpoint, FlowKey};
use crate::counters::WorkerCounters;
use crate::frame::Frame;
use crate::headers::Headers;
use crate::ipvs::conn::table::{ConnTable, InsertError};
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags, ConnIndex, ConnMut};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::load_board::LoadBoard;
use crate::ipvs::persistence::PORT_FTP;
use crate::ipvs::protocol;
use crate::ipvs::protocol::sctp::SctpState;
use crate::ipvs::protocol::tcp::TcpState;
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::resting_ports::Predecessor;
use crate::ipvs::scheduler::{self, FlowHint, Loads, Pick};
use crate::ipvs::service::{ServiceKey, VirtualService};
use crate::ipvs::service_table::ServiceTable;
use crate::limits::TIMEOUT_MAX_SEC;
use crate::packet::Packet;
use crate::path::client_address::own_isn;
use crate::path::forward::rewrite;
use crate::path::icmp::answer;
use crate::path::icmp::answer::Answer;
use crate::path::icmp::build::IcmpError;
use crate::path::schedule::local_end::LocalEnd;
use crate::path::slow_path;
use crate::path::{client_address, track};
use crate::single_writer::SingleWriter;
use crate::verdict::{DropReason, Verdict};
use crate::wire;
use crate::worker_state::context::Context;

/// Where a new connection goes.
pub(crate) struct Chosen<'s> {
    pub(crate) server: &'s RealServer,
    /// The real server's port for this connection.
    pub(crate) port: u16,
    /// The template that will control the connection.
    pub(crate) template: Option<ConnIndex>,
}

/// What a connection is to begin with.
pub(crate) struct Opening<'s, 'p, A: Address> {
    pub(crate) service: &'s VirtualService,
    /// Of the packet that begins it.
    pub(crate) headers: &'p Headers,
    /// The flow of the client's packets.
    pub(crate) key: &'p FlowKey<A>,
    /// The local end of the connection that ended with this packet of the same client.
    pub(crate) former: Option<Endpoint<A>>,
}

/// See the module.
pub(crate) fn first_packet<'s, A: Address, F: Frame>(
    ctx: &mut Context<'s>,
    table: &mut ConnTable<A>,
    (service, former): (&'s VirtualService, Option<Endpoint<A>>),
    packet: &mut Packet<'_, A, F>,
) -> Verdict {
    let opening = Opening {
        service,
        headers: &packet.headers,
        key: packet.key,
        former,
    };
    match begin(ctx, table, &opening) {
        Ok(index) => {
            let verdict = slow_path::inbound(ctx, table, index, packet);
            if !end_one_packet(ctx, table, index) && service.scheduler.is_measured() {
                track::time_response(ctx, &mut table.both_mut(index));
            }
            verdict
        }
        Err(Refusal::NoServer) => leave(ctx, service, packet),
        Err(Refusal::Drop(reason)) => Verdict::Drop(reason),
    }
}

/// Why a service does not take a connection.
pub(crate) enum Refusal {
    /// No real server may have it.
    NoServer,
    /// See the reason.
    Drop(DropReason),
}

/// A new connection in `table` for a client's packet, which is still to be sent through it.
pub(crate) fn begin<'s, A: Address>(
    ctx: &mut Context<'s>,
    table: &mut ConnTable<A>,
    opening: &Opening<'s, '_, A>,
) -> Result<ConnIndex, Refusal> {
    let Opening { service, key, .. } = *opening;
    if ctx.defence.takes_packet() {
        return Err(Refusal::Drop(DropReason::DropPacketDefence));
    }
    let chosen = match &service.persistence {
        Some(persistence) => persist::choose(ctx, table, opening, persistence).map_err(Refusal::Drop)?,
        None if is_for(service, key.dst.port) => choose(ctx, service, key),
        None => None,
    };
    let chosen = chosen.ok_or(Refusal::NoServer)?;
    let local = if chosen.server.mode == ForwardingMode::FullNat {
        let found = local_end::choose(ctx, table, opening, &chosen);
        found.ok_or(Refusal::Drop(DropReason::LocalPortsExhausted))?
    } else {
        LocalEnd::of_client(key.src)
    };
    if let Some(holder) = local.holder() {
        track::forget(ctx, table, holder);
    }
    let conn = new_conn(ctx, opening, &chosen, local.end);
    let index = table
        .insert_at((&conn, &cold(service)), local.free, ctx.now)
        .map_err(|_: InsertError| Refusal::Drop(DropReason::ConnTableFull))?;
    if let Some(predecessor) = local.predecessor() {
        succeed(ctx, &mut table.both_mut(index), opening.headers, predecessor);
    }
    if let Some(template) = chosen.template {
        table.control(index, template);
    }
    ctx.own.server(chosen.server.id).connections.add(1);
    // Inactive until its protocol says otherwise (`ip_vs_bind_dest`).
    track::bind(ctx, chosen.server, false);
    Ok(index)
}

/// The local end of `conn` was another connection's, and has not rested since.
#[cold]
fn succeed<A: Address>(ctx: &mut Context<'_>, conn: &mut ConnMut<'_, A>, headers: &Headers, predecessor: &Predecessor) {
    ctx.own.count_unrested(conn.cold.service);
    own_isn::begin(ctx.random, conn, headers, predecessor);
}

/// A connection of one-packet scheduling ends with its packet. Whether it was one.
pub(crate) fn end_one_packet<A: Address>(ctx: &mut Context<'_>, table: &mut ConnTable<A>, index: ConnIndex) -> bool {
    let one_packet = table.conn(index).flags.contains(ConnFlags::ONE_PACKET);
    if one_packet {
        track::forget(ctx, table, index);
    }
    one_packet
}

/// Without persistence a service takes packets to exactly its port.
pub(crate) const fn is_for(service: &VirtualService, port: u16) -> bool {
    match service.spec.key {
        ServiceKey::Address { port: own, .. } => own == port,
        ServiceKey::Fwmark { .. } => true,
    }
}

fn choose<'s, A: Address>(ctx: &mut Context<'s>, service: &'s VirtualService, key: &FlowKey<A>) -> Option<Chosen<'s>> {
    let server = pick(ctx, service, key)?;
    let port = if server.port == 0 { key.dst.port } else { server.port };
    Some(Chosen {
        server,
        port,
        template: None,
    })
}

/// No real server may take it (`ip_vs_leave`).
#[cold]
fn leave<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    service: &VirtualService,
    packet: &mut Packet<'_, A, F>,
) -> Verdict {
    if is_left_to_the_kernel(ctx, service, packet.key) {
        return Verdict::Punt;
    }
    let answer = Answer {
        error: IcmpError::PortUnreachable,
        source: packet.key.dst.addr,
        reason: DropReason::NoRealServer,
    };
    answer::send(ctx, packet, &answer)
}

/// Whether the kernel gets a packet for which the service has no server. The kernel's stack answers the packet or
/// forwards it to the address that the client meant.
pub(crate) fn is_left_to_the_kernel<A: Address>(ctx: &Context<'_>, service: &VirtualService, key: &FlowKey<A>) -> bool {
    let may_be_another_service = service.key.port() == PORT_FTP && key.dst.port != PORT_FTP;
    let snapshot = ctx.snapshot;
    let bypasses = matches!(service.key, ServiceKey::Fwmark { .. })
        && snapshot.sysctls.cache_bypass
        && !snapshot.l3.is_local(key.dst.addr);
    may_be_another_service || bypasses
}

/// The server that the service's scheduler picks for a new client.
pub(crate) fn pick<'s, A: Address>(
    ctx: &mut Context<'s>,
    service: &'s VirtualService,
    key: &FlowKey<A>,
) -> Option<&'s RealServer> {
    ctx.own.scheduler_picks.add(1);
    let server = pick_uncounted(ctx, service, key)?;
    if service.scheduler.is_measured() {
        LoadBoard::assign(ctx.own, server);
    }
    Some(server)
}

/// The scheduler's pick, of which nothing is counted.
#[inline]
pub(crate) fn pick_uncounted<'s, A: Address>(
    ctx: &mut Context<'s>,
    service: &'s VirtualService,
    key: &FlowKey<A>,
) -> Option<&'s RealServer> {
    let own = usize::from(ctx.ownership.worker.0);
    ctx.scheduling.loads.look(service, ctx.counters, own, ctx.now);
    let loads = WorkersLoads {
        own: ctx.own,
        others: &ctx.scheduling.loads,
        services: &ctx.snapshot.services,
    };
    let state = ctx.scheduling.schedulers.get_mut(service.id.0 as usize)?;
    let sysctls = &ctx.snapshot.sysctls;
    let chosen = scheduler::pick(&mut Pick {
        service,
        state,
        flow: FlowHint::of(key),
        loads: &loads,
        localities: &mut ctx.scheduling.localities,
        now: ctx.now,
        lblc_lifetime_ms: lifetime_ms(sysctls.lblc_expiration),
        lblcr_lifetime_ms: lifetime_ms(sysctls.lblcr_expiration),
    })?;
    service.servers.get(chosen)
}

const fn lifetime_ms(sec: u32) -> u32 {
    let sec = if sec < TIMEOUT_MAX_SEC { sec } else { TIMEOUT_MAX_SEC };
    sec * 1_000
}

/// Loads of all workers: this one's as they are, the others' as they were seen last.
struct WorkersLoads<'a> {
    own: &'a WorkerCounters,
    others: &'a LoadBoard,
    services: &'a ServiceTable,
}

impl Loads for WorkersLoads<'_> {
    #[inline]
    fn active(&self, id: RealServerId) -> u32 {
        let own = self.own.server(id).active.get();
        own.wrapping_add(self.others.others(id).active)
    }

    #[inline]
    fn inactive(&self, id: RealServerId) -> u32 {
        let own = self.own.server(id).inactive.get();
        own.wrapping_add(self.others.others(id).inactive)
    }

    #[inline]
    fn overloaded(&self, id: RealServerId) -> bool {
        // A worker that set the mark may not have seen others' connections end since.
        (self.own.server(id).overloaded.get() != 0 || self.others.others(id).overloaded) && self.is_finished(id)
    }

    fn traffic(&self, id: RealServerId) -> u64 {
        self.others.traffic(id)
    }

    fn assigned(&self, id: RealServerId) -> u64 {
        let own = self.own.measured(id).assigned.get();
        u64::from(own) + u64::from(self.others.assigned_by_others(id))
    }

    fn response_us(&self, id: RealServerId) -> u64 {
        u64::from(self.others.response_us(id))
    }
}

impl WorkersLoads<'_> {
    #[cold]
    fn is_finished(&self, id: RealServerId) -> bool {
        let conns = self.active(id).wrapping_add(self.inactive(id));
        let slot = self.services.real_server(id);
        slot.is_some_and(|slot| slot.server.overloaded(true, conns))
    }
}

fn new_conn<A: Address>(
    ctx: &Context<'_>,
    opening: &Opening<'_, '_, A>,
    chosen: &Chosen<'_>,
    local: Endpoint<A>,
) -> Conn<A> {
    let Opening {
        service, headers, key, ..
    } = *opening;
    let server = chosen.server;
    // The connection cannot hold an address of the other family: a tunnel reads it from the server's slot.
    let real = Endpoint::new(A::from_ip(server.addr).unwrap_or_default(), chosen.port);
    let (mut l3_delta, mut l4_delta) = (0, 0);
    // FULLNAT replies could not be distinguished without a connection.
    let one_packet =
        service.one_packet && key.protocol == wire::udp::PROTOCOL && server.mode != ForwardingMode::FullNat;
    let mut flags = ConnFlags::INACTIVE;
    flags.set(ConnFlags::ONE_PACKET, one_packet);
    if server.mode.sees_replies() {
        flags.set(ConnFlags::OUTBOUND_INDEXED, !one_packet);
        (l3_delta, l4_delta) = rewrite::deltas(key.src, key.dst, local, real);
    } else {
        flags.insert(ConnFlags::NO_OUTPUT);
    }
    Conn {
        real_server: server.id,
        protocol: key.protocol,
        mode: server.mode as u8,
        flags,
        l3_delta,
        l4_delta,
        client_address: client_address::begin(service, server.mode, headers),
        // The timeout of the state that this packet leads to, so that the timer is armed once.
        timeout_ms: protocol::timeout_ms(&ctx.snapshot.timeouts, key.protocol, first_state(key.protocol)),
        ..Conn::between(key.src, key.dst, real, local)
    }
}

/// The other part of a connection or template of `service`.
pub(crate) fn cold(service: &VirtualService) -> ColdConn {
    ColdConn {
        service: service.id,
        fwmark: fwmark(service),
        ..ColdConn::default()
    }
}

/// The firewall mark of a service; 0 without.
const fn fwmark(service: &VirtualService) -> u32 {
    match service.spec.key {
        ServiceKey::Fwmark { mark, .. } => mark,
        ServiceKey::Address { .. } => 0,
    }
}

/// The state that a connection's first packet usually leads to.
const fn first_state(protocol: u8) -> u8 {
    match protocol {
        wire::tcp::PROTOCOL => TcpState::SynRecv as u8,
        wire::sctp::PROTOCOL => SctpState::Init1 as u8,
        _ => 0,
    }
}

//! Explains where a packet would go and why. It sends no packet and changes no state.
//!
//! In:  the description of a packet, on the worker that owns its connection.
//! Out: an [`Explanation`] with every decision that the path would take for the packet. The path's own functions take
//! these decisions. The module restores what they write (a scheduler's cursor, a count) before it returns.
//! Never: makes a connection, touches a timer, allocates.

use std::net::IpAddr;

use crate::address::{Addr4, Addr6, Address, AddressFamily, Endpoint, FlowKey};
use crate::conn_record::ConnRecord;
use crate::headers::Headers;
use crate::ipvs::conn::Direction;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::persistence;
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::service::{ServiceId, VirtualService};
use crate::l3::fib::RouteQuery;
use crate::l3::{DeviceId, Hop, NeighbourKey, Route};
use crate::packet::Packet;
use crate::path::admit::{self, Admission};
use crate::path::schedule::local_end::{self, LocalEnd};
use crate::path::schedule::{self, Chosen, Opening, persist};
use crate::path::slow_path;
use crate::tick::Tick;
use crate::verdict::{DropReason, Verdict, WorkerId};
use crate::wire::{sctp, tcp};
use crate::worker_state::context::{Context, Family};
use crate::worker_state::{Arrival, WorkerState};

/// The description of a packet. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The device on which the packet arrives.
    pub device: DeviceId,
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// Its source.
    pub src: (IpAddr, u16),
    /// Its destination.
    pub dst: (IpAddr, u16),
    /// Whether the packet begins a connection (SYN, INIT). Otherwise it belongs to the middle of one.
    pub begins: bool,
    /// Whether another worker handed the packet off. The path does not hand such a packet off again.
    pub is_handoff: bool,
}

/// The decisions that the path would take. A decision that the path would not reach is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The connection that the packet belongs to.
    pub conn: Option<ConnRecord>,
    /// Whether the packet is a reply of that connection.
    pub is_reply: bool,
    /// Whether that connection is finished, so that the path schedules the packet as a new connection.
    pub must_reschedule: bool,
    /// The mark that the classifier gives the packet.
    pub mark: Option<u32>,
    /// The service that the packet is for.
    pub service: Option<ServiceId>,
    /// The client's persistence template.
    pub template: Option<ConnRecord>,
    /// The real server that the packet goes to or comes from.
    pub server: Option<RealServerId>,
    /// The port of the real server.
    pub port: u16,
    /// The local address and port of a FULLNAT connection: the real server sees them as the source.
    pub local: Option<(IpAddr, u16)>,
    /// The end of the packet's path.
    pub end: End,
}

/// The end of a packet's path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// The packet leaves by this hop.
    Transmit(Hop),
    /// The packet waits until the kernel has resolved this neighbour.
    Hold(NeighbourKey),
    /// Another worker owns the packet's connection.
    Handoff(WorkerId),
    /// The kernel gets the packet, for the reason in [`Left`].
    Punt(Left),
    /// The path drops the packet or answers it with an ICMP error, for this reason.
    Drop(DropReason),
    /// The path answers the packet with a TCP reset.
    Reset,
    /// The addresses are of two families.
    #[default]
    Nonsense,
}

/// Why a packet is left to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The director has no service at all.
    NoServices,
    /// The director has no service for the packet's protocol, destination and mark.
    NoService,
    /// The director has the service, but not its address.
    NotLocal,
    /// The packet belongs to no connection and may not start one.
    StartsNothing,
    /// No real server may take the packet, and the kernel may answer or forward it.
    NoServer,
    /// The real server is the director itself.
    LocalServer,
    /// The route to the real server is not followed here, and the kernel forwards what is masqueraded.
    RouteElsewhere,
    /// The route to the client is not followed here, and the kernel forwards replies from an address of its own.
    ReplyElsewhere,
}

/// See the module.
pub fn explain(worker: &mut WorkerState, now: Tick, question: &Question) -> Explanation {
    let (ctx, families) = worker.context(Arrival {
        device: question.device,
        now,
        is_handoff: question.is_handoff,
    });
    if ctx.snapshot.services.is_empty() {
        return Explanation {
            end: End::Punt(Left::NoServices),
            ..Explanation::default()
        };
    }
    match AddressFamily::of(&question.dst.0) {
        AddressFamily::Ipv4 => of_family::<Addr4>(ctx, &mut families.v4, question),
        AddressFamily::Ipv6 => of_family::<Addr6>(ctx, &mut families.v6, question),
    }
}

fn of_family<A: Address>(mut ctx: Context<'_>, family: &mut Family<A>, question: &Question) -> Explanation {
    let (Some(src), Some(dst)) = (A::from_ip(question.src.0), A::from_ip(question.dst.0)) else {
        return Explanation::default();
    };
    let key = FlowKey {
        src: Endpoint::new(src, question.src.1),
        dst: Endpoint::new(dst, question.dst.1),
        protocol: question.protocol,
    };
    let headers = headers(question);
    let mut explanation = Explanation {
        mark: ctx.snapshot.marks.classify(ctx.device, &key).map(|marked| marked.mark),
        ..Explanation::default()
    };
    let (mut no_frame, table) = ((), &mut family.table);
    let packet = Packet::whole(headers, &key, &mut no_frame);
    let mut former = None;
    if let Some((index, direction)) = table.lookup(&key) {
        let conn = table.conn(index);
        explanation.conn = Some(ConnRecord::of(ctx.snapshot, table.both(index), ctx.now));
        explanation.is_reply = direction == Direction::Outbound;
        explanation.must_reschedule = !explanation.is_reply && slow_path::is_finished(&ctx, conn, &headers);
        if !explanation.must_reschedule {
            known(&ctx, &packet, &mut explanation);
            return explanation;
        }
        former = conn.former_end();
    }
    new(&mut ctx, table, (&packet, former), &mut explanation);
    explanation
}

fn headers(question: &Question) -> Headers {
    let flags = if question.begins { tcp::SYN } else { tcp::ACK };
    let is_tcp = question.protocol == tcp::PROTOCOL;
    let is_init = question.protocol == sctp::PROTOCOL && question.begins;
    Headers {
        protocol: question.protocol,
        tcp_flags: if is_tcp { flags } else { 0 },
        sctp_chunk: if is_init { sctp::CHUNK_INIT } else { 0 },
        ..Headers::default()
    }
}

/// Explains a packet of a known connection.
fn known<A: Address>(ctx: &Context<'_>, packet: &Packet<'_, A, ()>, explanation: &mut Explanation) {
    let Some(conn) = explanation.conn else { return };
    explanation.service = Some(conn.service);
    explanation.server = Some(conn.real_server);
    explanation.port = conn.real.1;
    if conn.mode == ForwardingMode::FullNat {
        explanation.local = Some(conn.local);
    }
    if explanation.is_reply {
        let query = RouteQuery::output(conn.client.0).from(conn.virt.0);
        explanation.end = match leave(ctx, &query, End::Drop(DropReason::NoRoute)) {
            End::Drop(DropReason::RouteElsewhere) if takes_replies(ctx, &query) => End::Punt(Left::ReplyElsewhere),
            end => end,
        };
        return;
    }
    explanation.end = match ctx.snapshot.services.real_server(conn.real_server) {
        Some(slot) if slot.available => {
            let maps = conn.real.1 != conn.virt.1;
            towards(ctx, &slot.server, (conn.mode, conn.virt.0), maps)
        }
        _ if slow_path::is_reset(ctx, packet) => End::Reset,
        _ => End::Drop(DropReason::RealServerGone),
    };
}

/// Whether the kernel forwards replies that it receives by the device from an address of its own.
fn takes_replies(ctx: &Context<'_>, query: &RouteQuery) -> bool {
    let l3 = &ctx.snapshot.l3;
    let receiver = l3.interface(ctx.device, 0);
    receiver.is_some_and(|receiver| l3.forwards_own(AddressFamily::of(&query.dst), receiver.id))
}

/// Explains a packet that has no connection.
fn new<A: Address>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    (packet, former): (&Packet<'_, A, ()>, Option<Endpoint<A>>),
    explanation: &mut Explanation,
) {
    let key = packet.key;
    let found = admit::service_of(ctx, key);
    explanation.service = found.map(|service| service.id);
    let service = match admit::admit(ctx, packet) {
        Admission::Schedule(service) => service,
        Admission::Reset => {
            explanation.end = End::Reset;
            return;
        }
        Admission::Refuse => {
            explanation.end = End::Drop(DropReason::NoConnection);
            return;
        }
        Admission::Decided(Verdict::Handoff(owner)) => {
            explanation.end = End::Handoff(owner);
            return;
        }
        Admission::Decided(_) => {
            explanation.end = End::Punt(match found {
                None => Left::NoService,
                Some(_) if ctx.snapshot.l3.is_local(key.dst.addr) => Left::StartsNothing,
                Some(_) => Left::NotLocal,
            });
            return;
        }
    };
    let opening = Opening {
        service,
        headers: &packet.headers,
        key,
        former,
    };
    let chosen = match choose(ctx, table, &opening, explanation) {
        Some(chosen) => chosen,
        None => {
            explanation.end = if schedule::is_left_to_the_kernel(ctx, service, key) {
                End::Punt(Left::NoServer)
            } else {
                End::Drop(DropReason::NoRealServer)
            };
            return;
        }
    };
    explanation.server = Some(chosen.server.id);
    explanation.port = chosen.port;
    if chosen.server.mode == ForwardingMode::FullNat {
        explanation.local = local_end(ctx, table, &opening, &chosen);
        if explanation.local.is_none() {
            explanation.end = End::Drop(DropReason::LocalPortsExhausted);
            return;
        }
    }
    explanation.end = if table.len() == table.capacity() {
        End::Drop(DropReason::ConnTableFull)
    } else {
        let maps = chosen.port != key.dst.port;
        towards(ctx, chosen.server, (chosen.server.mode, key.dst.addr.to_ip()), maps)
    };
}

/// Chooses the server of the client's template or, without a template, the server that the scheduler picks next.
fn choose<'s, A: Address>(
    ctx: &mut Context<'s>,
    table: &ConnTable<A>,
    opening: &Opening<'s, '_, A>,
    explanation: &mut Explanation,
) -> Option<Chosen<'s>> {
    let Opening { service, key, .. } = *opening;
    if let Some(persistence) = &service.persistence {
        let template_key = persistence::template_key(service, persistence, key.protocol, key.src.addr, key.dst);
        if let Some((index, _)) = table.lookup(&template_key) {
            explanation.template = Some(ConnRecord::of(ctx.snapshot, table.both(index), ctx.now));
            if let Some(server) = persist::server_of(ctx, table, index) {
                let port = persist::port_of(service, server, key);
                return Some(Chosen {
                    server,
                    port,
                    template: Some(index),
                });
            }
        }
        let server = picked(ctx, service, key)?;
        let port = persist::port_of(service, server, key);
        return Some(Chosen {
            server,
            port,
            template: None,
        });
    }
    if !schedule::is_for(service, key.dst.port) {
        return None;
    }
    let server = picked(ctx, service, key)?;
    let port = if server.port == 0 { key.dst.port } else { server.port };
    Some(Chosen {
        server,
        port,
        template: None,
    })
}

/// The scheduler's pick, and everything as it was before.
fn picked<'s, A: Address>(
    ctx: &mut Context<'s>,
    service: &'s VirtualService,
    key: &FlowKey<A>,
) -> Option<&'s RealServer> {
    let slot = service.id.0 as usize;
    let state = ctx.scheduling.schedulers.get(slot)?.clone();
    let places = ctx.scheduling.localities.keep(service.id, key.dst.addr.words());
    let server = schedule::pick_uncounted(ctx, service, key);
    ctx.scheduling
        .localities
        .put_back(service.id, key.dst.addr.words(), places);
    if let Some(changed) = ctx.scheduling.schedulers.get_mut(slot) {
        *changed = state;
    }
    server
}

/// The local end that the next connection gets; the cursor and what was chosen ahead are as they were before.
fn local_end<A: Address>(
    ctx: &mut Context<'_>,
    table: &ConnTable<A>,
    opening: &Opening<'_, '_, A>,
    chosen: &Chosen<'_>,
) -> Option<(IpAddr, u16)> {
    let slot = opening.service.id.0 as usize;
    let cursor = *ctx.scheduling.pools.get(slot)?;
    let server = chosen.server.id.0;
    let ahead = ctx.scheduling.ports_ahead.keep(server);
    let found = local_end::choose(ctx, table, opening, chosen);
    ctx.scheduling.ports_ahead.put_back(server, ahead);
    if let Some(changed) = ctx.scheduling.pools.get_mut(slot) {
        *changed = cursor;
    }
    found.map(|LocalEnd { end, .. }| (end.addr.to_ip(), end.port))
}

/// To a real server; `maps` when its port differs from the service's.
fn towards(ctx: &Context<'_>, server: &RealServer, (mode, virt): (ForwardingMode, IpAddr), maps: bool) -> End {
    match mode {
        ForwardingMode::Local => return End::Punt(Left::LocalServer),
        ForwardingMode::Bypass => return leave(ctx, &RouteQuery::output(virt), End::Drop(DropReason::NoRoute)),
        _ => {}
    }
    let masquerades = matches!(mode, ForwardingMode::Nat | ForwardingMode::FullNat);
    let local = if masquerades && maps {
        End::Drop(DropReason::LocalRealServer)
    } else {
        End::Punt(Left::LocalServer)
    };
    let query = match mode {
        ForwardingMode::Tunnel => ctx.snapshot.l3.tunnel_query(server.addr),
        _ => RouteQuery::output(server.addr),
    };
    match leave(ctx, &query, local) {
        End::Drop(DropReason::RouteElsewhere) if mode == ForwardingMode::Nat => End::Punt(Left::RouteElsewhere),
        end => end,
    }
}

fn leave(ctx: &Context<'_>, query: &RouteQuery, local: End) -> End {
    let l3 = &ctx.snapshot.l3;
    match l3.resolve(query) {
        Route::Hop(id) => End::Transmit(*l3.hop(id)),
        Route::Unresolved(neighbour) | Route::NeighbourFailed(neighbour) => End::Hold(neighbour),
        Route::Local => local,
        Route::Unreachable | Route::Blackhole => End::Drop(DropReason::NoRoute),
        Route::Elsewhere => End::Drop(DropReason::RouteElsewhere),
    }
}

//! What this director believes of another's entries: the rules that an entry must pass, and how long it lives.
//!
//! In:  an entry with what is configured here for it, the table. Out: whether it may change the table, by name if not.
//! With [`SyncAccept::Kernel`] everything is believed, as by a kernel. Otherwise entries are believed of services and
//! servers that are configured here, and never over a connection of this director's own: one that a packet made here, or
//! an imported one that a client's packet has used here since. Such a connection follows its packets alone.
//! Ref: Linux ip_vs_sync.c `ip_vs_proc_conn()`, which compares the real server and no more.

use std::net::IpAddr;

use super::import::Entry;
use crate::address::{Address, Endpoint};
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::persistence::PORT_FTP;
use crate::ipvs::protocol;
use crate::ipvs::protocol::sctp::SctpState;
use crate::ipvs::protocol::tcp::TcpState;
use crate::ipvs::service::VirtualService;
use crate::ipvs::sync::policy::{ImportRefusal, SyncAccept};
use crate::limits::{SYNC_LOCAL_QUIET_MS, TEMPLATE_EXTENSION_MS, TIMEOUT_CONFIGURED_MAX_SEC};
use crate::single_writer::SingleWriter;
use crate::wire::{sctp, tcp, udp};
use crate::worker_state::context::Context;

/// Timeout where neither the entry nor the protocol's states give one, in milliseconds.
const TIMEOUT_DEFAULT_MS: u32 = 180_000;

/// Whether every entry is believed.
pub(super) fn is_liberal(ctx: &Context<'_>) -> bool {
    ctx.snapshot.sync_policy.accept == SyncAccept::Kernel
}

/// Checks the ends of an entry against what is configured here.
pub(super) fn check_ends<A: Address>(ctx: &Context<'_>, entry: &Entry<'_, A>) -> Result<(), ImportRefusal> {
    if is_liberal(ctx) {
        return Ok(());
    }
    if !entry.synced.is_template() && !is_client(entry.synced.client.0) {
        return Err(ImportRefusal::Client);
    }
    let service = entry.service.or_else(|| ftp_service(ctx, entry));
    let service = service.ok_or(ImportRefusal::Service)?;
    if entry.server.is_none() && !is_servers_address(ctx, entry, service) {
        return Err(ImportRefusal::Server);
    }
    let is_of_pool = entry
        .local
        .is_none_or(|local| ctx.snapshot.services.is_local_address(local.addr));
    if is_of_pool {
        Ok(())
    } else {
        Err(ImportRefusal::LocalAddress)
    }
}

/// The service of a template for every port: FTP's, whose data connections go to other ports.
fn ftp_service<'a, A: Address>(ctx: &Context<'a>, entry: &Entry<'_, A>) -> Option<&'a VirtualService> {
    let is_for_every_port = entry.synced.is_template() && entry.key.dst.port == 0;
    let control = Endpoint::new(entry.key.dst.addr, PORT_FTP);
    is_for_every_port.then(|| ctx.snapshot.services.find(entry.synced.protocol, control))?
}

/// Whether packets can come from there.
fn is_client(client: IpAddr) -> bool {
    let is_broadcast = match client {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    !(client.is_unspecified() || client.is_loopback() || client.is_multicast() || is_broadcast)
}

/// Whether the entry names a server of `service` without its port, as templates and FTP's data connections do, or goes
/// past all servers to where its packets are addressed (`cache_bypass`).
fn is_servers_address<A: Address>(ctx: &Context<'_>, entry: &Entry<'_, A>, service: &VirtualService) -> bool {
    let (addr, _) = entry.synced.real;
    let has_other_ports = entry.synced.is_template() || service.key.port() == PORT_FTP;
    let is_server = || service.servers.iter().any(|server| server.addr == addr);
    let is_bypass = ctx.snapshot.sysctls.cache_bypass
        && entry.synced.mode() == ForwardingMode::Bypass
        && entry.synced.real == entry.synced.virt;
    has_other_ports && is_server() || is_bypass
}

/// What an entry may do with the connection that has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Whatever the kernel would do.
    Foreign,
    /// The entry says what is known: the connection's timer begins anew, and nothing else changes.
    Confirmed,
    /// Nothing.
    Local,
}

/// How a connection, which has the entry's place, stands against it.
pub(super) fn standing<A: Address>(
    ctx: &Context<'_>,
    (conn, cold): (&Conn<A>, &ColdConn),
    entry: &Entry<'_, A>,
) -> Standing {
    if is_liberal(ctx) || !is_own(ctx, (conn, cold)) {
        return Standing::Foreign;
    }
    let says_the_same = conn.real() == entry.real && u16::from(conn.state) == entry.synced.state && is_open(conn);
    if says_the_same {
        Standing::Confirmed
    } else {
        Standing::Local
    }
}

/// Refuses an entry whose replies would be taken from a connection of this director's own.
pub(super) fn check_replies<A: Address>(
    ctx: &Context<'_>,
    table: &ConnTable<A>,
    conn: &Conn<A>,
) -> Result<(), ImportRefusal> {
    if is_liberal(ctx) || !conn.flags.contains(ConnFlags::OUTBOUND_INDEXED) {
        return Ok(());
    }
    let Some((index, _)) = table.lookup(&conn.outbound_key()) else {
        return Ok(());
    };
    let other = table.both(index);
    if other.0.inbound_key() != conn.inbound_key() && is_own(ctx, other) {
        return Err(ImportRefusal::LocalConn);
    }
    Ok(())
}

/// Refuses an entry for which imported connections have no space in the table.
pub(super) fn check_share<A: Address>(ctx: &Context<'_>, table: &ConnTable<A>) -> Result<(), ImportRefusal> {
    let imported_max = ctx.snapshot.sync_policy.imported_max(table.capacity());
    if ctx.own.imported_of(A::FAMILY).get() < imported_max {
        Ok(())
    } else {
        Err(ImportRefusal::TableShare)
    }
}

/// Whether packets made or used a connection here and it is not over. Who authenticates its messages also believes the other
/// director about connections that have been quiet here: they went on there.
fn is_own<A: Address>(ctx: &Context<'_>, (conn, cold): (&Conn<A>, &ColdConn)) -> bool {
    let has_moved =
        ctx.snapshot.sync_policy.is_authenticated && ctx.now.since_ms(conn.last_seen) >= SYNC_LOCAL_QUIET_MS;
    is_used_here(ctx, (conn, cold)) && !is_over(conn) && !has_moved
}

/// An imported connection begins with the packets of `sync_threshold`, and each packet of its client counts. A copy for
/// replies knows its next hop since its first one, and a template the connections that it controls.
fn is_used_here<A: Address>(ctx: &Context<'_>, (conn, cold): (&Conn<A>, &ColdConn)) -> bool {
    let [imported_packets, _] = ctx.snapshot.sysctls.sync_threshold;
    let [_, reply_hop] = conn.hops;
    if !conn.flags.contains(ConnFlags::SYNCED) {
        true
    } else if conn.flags.contains(ConnFlags::TEMPLATE) {
        cold.controlled > 0
    } else if conn.flags.contains(ConnFlags::REPLIES_ONLY) {
        reply_hop != Conn::<A>::NO_HOP
    } else {
        conn.in_packets != imported_packets
    }
}

fn is_over<A: Address>(conn: &Conn<A>) -> bool {
    match conn.protocol {
        tcp::PROTOCOL => matches!(conn.tcp_state(), Some(TcpState::TimeWait | TcpState::Close)),
        sctp::PROTOCOL => conn.sctp_state() == Some(SctpState::Closed),
        _ => false,
    }
}

fn is_open<A: Address>(conn: &Conn<A>) -> bool {
    match conn.protocol {
        tcp::PROTOCOL => conn.tcp_state() == Some(TcpState::Established),
        sctp::PROTOCOL => conn.sctp_state() == Some(SctpState::Established),
        _ => true,
    }
}

/// How long the entry lives, in milliseconds: as it says, but no longer than this director would keep such a connection,
/// and the quarter more that a master of every connection asks for.
pub(super) fn timeout_ms<A: Address>(ctx: &Context<'_>, entry: &Entry<'_, A>) -> u32 {
    let own_ms = own_timeout_ms(ctx, entry);
    match entry.synced.timeout_sec {
        0 if entry.synced.is_template() => TIMEOUT_DEFAULT_MS,
        0 => own_ms,
        sec if is_liberal(ctx) => sec.saturating_mul(1_000),
        sec => sec.saturating_mul(1_000).min(own_ms.saturating_add(own_ms / 4)),
    }
}

fn own_timeout_ms<A: Address>(ctx: &Context<'_>, entry: &Entry<'_, A>) -> u32 {
    let synced = entry.synced;
    if synced.is_template() {
        let persistence = entry.service.and_then(|service| service.persistence);
        let persistence_ms = persistence.map_or(TIMEOUT_DEFAULT_MS, |persistence| {
            persistence.timeout_sec.min(TIMEOUT_CONFIGURED_MAX_SEC) * 1_000
        });
        return persistence_ms.max(TEMPLATE_EXTENSION_MS);
    }
    let has_states = matches!(synced.protocol, tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL);
    if !has_states {
        return TIMEOUT_DEFAULT_MS;
    }
    let state = entry.state();
    let is_established = match synced.protocol {
        tcp::PROTOCOL => state == TcpState::Established as u8,
        sctp::PROTOCOL => state == SctpState::Established as u8,
        _ => false,
    };
    let service_sec = entry.service.map_or(0, |service| service.established_timeout_sec);
    if is_established && service_sec > 0 {
        service_sec.min(TIMEOUT_CONFIGURED_MAX_SEC) * 1_000
    } else {
        protocol::timeout_ms(&ctx.snapshot.timeouts, synced.protocol, state)
    }
}

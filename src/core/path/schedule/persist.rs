//! Stage 5 of a persistent service: a client that came before goes where it went before.
//!
//! In:  the first packet of a connection and its service.
//! Out: the real server of the client's template, or one that the scheduler picks and a new template remembers.
//! Never: touches packet bytes.
//! Ref: Linux net/netfilter/ipvs/ip_vs_core.c `ip_vs_sched_persist`, ip_vs_conn.c `ip_vs_check_template`.

use crate::address::{Address, Endpoint, FlowKey};
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{Conn, ConnFlags, ConnIndex};
use crate::ipvs::persistence::{self, Persistence};
use crate::ipvs::real_server::RealServer;
use crate::ipvs::service::VirtualService;
use crate::path::schedule::{self, Chosen, Opening};
use crate::single_writer::SingleWriter;
use crate::verdict::DropReason;
use crate::worker_state::context::Context;

/// See the module. `Ok(None)` when no real server may take the client.
pub(crate) fn choose<'s, A: Address>(
    ctx: &mut Context<'s>,
    table: &mut ConnTable<A>,
    opening: &Opening<'s, '_, A>,
    persistence: &Persistence,
) -> Result<Option<Chosen<'s>>, DropReason> {
    let Opening { service, key, .. } = *opening;
    let template_key = persistence::template_key(service, persistence, key.protocol, key.src.addr, key.dst);
    let known = table.lookup(&template_key).map(|(index, _)| index);
    let (server, template) = match known.and_then(|index| still_good(ctx, table, index)) {
        Some(found) => found,
        None => {
            let Some(server) = schedule::pick(ctx, service, key) else {
                return Ok(None);
            };
            let template = Conn {
                timeout_ms: persistence.timeout_sec * 1_000,
                ..template(&template_key, server)
            };
            (server, remember(ctx, table, template, service)?)
        }
    };
    Ok(Some(Chosen {
        server,
        port: port_of(service, server, key),
        template: Some(template),
    }))
}

/// The real server's port for a packet to `key.dst`.
pub(crate) const fn port_of<A: Address>(service: &VirtualService, server: &RealServer, key: &FlowKey<A>) -> u16 {
    let is_mapped = service.spec.key.port() == key.dst.port && server.port != 0;
    if is_mapped { server.port } else { key.dst.port }
}

/// The server that a template remembers; `None` when it is gone or drained.
pub(crate) fn server_of<'s, A: Address>(
    ctx: &Context<'s>,
    table: &ConnTable<A>,
    index: ConnIndex,
) -> Option<&'s RealServer> {
    let snapshot = ctx.snapshot;
    let id = table.conn(index).real_server;
    let drains = snapshot.sysctls.expire_quiescent_template;
    let slot = snapshot.services.real_server(id)?;
    (slot.available && !(drains && slot.server.weight == 0)).then_some(&slot.server)
}

/// The server of a template, whose time begins anew; a template whose server is gone or drained is retired.
fn still_good<'s, A: Address>(
    ctx: &Context<'s>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
) -> Option<(&'s RealServer, ConnIndex)> {
    match server_of(ctx, table, index) {
        Some(server) => {
            table.conn_mut(index).last_seen = ctx.now;
            Some((server, index))
        }
        None => {
            table.retire(index);
            None
        }
    }
}

/// The template by which later connections of the client's find `server`, without its timeout.
fn template<A: Address>(key: &FlowKey<A>, server: &RealServer) -> Conn<A> {
    // A template for every port names none.
    let port = if key.dst.port == 0 { 0 } else { server.port };
    let mut flags = ConnFlags::TEMPLATE;
    flags.set(ConnFlags::NO_OUTPUT, !server.mode.sees_replies());
    Conn {
        protocol: key.protocol,
        real_server: server.id,
        mode: server.mode as u8,
        flags,
        state: persistence::STATE_NONE,
        ..Conn::between(
            key.src,
            key.dst,
            Endpoint::new(A::from_ip(server.addr).unwrap_or_default(), port),
            key.src,
        )
    }
}

fn remember<A: Address>(
    ctx: &Context<'_>,
    table: &mut ConnTable<A>,
    template: Conn<A>,
    service: &VirtualService,
) -> Result<ConnIndex, DropReason> {
    let index = table
        .insert_at((&template, &schedule::cold(service)), None, ctx.now)
        .map_err(|_| DropReason::ConnTableFull)?;
    ctx.own.server(template.real_server).persistent.add(1);
    Ok(index)
}

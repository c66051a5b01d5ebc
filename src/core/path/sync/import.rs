//! While a backup daemon runs: connections and templates of another director become this one's.
//!
//! In:  entries of its messages, the same for every worker. Out: those that this worker owns and [`belief`] accepts, in
//!      its table, bound to a real server where one is configured here, else forwarded as the entry says.
//! Never: counts a connection as scheduled; touches a packet.
//! Ref: Linux ip_vs_sync.c `ip_vs_proc_conn()`, ip_vs_conn.c `ip_vs_conn_new()`, `ip_vs_bind_dest()`.

use crate::address::{Address, Endpoint, FlowKey};
use crate::ipvs::conn::table::{ConnTable, InsertError};
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags, ConnIndex};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::persistence::{self, Spread};
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::rebinder;
use crate::ipvs::service::{ServiceId, VirtualService};
use crate::ipvs::sync::policy::ImportRefusal;
use crate::ipvs::sync::{FLAGS_IMPORTED, FLAGS_UPDATED, SyncConn, SyncedEnd};
use crate::l3::DeviceId;
use crate::path::client_address;
use crate::path::forward::rewrite;
use crate::path::ownership;
use crate::path::sync::belief::{self, Standing};
use crate::path::track;
use crate::single_writer::SingleWriter;
use crate::tick::Tick;
use crate::verdict::WorkerId;
use crate::worker_state::context::Context;
use crate::worker_state::{Arrival, WorkerState};

/// See the module. Takes time in proportion to the entries and the real servers of their services.
pub fn import_synced(worker: &mut WorkerState, now: Tick, conns: &[SyncConn]) {
    let (mut ctx, families) = worker.context(Arrival::at(DeviceId(0), now));
    for conn in conns {
        if conn.client.0.is_ipv4() {
            one(&mut ctx, &mut families.v4.table, conn);
        } else {
            one(&mut ctx, &mut families.v6.table, conn);
        }
    }
}

/// An entry in this family's words, with what is configured here for it.
pub(super) struct Entry<'a, A: Address> {
    pub(super) synced: &'a SyncConn,
    pub(super) key: FlowKey<A>,
    pub(super) real: Endpoint<A>,
    pub(super) local: Option<Endpoint<A>>,
    pub(super) service: Option<&'a VirtualService>,
    pub(super) server: Option<&'a RealServer>,
}

impl<A: Address> Entry<'_, A> {
    /// Its state. A message may have a template in a state that does not exist.
    pub(super) fn state(&self) -> u8 {
        u8::try_from(self.synced.state).unwrap_or(u8::MAX)
    }
}

fn one<A: Address>(ctx: &mut Context<'_>, table: &mut ConnTable<A>, synced: &SyncConn) {
    // Ends of two families have no place in any table.
    let Some(entry) = read(ctx, synced) else { return };
    if ctx.ownership.workers_count > 1 && owner(ctx, &entry) != Some(ctx.ownership.worker) {
        // Replies find their way by the local end: where that leads to another worker, it needs a copy. The worker that
        // has the client counts whether the entry was imported.
        if replies_owner(ctx, &entry) == Some(ctx.ownership.worker) {
            let _ = copy_for_replies(ctx, table, &entry);
        }
        return;
    }
    match import(ctx, table, &entry) {
        Ok(()) => ctx.own.synced_in.add(1),
        Err(refusal) => ctx.own.refuse_import(refusal),
    }
}

fn import<A: Address>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    entry: &Entry<'_, A>,
) -> Result<(), ImportRefusal> {
    belief::check_ends(ctx, entry)?;
    let Some((index, _)) = table.lookup(&entry.key) else {
        let conn = prepare(ctx, table, entry)?;
        return create(ctx, table, entry, conn);
    };
    let both = table.both(index);
    match belief::standing(ctx, both, entry) {
        Standing::Local => return Err(ImportRefusal::LocalConn),
        Standing::Confirmed => {
            let timeout_ms = table.conn(index).timeout_ms;
            table.set_timeout(index, timeout_ms, ctx.now);
        }
        Standing::Foreign if is_same(both, entry) => update(ctx, table, index, entry),
        // The message reports the end of a connection that a newer one has replaced: the newer one stays.
        Standing::Foreign if entry.synced.conn_flags().contains(ConnFlags::INACTIVE) => {}
        Standing::Foreign => {
            let conn = prepare(ctx, table, entry)?;
            track::forget(ctx, table, index);
            return create(ctx, table, entry, conn);
        }
    }
    Ok(())
}

/// The worker to which the client's packets lead.
fn owner<A: Address>(ctx: &Context<'_>, entry: &Entry<'_, A>) -> Option<WorkerId> {
    match entry.service {
        Some(service) => ownership::owner(ctx, Some(service), &entry.key),
        None => Some(ownership::owner_of_client(ctx, Spread::ENDS, entry.key.src)),
    }
}

/// The worker to which replies of a FULLNAT connection lead.
fn replies_owner<A: Address>(ctx: &Context<'_>, entry: &Entry<'_, A>) -> Option<WorkerId> {
    let reply = FlowKey {
        src: entry.real,
        dst: entry.local?,
        protocol: entry.key.protocol,
    };
    ownership::owner(ctx, None, &reply)
}

fn read<'a, A: Address>(ctx: &Context<'a>, synced: &'a SyncConn) -> Option<Entry<'a, A>> {
    let end = |(addr, port): SyncedEnd| Some(Endpoint::new(A::from_ip(addr)?, port));
    let (client, virt, real) = (end(synced.client)?, end(synced.virt)?, end(synced.real)?);
    let protocol = if synced.is_template() {
        persistence::template_protocol(synced.protocol)
    } else {
        synced.protocol
    };
    let service = rebinder::find_service(&ctx.snapshot.services, synced.fwmark, synced.protocol, virt);
    Some(Entry {
        synced,
        key: FlowKey {
            src: client,
            dst: virt,
            protocol,
        },
        real,
        local: match synced.local {
            Some(local) => Some(end(local)?),
            None => None,
        },
        service,
        server: service.and_then(|service| find_server(service, synced)),
    })
}

/// The server that the entry names: on its port, or for every port (`ip_vs_find_dest`).
fn find_server<'s>(service: &'s VirtualService, synced: &SyncConn) -> Option<&'s RealServer> {
    let (addr, port) = synced.real;
    let on = |port: u16| {
        let mut servers = service.servers.iter();
        servers.find(|server| server.addr == addr && server.port == port)
    };
    let [first, second] = rebinder::ports_of_server(synced.fwmark, synced.mode(), port);
    on(first).or_else(|| on(second))
}

/// Whether the entry is about the connection that is here. One without a real server begins anew once there is one.
fn is_same<A: Address>((conn, cold): (&Conn<A>, &ColdConn), entry: &Entry<'_, A>) -> bool {
    let is_template = entry.synced.is_template();
    let begins_anew = conn.real_server == RealServerId::UNBOUND && entry.server.is_some() && cold.controlled == 0;
    (is_template || conn.real() == entry.real) && !begins_anew
}

fn update<A: Address>(ctx: &Context<'_>, table: &mut ConnTable<A>, index: ConnIndex, entry: &Entry<'_, A>) {
    let flags = entry.synced.conn_flags();
    let conn = table.conn_mut(index);
    if !entry.synced.is_template() {
        track::count_as(ctx, conn, !flags.contains(ConnFlags::INACTIVE));
        conn.flags = conn.flags & !FLAGS_UPDATED | flags & FLAGS_UPDATED;
    }
    if !belief::is_liberal(ctx) && !conn.flags.contains(ConnFlags::SYNCED) {
        // It is the other director's now.
        conn.flags.insert(ConnFlags::SYNCED);
        ctx.own.imported_of(A::FAMILY).add(1);
    }
    settle(ctx, table, index, entry);
}

/// State, timeout and the rest that every message says anew.
fn settle<A: Address>(ctx: &Context<'_>, table: &mut ConnTable<A>, index: ConnIndex, entry: &Entry<'_, A>) {
    let mut conn = table.both_mut(index);
    conn.state = entry.state();
    conn.synced_state = conn.state;
    conn.in_packets = ctx.snapshot.sysctls.sync_threshold[0];
    if let Some(shifts) = entry.synced.shifts {
        let [inbound, _] = shifts;
        client_address::import(&mut conn, inbound);
    }
    table.set_timeout(index, belief::timeout_ms(ctx, entry), ctx.now);
}

/// The connection of an entry that may be added to the table.
fn prepare<A: Address>(
    ctx: &Context<'_>,
    table: &ConnTable<A>,
    entry: &Entry<'_, A>,
) -> Result<Conn<A>, ImportRefusal> {
    let mode = entry.server.map_or(entry.synced.mode(), |server| server.mode);
    let conn = new_conn(ctx, entry, mode).ok_or(ImportRefusal::LocalAddress)?;
    belief::check_replies(ctx, table, &conn)?;
    Ok(conn)
}

fn create<A: Address>(
    ctx: &Context<'_>,
    table: &mut ConnTable<A>,
    entry: &Entry<'_, A>,
    conn: Conn<A>,
) -> Result<(), ImportRefusal> {
    let index = insert(ctx, table, (&conn, entry))?;
    if let Some(server) = entry.server {
        if entry.synced.is_template() {
            ctx.own.server(server.id).persistent.add(1);
        } else {
            track::bind(ctx, server, !conn.flags.contains(ConnFlags::INACTIVE));
        }
    }
    settle(ctx, table, index, entry);
    Ok(())
}

/// Adds an imported connection to the table, within the share that such connections have of it.
fn insert<A: Address>(
    ctx: &Context<'_>,
    table: &mut ConnTable<A>,
    (conn, entry): (&Conn<A>, &Entry<'_, A>),
) -> Result<ConnIndex, ImportRefusal> {
    belief::check_share(ctx, table)?;
    let cold = ColdConn {
        service: entry.service.map_or(ServiceId::UNBOUND, |service| service.id),
        fwmark: entry.synced.fwmark,
        ..ColdConn::default()
    };
    let inserted = table
        .insert_at((conn, &cold), None, ctx.now)
        .map_err(|error| match error {
            InsertError::Full => ImportRefusal::TableFull,
            InsertError::Exists => ImportRefusal::SameEnds,
        });
    if inserted.is_ok() {
        ctx.own.imported_of(A::FAMILY).add(1);
    }
    inserted
}

/// `None` when a FULLNAT server's connection came without its local address.
fn new_conn<A: Address>(ctx: &Context<'_>, entry: &Entry<'_, A>, mode: ForwardingMode) -> Option<Conn<A>> {
    let synced = entry.synced;
    let local = match (mode, entry.local) {
        (ForwardingMode::FullNat, Some(local)) => local,
        (ForwardingMode::FullNat, None) if !synced.is_template() => return None,
        _ => entry.key.src,
    };
    let mut flags = synced.conn_flags() & FLAGS_IMPORTED | ConnFlags::SYNCED;
    if entry.server.is_some() {
        flags.set(ConnFlags::NO_OUTPUT, !mode.sees_replies());
    }
    let (mut l3_delta, mut l4_delta) = (0, 0);
    if synced.is_template() {
        flags.remove(ConnFlags::INACTIVE);
    } else if mode.sees_replies() {
        flags.insert(ConnFlags::OUTBOUND_INDEXED);
        (l3_delta, l4_delta) = rewrite::deltas(entry.key.src, entry.key.dst, local, entry.real);
    }
    Some(Conn {
        protocol: entry.key.protocol,
        real_server: entry.server.map_or(RealServerId::UNBOUND, |server| server.id),
        mode: mode as u8,
        flags,
        l3_delta,
        l4_delta,
        state: entry.state(),
        timeout_ms: belief::timeout_ms(ctx, entry),
        ..Conn::between(entry.key.src, entry.key.dst, entry.real, local)
    })
}

/// Another worker has the client; this one has the port that replies come to.
fn copy_for_replies<A: Address>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    entry: &Entry<'_, A>,
) -> Result<(), ImportRefusal> {
    belief::check_ends(ctx, entry)?;
    let unbound = Entry { server: None, ..*entry };
    let conn = new_conn(ctx, &unbound, ForwardingMode::FullNat).ok_or(ImportRefusal::LocalAddress)?;
    let flags = conn.flags & !ConnFlags::TEMPLATE | ConnFlags::REPLIES_ONLY;
    belief::check_replies(ctx, table, &conn)?;
    if let Some((index, _)) = table.lookup(&entry.key) {
        match belief::standing(ctx, table.both(index), entry) {
            Standing::Local => return Err(ImportRefusal::LocalConn),
            Standing::Foreign if table.conn(index).real() != entry.real => track::forget(ctx, table, index),
            Standing::Foreign | Standing::Confirmed => {
                settle(ctx, table, index, entry);
                return Ok(());
            }
        }
    }
    let index = insert(ctx, table, (&Conn { flags, ..conn }, entry))?;
    settle(ctx, table, index, entry);
    Ok(())
}

//! Step 5: the first packet of a connection. Which real server, which local address?
//!
//! In:  a packet that may start a connection, and its service.
//! Out: a new [`Conn`] in this worker's table, through which the packet goes on like any other; or the
//!      refusal that the kernel would send, or a named drop.
//! Never: touches packet bytes except to answer a refusal.
//! Ref: Linux net/netfilter/ipvs/ip_vs_core.c `ip_vs_schedule`, `ip_vs_leave`, ip_vs_conn.c `ip_vs_conn_new`.

use crate::address::{Address, Endpoint, FlowKey};
use crate::counters::{ServerCounters, SingleWriter, WorkerCounters};
use crate::frame::Frame;
use crate::ipvs::conn::table::{ConnTable, InsertError};
use crate::ipvs::conn::{Conn, FLAG_INACTIVE, FLAG_NO_OUTPUT, FLAG_OUTBOUND_INDEXED};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::protocol::{self, tcp::TcpState};
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::scheduler::{self, FlowHint, Loads};
use crate::ipvs::service::VirtualService;
use crate::limits::LOCAL_PORT_TRIES_MAX;
use crate::path::established::{self, Known};
use crate::path::forward::rewrite;
use crate::path::headers::Headers;
use crate::path::icmp::IcmpError;
use crate::path::reply;
use crate::path::verdict::{DropReason, Verdict};
use crate::wire;
use crate::worker_state::Step;

/// See the module.
pub(crate) fn first_packet<A: Address, F: Frame>(
    step: &mut Step<'_>,
    table: &mut ConnTable<A>,
    service: &VirtualService,
    headers: &Headers,
    key: &FlowKey<A>,
    frame: &mut F,
) -> Verdict {
    let Some(server) = pick(step, service, key) else {
        let vip = key.dst.addr;
        return reply::answer(
            step,
            headers,
            key,
            frame,
            IcmpError::PortUnreachable,
            vip,
            DropReason::NoRealServer,
        );
    };
    let Some(local) = local_end(step, table, service, server, key) else {
        return Verdict::Drop(DropReason::LocalPortsExhausted);
    };
    match table.insert(new_conn(step, service, server, key, local), step.now) {
        Ok(index) => {
            // Inactive until its protocol says otherwise (`ip_vs_bind_dest`).
            let counters = step.own.server(server.id);
            counters.connections.add(1);
            counters.bind(false);
            established::inbound(step, table, &Known { index, headers, key }, frame)
        }
        Err(InsertError::Full | InsertError::Exists) => Verdict::Drop(DropReason::ConnTableFull),
    }
}

fn pick<'s, A: Address>(step: &mut Step<'_>, service: &'s VirtualService, key: &FlowKey<A>) -> Option<&'s RealServer> {
    let flow = FlowHint::of(key);
    let loads = WorkersLoads {
        counters: step.counters,
    };
    step.own.scheduler_picks.add(1);
    let state = step.schedulers.get_mut(service.id.0 as usize)?;
    let chosen = scheduler::pick(service, state, &flow, &loads)?;
    service.servers.get(chosen)
}

/// Loads summed over all workers. Read for new connections only.
struct WorkersLoads<'a> {
    counters: &'a [std::sync::Arc<WorkerCounters>],
}

impl WorkersLoads<'_> {
    fn sum(&self, id: RealServerId, gauge: impl Fn(&ServerCounters) -> u32) -> u32 {
        self.counters
            .iter()
            .map(|worker| gauge(worker.server(id)))
            .fold(0, u32::wrapping_add)
    }
}

impl Loads for WorkersLoads<'_> {
    fn active(&self, id: RealServerId) -> u32 {
        self.sum(id, |server| server.active.get())
    }

    fn inactive(&self, id: RealServerId) -> u32 {
        self.sum(id, |server| server.inactive.get())
    }

    fn overloaded(&self, id: RealServerId) -> bool {
        self.sum(id, |server| server.overloaded.get()) != 0
    }
}

/// The director's own end towards the real server: the client itself, or in FULLNAT a free local
/// address and port. The table proves that the pair is free towards this real server.
fn local_end<A: Address>(
    step: &mut Step<'_>,
    table: &ConnTable<A>,
    service: &VirtualService,
    server: &RealServer,
    key: &FlowKey<A>,
) -> Option<Endpoint<A>> {
    if server.mode != ForwardingMode::FullNat {
        return Some(key.src);
    }
    let pool = service.local_addresses.as_ref()?;
    let cursor = step.port_cursors.get_mut(service.id.0 as usize)?;
    let real = Endpoint::new(A::from_ip(server.addr)?, server.port);
    for _ in 0..LOCAL_PORT_TRIES_MAX {
        let candidate = pool.next::<A>(cursor, step.worker, step.workers_count)?;
        let reply = FlowKey {
            src: real,
            dst: candidate,
            protocol: key.protocol,
        };
        if table.find(table.hash(&reply), &reply).is_none() {
            return Some(candidate);
        }
    }
    None
}

fn new_conn<A: Address>(
    step: &Step<'_>,
    service: &VirtualService,
    server: &RealServer,
    key: &FlowKey<A>,
    local: Endpoint<A>,
) -> Conn<A> {
    // A tunnel to the other family keeps the address in the server's slot; the conn has no room for it.
    let real = Endpoint::new(A::from_ip(server.addr).unwrap_or_default(), server.port);
    let mut flags = FLAG_INACTIVE;
    let (mut l3_delta, mut l4_delta) = (0, 0);
    if server.mode.sees_replies() {
        flags |= FLAG_OUTBOUND_INDEXED;
        (l3_delta, l4_delta) = rewrite::deltas(key.src, key.dst, local, real);
    } else {
        flags |= FLAG_NO_OUTPUT;
    }
    Conn {
        client: key.src,
        virt: key.dst,
        local,
        real,
        last_seen: step.now,
        real_server: server.id.0,
        service: service.id.0,
        protocol: key.protocol,
        mode: server.mode as u8,
        flags,
        l3_delta,
        l4_delta,
        created: step.now,
        // The timeout of the state that this packet leads to, so that the timer is armed once.
        timeout_ms: protocol::timeout_ms(&step.snapshot.timeouts, key.protocol, first_state(key.protocol)),
        ..Conn::default()
    }
}

/// The state that a connection's first packet usually leads to.
const fn first_state(protocol: u8) -> u8 {
    if protocol == wire::tcp::PROTOCOL {
        TcpState::SynRecv as u8
    } else {
        0
    }
}

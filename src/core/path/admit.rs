//! Step 4: a packet without a connection. Whose is it, and may it start one?
//!
//! In:  a packet that missed this worker's table.
//! Out: the service to schedule it for, or its verdict: hand it to the worker that owns its connection,
//!      or leave it to the kernel (which answers a stray TCP segment with RST and forwards the rest).
//! Ref: Linux net/netfilter/ipvs/ip_vs_proto_tcp.c `tcp_conn_schedule`, ip_vs_core.c `ip_vs_schedule`.

use crate::address::{Address, Endpoint, FlowKey};
use crate::ipvs::local_address;
use crate::ipvs::protocol::tcp;
use crate::ipvs::service::VirtualService;
use crate::path::headers::Headers;
use crate::path::verdict::{Verdict, WorkerId};
use crate::wire::{sctp, tcp as tcp_wire};
use crate::worker_state::Step;

/// Source port of active FTP data connections, which are never scheduled.
const PORT_FTP_DATA: u16 = 20;

/// What to do with a packet that has no connection here.
pub(crate) enum Admission<'a> {
    /// Nothing to schedule.
    Decided(Verdict),
    /// It may start a connection to this service.
    Schedule(&'a VirtualService),
}

/// See the module.
pub(crate) fn admit<'a, A: Address>(step: &Step<'a>, headers: &Headers, key: &FlowKey<A>) -> Admission<'a> {
    let snapshot = step.snapshot;
    let service = snapshot.services.find(key.protocol, key.dst);
    if let Some(owner) = owner(step, service.is_some(), key)
        && owner != step.worker
        && !step.handed_over
    {
        return Admission::Decided(Verdict::HandOver(owner));
    }
    match service {
        // Like the kernel's LOCAL_IN hook: a service on an address the director does not have is not seen.
        Some(service) if may_start(headers, key) && snapshot.l3.is_local(key.dst.addr) => Admission::Schedule(service),
        _ => Admission::Decided(Verdict::Punt),
    }
}

/// Whether a packet of this kind may create a connection at all.
fn may_start<A: Address>(headers: &Headers, key: &FlowKey<A>) -> bool {
    let kind = match headers.protocol {
        tcp_wire::PROTOCOL => tcp::begins_connection(headers.tcp_flags),
        // SCTP needs its chunk types read first; until then it is left to the kernel.
        sctp::PROTOCOL => false,
        _ => true,
    };
    kind && key.src.port != PORT_FTP_DATA
}

/// The worker to hand a packet of this flow to, when it is not this one.
pub(crate) fn other_owner<A: Address>(step: &Step<'_>, key: &FlowKey<A>) -> Option<WorkerId> {
    let has_service = step.snapshot.services.find(key.protocol, key.dst).is_some();
    owner(step, has_service, key).filter(|owner| *owner != step.worker && !step.handed_over)
}

/// The worker that has, or will have, the connection of this packet; `None` when it is nobody's.
///
/// Every end of a connection leads to the same answer without knowing the connection: inbound packets
/// and NAT replies by the client's end, FULLNAT replies by the local port, which was chosen for that.
fn owner<A: Address>(step: &Step<'_>, has_service: bool, key: &FlowKey<A>) -> Option<WorkerId> {
    if step.workers_count <= 1 {
        return None;
    }
    let services = &step.snapshot.services;
    if has_service {
        Some(owner_of_client(step, key.src))
    } else if services.is_local_address(key.dst.addr) {
        Some(local_address::owner_of(key.dst.port, step.workers_count))
    } else if services.is_nat_server(key.protocol, key.src) {
        Some(owner_of_client(step, key.dst))
    } else {
        None
    }
}

/// Spreads clients over workers by a keyed hash, so that nobody can aim all their connections at one.
fn owner_of_client<A: Address>(step: &Step<'_>, client: Endpoint<A>) -> WorkerId {
    worker_of_hash(step, hash_of_end(step, client))
}

/// A keyed hash of one end of a flow.
pub(crate) fn hash_of_end<A: Address>(step: &Step<'_>, end: Endpoint<A>) -> u32 {
    let (low, high) = end.addr.words();
    let input = low ^ high.rotate_left(32) ^ (u64::from(end.port) << 40) ^ step.secret;
    let mixed = u128::from(input) * 0x9E37_79B9_7F4A_7C15;
    let hash = (mixed >> 64) as u64 ^ mixed as u64;
    (hash >> 32) as u32
}

/// Spreads hashes evenly over the workers.
pub(crate) const fn worker_of_hash(step: &Step<'_>, hash: u32) -> WorkerId {
    WorkerId(((hash as u64 * step.workers_count as u64) >> 32) as u8)
}

//! conhash: clients lie on a ring of servers. Each server has points in proportion to its weight. When a server goes,
//! only its clients move.
//!
//! The name is DPVS's. The points are our own: SipHash of address, port and the point's number. The ring is cut into a
//! table when servers change, so a pick costs one hash. With the flag `conhash-port` the client's port counts too.

use std::net::IpAddr;
use std::sync::Arc;

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

use super::{Loads, Pick, Scheduler, SchedulerFlags, SchedulerTable, TableInputs};
use crate::ipvs::real_server::RealServer;

/// Points of a server for each unit of its share of the average weight.
const POINTS_MEAN: u64 = 160;
/// Points that any server has at most, so that a table is built in bounded time.
const POINTS_MAX: u64 = 1_600;
/// Arcs that the ring is cut into.
const ARCS: usize = 65_536;

pub(super) struct ConsistentHashing;

impl Scheduler for ConsistentHashing {
    /// The port is bit 1, as with sh and mh.
    const FLAG_NAMES: &'static [&'static str] = &["conhash-fallback", "conhash-port"];

    fn table(inputs: &TableInputs<'_>) -> SchedulerTable {
        // The last weight above 0 counts, so that draining a server does not move the clients of others.
        let weights = inputs.last_weights;
        let count = weights.iter().filter(|weight| **weight > 0).count() as u64;
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        let mut points: Vec<(u64, u16)> = Vec::new();
        for (index, (server, weight)) in inputs.servers.iter().zip(weights).enumerate() {
            let own = (u64::from(*weight) * count * POINTS_MEAN)
                .checked_div(total)
                .unwrap_or(0);
            let own = if *weight > 0 { own.clamp(1, POINTS_MAX) } else { 0 };
            points.extend((0..own).map(|number| (point(server, number), index as u16)));
        }
        points.sort_unstable();
        let mut at = 0;
        let arc = |arc: usize| {
            let begins = (arc as u64) << 48;
            while points.get(at).is_some_and(|(point, _)| *point < begins) {
                at += 1;
            }
            points.get(at).or(points.first()).map(|(_, index)| *index)
        };
        let table: Option<Arc<[u16]>> = (0..ARCS).map(arc).collect();
        SchedulerTable::Buckets(table.unwrap_or_default())
    }

    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let SchedulerTable::Buckets(arcs) = &ask.service.table else {
            return None;
        };
        let flags = ask.service.scheduler_flags;
        let port = ask.flow.client_port(flags);
        let hash = of(&[u64::from(ask.flow.src_fold), u64::from(port)]);
        let first = (hash >> 48) as usize;
        let (index, takes) = ask.bucket(arcs, first)?;
        if takes || !flags.contains(SchedulerFlags::FALLBACK) {
            return takes.then_some(index);
        }
        // Fallback: the next server on the ring that takes connections.
        let onwards = (1..arcs.len()).filter_map(|step| ask.bucket(arcs, (first + step) % arcs.len()));
        onwards.filter(|(_, takes)| *takes).map(|(index, _)| index).next()
    }
}

fn point(server: &RealServer, number: u64) -> u64 {
    let addr = match server.addr {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    of(&[(addr >> 64) as u64, addr as u64, u64::from(server.port), number])
}

fn of(words: &[u64]) -> u64 {
    let mut hasher = SipHasher13::new();
    words.iter().for_each(|word| hasher.write_u64(*word));
    hasher.finish()
}

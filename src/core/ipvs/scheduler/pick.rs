//! The question that a worker asks a scheduler, and the helpers with which schedulers answer it.

use std::cmp::Ordering;

use super::{Localities, SchedulerFlags, SchedulerState};
use crate::address::{Address, FlowKey};
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::service::VirtualService;
use crate::tick::Tick;

/// The question which server gets a new connection: all that a scheduler may read and change to answer it.
pub struct Pick<'a, L> {
    /// The service of the connection.
    pub service: &'a VirtualService,
    /// What this worker remembers of the service's scheduling.
    pub state: &'a mut SchedulerState,
    /// The connection.
    pub flow: FlowHint,
    /// The present load of the servers.
    pub loads: &'a L,
    /// What lblc and lblcr remember of destinations.
    pub localities: &'a mut Localities,
    /// The time.
    pub now: Tick,
    /// How long lblc remembers a destination.
    pub lblc_lifetime_ms: u32,
    /// How long lblcr remembers a destination, and after which time its set shrinks.
    pub lblcr_lifetime_ms: u32,
}

/// All that a scheduler may know about a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowHint {
    /// The client's address folded to a host-order word ([`Address::fold`]).
    pub src_fold: u32,
    /// The destination address folded likewise.
    pub dst_fold: u32,
    /// The destination address as [`Address::words`].
    pub dst_words: (u64, u64),
    /// The client's port.
    pub src_port: u16,
    /// The destination port.
    pub dst_port: u16,
}

impl FlowHint {
    /// Of a client's packet.
    #[inline]
    pub fn of<A: Address>(key: &FlowKey<A>) -> Self {
        Self {
            src_fold: key.src.addr.fold(),
            dst_fold: key.dst.addr.fold(),
            dst_words: key.dst.addr.words(),
            src_port: key.src.port,
            dst_port: key.dst.port,
        }
    }

    /// The client's port if it counts ([`SchedulerFlags::PORT`]), otherwise 0.
    #[inline]
    pub(super) const fn client_port(&self, flags: SchedulerFlags) -> u16 {
        if flags.contains(SchedulerFlags::PORT) {
            self.src_port
        } else {
            0
        }
    }

    /// The client as one word, which sh and mh hash as the kernel does.
    #[inline]
    pub(super) const fn client_hash(&self, flags: SchedulerFlags) -> u32 {
        self.src_fold.wrapping_add(self.client_port(flags) as u32)
    }
}

/// The present load of real servers, over all workers.
pub trait Loads {
    /// Connections in an active state.
    fn active(&self, id: RealServerId) -> u32;
    /// Other connections.
    fn inactive(&self, id: RealServerId) -> u32;
    /// Whether its upper threshold keeps it from new connections.
    fn overloaded(&self, id: RealServerId) -> bool;
    /// Bytes a second, in and out where replies are seen, as the estimator scales them (lt, wlt).
    fn traffic(&self, _id: RealServerId) -> u64 {
        0
    }
    /// Connections since the estimator took its last sample (lt, wlt).
    fn assigned(&self, _id: RealServerId) -> u64 {
        0
    }
    /// Response time in microseconds, at least 1 (wrt).
    fn response_us(&self, _id: RealServerId) -> u64 {
        1
    }
}

/// Ordered as the fraction `cost / weight`; the weight is above 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct CostByWeight {
    pub(super) cost: u64,
    pub(super) weight: u32,
}

impl Ord for CostByWeight {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        let crossed = |one: &Self, other: &Self| u128::from(one.cost) * u128::from(other.weight);
        crossed(self, other).cmp(&crossed(other, self))
    }
}

impl PartialOrd for CostByWeight {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for CostByWeight {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for CostByWeight {}

/// Whether the server may take new connections: it is neither quiesced nor overloaded.
#[inline]
pub(super) fn takes<L: Loads>(server: &RealServer, loads: &L) -> bool {
    server.weight > 0 && !loads.overloaded(server.id)
}

impl<L: Loads> Pick<'_, L> {
    /// The servers that may take new connections, and their places in the service.
    #[inline]
    pub(super) fn takers(&self) -> impl Iterator<Item = (usize, &RealServer)> {
        let servers = self.service.servers.iter().enumerate();
        servers.filter(|(_, server)| takes(server, self.loads))
    }

    /// Among the servers that may take new connections, the one with the least key; the first one on a tie. A
    /// server without a key does not compete.
    #[inline]
    pub(super) fn least<K: Ord>(&self, key: impl Fn(&RealServer) -> Option<K>) -> Option<usize> {
        let mut least: Option<(usize, K)> = None;
        for (index, server) in self.takers() {
            let Some(own) = key(server) else { continue };
            if least.as_ref().is_none_or(|(_, best)| own < *best) {
                least = Some((index, own));
            }
        }
        least.map(|(index, _)| index)
    }

    /// The server that minimises `cost / weight`, the first one on a tie.
    #[inline]
    pub(super) fn least_by_weight(&self, cost: impl Fn(&RealServer) -> u64) -> Option<usize> {
        self.least(|server| {
            Some(CostByWeight {
                cost: cost(server),
                weight: server.weight,
            })
        })
    }

    /// How many connections the server has, weighed as the service's [`super::Overhead`] says.
    #[inline]
    pub(super) fn overhead(&self, server: &RealServer) -> u64 {
        self.service.overhead.of(server.id, self.loads)
    }

    /// The same in proportion to its weight, which is above 0.
    #[inline]
    pub(super) fn overhead_by_weight(&self, server: &RealServer) -> CostByWeight {
        CostByWeight {
            cost: self.overhead(server),
            weight: server.weight,
        }
    }

    /// The server that the bucket of `hash` names, and whether it may take connections; `None` without servers.
    #[inline]
    pub(super) fn bucket(&self, buckets: &[u16], hash: usize) -> Option<(usize, bool)> {
        let index = usize::from(*buckets.get(hash)?);
        Some((index, takes(self.service.servers.get(index)?, self.loads)))
    }
}

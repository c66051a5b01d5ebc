//! Stage 4, many workers: whose is this flow?
//!
//! In:  a flow, and the service that it belongs to, if any.
//! Out: the worker that has, or will have, its connection: computed from the flow, without a table that is shared.
//! Never: looks at a connection; gives two answers for the two directions of one.

use crate::address::{Address, Endpoint, FlowKey};
use crate::ipvs::local_address;
use crate::ipvs::persistence::Spread;
use crate::ipvs::service::VirtualService;
use crate::ipvs::service_table::ServiceTable;
use crate::path::admit;
use crate::rss::RssHash;
use crate::single_writer::SingleWriter;
use crate::verdict::WorkerId;
use crate::worker_state::context::{Context, Ownership};

/// The worker to hand a packet of this flow to, when it is not this one.
pub(crate) fn other_owner<A: Address>(ctx: &Context<'_>, key: &FlowKey<A>) -> Option<WorkerId> {
    other(ctx, admit::service_of(ctx, key), key)
}

/// The same when its service is known.
pub(crate) fn other<A: Address>(
    ctx: &Context<'_>,
    service: Option<&VirtualService>,
    key: &FlowKey<A>,
) -> Option<WorkerId> {
    owner(ctx, service, key).filter(|owner| *owner != ctx.ownership.worker && !ctx.ownership.is_handoff)
}

/// The worker that a packet belongs to, and whether the NICs' RSS decides so.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) owner: WorkerId,
    by_rss: bool,
}

/// Leaves the management core to see whether a device spreads flows as it claims.
#[inline]
pub(crate) fn count<A: Address>(ctx: &Context<'_>, place: Place, key: &FlowKey<A>) {
    let Some(rss) = ctx.own.rss.get(usize::from(ctx.device.0)) else {
        return;
    };
    if place.owner != ctx.ownership.worker {
        let ends = key.src.addr.words().0 ^ key.dst.addr.words().0.rotate_left(16);
        rss.count_miss(ends ^ u64::from(key.src.port) << 16 ^ u64::from(key.dst.port));
        if place.by_rss {
            rss.rss_misses.add(1);
        }
    } else if place.by_rss {
        rss.rss_hits.add(1);
    }
}

/// The worker that has, or will have, the connection of this packet; `None` when it is nobody's.
pub(crate) fn owner<A: Address>(
    ctx: &Context<'_>,
    service: Option<&VirtualService>,
    key: &FlowKey<A>,
) -> Option<WorkerId> {
    place(ctx, service, key).map(|place| place.owner)
}

/// Every end of a connection leads to the same answer without knowing the connection: inbound packets
/// and NAT replies by the client's end, FULLNAT replies by the local port, which was chosen for that. Where NICs
/// have RSS, FULLNAT replies belong to the worker to which they bring them, and so do inbound packets unless
/// the service's persistence, or NAT replies that show the client's end only, demand the other way.
pub(crate) fn place<A: Address>(
    ctx: &Context<'_>,
    service: Option<&VirtualService>,
    key: &FlowKey<A>,
) -> Option<Place> {
    ctx.ownership.place(&ctx.snapshot.services, service, key)
}

impl Ownership<'_> {
    /// See [`place`].
    #[inline(always)]
    fn place<A: Address>(
        &self,
        services: &ServiceTable,
        service: Option<&VirtualService>,
        key: &FlowKey<A>,
    ) -> Option<Place> {
        if self.workers_count <= 1 {
            return None;
        }
        let by_rss = |rss: &RssHash| Place {
            owner: rss.worker(key.src, key.dst, self.workers_count),
            by_rss: true,
        };
        let computed = |owner| Place { owner, by_rss: false };
        if let Some(service) = service {
            if let Some(rss) = self.rss.filter(|_| service.is_spread_by_flow) {
                return Some(by_rss(rss));
            }
            Some(computed(self.of_client(service.spread, key.src)))
        } else if services.is_local_address(key.dst.addr) {
            if let Some(rss) = self.rss {
                return Some(by_rss(rss));
            }
            Some(computed(local_address::owner_of(key.dst.port, self.workers_count)))
        } else {
            let spread = services.nat_spread(key.protocol, key.src)?;
            Some(computed(self.of_client(spread, key.dst)))
        }
    }

    #[inline]
    fn of_client<A: Address>(&self, spread: Spread, client: Endpoint<A>) -> WorkerId {
        let (low, high) = client.addr.words();
        let words = (low & spread.words.0, high & spread.words.1);
        let port = if spread.by_port { client.port } else { 0 };
        worker_of_hash(self.workers_count, keyed_hash(self.secret, words, port))
    }

    /// Which worker has a connection that an earlier process left: the one to which its client's packets lead. Without a
    /// service they are not handed off, so it is the one to which NICs bring them, if they say.
    pub(crate) fn of_inbound<A: Address>(
        &self,
        services: &ServiceTable,
        service: Option<&VirtualService>,
        key: &FlowKey<A>,
    ) -> WorkerId {
        match (service, self.rss) {
            _ if self.workers_count <= 1 => WorkerId(0),
            (None, Some(rss)) => rss.worker(key.src, key.dst, self.workers_count),
            (None, None) => self.of_client(Spread::ENDS, key.src),
            (service, _) => self
                .place(services, service, key)
                .map_or(WorkerId(0), |place| place.owner),
        }
    }

    /// The worker to which replies lead; `None` when they lead to none.
    pub(crate) fn of_replies<A: Address>(&self, services: &ServiceTable, key: &FlowKey<A>) -> Option<WorkerId> {
        self.place(services, None, key).map(|place| place.owner)
    }
}

/// Who has this packet's connection if it began while the service was not spread by flows (a masquerading server or
/// persistence that is gone since).
pub(crate) fn former_owner<A: Address>(
    ctx: &Context<'_>,
    service: &VirtualService,
    key: &FlowKey<A>,
) -> Option<WorkerId> {
    if ctx.ownership.rss.is_none() || ctx.ownership.is_handoff || !service.is_spread_by_flow {
        return None;
    }
    Some(owner_of_client(ctx, service.spread, key.src)).filter(|former| *former != ctx.ownership.worker)
}

/// Whether no other worker can have the connection of a client's packet that this one does not know: behind
/// [`former_owner`] nobody is left to ask.
pub(crate) fn is_last_to_look<A: Address>(ctx: &Context<'_>, service: &VirtualService, key: &FlowKey<A>) -> bool {
    ctx.ownership.rss.is_none()
        || !service.is_spread_by_flow
        || owner_of_client(ctx, service.spread, key.src) == ctx.ownership.worker
}

/// Spreads clients over workers by a keyed hash, so that nobody can aim all their connections at one.
pub(crate) fn owner_of_client<A: Address>(ctx: &Context<'_>, spread: Spread, client: Endpoint<A>) -> WorkerId {
    ctx.ownership.of_client(spread, client)
}

/// A keyed hash of one end of a flow.
pub(crate) fn hash_of_end<A: Address>(ctx: &Context<'_>, end: Endpoint<A>) -> u32 {
    keyed_hash(ctx.ownership.secret, end.addr.words(), end.port)
}

fn keyed_hash(secret: u64, (low, high): (u64, u64), port: u16) -> u32 {
    let input = low ^ high.rotate_left(32) ^ (u64::from(port) << 40) ^ secret;
    let mixed = u128::from(input) * 0x9E37_79B9_7F4A_7C15;
    let hash = (mixed >> 64) as u64 ^ mixed as u64;
    (hash >> 32) as u32
}

/// Spreads hashes evenly over the workers.
pub(crate) const fn worker_of_hash(workers_count: u8, hash: u32) -> WorkerId {
    WorkerId(((hash as u64 * workers_count as u64) >> 32) as u8)
}

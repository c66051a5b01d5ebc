//! What one worker remembers for lblc and lblcr: the servers of each destination address.
//!
//! It is a cache of fixed size, allocated when the worker starts: the hash of a destination selects a set of [`WAYS`]
//! places, and a new destination replaces the least recently used of them. There is no garbage collection, as in the
//! hash tables of Linux ip_vs_lblc.c and ip_vs_lblcr.c, and a pick reads one set.

use crate::ipvs::real_server::RealServerId;
use crate::ipvs::service::ServiceId;
use crate::limits::{LOCALITIES_MAX, LOCALITY_SERVERS_MAX};
use crate::tick::Tick;

/// Places that one destination may take.
const WAYS: usize = 8;

/// A destination address as [`crate::address::Address::words`], and the service that it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) service: u32,
    pub(super) words: (u64, u64),
}

/// The servers of one destination, newest first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Locality {
    of: Destination,
    used: Tick,
    pub(super) changed: Tick,
    count: u8,
    servers: [u32; LOCALITY_SERVERS_MAX],
}

/// A copy of all places that one destination may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places([Locality; WAYS]);

/// See the module.
#[derive(Clone, Debug)]
pub struct Localities {
    /// Empty until a worker allocates them.
    places: Box<[Locality]>,
}

impl Localities {
    /// Space for [`LOCALITIES_MAX`] destinations.
    pub fn new() -> Self {
        Self {
            places: vec![Locality::default(); LOCALITIES_MAX].into_boxed_slice(),
        }
    }

    /// What is remembered about a destination that was used within `lifetime_ms`.
    pub(super) fn find(&mut self, of: Destination, now: Tick, lifetime_ms: u32) -> Option<&mut Locality> {
        let set = self.set_of(of)?;
        let found = set.iter_mut().find(|place| place.count > 0 && place.of == of)?;
        if now.since_ms(found.used) > lifetime_ms {
            found.count = 0;
            return None;
        }
        found.used = now;
        Some(found)
    }

    /// Remembers `server` as the only one of a destination.
    pub(super) fn remember(&mut self, of: Destination, server: RealServerId, now: Tick) {
        let Some(set) = self.set_of(of) else {
            return;
        };
        let rank = |place: &&mut Locality| match place {
            place if place.of == of => (0, 0),
            place if place.count == 0 => (1, 0),
            place => (2, u32::MAX - now.since_ms(place.used)),
        };
        if let Some(place) = set.iter_mut().min_by_key(rank) {
            let mut servers = [0; LOCALITY_SERVERS_MAX];
            servers[0] = server.0;
            *place = Locality {
                of,
                used: now,
                changed: now,
                count: 1,
                servers,
            };
        }
    }

    /// A copy of the places that a destination of `service` may have, for [`Self::put_back`] after a pick that was only
    /// tried.
    pub(crate) fn keep(&mut self, service: ServiceId, words: (u64, u64)) -> Option<Places> {
        let set = self.set_of(destination(service, words))?;
        Some(Places(*set.first_chunk()?))
    }

    /// Undoes what was remembered about a destination since [`Self::keep`].
    pub(crate) fn put_back(&mut self, service: ServiceId, words: (u64, u64), places: Option<Places>) {
        let set = self.set_of(destination(service, words));
        if let (Some(set), Some(Places(places))) = (set, places) {
            set.copy_from_slice(&places);
        }
    }

    fn set_of(&mut self, of: Destination) -> Option<&mut [Locality]> {
        let mixed =
            (of.words.0 ^ of.words.1.rotate_left(32) ^ u64::from(of.service) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let sets = self.places.len() / WAYS;
        let set = ((mixed >> 32) as usize).checked_rem(sets)?;
        self.places.get_mut(set * WAYS..(set + 1) * WAYS)
    }
}

impl Default for Localities {
    fn default() -> Self {
        Self::new()
    }
}

impl Locality {
    pub(super) fn servers(&self) -> impl Iterator<Item = RealServerId> + '_ {
        let known = self.servers.iter().take(usize::from(self.count));
        known.map(|id| RealServerId(*id))
    }

    pub(super) const fn len(&self) -> usize {
        self.count as usize
    }

    /// Adds a server in front of the others. A full set does not grow.
    pub(super) fn add(&mut self, server: RealServerId, now: Tick) {
        let count = usize::from(self.count);
        if count < LOCALITY_SERVERS_MAX && self.servers().all(|known| known != server) {
            self.servers.copy_within(..count, 1);
            self.servers[0] = server.0;
            self.count += 1;
            self.changed = now;
        }
    }

    pub(super) fn take_out(&mut self, server: RealServerId, now: Tick) {
        let count = usize::from(self.count);
        let found = self.servers().position(|known| known == server);
        if let Some(at) = found {
            self.servers.copy_within(at + 1..count, at);
            self.count -= 1;
            self.changed = now;
        }
    }
}

/// The key under which a destination of a service is remembered.
pub(super) fn destination(service: ServiceId, words: (u64, u64)) -> Destination {
    Destination {
        service: service.0,
        words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u32 = 86_400_000;

    fn of(n: u64) -> Destination {
        destination(ServiceId(1), (n, 0))
    }

    #[test]
    fn a_destination_is_remembered_until_it_is_old() {
        let mut localities = Localities::new();
        localities.remember(of(1), RealServerId(7), Tick(0));
        let found = |localities: &mut Localities, n, now| {
            let found = localities.find(of(n), Tick(now), DAY_MS);
            found.map(|locality| locality.servers().map(|id| id.0).collect::<Vec<_>>())
        };
        assert_eq!(found(&mut localities, 1, 1_000), Some(vec![7]));
        assert_eq!(found(&mut localities, 2, 1_000), None);
        assert_eq!(found(&mut localities, 1, 1_000 + DAY_MS), Some(vec![7]), "used since");
        assert_eq!(found(&mut localities, 1, 1_002 + 2 * DAY_MS), None);
    }

    #[test]
    fn more_destinations_than_places_forget_the_least_recently_used_and_nothing_grows() {
        let mut localities = Localities::new();
        let all = LOCALITIES_MAX as u64 * 2;
        for n in 0..all {
            localities.remember(of(n), RealServerId(n as u32), Tick(n as u32));
        }
        let now = Tick(all as u32);
        let known = (0..all)
            .filter(|n| localities.find(of(*n), now, DAY_MS).is_some())
            .count();
        assert!(known <= LOCALITIES_MAX && known > LOCALITIES_MAX / 2, "{known}");
        assert!(localities.find(of(all - 1), now, DAY_MS).is_some());
    }

    #[test]
    fn a_set_keeps_each_server_once_newest_first_and_is_bounded() {
        let mut locality = Locality::default();
        for id in [1, 2, 2, 3] {
            locality.add(RealServerId(id), Tick(5));
        }
        locality.take_out(RealServerId(2), Tick(6));
        assert_eq!(locality.servers().map(|id| id.0).collect::<Vec<_>>(), [3, 1]);
        for id in 10..10 + 2 * LOCALITY_SERVERS_MAX as u32 {
            locality.add(RealServerId(id), Tick(7));
        }
        assert_eq!(locality.len(), LOCALITY_SERVERS_MAX);
    }
}

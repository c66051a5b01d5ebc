//! Addresses from which FULLNAT reaches real servers, and the walk over their ports.
//!
//! Scheduling asks for candidates until the connection table has a free one. A worker only takes ports whose replies
//! arrive at it: with RSS the NICs bring them to it, without RSS [`owner_of`] determines the owner from the port alone.

use std::net::IpAddr;
use std::sync::Arc;

use crate::address::{Address, Endpoint};
use crate::limits::{LOCAL_PORT_FIRST, LOCAL_PORT_LAST};
use crate::rss::RssHash;
use crate::verdict::WorkerId;

/// The local addresses of one service, in the operator's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddressPool {
    /// At least one, all of the real servers' family.
    pub addresses: Arc<[IpAddr]>,
}

/// The position of one worker in the pool of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalPortCursor {
    address: u32,
    /// The number of the port among the worker's own.
    port: u32,
}

impl LocalPortCursor {
    /// A cursor whose start depends on `seed`, so that a restarted director does not begin with the ports that it has
    /// just used.
    pub const fn seeded(seed: u64) -> Self {
        Self {
            address: (seed >> 32) as u32,
            port: seed as u32,
        }
    }
}

impl LocalAddressPool {
    /// The next candidate. Addresses rotate fastest, then ports from [`LOCAL_PORT_FIRST`] to [`LOCAL_PORT_LAST`] and
    /// around. Every candidate of this worker comes once before any comes again. `None` when the pool has no address of
    /// this family or `worker` is not below `workers_count`.
    #[inline]
    pub fn next<A: Address>(
        &self,
        cursor: &mut LocalPortCursor,
        worker: WorkerId,
        workers_count: u8,
    ) -> Option<Endpoint<A>> {
        let (address, port) = self.advance(cursor, worker, workers_count)?;
        self.end(address, port)
    }

    /// The same, as the index of the address and the port.
    pub(crate) fn advance(
        &self,
        cursor: &mut LocalPortCursor,
        worker: WorkerId,
        workers_count: u8,
    ) -> Option<(u16, u16)> {
        if worker.0 >= workers_count {
            return None;
        }
        let step = u32::from(workers_count);
        let first = first_port(u32::from(worker.0), step);
        let ports_count = (u32::from(LOCAL_PORT_LAST) - first) / step + 1;
        let addresses_count = self.addresses.len() as u32;
        if cursor.address >= addresses_count {
            cursor.address = cursor.address.checked_rem(addresses_count)?;
        }
        if cursor.port >= ports_count {
            cursor.port %= ports_count;
        }
        let address = cursor.address as u16;
        let port = first + cursor.port * step;
        cursor.address += 1;
        if cursor.address == addresses_count {
            cursor.address = 0;
            cursor.port += 1;
            if cursor.port == ports_count {
                cursor.port = 0;
            }
        }
        Some((address, port as u16))
    }

    fn end<A: Address>(&self, address: u16, port: u16) -> Option<Endpoint<A>> {
        let addr = A::from_ip(*self.addresses.get(usize::from(address))?)?;
        Some(Endpoint::new(addr, port))
    }
}

/// How many candidates of a real server are fetched ahead.
const AHEAD: usize = 4;
/// Real servers for which candidates are fetched ahead at the same time.
const AHEAD_SERVERS: usize = 1_024;

/// Candidates that the next connections of real servers try first. Whether a candidate is free is stored at a random
/// place of a large table, so that memory is fetched long before the connection comes.
///
/// This is a direct-mapped table of fixed size. Servers that share a slot lose the benefit and skip a few candidates,
/// which come around again.
#[derive(Debug)]
pub struct PortsAhead(Box<[Ahead]>);

/// The real server and the service of these candidates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AheadOf {
    server: u32,
    /// Port in the high half, protocol in the low one.
    port_protocol: u32,
    revision: u64,
}

impl AheadOf {
    /// For connections of this protocol with this port of the real server `server`
    /// ([`crate::ipvs::real_server::RealServerId`]). Another `revision` of its service may have another pool.
    #[inline]
    pub(crate) const fn new(server: u32, port: u16, protocol: u8, revision: u64) -> Self {
        Self {
            server,
            port_protocol: (port as u32) << 16 | protocol as u32,
            revision,
        }
    }
}

/// The candidates of one real server, in the order in which they were taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ahead {
    of: AheadOf,
    /// Position of the oldest, and how many there are.
    oldest: u8,
    count: u8,
    /// Index of the address in the pool, and port.
    ends: [(u16, u16); AHEAD],
    /// Hashes of their replies' keys.
    hashes: [u64; AHEAD],
}

/// A real server's candidates as they were.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeptAhead(Ahead);

impl PortsAhead {
    pub(crate) fn new() -> Self {
        Self(vec![Ahead::default(); AHEAD_SERVERS].into_boxed_slice())
    }

    /// A copy of a real server's candidates, for [`Self::put_back`] after a candidate was only tried.
    pub(crate) fn keep(&self, server: u32) -> Option<KeptAhead> {
        self.0.get(server as usize % AHEAD_SERVERS).copied().map(KeptAhead)
    }

    /// Puts back the candidates that were taken for a real server since [`Self::keep`].
    pub(crate) fn put_back(&mut self, server: u32, kept: Option<KeptAhead>) {
        if let (Some(ahead), Some(KeptAhead(kept))) = (self.0.get_mut(server as usize % AHEAD_SERVERS), kept) {
            *ahead = kept;
        }
    }

    /// The next candidate, and the hash of its replies' key. `advance` gives one of the pool as the index of its address
    /// and its port. `fetch` hashes, and prefetches the memory that says whether the candidate is free.
    #[inline]
    pub(crate) fn next<A: Address>(
        &mut self,
        of: AheadOf,
        pool: &LocalAddressPool,
        mut advance: impl FnMut() -> Option<(u16, u16)>,
        fetch: impl Fn(Endpoint<A>) -> u64,
    ) -> Option<(Endpoint<A>, u64)> {
        let end = |(address, port)| pool.end::<A>(address, port);
        let Some(ahead) = self.0.get_mut(of.server as usize % AHEAD_SERVERS) else {
            return end(advance()?).map(|end| (end, fetch(end)));
        };
        if ahead.of != of {
            *ahead = Ahead { of, ..Ahead::default() };
        }
        let place = usize::from(ahead.oldest) % AHEAD;
        let (oldest, oldest_hash) = (ahead.ends[place], ahead.hashes[place]);
        let new = advance()?;
        let new_hash = fetch(end(new)?);
        if usize::from(ahead.count) < AHEAD {
            let free = (place + usize::from(ahead.count)) % AHEAD;
            ahead.ends[free] = new;
            ahead.hashes[free] = new_hash;
            ahead.count += 1;
            return end(advance()?).map(|end| (end, fetch(end)));
        }
        ahead.ends[place] = new;
        ahead.hashes[place] = new_hash;
        ahead.oldest = ((place + 1) % AHEAD) as u8;
        Some((end(oldest)?, oldest_hash))
    }
}

/// Which replies must arrive at which worker.
#[derive(Clone, Copy, Debug)]
pub struct ReplyHome<'a, A: Address> {
    /// The hash by which NICs spread flows.
    pub rss: &'a RssHash,
    /// The real server.
    pub real: Endpoint<A>,
    /// The worker at which replies must arrive.
    pub worker: WorkerId,
    /// How many workers there are.
    pub workers_count: u8,
}

impl<A: Address> ReplyHome<'_, A> {
    /// Whether the NICs bring replies to `local` there.
    #[inline]
    pub(crate) fn brings(&self, local: Endpoint<A>) -> bool {
        self.rss.worker(self.real, local, self.workers_count) == self.worker
    }
}

impl LocalAddressPool {
    /// The next candidate whose replies the NICs bring to the worker of `home`. It walks the ports of all workers, of
    /// which one in `workers_count` suits, and takes one off `tries` for each. `None` also when `tries` has become 0.
    #[inline]
    pub fn next_by_rss<A: Address>(
        &self,
        cursor: &mut LocalPortCursor,
        home: &ReplyHome<'_, A>,
        tries: &mut u32,
    ) -> Option<Endpoint<A>> {
        let (address, port) = self.advance_by_rss(cursor, home, tries)?;
        self.end(address, port)
    }

    /// The same, as the index of the address and the port.
    pub(crate) fn advance_by_rss<A: Address>(
        &self,
        cursor: &mut LocalPortCursor,
        home: &ReplyHome<'_, A>,
        tries: &mut u32,
    ) -> Option<(u16, u16)> {
        while *tries > 0 {
            *tries -= 1;
            let (address, port) = self.advance(cursor, WorkerId(0), 1)?;
            let candidate = self.end(address, port)?;
            if home.brings(candidate) {
                return Some((address, port));
            }
        }
        None
    }
}

/// The worker that owns a local port if NICs do not decide.
#[inline]
pub fn owner_of(port: u16, workers_count: u8) -> WorkerId {
    WorkerId(port.checked_rem(u16::from(workers_count)).unwrap_or(0) as u8)
}

/// The lowest usable port of a worker.
#[inline]
const fn first_port(worker: u32, workers_count: u32) -> u32 {
    let lowest = LOCAL_PORT_FIRST as u32;
    lowest + (worker + workers_count - lowest % workers_count) % workers_count
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::address::{Addr4, Addr6};
    use crate::limits::RSS_PORT_TRIES_MAX;

    fn pool(addresses: &[&str]) -> LocalAddressPool {
        LocalAddressPool {
            addresses: addresses.iter().map(|addr| addr.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn sixty_thousand_connections_through_one_address_use_sixty_thousand_ports() {
        let pool = pool(&["198.51.100.1"]);
        let mut cursor = LocalPortCursor::default();
        let ports: HashSet<u16> = (0..60_000)
            .map(|_| pool.next::<Addr4>(&mut cursor, WorkerId(0), 1).unwrap().port)
            .collect();
        assert_eq!(ports.len(), 60_000);
    }

    #[test]
    fn every_worker_walks_all_its_own_ports_once_before_any_again() {
        let pool = pool(&["198.51.100.1", "198.51.100.2", "198.51.100.3"]);
        for workers_count in [1u8, 2, 3, 7, 64] {
            let mut all = HashSet::new();
            for worker in (0..workers_count).map(WorkerId) {
                let mut cursor = LocalPortCursor::seeded(u64::from(worker.0).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let mut own = HashSet::new();
                loop {
                    let end = pool.next::<Addr4>(&mut cursor, worker, workers_count).unwrap();
                    assert_eq!(owner_of(end.port, workers_count), worker);
                    assert!((LOCAL_PORT_FIRST..=LOCAL_PORT_LAST).contains(&end.port));
                    if !own.insert(end) {
                        break;
                    }
                }
                all.extend(own);
            }
            let ports_count = usize::from(LOCAL_PORT_LAST - LOCAL_PORT_FIRST) + 1;
            assert_eq!(all.len(), 3 * ports_count, "{workers_count} workers");
        }
    }

    #[test]
    fn by_rss_the_workers_share_all_ports_evenly_and_replies_come_home() {
        let pool = pool(&["198.51.100.1", "198.51.100.2"]);
        let rss = RssHash::new(std::array::from_fn(|index| (index as u8).wrapping_mul(77) ^ 0xA5));
        let real = Endpoint::new(Addr4([203, 0, 113, 9]), 80);
        let ports_count = usize::from(LOCAL_PORT_LAST - LOCAL_PORT_FIRST) + 1;
        for workers_count in [2u8, 3, 4, 64] {
            let mut all = HashSet::new();
            for worker in (0..workers_count).map(WorkerId) {
                let mut cursor = LocalPortCursor::default();
                let mut own = HashSet::new();
                let home = ReplyHome {
                    rss: &rss,
                    real,
                    worker,
                    workers_count,
                };
                loop {
                    let end = pool
                        .next_by_rss(&mut cursor, &home, &mut RSS_PORT_TRIES_MAX.clone())
                        .unwrap();
                    assert_eq!(rss.worker(real, end, workers_count), worker);
                    if !own.insert(end) {
                        break;
                    }
                }
                let share = own.len() as f64 * f64::from(workers_count) / (2 * ports_count) as f64;
                assert!(
                    (0.5..2.0).contains(&share),
                    "{worker:?} of {workers_count} has {share} of its share"
                );
                all.extend(own);
            }
            assert_eq!(all.len(), 2 * ports_count, "{workers_count} workers");
        }
    }

    #[test]
    fn addresses_rotate_before_ports() {
        let pool = pool(&["198.51.100.1", "198.51.100.2"]);
        let mut cursor = LocalPortCursor::default();
        let ends: Vec<String> = (0..5)
            .map(|_| {
                let end = pool.next::<Addr4>(&mut cursor, WorkerId(1), 4).unwrap();
                format!("{:?}:{}", end.addr, end.port)
            })
            .collect();
        let expected = [
            "198.51.100.1:1025",
            "198.51.100.2:1025",
            "198.51.100.1:1029",
            "198.51.100.2:1029",
            "198.51.100.1:1033",
        ];
        assert_eq!(ends, expected);
    }

    #[test]
    fn the_search_by_rss_ends_when_its_tries_do() {
        let home = ReplyHome {
            rss: &RssHash::new([0; crate::rss::KEY_LEN]),
            real: Endpoint::new(Addr4([203, 0, 113, 9]), 80),
            worker: WorkerId(1),
            workers_count: 2,
        };
        let mut tries = 100;
        let pool = pool(&["198.51.100.1"]);
        assert_eq!(
            pool.next_by_rss(&mut LocalPortCursor::default(), &home, &mut tries),
            None
        );
        assert_eq!(tries, 0);
    }

    #[test]
    fn a_cursor_from_a_larger_pool_goes_on_in_a_smaller_one() {
        let mut cursor = LocalPortCursor::seeded(u64::MAX);
        let small = pool(&["198.51.100.9"]);
        assert!(small.next::<Addr4>(&mut cursor, WorkerId(0), 1).is_some());
    }

    #[test]
    fn candidates_fetched_ahead_come_once_each_and_are_void_with_another_pool() {
        let old = pool(&["198.51.100.1"]);
        let mut cursor = LocalPortCursor::default();
        let mut ahead = PortsAhead::new();
        let mut taken = HashSet::new();
        let hash_of = |end: Endpoint<Addr4>| u64::from(u32::from_be_bytes(end.addr.0)) << 16 | u64::from(end.port);
        for turn in 0..2_000u32 {
            // Servers 1 and 1,025 share a slot.
            let of = AheadOf::new([1, 2, 1, 2, 2, 1_025][turn as usize % 6], 80, 6, 1);
            let advance = || old.advance(&mut cursor, WorkerId(0), 1);
            let (end, hash) = ahead.next::<Addr4>(of, &old, advance, hash_of).unwrap();
            assert!(taken.insert(end), "{end:?} twice");
            assert_eq!(hash, hash_of(end));
        }
        let new = pool(&["198.51.100.2"]);
        let of = AheadOf::new(2, 80, 6, 2);
        let advance = || new.advance(&mut cursor, WorkerId(0), 1);
        let (end, _) = ahead.next::<Addr4>(of, &new, advance, hash_of).unwrap();
        assert_eq!(end.addr, Addr4([198, 51, 100, 2]));
    }

    #[test]
    fn an_empty_pool_another_family_and_an_unknown_worker_give_nothing() {
        let mut cursor = LocalPortCursor::default();
        assert_eq!(pool(&[]).next::<Addr4>(&mut cursor, WorkerId(0), 1), None);
        assert_eq!(pool(&["198.51.100.1"]).next::<Addr6>(&mut cursor, WorkerId(0), 1), None);
        assert_eq!(pool(&["198.51.100.1"]).next::<Addr4>(&mut cursor, WorkerId(0), 0), None);
        assert_eq!(pool(&["198.51.100.1"]).next::<Addr4>(&mut cursor, WorkerId(2), 2), None);
        assert_eq!(owner_of(4711, 0), WorkerId(0));
    }
}

//! Addresses from which FULLNAT reaches real servers, and the walk over their ports.
//!
//! Step 5 asks for candidates until the connection table has a free one. A worker only takes ports that
//! [`owner_of`] gives to it, so that replies, which carry the port as their destination, find their way home.

use std::net::IpAddr;
use std::sync::Arc;

use crate::address::{Address, Endpoint};
use crate::limits::{LOCAL_PORT_FIRST, LOCAL_PORT_LAST};
use crate::path::verdict::WorkerId;

/// The local addresses of one service, in the order the operator gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddressPool {
    /// At least one, all of the real servers' family.
    pub addresses: Arc<[IpAddr]>,
}

/// Where one worker stands in the pool of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalPortCursor {
    address: u32,
    /// Which of the worker's own ports.
    port: u32,
}

impl LocalPortCursor {
    /// A cursor that begins somewhere else for every `seed`, so that a restarted director does not walk
    /// into the ports it has just used.
    pub const fn seeded(seed: u64) -> Self {
        Self {
            address: (seed >> 32) as u32,
            port: seed as u32,
        }
    }
}

impl LocalAddressPool {
    /// The next candidate: addresses rotate fastest, then ports, from [`LOCAL_PORT_FIRST`] to
    /// [`LOCAL_PORT_LAST`] and around; every candidate of this worker comes once before any comes again.
    /// `None` when the pool has no address of this family or `worker` is not below `workers_count`.
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

/// Candidates that real servers' next connections try first. When a connection comes, the memory that tells whether its
/// candidate is free has been fetched long ago, for it is at a random place of a large table.
///
/// A direct-mapped table of fixed size: servers that meet in a slot cost each other the benefit and a few candidates,
/// which come around again.
#[derive(Debug)]
pub struct PortsAhead(Box<[Ahead]>);

/// The candidates of one real server, in the order in which they were taken.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    /// Of the service at the time: a changed pool makes them void.
    revision: u64,
    server: u32,
    /// Where the oldest is, and how many there are.
    oldest: u8,
    count: u8,
    /// Index of the address in the pool, and port.
    ends: [(u16, u16); AHEAD],
}

impl PortsAhead {
    pub(crate) fn new() -> Self {
        Self(vec![Ahead::default(); AHEAD_SERVERS].into_boxed_slice())
    }

    /// The next candidate for real server `server` of the service with this pool and revision; `next` gives one and
    /// `fetch` asks for the memory that [`LocalAddressPool`]'s user will look at for it.
    #[inline]
    pub(crate) fn next<A: Address>(
        &mut self,
        server: u32,
        revision: u64,
        pool: &LocalAddressPool,
        mut next: impl FnMut() -> Option<(u16, u16)>,
        fetch: impl FnOnce(Endpoint<A>),
    ) -> Option<Endpoint<A>> {
        let end = |(address, port)| pool.end::<A>(address, port);
        let Some(ahead) = self.0.get_mut(server as usize % AHEAD_SERVERS) else {
            return end(next()?);
        };
        if (ahead.server, ahead.revision) != (server, revision) {
            *ahead = Ahead {
                revision,
                server,
                ..Ahead::default()
            };
        }
        let place = usize::from(ahead.oldest) % AHEAD;
        let oldest = ahead.ends[place];
        let new = next()?;
        fetch(end(new)?);
        if usize::from(ahead.count) < AHEAD {
            let free = (place + usize::from(ahead.count)) % AHEAD;
            ahead.ends[free] = new;
            ahead.count += 1;
            return end(next()?);
        }
        ahead.ends[place] = new;
        ahead.oldest = ((place + 1) % AHEAD) as u8;
        end(oldest)
    }
}

/// The worker to which a local port belongs.
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
    fn a_cursor_from_a_larger_pool_goes_on_in_a_smaller_one() {
        let mut cursor = LocalPortCursor::seeded(u64::MAX);
        let small = pool(&["198.51.100.9"]);
        assert!(small.next::<Addr4>(&mut cursor, WorkerId(0), 1).is_some());
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

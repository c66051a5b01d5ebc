//! Local ends that FULLNAT connections gave up a short time ago, and what their real servers may still know of them.
//!
//! A server that closes first keeps the connection in TIME_WAIT. If another client's connection comes from the same
//! local end meanwhile, its sequence numbers and timestamps are not related to the earlier ones, and the server refuses
//! it. So a local end rests. What was between the same two ends before is its [`Predecessor`].
//!
//! ```text
//! hash of the reply's key -> set, one cache line of 4 records: mark | client | next sequence number | last packet
//! ```
//!
//! A set that is full forgets the end that has rested longest. All of it lies in the worker's [`Arena`].
//! Ref: RFC 9293 3.6.1, RFC 6191, RFC 6528; Linux tcp_minisocks.c `tcp_timewait_state_process`.

use std::sync::atomic::{Ordering, compiler_fence};

use zerocopy::FromBytes;

use crate::arena::{Arena, ArenaError, ArenaSlice, FormerArena, FormerSlice, slice_bytes};
use crate::limits::LOCAL_PORT_REST_SLACK_MS;
use crate::prefetch::prefetch_read;
use crate::tick::Tick;

const PLACES: usize = 4;
const FREE: u32 = 0;

#[derive(Clone, Copy, FromBytes)]
#[repr(C, align(64))]
struct Set {
    /// The high half of the hash with bit 0 set; [`FREE`] for a place without record.
    marks: [u32; PLACES],
    /// The client with the two bits below.
    clients: [u32; PLACES],
    /// [`Predecessor::end`].
    ends: [u32; PLACES],
    /// [`Predecessor::last_seen`].
    last_seen: [Tick; PLACES],
}

const _: () = assert!(size_of::<Set>() == 64);

impl Set {
    /// Where the record of `mark` is or comes: the free place, else that of the end that has rested longest.
    #[inline]
    fn place_for(&self, mark: u32, now: Tick) -> usize {
        let place = self.marks.iter().position(|&other| other == mark).unwrap_or_else(|| {
            let age = |place: usize| match self.marks[place % PLACES] {
                FREE => u32::MAX,
                _ => now.since_ms(self.last_seen[place % PLACES]),
            };
            (0..PLACES).max_by_key(|&place| age(place)).unwrap_or(0)
        });
        place % PLACES
    }
}

/// Sets into which one set of an earlier process is copied at most: more than that, and its table was 64 times smaller.
const COPIES_MAX: usize = 64;

/// The local ends that rested in an earlier process, which is read where it lies.
pub(crate) struct FormerRestingPorts<'m>(FormerSlice<'m, Set>);

/// Bits of a record beside the client.
const HAS_END: u32 = 1;
const IS_SHIFTED: u32 = 2;
const CLIENT: u32 = !(HAS_END | IS_SHIFTED);

/// The connection that was between a local end and a real server before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Its client and service, by [`client_of`].
    pub client: u32,
    /// The sequence number behind its client's FIN as the real server knows it; `None` when no FIN passed.
    pub end: Option<u32>,
    /// Whether its client's sequence numbers were shifted by the director.
    pub is_shifted: bool,
    /// When its last packet passed.
    pub last_seen: Tick,
}

/// What a [`Predecessor`] remembers of its client and service: some bits of the hash of the client's packets.
#[inline]
pub const fn client_of(hash: u64) -> u32 {
    hash as u32 & CLIENT
}

/// See the module.
pub struct RestingPorts {
    sets: ArenaSlice<Set>,
    count: u32,
    rest_ms: u32,
    /// When the last record was written.
    newest: Option<Tick>,
}

impl RestingPorts {
    /// Bytes of an arena for `records` records.
    pub const fn bytes_needed(records: usize) -> usize {
        slice_bytes::<Set>(sets_for(records))
    }

    /// No local end rests yet. One rests `rest_ms` after its last packet and [`LOCAL_PORT_REST_SLACK_MS`] more; with 0
    /// not at all.
    ///
    /// # Errors
    /// Too little memory.
    pub fn new(arena: &mut Arena, records: usize, rest_ms: u32) -> Result<Self, ArenaError> {
        let sets = arena.carve::<Set>(sets_for(records))?;
        Ok(Self {
            count: sets.len() as u32,
            sets,
            rest_ms: if rest_ms == 0 {
                0
            } else {
                rest_ms + LOCAL_PORT_REST_SLACK_MS
            },
            newest: None,
        })
    }

    /// Those that an earlier process left in `arena`, as far as their ends still rest `now`, in its ticks.
    ///
    /// # Errors
    /// Too little memory.
    pub fn recover(arena: &mut Arena, records: usize, rest_ms: u32, now: Tick) -> Result<Self, ArenaError> {
        let mut ports = Self::new(arena, records, rest_ms)?;
        for index in 0..ports.sets.len() {
            for place in 0..PLACES {
                let (mark, last_seen) = (ports.sets[index].marks[place], ports.sets[index].last_seen[place]);
                if mark != FREE && now.reached(last_seen) && !ports.has_rested(last_seen, now) {
                    ports.newest = Some(now);
                } else {
                    ports.sets[index].marks[place] = FREE;
                }
            }
        }
        Ok(ports)
    }

    /// Carves those of an earlier process.
    pub(crate) fn former<'m>(arena: &mut FormerArena<'m>, records: usize) -> Option<FormerRestingPorts<'m>> {
        arena.carve(sets_for(records)).map(FormerRestingPorts)
    }

    /// Takes up what still rests `now` of a worker of an earlier process that was of another shape. A record does not hold
    /// the whole hash, nor which worker has its port now: each worker takes all of them, into every set that may be
    /// meant. A full set forgets the end that has rested longest.
    pub(crate) fn rehome(&mut self, former: &FormerRestingPorts<'_>, now: Tick) {
        if !self.is_on() {
            return;
        }
        let former_count = former.0.len() as u64;
        // The lowest hash of a former set, and its set here.
        let first_of = |set: u64| (set << 32).div_ceil(former_count);
        let set_of = |low: u64| ((low * u64::from(self.count)) >> 32) as usize;
        for former_set in 0..former_count {
            let Some(from) = former.0.get(former_set as usize) else {
                return;
            };
            for place in 0..PLACES {
                let (mark, last_seen) = (from.marks[place], from.last_seen[place]);
                if mark == FREE || !now.reached(last_seen) || self.has_rested(last_seen, now) {
                    continue;
                }
                self.newest = Some(now);
                let (first, last) = (set_of(first_of(former_set)), set_of(first_of(former_set + 1) - 1));
                for set in (first..=last).take(COPIES_MAX) {
                    let set = self.sets.at_mut(set);
                    let to = set.place_for(mark, now);
                    if set.marks[to] == FREE || now.since_ms(set.last_seen[to]) > now.since_ms(last_seen) {
                        set.marks[to] = mark;
                        set.clients[to] = from.clients[place];
                        set.ends[to] = from.ends[place];
                        set.last_seen[to] = last_seen;
                    }
                }
            }
        }
    }

    /// Whether local ends rest at all.
    #[inline]
    pub const fn is_on(&self) -> bool {
        self.rest_ms != 0
    }

    /// Whether an end whose last packet passed at `last_seen` has rested.
    #[inline]
    pub const fn has_rested(&self, last_seen: Tick, now: Tick) -> bool {
        now.since_ms(last_seen) >= self.rest_ms
    }

    /// Whether some end may rest at this moment.
    #[inline]
    pub const fn is_any_resting(&self, now: Tick) -> bool {
        match self.newest {
            Some(newest) => !self.has_rested(newest, now),
            None => false,
        }
    }

    /// Fetches the records of ends whose replies have this hash.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch_read(self.sets.at(self.set_of(hash)));
    }

    /// Remembers that `predecessor` gave up the end whose replies have this hash, if that end has to rest.
    pub fn give_up(&mut self, hash: u64, predecessor: &Predecessor, now: Tick) {
        if !self.is_on() || self.has_rested(predecessor.last_seen, now) {
            return;
        }
        self.newest = Some(now);
        let set = self.set_of(hash);
        let set = self.sets.at_mut(set);
        let mark = mark_of(hash);
        let place = set.place_for(mark, now);
        let has_end = if predecessor.end.is_some() { HAS_END } else { 0 };
        let is_shifted = if predecessor.is_shifted { IS_SHIFTED } else { 0 };
        // A process that dies here leaves the record out, or whole.
        set.marks[place] = FREE;
        compiler_fence(Ordering::SeqCst);
        set.clients[place] = predecessor.client & CLIENT | has_end | is_shifted;
        set.ends[place] = predecessor.end.unwrap_or(0);
        set.last_seen[place] = predecessor.last_seen;
        compiler_fence(Ordering::SeqCst);
        set.marks[place] = mark;
    }

    /// Whether [`Self::find`] may find something.
    #[inline]
    pub fn has_record(&self, hash: u64) -> bool {
        self.sets.at(self.set_of(hash)).marks.contains(&mark_of(hash))
    }

    /// What was at the end whose replies have this hash, if that end still rests.
    #[inline]
    pub fn find(&self, hash: u64, now: Tick) -> Option<Predecessor> {
        if !self.is_any_resting(now) {
            return None;
        }
        let set = self.sets.at(self.set_of(hash));
        let mark = mark_of(hash);
        let place = set.marks.iter().position(|&other| other == mark)? % PLACES;
        let (client, last_seen) = (set.clients[place], set.last_seen[place]);
        (!self.has_rested(last_seen, now)).then_some(Predecessor {
            client: client & CLIENT,
            end: (client & HAS_END != 0).then_some(set.ends[place]),
            is_shifted: client & IS_SHIFTED != 0,
            last_seen,
        })
    }

    /// The low half of the hash, scaled to the number of sets.
    #[inline]
    fn set_of(&self, hash: u64) -> usize {
        ((u64::from(hash as u32) * u64::from(self.count)) >> 32) as usize
    }
}

const fn sets_for(records: usize) -> usize {
    records / PLACES + 1
}

#[inline]
const fn mark_of(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::HEADER_BYTES;
    use crate::random::Random;

    fn ports(records: usize) -> RestingPorts {
        let mut arena = Arena::in_memory(HEADER_BYTES + RestingPorts::bytes_needed(records));
        RestingPorts::new(&mut arena, records, 60_000).unwrap()
    }

    fn predecessor(client: u32, last_seen: u32) -> Predecessor {
        Predecessor {
            client: client << 2,
            end: (!client.is_multiple_of(3)).then_some(client.wrapping_mul(77)),
            is_shifted: client.is_multiple_of(2),
            last_seen: Tick(last_seen),
        }
    }

    #[test]
    fn an_end_rests_from_its_last_packet_and_then_is_as_any_other() {
        let mut ports = ports(1_000);
        let start = u32::MAX - 80_000;
        assert!(!ports.is_any_resting(Tick(start)));
        let given = predecessor(5, start);
        ports.give_up(42 << 33, &given, Tick(start + 10_000));
        assert_eq!(ports.find(42 << 33, Tick(start + 65_999)), Some(given));
        assert_eq!(ports.find(43 << 33, Tick(start + 65_999)), None);
        assert_eq!(ports.find(42 << 33, Tick(start + 66_000)), None);
        assert!(!ports.is_any_resting(Tick(start + 76_000)));
    }

    #[test]
    fn what_has_rested_already_or_where_nothing_rests_is_not_remembered() {
        let mut on = ports(10);
        on.give_up(1, &predecessor(1, 0), Tick(66_000));
        assert!(!on.is_any_resting(Tick(66_000)));
        let mut arena = Arena::in_memory(HEADER_BYTES + RestingPorts::bytes_needed(10));
        let mut off = RestingPorts::new(&mut arena, 10, 0).unwrap();
        off.give_up(1, &predecessor(1, 0), Tick(0));
        assert!(!off.is_on() && off.find(1, Tick(0)).is_none());
    }

    #[test]
    fn a_later_process_knows_the_ends_that_still_rest_and_no_time_that_is_yet_to_come() {
        let mut arena = Arena::in_memory(HEADER_BYTES + RestingPorts::bytes_needed(100));
        let mut ports = RestingPorts::new(&mut arena, 100, 60_000).unwrap();
        let seen = [10_000, 70_000, 90_000];
        for (n, seen) in (0..).zip(seen) {
            ports.give_up(n << 33 | n << 30, &predecessor(3 + n as u32, seen), Tick(70_000));
        }
        let recover = |now| {
            let mut twin = arena.twin_at_another_address();
            RestingPorts::recover(&mut twin, 100, 60_000, Tick(now)).unwrap()
        };
        let later = recover(80_000);
        let found: Vec<bool> = (0..3)
            .map(|n: u64| later.find(n << 33 | n << 30, Tick(80_000)).is_some())
            .collect();
        assert_eq!(found, [false, true, false]);
        assert_eq!(
            later.find(1 << 33 | 1 << 30, Tick(80_000)),
            Some(predecessor(4, 70_000))
        );
        assert!(!recover(200_000).is_any_resting(Tick(200_000)));
    }

    #[test]
    fn a_table_of_another_size_knows_the_ends_that_still_rest() {
        for (former, present) in [(100, 100), (100, 250), (250, 100), (20, 1_200), (1_200, 900)] {
            let mut arena = Arena::in_memory(HEADER_BYTES + RestingPorts::bytes_needed(former));
            let mut ports = RestingPorts::new(&mut arena, former, 60_000).unwrap();
            let mut random = Random::new(7);
            let hashes: Vec<u64> = (0..15).map(|_| random.next_u64()).collect();
            for (n, &hash) in (0..).zip(&hashes) {
                ports.give_up(hash, &predecessor(n, 70_000 + n), Tick(80_000));
            }
            ports.give_up(1 << 40, &predecessor(9, 14_500), Tick(80_000));
            let bytes = arena.bytes();
            let mut read = FormerArena::of(&bytes, crate::arena::LAYOUT_VERSION).unwrap();
            let read = RestingPorts::former(&mut read, former).unwrap();
            let mut later = self::ports(present);
            later.rehome(&read, Tick(90_000));
            for (n, &hash) in (0..).zip(&hashes) {
                let found = later.find(hash, Tick(90_000));
                assert_eq!(found, Some(predecessor(n, 70_000 + n)), "{former} to {present}");
            }
            assert_eq!(later.find(1 << 40, Tick(90_000)), None);
        }
    }

    #[test]
    fn an_end_has_one_record_the_newest() {
        let mut ports = ports(10);
        for turn in 1..50 {
            ports.give_up(7, &predecessor(turn, turn), Tick(turn));
            assert_eq!(ports.find(7, Tick(turn)), Some(predecessor(turn, turn)));
        }
        let others = (0..3u64).map(|n| (n << 33) + (9 << 40));
        others.for_each(|hash| ports.give_up(hash, &predecessor(3, 60), Tick(60)));
        assert_eq!(ports.find(7, Tick(60)), Some(predecessor(49, 49)));
    }

    #[test]
    fn a_full_set_forgets_the_end_that_has_rested_longest() {
        let mut ports = ports(1);
        for n in 0..5u64 {
            ports.give_up(n << 33, &predecessor(n as u32, 1_000 + n as u32), Tick(2_000));
        }
        let found: Vec<bool> = (0..5u64).map(|n| ports.find(n << 33, Tick(2_000)).is_some()).collect();
        assert_eq!(found, [false, true, true, true, true]);
    }

    #[test]
    fn with_a_record_for_each_of_twice_as_many_ends_few_are_forgotten() {
        let mut ports = ports(40_000);
        let mut random = Random::new(5);
        let hashes: Vec<u64> = (0..20_000).map(|_| random.next_u64()).collect();
        for &hash in &hashes {
            ports.give_up(hash, &predecessor(hash as u32, 0), Tick(1));
        }
        let kept = hashes
            .iter()
            .filter(|&&hash| ports.find(hash, Tick(1)).is_some())
            .count();
        assert!(kept > 19_000, "{kept}");
    }
}

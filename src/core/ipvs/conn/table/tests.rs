//! The table against its slow twin (a `HashMap`), its timers against the clock, its memory against the promise.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::same_outbound::SAME_OUTBOUND_MAX;
use super::*;
use crate::address::{Addr4, Addr6, Endpoint};
use crate::random::Random;

fn addr<A: Address>(host: u32) -> A {
    let v4 = IpAddr::V4(Ipv4Addr::from(host));
    let v6 = IpAddr::V6(Ipv6Addr::from((0x2001_0db8u128 << 96) | u128::from(host)));
    A::from_ip(v4).or_else(|| A::from_ip(v6)).unwrap()
}

fn end<A: Address>(host: u32, port: u16) -> Endpoint<A> {
    Endpoint::new(addr(host), port)
}

/// FULLNAT connection number `n`: clients, local addresses and ports in sequence, as in life.
fn fullnat<A: Address>(n: u32) -> Conn<A> {
    Conn {
        protocol: 6,
        flags: ConnFlags::OUTBOUND_INDEXED,
        timeout_ms: 60_000,
        ..Conn::between(
            end(0x0a00_0000 + n % 16_384, 1_024 + (n / 16_384) as u16),
            end(0xc612_0001, 80),
            end(0xc612_6401 + n / 24 / 60_000, 8_080),
            end(0xc612_c801 + n % 24, 1_024 + (n / 24 % 60_000) as u16),
        )
    }
}

fn table<A: Address>(capacity: usize, secret: [u64; 4]) -> ConnTable<A> {
    ConnTable::new(
        &mut Arena::in_memory(ConnTable::<A>::bytes_needed(capacity)),
        capacity,
        secret,
    )
    .unwrap()
}

fn secret(random: &mut Random) -> [u64; 4] {
    std::array::from_fn(|_| random.next_u64())
}

fn find<A: Address>(table: &ConnTable<A>, key: &FlowKey<A>) -> Option<(ConnIndex, Direction)> {
    let hash = table.hash(key);
    table.prefetch_bucket(hash);
    table.prefetch_candidate(hash);
    table.find(hash, key)
}

/// Every list and count of the table agrees with every other.
fn assert_sound<A: Address>(table: &ConnTable<A>) {
    let (mut seen, mut keys) = (0, 0);
    let end = table.scan(0, usize::MAX, |index, (conn, _)| {
        seen += 1;
        keys += 1;
        assert_eq!(find(table, &conn.inbound_key()), Some((index, Direction::Inbound)));
        if conn.flags & (ConnFlags::OUTBOUND_INDEXED | ConnFlags::SHADOWED) == ConnFlags::OUTBOUND_INDEXED {
            keys += 1;
            assert_eq!(find(table, &conn.outbound_key()), Some((index, Direction::Outbound)));
        }
    });
    assert_eq!((end, seen), (None, table.len()));
    assert_eq!(table.index.count_entries().0, keys);
    assert_eq!(table.wheel.count_armed(&table.cold), table.len());
    let state = &table.state[0];
    let freed: HashSet<u32> = table.free[..state.freed as usize].iter().copied().collect();
    assert_eq!(freed.len(), state.freed as usize, "a slot is free twice");
    for &slot in &freed {
        assert!(
            slot < state.fresh && table.cold[slot as usize].timer.slot == 0,
            "free slot {slot} is in use"
        );
    }
    assert_eq!(freed.len() + table.len(), state.fresh as usize);
}

// ---- The twin -------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Op {
    Insert {
        ends: [usize; 4],
        both: bool,
        timeout_ms: u32,
    },
    Packet {
        src: usize,
        dst: usize,
    },
    Remove {
        nth: usize,
    },
    SetTimeout {
        nth: usize,
        timeout_ms: u32,
    },
    Expire {
        after_ms: u32,
        budget: usize,
    },
}

struct TwinConn {
    keys: Vec<(u8, usize, usize)>,
    last_seen: u64,
    timeout_ms: u32,
    /// It must not expire before this time even if it is idle, because `decide` returned `Rearm`.
    not_before: u64,
}

/// What the table must do, with 64-bit time and the simplest code.
#[derive(Default)]
struct TableTwin {
    /// Several connections may have one outbound key; the newest is the last.
    keys: HashMap<(u8, usize, usize), Vec<(u32, Direction)>>,
    conns: HashMap<u32, TwinConn>,
}

impl TableTwin {
    fn nth(&self, nth: usize) -> Option<u32> {
        let mut slots: Vec<_> = self.conns.keys().copied().collect();
        slots.sort_unstable();
        (!slots.is_empty()).then(|| slots[nth % slots.len()])
    }

    fn remove(&mut self, slot: u32) {
        for key in self.conns.remove(&slot).unwrap().keys {
            self.keys.get_mut(&key).unwrap().retain(|(of, _)| *of != slot);
        }
    }

    fn found(&self, key: (u8, usize, usize)) -> Option<(u32, Direction)> {
        self.keys.get(&key)?.last().copied()
    }

    /// Whether the connections that exist exclude one with these keys.
    fn refuses(&self, keys: &[(u8, usize, usize)]) -> bool {
        let all = |at: usize| {
            keys.get(at)
                .and_then(|key| self.keys.get(key))
                .map_or(&[][..], Vec::as_slice)
        };
        let inbound = |(_, direction): &(u32, Direction)| *direction == Direction::Inbound;
        !all(0).is_empty() || all(1).iter().any(inbound) || all(1).len() >= SAME_OUTBOUND_MAX
    }
}

const REARM_MS: u32 = 700;

struct Pair<A: Address> {
    table: ConnTable<A>,
    twin: TableTwin,
    now: u64,
    hosts: usize,
    capacity: usize,
    /// Of the last packets.
    candidates: VecDeque<(FlowKey<A>, Candidate)>,
}

impl<A: Address> Pair<A> {
    fn end(&self, n: usize) -> Endpoint<A> {
        end(0x0a00_0000 + (n % self.hosts) as u32, 7)
    }

    fn tick(&self) -> Tick {
        Tick(self.now as u32)
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Insert { ends, both, timeout_ms } => self.insert(ends, both, timeout_ms),
            Op::Packet { src, dst } => self.packet(src, dst),
            Op::Remove { nth } => {
                let Some(slot) = self.twin.nth(nth) else { return };
                self.table.remove(ConnIndex(slot));
                self.table.remove(ConnIndex(slot));
                self.twin.remove(slot);
            }
            Op::SetTimeout { nth, timeout_ms } => {
                let Some(slot) = self.twin.nth(nth) else { return };
                let now = self.tick();
                self.table.set_timeout(ConnIndex(slot), timeout_ms, now);
                let conn = self.twin.conns.get_mut(&slot).unwrap();
                conn.last_seen = self.now;
                if conn.timeout_ms != timeout_ms {
                    conn.not_before = conn.not_before.min(self.now + u64::from(timeout_ms));
                }
                conn.timeout_ms = timeout_ms;
            }
            Op::Expire { after_ms, budget } => {
                self.now += u64::from(after_ms);
                self.expire(budget);
            }
        }
    }

    fn insert(&mut self, ends: [usize; 4], both: bool, timeout_ms: u32) {
        let ends = ends.map(|n| n % self.hosts);
        let conn = Conn {
            protocol: 17,
            flags: if both {
                ConnFlags::OUTBOUND_INDEXED
            } else {
                ConnFlags::empty()
            },
            timeout_ms,
            ..Conn::between(
                self.end(ends[0]),
                self.end(ends[1]),
                self.end(ends[2]),
                self.end(ends[3]),
            )
        };
        let mut keys = vec![(17, ends[0], ends[1])];
        if both {
            keys.push((17, ends[2], ends[3]));
        }
        let same = both && keys[0] == keys[1];
        let expected = if same || self.twin.refuses(&keys) {
            Err(InsertError::Exists)
        } else if self.twin.conns.len() == self.capacity {
            Err(InsertError::Full)
        } else {
            Ok(())
        };
        let result = self.table.insert(conn, self.tick());
        assert_eq!(result.map(|_| ()), expected);
        if let Ok(ConnIndex(slot)) = result {
            let directions = [Direction::Inbound, Direction::Outbound];
            for (&key, direction) in keys.iter().zip(directions) {
                self.twin.keys.entry(key).or_default().push((slot, direction));
            }
            let conn = TwinConn {
                keys,
                last_seen: self.now,
                timeout_ms,
                not_before: 0,
            };
            assert!(self.twin.conns.insert(slot, conn).is_none(), "slot {slot} is taken");
        }
    }

    /// Whatever happened since, an old candidate is never taken for another connection than the packet's.
    fn old_candidates(&mut self) {
        for (key, candidate) in &self.candidates {
            let confirmed = self.table.confirm(*candidate, key);
            if let Some((inbound, direction)) = confirmed.map(|(conn, direction)| (conn.inbound_key(), direction)) {
                let (index, found) = self.table.lookup(key).expect("the packet has a connection");
                assert_eq!((self.table.conn(index).inbound_key(), found), (inbound, direction));
            }
        }
    }

    fn packet(&mut self, src: usize, dst: usize) {
        let (src, dst) = (src % self.hosts, dst % self.hosts);
        let key = FlowKey {
            src: self.end(src),
            dst: self.end(dst),
            protocol: 17,
        };
        self.old_candidates();
        let found = find(&self.table, &key);
        let candidate = self.table.prefetch_candidate(self.table.hash(&key));
        self.candidates.push_back((key, candidate));
        if self.candidates.len() > 64 {
            self.candidates.pop_front();
        }
        assert_eq!(
            found.map(|(index, way)| (index.0, way)),
            self.twin.found((17, src, dst))
        );
        assert_eq!(find(&self.table, &FlowKey { protocol: 6, ..key }), None);
        if let Some((index, _)) = found {
            let now = self.tick();
            self.table.conn_mut(index).last_seen = now;
            self.twin.conns.get_mut(&index.0).unwrap().last_seen = self.now;
        }
    }

    fn expire(&mut self, budget: usize) {
        let (now, tick) = (self.now, self.tick());
        let (twin, table) = (&mut self.twin, &mut self.table);
        let mut decided = 0;
        let count = table.expire(tick, budget, |conn| {
            decided += 1;
            // Each stays once, then is removed.
            let stays = conn.cold.controlled > 0;
            conn.cold.controlled = u32::from(!stays);
            let host = |end: Endpoint<A>| end.addr.fold() as usize & 0xff_ffff;
            let mask = if A::LEN == 16 { 0x2001_0db8 & 0xff_ffff } else { 0 };
            let key = (17, host(conn.client()) ^ mask, host(conn.virt()) ^ mask);
            let (slot, _) = twin.found(key).unwrap();
            let entry = twin.conns.get_mut(&slot).unwrap();
            let expiry = entry.last_seen + u64::from(entry.timeout_ms);
            assert!(expiry <= now, "fired {} ms early", expiry - now);
            assert!(
                entry.not_before <= now,
                "looked at again {} ms early",
                entry.not_before - now
            );
            if stays {
                entry.not_before = now + u64::from(REARM_MS);
                return Expiry::Rearm { ms: REARM_MS };
            }
            twin.remove(slot);
            Expiry::Remove
        });
        assert_eq!(count, decided);
        assert!(count <= budget);
        if budget == usize::MAX {
            for (slot, conn) in &twin.conns {
                let due = (conn.last_seen + u64::from(conn.timeout_ms)).max(conn.not_before);
                assert!(due.div_ceil(64) > now / 64, "slot {slot} was due {} ms ago", now - due);
            }
        }
    }

    fn compare(&self, every_key: bool) {
        assert_eq!(self.table.len(), self.twin.conns.len());
        if every_key {
            for src in 0..self.hosts {
                for dst in 0..self.hosts {
                    let key = FlowKey {
                        src: self.end(src),
                        dst: self.end(dst),
                        protocol: 17,
                    };
                    let found = find(&self.table, &key).map(|(index, way)| (index.0, way));
                    assert_eq!(found, self.twin.found((17, src, dst)));
                }
            }
        }
    }
}

fn timeouts() -> impl Strategy<Value = u32> {
    prop_oneof![
        0..200u32,
        0..5_000u32,
        0..60_000u32,
        0..2_000_000u32,
        Just(20 * 86_400_000)
    ]
}

fn ops(hosts: usize) -> impl Strategy<Value = Op> {
    let pauses = prop_oneof![4 => 0..100u32, 3 => 0..3_000u32, 2 => 0..60_000u32, 1 => 0..4_000_000u32];
    let budgets = prop_oneof![1 => 0..20usize, 2 => Just(128), 3 => Just(usize::MAX)];
    prop_oneof![
        5 => (prop::array::uniform4(0..hosts), any::<bool>(), timeouts())
            .prop_map(|(ends, both, timeout_ms)| Op::Insert { ends, both, timeout_ms }),
        4 => (0..hosts, 0..hosts).prop_map(|(src, dst)| Op::Packet { src, dst }),
        1 => any::<usize>().prop_map(|nth| Op::Remove { nth }),
        2 => (any::<usize>(), timeouts()).prop_map(|(nth, timeout_ms)| Op::SetTimeout { nth, timeout_ms }),
        3 => (pauses, budgets).prop_map(|(after_ms, budget)| Op::Expire { after_ms, budget }),
    ]
}

/// Start of time: anywhere, and often just before the 32-bit clock wraps.
fn starts() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u32>().prop_map(u64::from),
        (0..100_000u64).prop_map(|ms| (1 << 32) - ms)
    ]
}

fn run<A: Address>(hosts: usize, capacity: usize, start: u64, secret: [u64; 4], ops: &[Op]) {
    let mut pair = Pair::<A> {
        table: table(capacity, secret),
        twin: TableTwin::default(),
        now: start,
        hosts,
        capacity,
        candidates: VecDeque::new(),
    };
    for op in ops {
        pair.apply(op);
        pair.compare(hosts <= 6);
    }
    assert_sound(&pair.table);
    // In the end all others expire, with small budgets, and nothing is left.
    pair.now += 20 * 86_400_000 + 64;
    for _ in 0..30_000_000u32.div_ceil(1 << 16) {
        pair.expire(1 << 16);
    }
    pair.now += u64::from(REARM_MS) + 64;
    pair.expire(usize::MAX);
    pair.compare(true);
    assert!(pair.table.is_empty());
    assert_sound(&pair.table);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..crate::testing::properties() })]

    #[test]
    fn few_keys_behave_as_in_the_twin(
        start in starts(), secret in any::<[u64; 4]>(), capacity in 1..12usize,
        ops in prop::collection::vec(ops(5), 1..300),
    ) {
        run::<Addr4>(5, capacity, start, secret, &ops);
    }

    #[test]
    fn many_keys_behave_as_in_the_twin(
        start in starts(), secret in any::<[u64; 4]>(), capacity in 1..400usize,
        ops in prop::collection::vec(ops(64), 1..1_500),
    ) {
        run::<Addr4>(64, capacity, start, secret, &ops);
    }

    #[test]
    fn ipv6_behaves_as_in_the_twin(
        start in starts(), secret in any::<[u64; 4]>(), capacity in 1..100usize,
        ops in prop::collection::vec(ops(12), 1..600),
    ) {
        run::<Addr6>(12, capacity, start, secret, &ops);
    }
}

// ---- Capacity -------------------------------------------------------------------------------------------------

#[test]
fn every_capacity_can_be_filled_with_both_directions_whatever_the_secret() {
    let mut random = Random::new(5);
    let capacities = (1..70).chain([100, 1_000]).chain((10..=18).map(|power| 1 << power));
    for capacity in capacities {
        for _ in 0..if capacity < 1 << 15 { 8 } else { 3 } {
            let mut table = table::<Addr4>(capacity, secret(&mut random));
            for n in 0..capacity as u32 {
                assert!(table.insert(fullnat(n), Tick(0)).is_ok(), "{n} of {capacity}");
            }
            assert_eq!(table.insert(fullnat(1 << 25), Tick(0)), Err(InsertError::Full));
            assert_eq!(table.insert(fullnat(0), Tick(0)), Err(InsertError::Exists));
            assert_eq!(table.len(), capacity);
            if capacity <= 1 << 14 {
                assert_sound(&table);
            }
        }
    }
}

#[test]
fn full_table_takes_a_new_connection_for_every_one_that_goes() {
    let mut random = Random::new(6);
    let capacity = 1 << 12;
    let mut table = table::<Addr6>(capacity, secret(&mut random));
    let mut indices: Vec<_> = (0..capacity as u32)
        .map(|n| table.insert(fullnat(n), Tick(0)).unwrap())
        .collect();
    for n in capacity as u32..300_000 {
        let victim = random.below(capacity as u32) as usize;
        table.remove(indices[victim]);
        indices[victim] = table.insert(fullnat(n), Tick(n)).unwrap();
    }
    assert_sound(&table);
}

#[test]
fn ipv4_connection_costs_at_most_160_bytes_with_everything() {
    for capacity in [1 << 12, 1 << 16, 1 << 20, 4 << 20] {
        let each = ConnTable::<Addr4>::bytes_needed(capacity) as f64 / capacity as f64;
        assert!(each <= 160.0, "{each} bytes each of {capacity}");
    }
    let capacity = 1 << 12;
    let bytes = ConnTable::<Addr4>::bytes_needed(capacity);
    let mut exact = Arena::in_memory(bytes.next_multiple_of(4096));
    let spare = bytes.next_multiple_of(4096) - bytes;
    if spare > 0 {
        exact.carve::<u8>(spare).unwrap();
    }
    assert!(ConnTable::<Addr4>::new(&mut exact, capacity, [0; 4]).is_ok());
    assert!(matches!(
        exact.carve::<u8>(1),
        Err(ArenaError::OutOfMemory { left: 0, .. })
    ));
}

#[test]
fn table_of_nothing_or_of_too_many_is_refused() {
    let mut arena = Arena::in_memory(1 << 20);
    assert!(ConnTable::<Addr4>::new(&mut arena, 0, [0; 4]).is_err());
    assert!(ConnTable::<Addr4>::new(&mut arena, usize::MAX / 256, [0; 4]).is_err());
    assert!(ConnTable::<Addr4>::new(&mut arena, 1 << 20, [0; 4]).is_err());
}

// ---- Timers ---------------------------------------------------------------------------------------------------

#[test]
fn timeout_of_any_length_fires_on_time_and_at_most_64_ms_late() {
    let day = 86_400_000;
    for start in [0, 1, 63, 64, 12_345_678, u32::MAX, u32::MAX - 5_000, u32::MAX / 2] {
        for timeout_ms in [
            0,
            1,
            63,
            64,
            65,
            1_000,
            16_383,
            16_384,
            60_000,
            900_000,
            1_048_576,
            day,
            20 * day,
        ] {
            let mut table = table::<Addr4>(1, [0; 4]);
            let start = Tick(start);
            table
                .insert(
                    Conn {
                        timeout_ms,
                        ..fullnat(1)
                    },
                    start,
                )
                .unwrap();
            let gone = |_: ConnMut<'_, Addr4>| Expiry::Remove;
            if timeout_ms > 0 {
                assert_eq!(
                    table.expire(start.plus_ms(timeout_ms - 1), usize::MAX, gone),
                    0,
                    "{timeout_ms} early"
                );
            }
            assert_eq!(
                table.expire(start.plus_ms(timeout_ms + 63), usize::MAX, gone),
                1,
                "{timeout_ms} late"
            );
        }
    }
}

#[test]
fn longer_timeout_than_the_clock_can_tell_is_cut_to_20_days() {
    let mut table = table::<Addr4>(1, [0; 4]);
    table
        .insert(
            Conn {
                timeout_ms: u32::MAX,
                ..fullnat(1)
            },
            Tick(5),
        )
        .unwrap();
    let days = 20 * 86_400_000;
    assert_eq!(table.expire(Tick(4 + days), usize::MAX, |_| Expiry::Remove), 0);
    assert_eq!(table.expire(Tick(5 + days + 63), usize::MAX, |_| Expiry::Remove), 1);
}

#[test]
fn packets_keep_a_connection_without_touching_its_timer() {
    let mut table = table::<Addr4>(4, [0; 4]);
    let index = table
        .insert(
            Conn {
                timeout_ms: 10_000,
                ..fullnat(1)
            },
            Tick(0),
        )
        .unwrap();
    let armed = table.cold(index).timer;
    let mut now = Tick(0);
    for _ in 0..10 {
        now = now.plus_ms(900);
        table.conn_mut(index).last_seen = now;
        assert_eq!(table.expire(now, usize::MAX, |_| Expiry::Remove), 0);
        assert_eq!(table.cold(index).timer, armed);
    }
    assert_eq!(table.expire(now.plus_ms(9_999), usize::MAX, |_| Expiry::Remove), 0);
    assert_eq!(table.expire(now.plus_ms(10_063), usize::MAX, |_| Expiry::Remove), 1);
}

#[test]
fn shorter_timeout_is_armed_at_once_and_a_longer_one_lazily() {
    let mut table = table::<Addr4>(4, [0; 4]);
    let index = table
        .insert(
            Conn {
                timeout_ms: 60_000,
                ..fullnat(1)
            },
            Tick(0),
        )
        .unwrap();
    let armed = table.cold(index).timer;
    table.set_timeout(index, 900_000, Tick(1_000));
    assert_eq!(table.cold(index).timer, armed);
    assert_eq!(table.expire(Tick(100_000), usize::MAX, |_| Expiry::Remove), 0);
    table.set_timeout(index, 10_000, Tick(100_000));
    assert_eq!(table.expire(Tick(109_999), usize::MAX, |_| Expiry::Remove), 0);
    assert_eq!(table.expire(Tick(110_063), usize::MAX, |_| Expiry::Remove), 1);
    assert!(table.is_empty());
}

#[test]
fn kept_connection_is_asked_about_again() {
    let mut table = table::<Addr4>(4, [0; 4]);
    table
        .insert(
            Conn {
                timeout_ms: 1_000,
                ..fullnat(1)
            },
            Tick(0),
        )
        .unwrap();
    let stay = |_: ConnMut<'_, Addr4>| Expiry::Rearm { ms: 60_000 };
    assert_eq!(table.expire(Tick(1_100), usize::MAX, stay), 1);
    assert_eq!(table.expire(Tick(61_000), usize::MAX, stay), 0);
    assert_eq!(table.expire(Tick(61_200), usize::MAX, stay), 1);
    // Not even 0 ms makes it spin.
    assert_eq!(table.expire(Tick(122_000), usize::MAX, |_| Expiry::Rearm { ms: 0 }), 1);
    assert_sound(&table);
}

#[test]
fn expired_connection_is_free_at_once_for_the_same_key() {
    let mut table = table::<Addr4>(1, [0; 4]);
    table.insert(fullnat(1), Tick(0)).unwrap();
    assert_eq!(table.insert(fullnat(2), Tick(0)), Err(InsertError::Full));
    assert_eq!(table.expire(Tick(60_100), 10_000, |_| Expiry::Remove), 1);
    assert_eq!(find(&table, &fullnat(1).inbound_key()), None);
    assert_eq!(find(&table, &fullnat(1).outbound_key()), None);
    let index = table.insert(fullnat(1), Tick(60_100)).unwrap();
    assert_eq!(table.conn(index).last_seen, Tick(60_100));
}

#[test]
fn after_a_pause_of_minutes_timers_catch_up_in_bounded_calls() {
    let (capacity, budget) = (20_000, 128);
    let start = Tick(u32::MAX - 300_000);
    let mut table = table::<Addr4>(capacity, [0; 4]);
    for n in 0..capacity as u32 {
        table
            .insert(
                Conn {
                    timeout_ms: n * 25,
                    ..fullnat(n)
                },
                start,
            )
            .unwrap();
    }
    let now = start.plus_ms(600_000);
    let (mut calls, mut last) = (0, 0);
    while !table.is_empty() {
        let mut asked = 0;
        table.expire(now, budget, |conn| {
            asked += 1;
            assert!(conn.timeout_ms + 64 > last, "in the order of their timeouts");
            last = conn.timeout_ms;
            Expiry::Remove
        });
        assert!(asked <= budget);
        calls += 1;
        // 9,375 units passed; each timer fires once, after it came down two levels at most.
        assert!(
            calls <= (9_400 + 3 * capacity) / budget + 1,
            "{} left after {calls} calls",
            table.len()
        );
    }
    assert_sound(&table);
}

// ---- Restart and dumps ----------------------------------------------------------------------------------------

#[test]
fn restarted_process_finds_its_connections_at_another_address() {
    let capacity = 1_000;
    let mut arena = Arena::in_memory(ConnTable::<Addr4>::bytes_needed(capacity));
    let mut table = ConnTable::<Addr4>::new(&mut arena, capacity, [1, 2, 3, 4]).unwrap();
    for n in 0..900 {
        table.insert(fullnat(n), Tick(n)).unwrap();
    }
    table.expire(Tick(60_500), usize::MAX, |_| Expiry::Remove);
    let mut moved = arena.twin_at_another_address();
    let secret = [1, 2, 3, 4];
    let (mut attached, recovery) =
        ConnTable::<Addr4>::recover(&mut moved, capacity, secret, Tick(60_500), |_| true).unwrap();
    assert!(moved.has_earlier_layout());
    assert_eq!((recovery.kept, recovery.torn, recovery.refused), (table.len(), 0, 0));
    assert_eq!(attached.len(), table.len());
    assert!((400..500).contains(&attached.len()));
    assert_sound(&attached);
    drop(table);
    attached.insert(fullnat(901), Tick(60_500)).unwrap();
    let left = attached.len();
    assert_eq!(attached.expire(Tick(200_000), usize::MAX, |_| Expiry::Remove), left);

    let earlier = |arena: &Arena| arena.twin_at_another_address();
    fn recover<A: Address>(arena: &mut Arena, capacity: usize) -> Result<ConnTable<A>, ArenaError> {
        ConnTable::recover(arena, capacity, [0; 4], Tick(0), |_| true).map(|(table, _)| table)
    }
    assert_eq!(
        recover::<Addr4>(&mut earlier(&arena), 999).err(),
        Some(ArenaError::OtherLayout)
    );
    assert_eq!(
        recover::<Addr6>(&mut earlier(&arena), 500).err(),
        Some(ArenaError::OtherLayout)
    );
    assert_eq!(
        ConnTable::<Addr4>::new(&mut earlier(&arena), 999, [0; 4]).err(),
        Some(ArenaError::NotEmpty)
    );
    assert_eq!(
        recover::<Addr4>(&mut Arena::in_memory(4096), 1).err(),
        Some(ArenaError::OtherLayout)
    );
}

#[test]
fn scan_shows_every_connection_once_in_pieces() {
    let mut table = table::<Addr4>(100, [0; 4]);
    let indices: Vec<_> = (0..90).map(|n| table.insert(fullnat(n), Tick(0)).unwrap()).collect();
    indices.iter().step_by(3).for_each(|&index| table.remove(index));
    let (mut from, mut shown, mut calls) = (Some(0), Vec::new(), 0);
    while let Some(start) = from {
        from = table.scan(start, 7, |index, both| {
            assert_eq!(table.both(index), both);
            shown.push(index);
        });
        calls += 1;
    }
    let expected: Vec<_> = indices.iter().copied().filter(|index| index.0 % 3 != 0).collect();
    assert_eq!((shown, calls), (expected, 90usize.div_ceil(7)));
    assert_eq!(table.scan(5, 0, |_, _| ()), Some(5));
    assert_eq!(table.scan(1_000, 7, |_, _| ()), None);
}

#[test]
fn index_of_nothing_harms_nothing() {
    let mut table = table::<Addr4>(2, [0; 4]);
    let index = table.insert(fullnat(1), Tick(0)).unwrap();
    table.remove(ConnIndex(1));
    table.remove(ConnIndex(u32::MAX));
    table.set_timeout(ConnIndex(u32::MAX), 1, Tick(0));
    let _ = table.conn(ConnIndex(u32::MAX));
    assert_eq!(table.len(), 1);
    assert_eq!(
        find(&table, &fullnat(1).inbound_key()),
        Some((index, Direction::Inbound))
    );
    assert_sound(&table);
}

// ---- One outbound key of several connections -------------------------------------------------------------------

#[test]
fn the_newest_of_several_connections_has_their_outbound_key_and_older_ones_get_it_back() {
    let mut table = table::<Addr4>(64, [1, 2, 3, 4]);
    let of_service = |port: u16| {
        let conn = fullnat::<Addr4>(0);
        Conn::<Addr4> {
            flags: conn.flags,
            protocol: conn.protocol,
            timeout_ms: conn.timeout_ms,
            ..Conn::between(conn.client(), end(0xc612_0001, port), conn.real(), conn.local())
        }
    };
    let key = fullnat::<Addr4>(0).outbound_key();
    let all: Vec<_> = (80..83)
        .map(|port| table.insert(of_service(port), Tick(0)).unwrap())
        .collect();
    let newest = |table: &ConnTable<Addr4>| find(table, &key).map(|(index, _)| index);
    assert_eq!(newest(&table), Some(all[2]));
    table.remove(all[1]);
    assert_sound(&table);
    table.remove(all[2]);
    assert_eq!(newest(&table), Some(all[0]), "the middle one went first");
    table.remove(all[0]);
    assert_eq!(newest(&table), None);
    for port in 0..SAME_OUTBOUND_MAX as u16 {
        table.insert(of_service(port), Tick(0)).unwrap();
    }
    assert_eq!(table.insert(of_service(99), Tick(0)), Err(InsertError::Exists));
    assert_sound(&table);
}

#[test]
fn a_connection_that_begins_anew_gets_the_outbound_key_of_several_back() {
    let of_service = |port: u16| {
        let conn = fullnat::<Addr4>(0);
        Conn::<Addr4> {
            flags: conn.flags,
            protocol: conn.protocol,
            timeout_ms: conn.timeout_ms,
            ..Conn::between(conn.client(), end(0xc612_0001, port), conn.real(), conn.local())
        }
    };
    let key = fullnat::<Addr4>(0).outbound_key();
    for again in 0..3 {
        let mut table = table::<Addr4>(64, [1, 2, 3, 4]);
        let all: Vec<_> = (80..83)
            .map(|port| table.insert(of_service(port), Tick(0)).unwrap())
            .collect();
        let newest = |table: &ConnTable<Addr4>| find(table, &key).map(|(index, _)| index);
        table.make_newest(all[again]);
        assert_eq!(newest(&table), Some(all[again]));
        assert_sound(&table);
        table.remove(all[again]);
        let next = if again == 2 { all[1] } else { all[2] };
        assert_eq!(newest(&table), Some(next), "the others keep their order");
        assert_sound(&table);
    }
}

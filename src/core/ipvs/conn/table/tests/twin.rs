//! Random operations on the table and on its slow twin, a `HashMap`: both say the same.

use super::*;

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

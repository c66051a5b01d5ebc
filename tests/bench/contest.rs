//! The contest that the connection table has to win: `scripts/dev bench table`.
//!
//! It compares three tables that find a packet's connection by its key: our bucket index, hashbrown, and DPDK's rte_hash
//! with bulk lookup. Each lookup then writes to the connection (`last_seen`). Two keys find each connection. For each size
//! the contest measures hits and misses, alone and in bursts of 32, a new connection, a replaced one, and removing all, in
//! nanoseconds of this thread on the CPU, median of three. All tables use the same hash and large pages.
#![allow(unsafe_code, reason = "DPDK's table")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::hint::black_box;

use hashbrown::HashTable;
use lvs_core::address::{Addr4, Endpoint, FlowKey};
use lvs_core::arena::Arena;
use lvs_core::ipvs::conn::table::ConnTable;
use lvs_core::ipvs::conn::{Conn, ConnFlags, ConnIndex};
use lvs_core::limits::BURST_MAX;
use lvs_core::prefetch::{prefetch_read, prefetch_write};
use lvs_core::random::Random;
use lvs_core::tick::Tick;
use lvs_test_support::process::thread_cpu_time;
use lvsd::dpdk::{Eal, EalSettings, Hugepages};

const ROUNDS: usize = 3;
const SECRET: [u64; 4] = [11, 22, 33, 44];

type Key = FlowKey<Addr4>;

/// A table from keys to connections.
trait Contestant {
    fn name(&self) -> &'static str;
    /// Adds connection `number`.
    fn insert(&mut self, number: u32, conn: Conn<Addr4>);
    fn remove(&mut self, number: u32, conn: &Conn<Addr4>);
    /// Writes to the connection of one key. Returns how many it found.
    fn one(&mut self, key: &Key, now: Tick) -> usize;
    /// Does the same for a burst.
    fn burst(&mut self, keys: &[Key], now: Tick) -> usize;
}

/// Our table. Unlike the others it also arms a timer for each connection.
struct Ours {
    table: ConnTable<Addr4>,
    indices: Vec<ConnIndex>,
}

fn our_table(capacity: usize) -> ConnTable<Addr4> {
    let mut arena = Arena::in_memory(ConnTable::<Addr4>::bytes_needed(capacity) + 4_096);
    ConnTable::new(&mut arena, capacity, SECRET).expect("as many bytes as needed")
}

impl Ours {
    fn new(conns: usize) -> Self {
        Self {
            table: our_table(conns + 1),
            indices: vec![ConnIndex(0); conns],
        }
    }
}

impl Contestant for Ours {
    fn name(&self) -> &'static str {
        "bucket index"
    }

    fn insert(&mut self, number: u32, conn: Conn<Addr4>) {
        self.indices[number as usize] = self.table.insert(conn, Tick(0)).expect("space for it");
    }

    fn remove(&mut self, number: u32, _conn: &Conn<Addr4>) {
        self.table.remove(self.indices[number as usize]);
    }

    fn one(&mut self, key: &Key, now: Tick) -> usize {
        match self.table.lookup(key) {
            Some((index, _)) => {
                self.table.conn_mut(index).last_seen = now;
                1
            }
            None => 0,
        }
    }

    fn burst(&mut self, keys: &[Key], now: Tick) -> usize {
        let mut found = 0;
        let mut hashes = [0; BURST_MAX];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.table.hash(key);
            self.table.prefetch_bucket(*hash);
        }
        let candidates = hashes.map(|hash| self.table.prefetch_candidate(hash));
        for ((candidate, hash), key) in candidates.iter().zip(&hashes).zip(keys) {
            if let Some((conn, _)) = self.table.confirm(*candidate, key) {
                conn.last_seen = now;
                found += 1;
            } else if let Some((index, _)) = self.table.find(*hash, key) {
                self.table.conn_mut(index).last_seen = now;
                found += 1;
            }
        }
        found
    }
}

/// The table of Rust's standard library.
struct Hashbrown {
    table: HashTable<(Key, u32)>,
    /// Used for its hash only.
    hash: ConnTable<Addr4>,
    conns: Vec<Conn<Addr4>>,
}

impl Hashbrown {
    fn new(conns: usize) -> Self {
        Self {
            table: HashTable::with_capacity(2 * conns),
            hash: our_table(1),
            conns: vec![Conn::default(); conns],
        }
    }

    fn find(&self, key: &Key) -> Option<u32> {
        self.table
            .find(self.hash.hash(key), |(known, _)| known == key)
            .map(|(_, number)| *number)
    }
}

impl Contestant for Hashbrown {
    fn name(&self) -> &'static str {
        "hashbrown"
    }

    fn insert(&mut self, number: u32, conn: Conn<Addr4>) {
        for key in [conn.inbound_key(), conn.outbound_key()] {
            assert!(self.find(&key).is_none());
            let hash = &self.hash;
            self.table
                .insert_unique(hash.hash(&key), (key, number), |(known, _)| hash.hash(known));
        }
        self.conns[number as usize] = conn;
    }

    fn remove(&mut self, _number: u32, conn: &Conn<Addr4>) {
        for key in [conn.inbound_key(), conn.outbound_key()] {
            let found = self.table.find_entry(self.hash.hash(&key), |(known, _)| *known == key);
            found.expect("it is there").remove();
        }
    }

    fn one(&mut self, key: &Key, now: Tick) -> usize {
        match self.find(key) {
            Some(number) => {
                self.conns[number as usize].last_seen = now;
                1
            }
            None => 0,
        }
    }

    fn burst(&mut self, keys: &[Key], now: Tick) -> usize {
        let mut numbers = [None; BURST_MAX];
        for (number, key) in numbers.iter_mut().zip(keys) {
            *number = self.find(key);
            if let Some(number) = *number {
                prefetch_write(&self.conns[number as usize]);
            }
        }
        for number in numbers.iter().flatten() {
            self.conns[*number as usize].last_seen = now;
        }
        numbers.iter().flatten().count()
    }
}

/// `struct rte_hash_parameters` of rte_hash.h.
#[repr(C)]
struct RteHashParameters {
    name: *const c_char,
    entries: u32,
    reserved: u32,
    key_len: u32,
    hash_func: extern "C" fn(*const c_void, u32, u32) -> u32,
    hash_func_init_val: u32,
    socket_id: c_int,
    extra_flag: u8,
}

#[link(name = "rte_hash")]
unsafe extern "C" {
    fn rte_hash_create(parameters: *const RteHashParameters) -> *mut c_void;
    fn rte_hash_free(table: *mut c_void);
    fn rte_hash_add_key_data(table: *const c_void, key: *const c_void, data: *mut c_void) -> c_int;
    fn rte_hash_del_key(table: *const c_void, key: *const c_void) -> c_int;
    fn rte_hash_lookup_data(table: *const c_void, key: *const c_void, data: *mut *mut c_void) -> c_int;
    fn rte_hash_lookup_bulk_data(
        table: *const c_void,
        keys: *const *const c_void,
        count: u32,
        hits: *mut u64,
        data: *mut *mut c_void,
    ) -> c_int;
}

/// A key of 16 bytes, which rte_hash compares in one operation.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Packed([u64; 2]);

impl Packed {
    fn of(key: &Key) -> Self {
        let word = |end: &Endpoint<Addr4>| u64::from(u32::from_ne_bytes(end.addr.0)) | u64::from(end.port) << 32;
        Self([word(&key.src) | u64::from(key.protocol) << 48, word(&key.dst)])
    }
}

extern "C" fn hash_packed(key: *const c_void, _len: u32, _init: u32) -> u32 {
    // SAFETY: rte_hash calls it with the keys given to it, which are `Packed`.
    let Packed([low, high]) = unsafe { *key.cast::<Packed>() };
    let fold = |left: u64, right: u64| {
        let product = u128::from(left) * u128::from(right);
        product as u64 ^ (product >> 64) as u64
    };
    let product = fold(low ^ 0x243F_6A88_85A3_08D3, high ^ 0x1319_8A2E_0370_7344);
    fold(product ^ 0xA409_3822_299F_31D0, 0x082E_FA98_EC4E_6C89) as u32
}

/// DPDK's table.
struct RteHash {
    table: *mut c_void,
    conns: Vec<Conn<Addr4>>,
}

impl RteHash {
    fn new(conns: usize) -> Option<Self> {
        let name = CString::new("contest").expect("a name");
        let parameters = RteHashParameters {
            name: name.as_ptr(),
            // Without extendable buckets the table can be filled to about 95 %.
            entries: (2 * conns + conns / 4).max(64) as u32,
            reserved: 0,
            key_len: size_of::<Packed>() as u32,
            hash_func: hash_packed,
            hash_func_init_val: 0,
            socket_id: 0,
            extra_flag: 0,
        };
        // SAFETY: the EAL runs; the parameters are those of rte_hash.h and live across the call.
        let table = unsafe { rte_hash_create(&parameters) };
        (!table.is_null()).then(|| Self {
            table,
            conns: vec![Conn::default(); conns],
        })
    }
}

impl Drop for RteHash {
    fn drop(&mut self) {
        // SAFETY: made by rte_hash_create, freed once.
        unsafe { rte_hash_free(self.table) }
    }
}

impl Contestant for RteHash {
    fn name(&self) -> &'static str {
        "rte_hash"
    }

    fn insert(&mut self, number: u32, conn: Conn<Addr4>) {
        for key in [conn.inbound_key(), conn.outbound_key()] {
            let packed = Packed::of(&key);
            let data = std::ptr::without_provenance_mut(number as usize);
            // SAFETY: a live table; the key is copied; data is a number to us.
            let added = unsafe { rte_hash_add_key_data(self.table, (&raw const packed).cast(), data) };
            assert_eq!(added, 0, "space for it");
        }
        self.conns[number as usize] = conn;
    }

    fn remove(&mut self, _number: u32, conn: &Conn<Addr4>) {
        for key in [conn.inbound_key(), conn.outbound_key()] {
            let packed = Packed::of(&key);
            // SAFETY: as above.
            let removed = unsafe { rte_hash_del_key(self.table, (&raw const packed).cast()) };
            assert!(removed >= 0, "it is there");
        }
    }

    fn one(&mut self, key: &Key, now: Tick) -> usize {
        let packed = Packed::of(key);
        let mut data = std::ptr::null_mut();
        // SAFETY: as above.
        if unsafe { rte_hash_lookup_data(self.table, (&raw const packed).cast(), &mut data) } < 0 {
            return 0;
        }
        self.conns[data.addr()].last_seen = now;
        1
    }

    fn burst(&mut self, keys: &[Key], now: Tick) -> usize {
        let mut packed = [Packed([0; 2]); BURST_MAX];
        let mut pointers = [std::ptr::null(); BURST_MAX];
        for ((packed, pointer), key) in packed.iter_mut().zip(&mut pointers).zip(keys) {
            *packed = Packed::of(key);
            *pointer = (&raw const *packed).cast();
        }
        let (mut hits, mut data) = (0, [std::ptr::null_mut(); BURST_MAX]);
        // SAFETY: as above; `count` pointers to live keys, and space for as many answers.
        unsafe {
            rte_hash_lookup_bulk_data(
                self.table,
                pointers.as_ptr(),
                keys.len() as u32,
                &mut hits,
                data.as_mut_ptr(),
            );
        }
        for (place, data) in data.iter().enumerate() {
            if hits >> place & 1 == 1 {
                prefetch_read(&self.conns[data.addr()]);
            }
        }
        for (place, data) in data.iter().enumerate() {
            if hits >> place & 1 == 1 {
                self.conns[data.addr()].last_seen = now;
            }
        }
        hits.count_ones() as usize
    }
}

fn conn(n: u32) -> Conn<Addr4> {
    let end = |addr: u32, port: u32| Endpoint::new(Addr4(addr.to_be_bytes()), port as u16);
    Conn {
        protocol: 6,
        flags: ConnFlags::OUTBOUND_INDEXED,
        timeout_ms: 900_000,
        ..Conn::between(
            end(0x0a00_0100 + n % 65_536, 1_024 + n / 65_536),
            end(0xc612_0001, 80),
            end(0xc612_6401 + n / 24 % 4 + n / (96 * 60_000) * 4, 80),
            end(0xc612_c801 + n % 24, 1_024 + n / 96 % 60_000),
        )
    }
}

fn nanoseconds_each(pieces: usize, work: impl FnOnce()) -> f64 {
    let before = thread_cpu_time();
    work();
    (thread_cpu_time() - before).as_nanos() as f64 / pieces as f64
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last as u32 + 1) as usize);
    }
}

/// The measured operations: column heads and names in JSON.
const COLUMNS: [(&str, &str); 7] = [
    ("hit alone", "hit_ns"),
    ("hit in bursts", "hit_burst_ns"),
    ("miss alone", "miss_ns"),
    ("miss in bursts", "miss_burst_ns"),
    ("insert", "insert_ns"),
    ("remove + insert", "remove_insert_ns"),
    ("remove", "remove_ns"),
];

/// Measures with `entries` keys, that is, half as many connections. Nanoseconds in the order of `COLUMNS`.
fn measure(contestant: &mut dyn Contestant, entries: usize) -> [f64; COLUMNS.len()] {
    let conns = entries / 2;
    let mut random = Random::new(0x5eed);
    let mut order: Vec<u32> = (0..conns as u32).collect();
    shuffle(&mut order, &mut random);
    let inserts = nanoseconds_each(conns, || order.iter().for_each(|&n| contestant.insert(n, conn(n))));
    let lookups = 1 << 20;
    let mut some_keys = |first: u32| -> Vec<Key> {
        let key = |_| {
            let conn = conn(first + random.below(conns as u32));
            if random.below(2) == 0 {
                conn.inbound_key()
            } else {
                conn.outbound_key()
            }
        };
        (0..lookups).map(key).collect()
    };
    let hits = some_keys(0);
    let misses = some_keys(conns as u32);
    let timed = |contestant: &mut dyn Contestant, keys: &[Key], in_bursts: bool, expected: usize| {
        let round = |round| {
            nanoseconds_each(keys.len(), || {
                let now = Tick(round as u32);
                let found: usize = if in_bursts {
                    keys.chunks_exact(BURST_MAX)
                        .map(|burst| contestant.burst(black_box(burst), now))
                        .sum()
                } else {
                    keys.iter().map(|key| contestant.one(black_box(key), now)).sum()
                };
                assert_eq!(found, expected);
            })
        };
        median((0..ROUNDS).map(round).collect())
    };
    let alone = timed(contestant, &hits, false, lookups);
    let in_bursts = timed(contestant, &hits, true, lookups);
    let missed_alone = timed(contestant, &misses, false, 0);
    let missed = timed(contestant, &misses, true, 0);
    // Removes each connection and adds it again, so that the table is the same in the end.
    let swaps = conns.min(1 << 18);
    let churn = nanoseconds_each(2 * swaps, || {
        for &n in &order[..swaps] {
            contestant.remove(n, &conn(n));
            contestant.insert(n, conn(n + conns as u32));
        }
        for &n in &order[..swaps] {
            contestant.remove(n, &conn(n + conns as u32));
            contestant.insert(n, conn(n));
        }
    });
    shuffle(&mut order, &mut random);
    let removes = nanoseconds_each(conns, || order.iter().for_each(|&n| contestant.remove(n, &conn(n))));
    [alone, in_bursts, missed_alone, missed, inserts, churn, removes]
}

fn main() {
    let settings = EalSettings {
        hugepages: Hugepages::Auto,
        memory_mb: 64,
        file_prefix: "lvsd-contest".to_owned(),
        log_level: 3,
        ..EalSettings::default()
    };
    let _eal = Eal::start(&settings).expect("DPDK starts");
    let is_json = std::env::args().any(|word| word == "--json");
    let sizes: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    if !is_json {
        let heads: String = COLUMNS.iter().map(|(head, _)| format!("  {head:>15}")).collect();
        println!("ns each       entries{heads}");
    }
    let all = [1_000, 10_000, 100_000, 1_000_000, 4_000_000, 16_000_000];
    for &entries in if sizes.is_empty() { &all[..] } else { &sizes } {
        for make in [
            |conns| Some(Box::new(Ours::new(conns)) as Box<dyn Contestant>),
            |conns| Some(Box::new(Hashbrown::new(conns)) as Box<dyn Contestant>),
            |conns| RteHash::new(conns).map(|table| Box::new(table) as Box<dyn Contestant>),
        ] {
            let Some(mut contestant) = make(entries / 2) else {
                eprintln!("rte_hash: no memory for {entries} entries: reserve more hugepages");
                continue;
            };
            let figures = measure(&mut *contestant, entries);
            let name = contestant.name();
            if is_json {
                let named = COLUMNS.iter().zip(figures);
                let fields: String = named.map(|((_, name), ns)| format!(",\"{name}\":{ns:.1}")).collect();
                println!("{{\"table\":\"{name}\",\"entries\":{entries}{fields}}}");
            } else {
                let columns: String = figures.iter().map(|ns| format!("  {ns:>15.1}")).collect();
                println!("{name:<12} {entries:>8}{columns}");
            }
        }
    }
}

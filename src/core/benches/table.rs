//! What the connection table costs: `cargo bench -p lvs-core --bench table`.
//!
//! It looks flows up as the path does, in bursts of 32: hash all and prefetch their buckets, prefetch each connection some
//! packets ahead, then find it and write its `last_seen` and `in_packets`. The order of the flows is independent of the table's; half of
//! them come inbound, half outbound. Each figure is the median of five rounds (minimum to maximum), with large pages if
//! the kernel grants them, and without.
//!
//! `table layouts [CONNECTIONS]`: the table beside a model of another layout ([`hot_entries`]), in turns.
#![allow(unsafe_code, reason = "memory in large pages")]

#[path = "table/hot_entries.rs"]
mod hot_entries;

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::ptr::NonNull;
use std::time::Duration;

use hot_entries::HotEntries;
use lvs_core::address::{Addr4, Addr6, Address, Endpoint, FlowKey};
use lvs_core::arena::Arena;
use lvs_core::ipvs::conn::table::{Candidate, ConnTable, Expiry};
use lvs_core::ipvs::conn::{Conn, ConnFlags, ConnIndex};
use lvs_core::limits::BURST_MAX;
use lvs_core::random::Random;
use lvs_core::tick::Tick;
use nix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 5;
/// As in `path/lookup.rs`.
const AHEAD: usize = 10;
const LARGE_PAGE: usize = 2 << 20;
const MADV_HUGEPAGE: c_int = 14;
const MADV_NOHUGEPAGE: c_int = 15;

unsafe extern "C" {
    fn madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int;
}

/// Memory like the daemon's, in large pages if wanted and granted.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

impl Memory {
    fn new(len: usize, large_pages: bool) -> Self {
        let layout = Layout::from_size_align(len.next_multiple_of(LARGE_PAGE), LARGE_PAGE).unwrap();
        // SAFETY: the layout is not of size 0.
        let start = NonNull::new(unsafe { alloc(layout) }).expect("memory for the table");
        let advice = if large_pages { MADV_HUGEPAGE } else { MADV_NOHUGEPAGE };
        // SAFETY: advice about memory of our own, page-aligned; then its first touch, within its length.
        unsafe {
            madvise(start.as_ptr().cast(), layout.size(), advice);
            start.write_bytes(0, layout.size());
        }
        Self { start, layout }
    }

    /// The memory as `count` times `element`.
    fn slice_of<T: Copy>(&mut self, count: usize, element: T) -> &mut [T] {
        assert!(count * size_of::<T>() <= self.layout.size() && align_of::<T>() <= LARGE_PAGE);
        // SAFETY: aligned, long enough, ours alone while `self` is borrowed, and written before it is read.
        unsafe {
            let start = self.start.cast::<T>();
            (0..count).for_each(|at| start.add(at).write(element));
            std::slice::from_raw_parts_mut(start.as_ptr(), count)
        }
    }

    fn arena(&self) -> Arena {
        // SAFETY: aligned, zeroed, ours alone; `main` drops the table before the memory.
        unsafe { Arena::from_raw(self.start, self.layout.size()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// Median, minimum and maximum of the rounds' nanoseconds per piece.
fn report(what: &str, mut rounds: Vec<f64>) {
    rounds.sort_by(f64::total_cmp);
    let (median, least, most) = (rounds[rounds.len() / 2], rounds[0], rounds[rounds.len() - 1]);
    print!("  {what} {median:6.1} ({least:.1}–{most:.1})");
}

/// Nanoseconds on the CPU. Other programs on the machine lengthen them only by the cache lines that they evict.
fn nanoseconds_each(pieces: usize, work: impl FnOnce()) -> f64 {
    let before = on_cpu();
    work();
    (on_cpu() - before).as_nanos() as f64 / pieces as f64
}

/// The CPU time of this thread so far.
fn on_cpu() -> Duration {
    let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a thread has such a clock");
    Duration::from(spent)
}

fn end<A: Address>(host: u32, port: u16) -> Endpoint<A> {
    let bytes: [u8; 16] = ((0x2001_0db8u128 << 96) | u128::from(host)).to_be_bytes();
    Endpoint::new(A::read_from_bytes(&bytes[16 - A::LEN..]).unwrap(), port)
}

fn flow<A: Address>(n: u32) -> Conn<A> {
    Conn {
        protocol: 6,
        flags: ConnFlags::OUTBOUND_INDEXED,
        timeout_ms: 900_000,
        ..Conn::between(
            end(0x0a00_0100 + n % 16_384, 1_024 + (n / 16_384) as u16),
            end(0xc612_0001, 80),
            end(0xc612_6401 + n / 24 % 4 + n / (96 * 60_000) * 4, 80),
            end(0xc612_c801 + n % 24, 1_024 + (n / 96 % 60_000) as u16),
        )
    }
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last as u32 + 1) as usize);
    }
}

fn look_up<A: Address>(table: &mut ConnTable<A>, keys: &[FlowKey<A>], now: Tick) -> usize {
    let mut found = 0;
    let mut hashes = [0; BURST_MAX];
    let mut candidates = [Candidate::NONE; BURST_MAX];
    for burst in keys.chunks(BURST_MAX) {
        for (hash, key) in hashes.iter_mut().zip(burst) {
            *hash = table.hash(key);
            table.prefetch_bucket(*hash);
        }
        let hashes = &hashes[..burst.len()];
        for (candidate, hash) in candidates.iter_mut().zip(hashes).take(AHEAD) {
            *candidate = table.prefetch_candidate(*hash);
        }
        for (at, key) in burst.iter().enumerate() {
            if let Some(hash) = hashes.get(at + AHEAD) {
                candidates[at + AHEAD] = table.prefetch_candidate(*hash);
            }
            if let Some((conn, direction)) = table.confirm(candidates[at], key) {
                conn.last_seen = now;
                conn.in_packets = conn.in_packets.wrapping_add(1 - direction as u32);
                found += 1;
            } else if let Some((index, direction)) = table.find(hashes[at], key) {
                let conn = table.conn_mut(index);
                conn.last_seen = now;
                conn.in_packets = conn.in_packets.wrapping_add(1 - direction as u32);
                found += 1;
            }
        }
    }
    found
}

fn insert_all<A: Address>(table: &mut ConnTable<A>, flows: &[Conn<A>]) -> Vec<ConnIndex> {
    let mut indices = Vec::with_capacity(flows.len());
    for burst in flows.chunks(BURST_MAX) {
        // As on the path, where lookups have fetched the buckets of both directions before.
        for conn in burst {
            table.prefetch_bucket(table.hash(&conn.inbound_key()));
            table.prefetch_bucket(table.hash(&conn.outbound_key()));
        }
        indices.extend(
            burst
                .iter()
                .map(|conn| table.insert(*conn, Tick(0)).expect("the table has a free slot")),
        );
    }
    indices
}

fn measure<A: Address>(count: usize, large_pages: bool) {
    let bytes = ConnTable::<A>::bytes_needed(count);
    let memory = Memory::new(bytes, large_pages);
    let mut arena = memory.arena();
    let mut random = Random::new(0x5eed);
    let secret = std::array::from_fn(|_| random.next_u64());
    let mut table = ConnTable::<A>::new(&mut arena, count, secret).expect("as many bytes as needed");

    let mut flows: Vec<Conn<A>> = (0..count as u32).map(flow).collect();
    shuffle(&mut flows, &mut random);
    let mut keys: Vec<FlowKey<A>> = flows
        .iter()
        .map(|conn| {
            if random.below(2) == 0 {
                conn.inbound_key()
            } else {
                conn.outbound_key()
            }
        })
        .collect();
    shuffle(&mut keys, &mut random);

    let (mut inserts, mut removes, mut expiries) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut indices = Vec::new();
        inserts.push(nanoseconds_each(count, || indices = insert_all(&mut table, &flows)));
        shuffle(&mut indices, &mut random);
        removes.push(nanoseconds_each(count, || {
            indices.iter().for_each(|&index| table.remove(index))
        }));
        insert_all(&mut table, &flows);
        let now = Tick(900_064);
        expiries.push(nanoseconds_each(count, || {
            while !table.is_empty() {
                table.expire(now, 128, |_| Expiry::Remove);
            }
        }));
        shuffle(&mut flows, &mut random);
    }
    insert_all(&mut table, &flows);

    let passes = (8_000_000 / count).max(1);
    let mut lookups = Vec::new();
    look_up(&mut table, &keys, Tick(1));
    for round in 0..ROUNDS {
        lookups.push(nanoseconds_each(count * passes, || {
            for _ in 0..passes {
                let found = look_up(&mut table, black_box(&keys), Tick(round as u32));
                assert_eq!(found, keys.len());
            }
        }));
    }
    let pages = if large_pages { "2 MB" } else { "4 kB" };
    print!("{:?} {count:8} {pages}", A::FAMILY);
    report("lookup", lookups);
    report("insert", inserts);
    report("remove", removes);
    report("expire", expiries);
    println!("  {:.1} B", bytes as f64 / count as f64);
}

/// A table that `measure` has not filled, and the model, with the same NAT connections and packets.
fn layouts(count: usize) {
    let mut random = Random::new(0x5eed);
    let secret = std::array::from_fn(|_| random.next_u64());
    let mut conns: Vec<Conn<Addr4>> = (0..count as u32).map(flow).collect();
    conns.iter_mut().for_each(|conn| conn.ends[1].dst = conn.client());
    shuffle(&mut conns, &mut random);
    let mut packets: Vec<(FlowKey<Addr4>, bool)> = conns
        .iter()
        .map(|conn| match random.below(2) {
            0 => (conn.inbound_key(), false),
            _ => (conn.outbound_key(), true),
        })
        .collect();
    shuffle(&mut packets, &mut random);
    let keys: Vec<FlowKey<Addr4>> = packets.iter().map(|(key, _)| *key).collect();

    let memory = Memory::new(ConnTable::<Addr4>::bytes_needed(count), true);
    let mut table = ConnTable::new(&mut memory.arena(), count, secret).expect("as many bytes as needed");
    insert_all(&mut table, &conns);
    let mut model_memory = Memory::new(HotEntries::bytes_for(count), true);
    let (mut model, homeless) = HotEntries::new(&mut model_memory, &conns);
    let passes = (8_000_000 / count).max(1);
    let (mut ours, mut hot) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let ours_ns = nanoseconds_each(count * passes, || {
            for _ in 0..passes {
                assert_eq!(look_up(&mut table, black_box(&keys), Tick(round as u32)), count);
            }
        });
        let hot_ns = nanoseconds_each(count * passes, || {
            for _ in 0..passes {
                black_box(model.look_up(black_box(&packets), round as u32));
            }
        });
        // The first round fills the caches.
        if round > 0 {
            ours.push(ours_ns);
            hot.push(hot_ns);
        }
    }
    print!("layouts {count:8}");
    report("the table", ours);
    report("entries in the bucket", hot);
    println!("  {homeless} of {} entries without a place", 2 * count);
}

fn main() {
    if std::env::args().any(|arg| arg == "layouts") {
        let counts: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
        let all = [1_000, 100_000, 1_000_000, 4_000_000];
        (if counts.is_empty() { &all[..] } else { &counts })
            .iter()
            .copied()
            .for_each(layouts);
        return;
    }
    println!("ns each, median of {ROUNDS} (minimum–maximum)");
    let filter: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    for count in [1_000, 100_000, 1_000_000, 4_000_000] {
        if filter.is_empty() || filter.contains(&count) {
            measure::<Addr4>(count, true);
            measure::<Addr4>(count, false);
            measure::<Addr6>(count, true);
        }
    }
}

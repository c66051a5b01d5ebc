//! The table's memory against the promise, its slots, restarts and dumps, and what the tests below it share.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::same_outbound::SAME_OUTBOUND_MAX;
use super::*;
use crate::address::{Addr4, Addr6, Endpoint};
use crate::random::Random;

mod same_outbound_key;
mod timers;
mod twin;

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

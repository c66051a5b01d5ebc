//! Addresses: sh, dh, mh, conhash.

use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::address::{Addr6, Address};

#[test]
fn sh_buckets_are_the_kernels() {
    let bucket = |fold: u32, port: u32| hash_to_byte(fold.wrapping_add(port));
    let client6 = Addr6::from_ip("2001:db8::1".parse().unwrap()).unwrap();
    assert_eq!(
        [bucket(0xC0A8_0001, 0), bucket(0x0A00_0001, 0), bucket(0xCB00_7107, 0)],
        [192, 39, 124]
    );
    assert_eq!(bucket(client6.fold(), 0), 63);
    assert_eq!(bucket(0xCB00_7107, 40_000), 32);
}

/// The picks for as many clients as `expected` names servers; for as many ports of one client if ports count.
fn picks_are(kind: SchedulerKind, flags: SchedulerFlags, commands: &str, expected: &str) {
    let mut bench = Bench::with_flags(kind, flags, commands);
    let count = expected.split(' ').count() as u16;
    let picks = if flags.contains(SchedulerFlags::PORT) {
        bench.ports(count)
    } else {
        bench.clients(u32::from(count))
    };
    assert_eq!(picks, expected);
}

#[test]
fn sh_sends_clients_where_the_kernel_does() {
    // sched_sh_clients
    let expected = "13 12 13 11 11 12 13 12 13 13 11 12 11 13 12 13 11 13 12 13 \
                    12 13 12 11 12 11 12 11 13 11 13 11 13 12 13 12 11 12 11 12";
    picks_are(SchedulerKind::Sh, SchedulerFlags(0), "a 11 1, a 12 1, a 13 1", expected);
    // sched_sh_port
    let expected = "13 11 13 12 11 12 13 12 11 12 11 12 12 13 11 13 11 11 12 13 12 11 12 11";
    picks_are(
        SchedulerKind::Sh,
        SchedulerFlags::PORT,
        "a 11 1, a 12 1, a 13 1",
        expected,
    );
    // sched_sh_zero_fallback
    let expected = "13 11 13 11 11 11 13 11 13 13 11 11 11 13 11 13 11 13 11 13 \
                    11 13 11 11 11 11 11 11 13 11 13 11 13 11 13 11 11 11 11 11";
    picks_are(
        SchedulerKind::Sh,
        SchedulerFlags::FALLBACK,
        "a 11 1, a 12 0, a 13 1",
        expected,
    );
}

/// A real 6.1 kernel, asked with five servers of weights 1, 0, 2, 1, 1: the walk begins at twice the hash.
#[test]
fn sh_falls_back_to_where_the_kernel_does() {
    let commands = "a 11 1, a 12 0, a 13 2, a 14 1, a 15 1";
    let expected = "15 13 15 13 11 14 13 14 13 15 13 11 13 13 14 13 11 13 11 15 \
                    13 15 13 11 14 11 14 13 15 13 15 13 13 14 13 14 13 11 13 11";
    picks_are(SchedulerKind::Sh, SchedulerFlags::FALLBACK, commands, expected);
}

/// sched_sh_edit.
#[test]
fn sh_is_rebuilt_when_servers_leave_and_return() {
    let mut bench = Bench::new(SchedulerKind::Sh, "a 11 1, a 12 1, a 13 1, a 14 1");
    let before = "12 14 12 14 13 11 13 11 13 12 14 12 14 13 11 13 11 13 12 14 12 14 12 11 13 11 13 12 14 12 14 12";
    assert_eq!(bench.clients(32), before);
    bench.run("d 12");
    let without = "14 13 14 11 11 13 14 13 14 14 11 13 11 14 13 14 11 14 13 14 13 14 13 11 13 11 13 11 14 11 14 11";
    assert_eq!(bench.clients(32), without);
    bench.run("a 12 1");
    let returned = "13 12 13 12 14 11 14 11 14 13 12 13 12 14 11 14 11 14 13 12 13 12 13 11 14 11 14 13 12 13 12 13";
    assert_eq!(bench.clients(32), returned);
}

#[test]
fn without_fallback_clients_of_a_quiesced_server_are_refused_by_sh() {
    let mut bench = Bench::new(SchedulerKind::Sh, "a 11 1, a 12 0, a 13 1");
    assert_eq!(bench.clients(12), "13 x 13 11 11 x 13 x 13 13 11 x");
}

/// sched_dh_1_1_1: destinations 10.9.(i mod 3).(1 + 7 i).
#[test]
fn dh_sends_destinations_where_the_kernel_does_and_never_falls_back() {
    let mut bench = Bench::new(SchedulerKind::Dh, "a 11 1, a 12 1, a 13 1");
    let flow = |i: u32| FlowHint {
        dst_fold: 0x0A09_0000 + (i % 3) * 256 + 1 + 7 * i,
        ..FlowHint::default()
    };
    let expected = "11 12 12 12 13 13 12 13 13 13 11 11 13 11 11 11 12 12 13 13 13 13 13 13";
    let picked: Vec<String> = (0..24).map(|i| bench.pick_for(flow(i)).unwrap().to_string()).collect();
    assert_eq!(picked.join(" "), expected);
    bench.run("e 12 0");
    assert_eq!([bench.pick_for(flow(0)), bench.pick_for(flow(1))], [Some(11), None]);
}

#[test]
fn mh_sends_clients_where_the_kernel_does() {
    // sched_mh_clients
    let expected = "11 13 13 11 12 12 12 11 12 12 11 11 13 13 12 12 13 12 12 11 \
                    12 11 13 12 12 11 12 12 13 12 12 11 11 13 13 12 11 11 11 11";
    picks_are(SchedulerKind::Mh, SchedulerFlags(0), "a 11 1, a 12 1, a 13 1", expected);
    // sched_mh_port
    let expected = "11 11 11 12 12 13 13 11 11 11 11 11 13 11 11 12 12 13 11 12 12 11 12 13";
    picks_are(
        SchedulerKind::Mh,
        SchedulerFlags::PORT,
        "a 11 1, a 12 1, a 13 1",
        expected,
    );
    // sched_mh_zero_fallback: a server that never had a weight is not in the table
    let expected = "11 13 13 11 11 11 11 11 11 13 11 11 13 13 13 11 13 11 13 11 \
                    11 11 13 13 11 11 11 13 13 11 11 11 11 13 13 11 11 11 11 11";
    picks_are(
        SchedulerKind::Mh,
        SchedulerFlags::FALLBACK,
        "a 11 1, a 12 0, a 13 1",
        expected,
    );
}

fn slots_of(bench: &Bench, count: usize) -> Vec<usize> {
    let SchedulerTable::Buckets(slots) = &bench.table.services()[0].table else {
        panic!()
    };
    let mut counts = vec![0; count];
    slots.iter().for_each(|&index| counts[usize::from(index)] += 1);
    counts
}

#[test]
fn mh_fills_its_table_by_weight_and_moves_few_slots() {
    let equal = Bench::new(SchedulerKind::Mh, "a 1 1, a 2 1, a 3 1");
    let mut counts = slots_of(&equal, 3);
    counts.sort_unstable();
    assert_eq!(counts, [1364, 1364, 1365]);
    // Weights 3, 1, 2, newest first.
    assert_eq!(
        slots_of(&Bench::new(SchedulerKind::Mh, "a 1 2, a 2 1, a 3 3"), 3),
        [2047, 682, 1364]
    );

    let slots = |bench: &Bench| {
        let service = &bench.table.services()[0];
        let SchedulerTable::Buckets(slots) = &service.table else {
            panic!()
        };
        slots
            .iter()
            .map(|&index| service.servers[usize::from(index)].addr)
            .collect::<Vec<_>>()
    };
    let mut bench = equal;
    let before = slots(&bench);
    bench.run("e 2 0");
    assert_eq!(slots(&bench), before, "quiescing leaves the table as it is");
    bench.run("d 2");
    let survivors = before.iter().zip(slots(&bench)).filter(|(old, _)| **old != addr(2));
    let moved = survivors.filter(|(old, new)| *old != new).count();
    assert!(moved < 60, "{moved} slots of servers that stayed have moved");
}

#[test]
fn mh_canonical_gives_one_table_whatever_the_order_of_addition() {
    let canonical = |commands: &str| Bench::with_flags(SchedulerKind::Mh, SchedulerFlags::CANONICAL, commands);
    let mut one = canonical("a 1 3, a 2 1, a 3 2");
    let mut other = canonical("a 3 2, a 1 3, a 2 1");
    assert_eq!(one.clients(500), other.clients(500));
    let mut in_order = Bench::new(SchedulerKind::Mh, "a 3 2, a 1 3, a 2 1");
    let mut reversed = Bench::new(SchedulerKind::Mh, "a 1 3, a 2 1, a 3 2");
    assert_ne!(in_order.clients(500), reversed.clients(500));
}

/// Some servers with weights, and which of them goes.
fn server_sets() -> impl Strategy<Value = (Vec<(u8, u32)>, usize)> {
    let servers = prop::collection::btree_set(1u8..200, 3..12);
    let weights = prop::collection::vec(1u32..8, 12);
    let weighted = (servers, weights).prop_map(|(servers, weights)| servers.into_iter().zip(weights).collect());
    (weighted, 0usize..3)
}

/// One server goes and comes back. Returns how many of 1,000 clients had another server, and how many of those moved.
/// Afterwards all clients must be where they were.
fn moved_clients(kind: SchedulerKind, flags: SchedulerFlags, servers: &[(u8, u32)], gone: usize) -> (usize, usize) {
    let add = |(server, weight): &(u8, u32)| format!("a {server} {weight}");
    let commands: Vec<String> = servers.iter().map(add).collect();
    let mut bench = Bench::with_flags(kind, flags, &commands.join(", "));
    let before = bench.clients(1_000);
    let own = servers[gone].0.to_string();
    bench.run(&format!("d {own}"));
    let without = bench.clients(1_000);
    bench.run(&commands[gone]);
    assert_eq!(bench.clients(1_000), before);
    let others = before.split(' ').zip(without.split(' ')).filter(|(old, _)| *old != own);
    let moved = others.clone().filter(|(old, new)| old != new).count();
    (others.count(), moved)
}

/// Maglev promises little disruption on average only. Over 20,000 random sets of servers 1.1 % of the clients moved that
/// need not move, and in 19 of 20 sets at most 2 %. One set has no such bound: if the skips of two servers are small
/// multiples of each other, one server follows the other through the table, and up to 72 % move (3 servers, found by
/// search). So the test adds up the same 200 sets every time.
#[test]
fn mh_moves_few_clients_that_need_not_move() {
    let (mut runner, sets) = (TestRunner::deterministic(), server_sets());
    let (mut clients, mut moved) = (0, 0);
    for _ in 0..200 {
        let (servers, gone) = sets.new_tree(&mut runner).unwrap().current();
        let (of_set, moved_of_set) = moved_clients(SchedulerKind::Mh, SchedulerFlags::CANONICAL, &servers, gone);
        clients += of_set;
        moved += moved_of_set;
    }
    println!("{moved} of {clients} clients moved");
    assert!(moved * 100 <= clients * 2, "{moved} of {clients} clients moved");
}

proptest! {
    #![proptest_config(crate::testing::properties())]

    /// No client moves that need not. The weights are equal, because the shares of the others depend on the average
    /// weight.
    #[test]
    fn conhash_moves_no_client_that_need_not_move((servers, gone) in server_sets()) {
        let equal: Vec<(u8, u32)> = servers.into_iter().map(|(server, _)| (server, 1)).collect();
        let (_, moved) = moved_clients(SchedulerKind::Conhash, SchedulerFlags(0), &equal, gone);
        prop_assert_eq!(moved, 0);
    }
}

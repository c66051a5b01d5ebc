//! Schedulers that no kernel has: lt, wlt, wrt.

use super::*;

#[test]
fn lt_picks_the_least_traffic_and_counts_what_no_sample_knows_yet() {
    let mut bench = Bench::new(SchedulerKind::Lt, "a 1 1, a 2 1, a 3 1");
    // Without traffic connections alternate, newest first.
    assert_eq!(bench.picks(6), "3 2 1 3 2 1");
    bench.loads.assigned.clear();
    bench.loads.traffic = vec![300, 100, 200];
    bench.loads.active = vec![3, 2, 1];
    // Each connection is expected to bring 600 / 6 = 100: 2 is filled up to 3, then both up to 1.
    assert_eq!(bench.picks(6), "2 3 2 3 2 1");
    bench.set_overloaded(2, true);
    bench.run("e 3 0");
    assert_eq!(bench.picks(2), "1 1");
    bench.run("e 1 0");
    assert_eq!(bench.picks(1), "x");
}

#[test]
fn wlt_shares_traffic_by_weight_and_does_not_overflow() {
    let mut bench = Bench::new(SchedulerKind::Wlt, "a 1 1, a 2 2");
    assert_eq!(bench.picks(6), "2 1 2 2 1 2");
    bench.run("e 1 2147483647, e 2 2147483646");
    bench.loads.assigned.clear();
    bench.loads.traffic = vec![u64::MAX - 1, u64::MAX];
    bench.loads.active = vec![u32::MAX, u32::MAX];
    assert_eq!(bench.picks(1), "1");
}

#[test]
fn wrt_weighs_response_time_connections_and_weight_and_compares_all_of_a_few_servers() {
    let mut bench = Bench::new(SchedulerKind::Wrt, "a 1 1, a 2 1, a 3 2");
    bench.loads.response_us = vec![100, 200, 200];
    // 100 / 1, 200 / 1, 200 / 2: a tie between 3 and 1, the first in the list wins.
    bench.opens = true;
    assert_eq!(bench.picks(5), "3 1 3 2 1");
}

#[test]
fn wrt_weighs_connections_as_sed_does_where_no_response_time_is_seen() {
    let picks = |kind| {
        let mut bench = Bench::new(kind, "a 1 1, a 2 3, a 3 2");
        bench.opens = true;
        bench.picks(40)
    };
    assert_eq!(picks(SchedulerKind::Wrt), picks(SchedulerKind::Sed));
}

#[test]
fn wrt_compares_two_random_servers_of_many() {
    let mut bench = Bench::new(SchedulerKind::Wrt, "a 1 1, a 2 1, a 3 1, a 4 1, a 5 6");
    bench.loads.response_us = vec![1, 1_000, 1_000, 1_000, 1_000];
    let picks: Vec<u8> = (0..1_000).filter_map(|_| bench.pick_for(FlowHint::default())).collect();
    let share = |number: u8| picks.iter().filter(|picked| **picked == number).count();
    // 1 is picked whenever it is drawn: 1 - (9/10)². 5 has six times its weight and is cheap for it.
    assert!((130..=250).contains(&share(1)), "{}", share(1));
    assert!(share(5) > 500, "{}", share(5));
    assert!((2..=4).all(|number| share(number) < 100));
}

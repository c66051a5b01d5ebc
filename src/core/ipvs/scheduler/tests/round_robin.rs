//! Turns and weights: rr, and wrr compared with a literal copy of the kernel's loop.

use super::*;

#[test]
fn rr_takes_servers_in_turn_newest_first() {
    // sched_rr_3
    let mut bench = Bench::new(SchedulerKind::Rr, "a 11 1, a 12 1, a 13 1");
    assert_eq!(bench.picks(9), "13 12 11 13 12 11 13 12 11");
    // sched_rr_weights_ignored
    let mut bench = Bench::new(SchedulerKind::Rr, "a 11 3, a 12 1, a 13 0");
    assert_eq!(bench.picks(8), "12 11 12 11 12 11 12 11");
}

#[test]
fn rr_goes_on_from_the_server_before_a_deleted_one() {
    let mut bench = Bench::new(SchedulerKind::Rr, "a 11 1, a 12 1, a 13 1, a 14 1");
    assert_eq!(bench.picks(2), "14 13");
    bench.run("d 13");
    assert_eq!(bench.picks(4), "12 11 14 12");
    bench.run("d 14");
    assert_eq!(bench.picks(2), "11 12");
    bench.run("d 12, d 11, a 15 1");
    assert_eq!(bench.picks(2), "15 15");

    let mut bench = Bench::new(SchedulerKind::Rr, "a 11 1, a 12 1, a 13 1");
    assert_eq!(bench.picks(1), "13");
    bench.run("d 13");
    assert_eq!(
        bench.picks(3),
        "12 11 12",
        "before the first one is the head of the list"
    );
}

#[test]
fn rr_meets_a_new_server_at_the_end_of_the_round() {
    let mut bench = Bench::new(SchedulerKind::Rr, "a 11 1, a 12 1, a 13 1");
    assert_eq!(bench.picks(1), "13");
    bench.run("a 14 1");
    assert_eq!(bench.picks(4), "12 11 14 13");
}

#[test]
fn wrr_interleaves_by_weight() {
    // sched_wrr_3_1, sched_wrr_3_2_1, sched_wrr_4_2_gcd, sched_wrr_equal
    assert_eq!(
        Bench::new(SchedulerKind::Wrr, "a 11 3, a 12 1").picks(8),
        "12 11 11 11 12 11 11 11"
    );
    let mut bench = Bench::new(SchedulerKind::Wrr, "a 11 3, a 12 2, a 13 1");
    assert_eq!(bench.picks(12), "13 12 11 11 12 11 13 12 11 11 12 11");
    assert_eq!(
        Bench::new(SchedulerKind::Wrr, "a 11 4, a 12 2").picks(6),
        "12 11 11 12 11 11"
    );
    assert_eq!(
        Bench::new(SchedulerKind::Wrr, "a 11 7, a 12 7, a 13 7").picks(6),
        "13 12 11 13 12 11"
    );
    // 5:0:3
    let mut bench = Bench::new(SchedulerKind::Wrr, "a 11 5, a 12 0, a 13 3");
    assert_eq!(bench.picks(8), "13 11 11 11 13 11 13 11");
    // A w4, B w3, C w2: CBAABACBACBAABACBA
    let mut bench = Bench::new(SchedulerKind::Wrr, "a 1 4, a 2 3, a 3 2");
    assert_eq!(bench.picks(18), "3 2 1 1 2 1 3 2 1 3 2 1 1 2 1 3 2 1");
    // A 100, B 100, C 50: CBABACBABACBABA
    let mut bench = Bench::new(SchedulerKind::Wrr, "a 1 100, a 2 100, a 3 50");
    assert_eq!(bench.picks(15), "3 2 1 2 1 3 2 1 2 1 3 2 1 2 1");
}

#[test]
fn wrr_chosen_for_servers_that_are_there_begins_with_the_heaviest() {
    // list order [4, 3, 2] from the top: AABABCABCAABABCABC
    let mut bench = Bench::new(SchedulerKind::Rr, "a 3 2, a 2 3, a 1 4");
    bench.edit(SchedulerKind::Wrr);
    assert_eq!(bench.picks(18), "1 1 2 1 2 3 1 2 3 1 1 2 1 2 3 1 2 3");
}

/// sched_wrr_edit: changes in the middle of a round.
#[test]
fn wrr_goes_on_after_edits_as_the_kernel_does() {
    let mut bench = Bench::new(SchedulerKind::Wrr, "a 11 3, a 12 2, a 13 1");
    assert_eq!(bench.picks(4), "13 12 11 11");
    bench.run("e 12 6");
    assert_eq!(bench.picks(14), "12 11 12 11 13 12 11 12 12 12 12 11 12 11");
    bench.run("a 14 4");
    assert_eq!(bench.picks(16), "14 12 11 14 13 12 11 12 12 14 12 14 12 11 14 12");
    bench.run("d 12");
    assert_eq!(bench.picks(10), "14 11 14 13 11 14 14 11 14 11");
    bench.run("e 11 0, e 13 0, e 14 0");
    assert_eq!(bench.picks(2), "x x");
    bench.run("e 13 2, e 11 1");
    assert_eq!(bench.picks(8), "13 11 13 13 11 13 13 11");
}

/// The kernel's `ip_vs_wrr_schedule()` word for word, on a list of (weight, overloaded).
#[derive(Clone, Debug)]
struct WrrTwin {
    cursor: Option<usize>,
    current_weight: i32,
}

impl WrrTwin {
    fn schedule(&mut self, servers: &[(i32, bool)], gcd: i32, top: i32) -> Option<usize> {
        if top == 0 {
            return None;
        }
        let last = self.cursor;
        let mut dest = last;
        let (mut stop, mut restarts, mut last_pass) = (None, false, false);
        loop {
            loop {
                dest = dest
                    .map_or(Some(0), |index| Some(index + 1))
                    .filter(|&index| index < servers.len());
                let Some(index) = dest else { break };
                if !servers[index].1 && servers[index].0 >= self.current_weight {
                    self.cursor = dest;
                    return dest;
                }
                if stop.is_some() && dest == stop {
                    self.cursor = dest;
                    return None;
                }
            }
            self.current_weight -= gcd;
            if self.current_weight <= 0 {
                self.current_weight = top;
                if last_pass || last.is_none() {
                    self.cursor = None;
                    return None;
                }
                restarts = true;
            }
            last_pass = self.current_weight <= gcd;
            if last_pass && restarts && last.is_some() {
                stop = last;
            }
        }
    }
}

proptest! {
    #![proptest_config(crate::testing::properties())]

    #[test]
    fn wrr_is_the_kernels_loop_even_where_it_takes_a_short_cut(
        weights in prop::collection::vec(prop_oneof![Just(0), 1..6, (1..9).prop_map(|weight| weight * 20)], 1..7),
        overloads in prop::collection::vec(any::<u8>(), 40),
    ) {
        let commands: Vec<String> =
            weights.iter().enumerate().map(|(index, weight)| format!("a {} {weight}", index + 1)).collect();
        let mut bench = Bench::new(SchedulerKind::Wrr, &commands.join(", "));
        let SchedulerTable::Weights { gcd, top, start } = bench.table.services()[0].table else { panic!() };
        let mut twin = WrrTwin { cursor: None, current_weight: start };
        for overload in overloads {
            let mut list = vec![];
            for (index, &weight) in weights.iter().enumerate() {
                let is_overloaded = overload >> index & 1 == 1 && overload >> 7 == 1;
                bench.set_overloaded(index as u8 + 1, is_overloaded);
                list.insert(0, (weight, is_overloaded));
            }
            let expected = twin.schedule(&list, gcd, top).map(|index| (weights.len() - index) as u8);
            prop_assert_eq!(bench.pick_for(FlowHint::default()), expected);
        }
    }

    #[test]
    fn over_a_full_round_wrr_gives_each_server_its_weight(weights in prop::collection::vec(1u32..20, 1..8)) {
        let commands: Vec<String> =
            weights.iter().enumerate().map(|(index, weight)| format!("a {} {weight}", index + 1)).collect();
        let mut bench = Bench::new(SchedulerKind::Wrr, &commands.join(", "));
        let mut counts = vec![0; weights.len()];
        for _ in 0..weights.iter().sum() {
            counts[bench.pick_for(FlowHint::default()).unwrap() as usize - 1] += 1;
        }
        prop_assert_eq!(counts, weights);
    }
}

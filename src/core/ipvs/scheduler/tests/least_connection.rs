//! Loads: lc, wlc, sed, nq, twos.

use super::*;

#[test]
fn least_connection_schedulers_follow_the_load() {
    for (kind, commands, expected) in [
        // sched_lc_burst, sched_lc_weights_ignored, sched_wlc_burst_3_1, sched_wlc_zero
        (SchedulerKind::Lc, "a 11 1, a 12 1, a 13 1", "13 12 11 13 12 11"),
        (SchedulerKind::Lc, "a 11 5, a 12 1, a 13 0", "12 11 12 11 12 11"),
        (SchedulerKind::Wlc, "a 11 3, a 12 1", "12 11 11 11 12 11 11 11"),
        (
            SchedulerKind::Wlc,
            "a 11 0, a 12 2, a 13 1",
            "13 12 12 13 12 12 13 12 12",
        ),
        // sched_sed_10_1, the opening of sched_sed_mixed, sched_nq_burst_3_2_1
        (
            SchedulerKind::Sed,
            "a 11 10, a 12 1",
            "11 11 11 11 11 11 11 11 11 12 11 11 11 11 11 11",
        ),
        (
            SchedulerKind::Sed,
            "a 11 3, a 12 2, a 13 1",
            "11 12 11 13 12 11 11 12 11 13 12 11",
        ),
        (
            SchedulerKind::Nq,
            "a 11 3, a 12 2, a 13 1",
            "13 12 11 11 12 11 11 12 11 13 12 11 11 12 11 13 12 11 11 12 11 13 12 11",
        ),
        // sched_fo_burst, sched_fo_equal, sched_ovf_burst
        (SchedulerKind::Fo, "a 11 1, a 12 3, a 13 2", "12 12 12 12 12 12 12 12"),
        (SchedulerKind::Fo, "a 11 2, a 12 2, a 13 2", "13 13 13 13 13 13"),
        (
            SchedulerKind::Ovf,
            "a 11 2, a 12 4, a 13 3",
            "12 12 12 12 12 13 13 13 13 11 11 11",
        ),
    ] {
        let mut bench = Bench::new(kind, commands);
        bench.opens = true;
        let count = expected.split(' ').count();
        assert_eq!(bench.picks(count), expected, "{}: {commands}", kind.name());
    }
}

/// sched_ties: UDP connections are never active, so sed and nq do not see them.
#[test]
fn with_udp_lc_and_wlc_alternate_while_sed_and_nq_stay_with_the_newest() {
    for (kind, expected) in [
        (SchedulerKind::Lc, "12 11 13 12 11 13 12 11"),
        (SchedulerKind::Wlc, "12 11 13 12 11 13 12 11"),
        (SchedulerKind::Sed, "12 12 12 12 12 12 12 12"),
        (SchedulerKind::Nq, "12 12 12 12 12 12 12 12"),
        (SchedulerKind::Rr, "12 11 13 12 11 13 12 11"),
        (SchedulerKind::Wrr, "12 11 13 12 11 13 12 11"),
    ] {
        let mut bench = Bench::new(kind, "a 13 2, a 11 2, a 12 2");
        bench.lingers = true;
        assert_eq!(bench.picks(8), expected, "{}", kind.name());
    }
}

#[test]
fn the_overhead_formula_decides_near_ties() {
    let mut bench = Bench::new(SchedulerKind::Lc, "a 11 1, a 12 1");
    bench.loads = FixedLoads {
        active: vec![0, 1],
        inactive: vec![256, 0],
        overloaded: vec![],
        ..FixedLoads::default()
    };
    assert_eq!(bench.picks(1), "11", "257 for 12 against 256 for 11");
    bench.desired.set_overhead(Overhead::Classic);
    bench.table = bench.desired.build();
    assert_eq!(bench.picks(1), "12", "a tie goes to the newest");
}

#[test]
fn large_loads_and_weights_do_not_overflow() {
    for kind in [
        SchedulerKind::Lc,
        SchedulerKind::Wlc,
        SchedulerKind::Sed,
        SchedulerKind::Nq,
        SchedulerKind::Twos,
    ] {
        let mut bench = Bench::new(kind, "a 11 2147483647, a 12 2147483647");
        bench.loads = FixedLoads {
            active: vec![1, u32::MAX],
            inactive: vec![0, u32::MAX],
            overloaded: vec![],
            ..FixedLoads::default()
        };
        let picked = bench.picks(50);
        let expected = if kind == SchedulerKind::Twos {
            "11"
        } else {
            "11 11 11 11 11 11 11 11 11 11 11 11 11 11"
        };
        assert!(picked.contains(expected), "{}: {picked}", kind.name());
    }
}

#[test]
fn twos_prefers_the_less_loaded_and_spreads_by_weight() {
    let mut bench = Bench::new(SchedulerKind::Twos, "a 11 1, a 12 3");
    let mut counts = [0u32; 2];
    for _ in 0..10_000 {
        counts[usize::from(bench.pick_for(FlowHint::default()).unwrap()) - 11] += 1;
    }
    // On a tie the first choice stays: by weight 3:1, the newest favoured by the inclusive range (4 of 5).
    assert!((1_800..2_200).contains(&counts[0]), "{counts:?}");
    bench.loads.active = vec![0, 10];
    let picked = bench.picks(1_000);
    let idle_share = picked.split(' ').filter(|&number| number == "11").count();
    // Chosen at least once in two draws of one in five: 36 %.
    assert!((300..420).contains(&idle_share), "{idle_share}");
}

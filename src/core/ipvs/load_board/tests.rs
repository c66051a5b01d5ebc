//! Loads that several workers published add up, and measures are combined.

use super::*;
use crate::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::scheduler::SchedulerKind;
use crate::ipvs::service::{ServiceKey, ServiceProtocol};

const ID: RealServerId = RealServerId(0);

fn table(kind: SchedulerKind, servers: u8) -> ServiceTable {
    let key = ServiceKey::Address {
        protocol: ServiceProtocol::Tcp,
        addr: "192.0.2.100".parse().unwrap(),
        port: 80,
    };
    let mut desired = DesiredServices::default();
    desired.add_service(ServiceSpec::new(key, kind)).unwrap();
    for number in 1..=servers {
        let addr = format!("198.51.100.{number}").parse().unwrap();
        let server = ServerSpec::new(addr, 80, ForwardingMode::Nat, 1);
        desired.add_server(&key, server).unwrap();
    }
    desired.build()
}

fn workers(count: usize) -> Vec<Arc<WorkerCounters>> {
    (0..count).map(|_| Arc::new(WorkerCounters::new(8))).collect()
}

fn show(worker: &WorkerCounters, active: u32, inactive: u32) {
    worker.server(ID).active.set(active);
    worker.server(ID).inactive.set(inactive);
    worker.publish_conns(ID);
}

#[test]
fn the_other_workers_are_looked_at_once_a_beat_and_this_one_not_at_all() {
    let (table, workers) = (table(SchedulerKind::Wlc, 1), workers(3));
    let service = &table.services()[0];
    let mut board = LoadBoard::new(8, 8);
    show(&workers[0], 1, 10);
    show(&workers[1], 2, 20);
    show(&workers[2], 4, 40);
    board.look(service, &workers, 1, Tick(0));
    assert_eq!((board.others(ID).active, board.others(ID).inactive), (5, 50));
    show(&workers[2], 5, 40);
    board.set_us(LOADS_BEAT_US - 1);
    board.look(service, &workers, 1, Tick(0));
    assert_eq!(board.others(ID).active, 5, "not before the beat is over");
    board.set_us(LOADS_BEAT_US);
    board.look(service, &workers, 1, Tick(0));
    assert_eq!(board.others(ID).active, 6);
}

#[test]
fn a_large_service_is_looked_at_in_parts_until_all_of_it_was_seen() {
    let (table, workers) = (table(SchedulerKind::Lc, 7), workers(LOADS_READ_MAX / 3));
    let service = &table.services()[0];
    for id in 0..7 {
        workers[1].server(RealServerId(id)).active.set(9);
        workers[1].publish_conns(RealServerId(id));
    }
    let mut board = LoadBoard::new(8, 8);
    let mut seen = Vec::new();
    for beat in 0..3 {
        board.set_us(beat * LOADS_BEAT_US);
        board.look(service, &workers, 0, Tick(0));
        seen.push((0..7).filter(|id| board.others(RealServerId(*id)).active == 9).count());
    }
    assert_eq!(seen, [3, 6, 7]);
}

#[test]
fn traffic_is_sampled_every_two_seconds_as_the_estimator_does() {
    let (table, workers) = (table(SchedulerKind::Lt, 1), workers(2));
    let service = &table.services()[0];
    let mut boards = [LoadBoard::new(8, 8), LoadBoard::new(8, 8)];
    let mut estimator = crate::ipvs::stats::Estimator::default();
    for second in 1..=10u64 {
        for (board, worker) in boards.iter_mut().zip(&workers) {
            worker.server(ID).in_bytes.add(700);
            worker.server(ID).out_bytes.add(300);
            LoadBoard::assign(worker, &service.servers[0]);
            board.sample(&table, worker, Tick(second as u32 * 1_000));
        }
        if second % 2 == 0 {
            let in_bytes = second * 2 * 1_000;
            estimator.sample(crate::ipvs::stats::Totals {
                in_bytes,
                ..Default::default()
            });
        }
    }
    boards[0].set_us(LOADS_BEAT_US);
    boards[0].look(service, &workers, 0, Tick(0));
    let shown = (boards[0].traffic(ID) + 15) >> 5;
    assert!(shown.abs_diff(estimator.rates().in_bytes_per_sec) <= 1, "{shown}");
    assert_eq!(boards[0].assigned_by_others(ID), 0, "the sample knows them");
    LoadBoard::assign(&workers[1], &service.servers[0]);
    boards[0].set_us(2 * LOADS_BEAT_US);
    boards[0].look(service, &workers, 0, Tick(0));
    assert_eq!(boards[0].assigned_by_others(ID), 1);
}

#[test]
fn response_times_are_smoothed_but_a_server_that_became_slow_counts_at_once() {
    let counters = WorkerCounters::new(8);
    let now = || counters.measured(ID).response_us.get();
    LoadBoard::responded(&counters, ID, 800, Tick(1));
    assert_eq!(now(), 800);
    LoadBoard::responded(&counters, ID, 1_600, Tick(1));
    assert_eq!(now(), 900);
    LoadBoard::responded(&counters, ID, 4_000, Tick(1));
    assert_eq!(now(), 4_000);
    LoadBoard::responded(&counters, ID, 0, Tick(1));
    assert_eq!(now(), 3_500);
}

#[test]
fn a_server_nobody_heard_of_has_the_services_median_and_an_old_time_fades_to_the_best() {
    let (table, workers) = (table(SchedulerKind::Wrt, 5), workers(2));
    let service = &table.services()[0];
    let mut board = LoadBoard::new(8, 8);
    board.look(service, &workers, 0, Tick(0));
    assert_eq!(board.response_us(ID), RESPONSE_UNKNOWN_US);
    // Both workers have seen server 1; server 4 has never answered.
    for (worker, server, us) in [(0, 0, 100), (0, 1, 500), (1, 1, 700), (1, 2, 9_000), (0, 3, 10_000)] {
        LoadBoard::responded(&workers[worker], RealServerId(server), us, Tick(1_000));
    }
    let times = |board: &LoadBoard| (0..5).map(|id| board.response_us(RealServerId(id))).collect::<Vec<_>>();
    board.look(service, &workers, 0, Tick(RESPONSES_MERGE_MS - 1));
    assert_eq!(board.response_us(ID), RESPONSE_UNKNOWN_US, "not yet");
    board.look(service, &workers, 0, Tick(1_000));
    assert_eq!(times(&board), [100, 600, 9_000, 10_000, 9_000]);
    for server in [0, 1, 2] {
        LoadBoard::responded(&workers[0], RealServerId(server), 100, Tick(31_000));
    }
    board.look(service, &workers, 0, Tick(31_000));
    // The distance of server 3 to the best has been halved three times.
    assert_eq!(board.response_us(RealServerId(3)), 100 + (10_000 - 100) / 8);
}

//! A worker allocates nothing after its start while traffic flows, commands arrive, and captures begin and end.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use lvs_core::single_writer::SingleWriter;
use lvs_core::verdict::DropReason;
use lvs_test_support::lone_worker::LoneWorker;
use lvs_test_support::process::in_own_process;
use lvs_test_support::waits::PATIENCE;
use lvsd::worker::idle::IdlePolicy;

#[test]
fn a_worker_allocates_nothing_while_it_runs() {
    in_own_process("a_worker_allocates_nothing_while_it_runs", || {
        let (sender, receiver) = mpsc::channel();
        let mut worker = LoneWorker::start(IdlePolicy::Pause, move |worker| {
            let counted = allocation_counter::measure(|| worker.run());
            sender.send(counted).unwrap();
        });
        let counters = worker.counters.clone();
        let is_enough = |captured: u64| {
            let held = counters.drops_of(DropReason::HeldQueueFull) > 0;
            counters.devices[0].tx_packets.get() > 1_000_000 && captured > 10_000 && held
        };
        let end = Instant::now() + PATIENCE;
        for round in 0.. {
            worker.manage();
            if round >= 500 && is_enough(worker.captured) {
                break;
            }
            assert!(
                Instant::now() < end,
                "{} frames were captured, {counters:?}",
                worker.captured
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        worker.stop();
        let counted = receiver.recv().unwrap();
        assert_eq!((counted.count_total, counted.count_current), (0, 0), "{counted:?}");
    });
}

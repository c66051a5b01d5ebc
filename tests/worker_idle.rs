//! A worker that sleeps when idle uses little CPU and still serves everything in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lvs_core::counters::WorkerCounters;
use lvs_core::frame::Frame;
use lvs_core::single_writer::SingleWriter;
use lvs_core::verdict::DropReason;
use lvs_test_support::dpdk::{device_settings, pool, start_eal};
use lvs_test_support::process::{WORKERS, cpu_time, in_own_process, threads};
use lvs_test_support::scripted_path::{HANDOFF, HOLD, PUNT, ScriptedPath, TRANSMIT, neighbour, snapshot};
use lvs_test_support::strace::{Traced, longest_wait};
use lvs_test_support::waits::wait_until;
use lvs_test_support::workers::{WorkersSettings, WorkersTestbed};
use lvsd::dpdk::device::{Device, DeviceSettings, Queues};
use lvsd::dpdk::{Burst, Clock, lcore};
use lvsd::worker::Worker;
use lvsd::worker::assignment::{AssignmentSettings, assemble};
use lvsd::worker::idle::IdlePolicy;
use lvsd::worker::mailbox::{Command, Reply};

const ADAPTIVE: IdlePolicy = IdlePolicy::Adaptive {
    quiet_us: 200,
    sleep_max_us: 1_000,
};

const TWO: WorkersSettings = WorkersSettings {
    workers: 2,
    tx_queues: 2,
    idle: ADAPTIVE,
    ..WorkersSettings::ONE
};

/// CPU time of all polling threads.
fn workers_cpu_time() -> Duration {
    cpu_time("self", WORKERS)
}

#[test]
fn quiet_workers_look_once_or_twice_before_each_sleep() {
    in_own_process("quiet_workers_look_once_or_twice_before_each_sleep", || {
        let mut testbed = WorkersTestbed::start(&TWO);
        let slept = || testbed.counters.iter().all(|counters| counters.sleeps.get() > 100);
        assert!(wait_until(slept), "they sleep");
        let read = || {
            let of = |counters: &Arc<WorkerCounters>| (counters.sleeps.get(), counters.passes.get());
            testbed.counters.iter().map(of).collect::<Vec<_>>()
        };
        let (before, cpu_before) = (read(), workers_cpu_time());
        let slept = || read().iter().zip(&before).all(|(now, before)| now.0 >= before.0 + 500);
        assert!(wait_until(slept), "they sleep");
        println!("two workers: {:?} of CPU", workers_cpu_time() - cpu_before);
        // What a pass costs depends on what else runs on the core; how many there are does not.
        for ((sleeps, passes), before) in read().into_iter().zip(before) {
            let (sleeps, passes) = (sleeps - before.0, passes - before.1);
            println!("{sleeps} sleeps, {passes} passes");
            assert!(passes <= 3 * sleeps, "{passes} passes for {sleeps} sleeps");
        }
        // The worker writes one counter after the other, so a reader may see a new and an old one.
        let cycles = || [&testbed.counters[0].sleep_cycles, &testbed.counters[0].idle_cycles].map(SingleWriter::get);
        let fits = || matches!(cycles(), [sleep, idle] if sleep > idle / 2 && sleep <= idle);
        assert!(wait_until(fits), "cycles asleep, idle: {:?}", cycles());
        testbed.stop();
    });
}

#[test]
fn a_frame_after_a_silence_waits_for_sleeps_of_milliseconds_at_most() {
    let test = "a_frame_after_a_silence_waits_for_sleeps_of_milliseconds_at_most";
    in_own_process(test, || {
        let mut testbed = WorkersTestbed::start(&TWO);
        let logs = tempfile::tempdir().unwrap();
        let traced = |names: &[&str]| -> Vec<Traced> {
            let of = |thread: &String| Traced::attach("self", thread, &logs.path().join(thread));
            threads("self", names).iter().map(of).collect()
        };
        let (workers, twins) = (traced(WORKERS), traced(&["lvsd-twins"]));
        let mut waits = [const { Vec::new() }; 3];
        let mut twins_frame = [0; 64];
        for _ in 0..20 {
            for (kind, start) in [[TRANSMIT, 0], [HANDOFF, 1], [PUNT, 0]].into_iter().enumerate() {
                std::thread::sleep(Duration::from_millis(20));
                let sent = Instant::now();
                testbed.send(0, 0, &start, 1);
                if kind < 2 {
                    assert_eq!(testbed.receive(0, 1).len(), 1);
                } else {
                    testbed.twins[0].recv(&mut twins_frame).unwrap();
                }
                waits[kind].push(sent.elapsed());
            }
        }
        for (what, waits) in ["sent on", "handed off", "punted"].into_iter().zip(&mut waits) {
            waits.sort();
            println!("{what}: median {:?}, longest {:?}", waits[10], waits[19]);
        }
        // The threads decide how long they ask to sleep. When they run again is up to the machine.
        assert_eq!((workers.len(), twins.len()), (2, 1));
        for (thread, longest_ms) in workers
            .into_iter()
            .map(|worker| (worker, 1))
            .chain(twins.into_iter().map(|twin| (twin, 2)))
        {
            let longest = longest_wait(&thread.calls()).expect("it slept");
            assert!(longest <= Duration::from_millis(longest_ms), "a sleep of {longest:?}");
        }
        assert!(testbed.settles_at(60), "{:?}", testbed.account());
        testbed.stop_empty();
    });
}

#[test]
fn a_worker_that_sleeps_serves_timers_commands_and_the_kernels_frames() {
    in_own_process(
        "a_worker_that_sleeps_serves_timers_commands_and_the_kernels_frames",
        || {
            let mut testbed = WorkersTestbed::start(&WorkersSettings {
                workers: 1,
                tx_queues: 1,
                ..TWO
            });
            assert!(wait_until(|| testbed.counters[0].sleeps.get() > 100), "it rests");
            testbed.publish(0, snapshot(1));
            let (_, asked) = testbed.retired(0);
            assert_eq!(asked, []);
            testbed.twins[0].send(&[7; 60]).unwrap();
            assert_eq!(testbed.receive(0, 1), [[7; 60]]);
            // Nobody wakes it for its timers: it asks for the neighbour, asks again each second, and gives up after three.
            // A worker that the machine keeps waiting for so long gives up at once, so more than one frame may be needed.
            let asks_again = (1..=5).any(|frame| {
                testbed.send(0, 0, &[HOLD, 9], 1);
                assert!(
                    wait_until(|| testbed.drops(DropReason::NeighbourFailed) == frame),
                    "given up"
                );
                let replies = std::iter::from_fn(|| testbed.mailboxes[0].replies.pop());
                let asked: Vec<Reply> = replies.collect();
                let is_resolve = |reply: &Reply| matches!(reply, Reply::Resolve(of) if *of == neighbour(9));
                assert!(!asked.is_empty() && asked.iter().all(is_resolve), "{asked:?}");
                asked.len() > 1
            });
            assert!(asks_again);
            testbed.stop_empty();
        },
    );
}

/// A virtio queue of this process, served by a vhost device of this process: the one software device with receive
/// interrupts that needs no kernel module.
#[test]
fn a_device_with_receive_interrupts_wakes_its_worker() {
    in_own_process("a_device_with_receive_interrupts_wakes_its_worker", || {
        let eal = start_eal(1);
        let pool = pool(&eal, 8_191);
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("vhost");
        let open = |number: u8, driver: &str| {
            let settings = DeviceSettings {
                rx_interrupts: number == 1,
                rx_descriptors: 256,
                tx_descriptors: 256,
                ..device_settings(number, driver)
            };
            Device::open(&eal, &settings, pool).unwrap()
        };
        let (far, mut far_queues) = open(0, &format!("net_vhost0,iface={},queues=1", socket.display()));
        let (near, near_queues) = open(1, &format!("net_virtio_user0,path={},queues=1", socket.display()));
        assert!(near.rx_interrupts() && !far.rx_interrupts());
        let counters = [Arc::new(WorkerCounters::new(1))];
        let assignment_settings = AssignmentSettings {
            counters: &counters,
            twins: &[],
            idle: ADAPTIVE,
            clock: Clock::start(&eal),
            pool,
        };
        let mut assignment = assemble(vec![Queues::default(), near_queues], &assignment_settings);
        let mut worker = Worker::new(assignment.workers.remove(0), ScriptedPath::default());
        let handle = lcore::launch(&eal, 0, move || worker.run()).unwrap();
        assert!(
            wait_until(|| far.link().up && counters[0].sleeps.get() > 10),
            "it rests"
        );
        // A frame that comes while the worker looks anyway wakes nobody. How often that is, the machine decides.
        let mut frame = 0;
        while counters[0].interrupts.get() <= 25 {
            frame += 1;
            assert!(frame <= 5_000, "{} interrupts", counters[0].interrupts.get());
            let woken = counters[0].interrupts.get();
            let mut burst = Burst::new();
            let mut mbuf = pool.alloc().unwrap();
            assert!(mbuf.append(60));
            mbuf.bytes_mut().fill(0);
            burst.push(mbuf).unwrap();
            assert_eq!(far_queues.tx[0].transmit(&mut burst).packets, 1);
            assert!(wait_until(|| counters[0].devices[1].rx_packets.get() == frame));
            let slept = counters[0].sleeps.get();
            assert!(wait_until(|| counters[0].sleeps.get() > slept + 2), "it rests again");
            println!("frame {frame}: {} interrupts", counters[0].interrupts.get() - woken);
        }
        assignment.mailboxes[0].commands.force_push(Command::Stop);
        handle.join().unwrap();
    });
}

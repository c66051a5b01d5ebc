//! The worker loop and the rings between workers and the twin thread, on ring devices. Every frame is counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lvs_core::capture::{CaptureFilter, VerdictName};
use lvs_core::frame::Frame;
use lvs_core::l3::DeviceId;
use lvs_core::limits::{HELD_MAX, HELD_PER_NEIGHBOUR_MAX};
use lvs_core::single_writer::SingleWriter;
use lvs_core::verdict::{DropReason, Verdict};
use lvs_test_support::process::{cpu_time, in_own_process, threads};
use lvs_test_support::scripted_path::{HANDOFF, HOLD, PUNT, TRANSMIT, neighbour, snapshot};
use lvs_test_support::strace::{Traced, longest_wait};
use lvs_test_support::waits::wait_until;
use lvs_test_support::workers::{WorkersSettings, WorkersTestbed};
use lvsd::worker::capture::{Kind, SNAP_MAX, Tap, TapEnd, TapSettings};
use lvsd::worker::mailbox::{Command, ConnDump, DumpCursor, Reply};

const ONE: WorkersSettings = WorkersSettings::ONE;

#[test]
fn frames_leave_where_the_verdict_says_and_all_are_accounted_for() {
    in_own_process("frames_leave_where_the_verdict_says_and_all_are_accounted_for", || {
        let mut testbed = WorkersTestbed::start(&WorkersSettings { devices: 2, ..ONE });
        testbed.send(0, 0, &[TRANSMIT, 1], 100);
        testbed.send(1, 0, &[TRANSMIT, 0], 7);
        testbed.send(0, 0, &[99], 5);
        testbed.send(0, 0, &[TRANSMIT, 31], 3);
        assert_eq!(testbed.receive(1, 100).len(), 100);
        assert_eq!(testbed.receive(0, 7).len(), 7);
        assert!(testbed.settles_at(115), "{:?}", testbed.account());
        assert_eq!(testbed.drops(DropReason::NoRealServer), 5);
        assert_eq!(testbed.drops(DropReason::NoRoute), 3, "a device that does not exist");
        let device = &testbed.counters[0].devices[0];
        assert_eq!((device.rx_packets.get(), device.rx_bytes.get()), (108, 108 * 60));
        assert_eq!((device.tx_packets.get(), device.tx_bytes.get()), (7, 7 * 60));
        testbed.stop_empty();
    });
}

#[test]
fn punted_frames_reach_the_twin_and_the_kernels_frames_the_device() {
    in_own_process("punted_frames_reach_the_twin_and_the_kernels_frames_the_device", || {
        let mut testbed = WorkersTestbed::start(&WorkersSettings { devices: 2, ..ONE });
        let mut frame = [0; 2_048];
        testbed.send(0, 0, &[PUNT, 42], 2);
        for _ in 0..2 {
            let len = testbed.twins[0].recv(&mut frame).unwrap();
            assert_eq!((len, frame[..2].to_vec()), (60, vec![PUNT, 42]));
        }
        testbed.twins[0].send(&[7; 1_514]).unwrap();
        assert_eq!(testbed.receive(0, 1), [vec![7; 1_514]]);
        testbed.send(1, 0, &[PUNT], 4);
        assert!(
            wait_until(|| testbed.drops(DropReason::NoTwin) == 4),
            "device 1 has no twin"
        );
        assert!(testbed.settles_at(7), "{:?}", testbed.account());
        let counters = testbed.punt.as_ref().unwrap().counters().clone();
        assert_eq!(
            (
                counters.devices[0].punted_packets.get(),
                counters.devices[0].punted_bytes.get()
            ),
            (2, 120)
        );
        assert_eq!(
            (
                counters.devices[0].injected_packets.get(),
                counters.devices[0].injected_bytes.get()
            ),
            (1, 1_514)
        );
        testbed.stop_empty();
    });
}

#[test]
fn a_twin_that_refuses_costs_a_named_drop() {
    in_own_process("a_twin_that_refuses_costs_a_named_drop", || {
        let mut testbed = WorkersTestbed::start(&ONE);
        testbed.twins.clear();
        testbed.send(0, 0, &[PUNT], 10);
        assert!(wait_until(|| testbed.drops(DropReason::TwinWriteFailed) == 10));
        assert!(testbed.settles_at(10), "{:?}", testbed.account());
        testbed.stop_empty();
    });
}

#[test]
fn a_punted_frame_waits_for_two_milliseconds_at_most_and_a_quiet_thread_costs_little() {
    in_own_process(
        "a_punted_frame_waits_for_two_milliseconds_at_most_and_a_quiet_thread_costs_little",
        || {
            let mut testbed = WorkersTestbed::start(&ONE);
            let log = tempfile::NamedTempFile::new().unwrap();
            let traced = Traced::attach("self", &threads("self", &["lvsd-twins"])[0], log.path());
            let mut frame = [0; 64];
            let mut waits = Vec::new();
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(30));
                let sent = Instant::now();
                testbed.send(0, 0, &[PUNT], 1);
                testbed.twins[0].recv(&mut frame).unwrap();
                waits.push(sent.elapsed());
            }
            waits.sort();
            // The thread decides how long it asks to sleep. When it runs again is up to the machine.
            let longest = longest_wait(&traced.calls()).expect("it waited");
            assert!(longest <= Duration::from_millis(2), "a wait of {longest:?}");
            let before = cpu_time("self", &["lvsd-twins"]);
            std::thread::sleep(Duration::from_millis(1_000));
            let spent = cpu_time("self", &["lvsd-twins"]) - before;
            println!(
                "median wait of a punted frame {:?}, twin thread {spent:?} of CPU in a quiet second",
                waits[10]
            );
            assert!(spent < Duration::from_millis(100), "{spent:?} of CPU in a quiet second");
            testbed.stop();
        },
    );
}

#[test]
fn a_frame_handed_off_is_processed_by_its_owner() {
    in_own_process("a_frame_handed_off_is_processed_by_its_owner", || {
        let mut testbed = WorkersTestbed::start(&WorkersSettings {
            workers: 2,
            tx_queues: 2,
            ..ONE
        });
        testbed.send(0, 0, &[HANDOFF, 1], 200);
        testbed.send(0, 1, &[HANDOFF, 0], 50);
        testbed.send(0, 0, &[HANDOFF, 0], 3);
        assert_eq!(testbed.receive(0, 250).len(), 250);
        assert!(testbed.settles_at(253), "{:?}", testbed.account());
        assert_eq!(
            testbed.drops(DropReason::HandoffRingFull),
            3,
            "a worker has no ring to itself"
        );
        let [first, second] = [&testbed.counters[0], &testbed.counters[1]];
        assert_eq!((first.handoff_out.get(), first.handoff_in.get()), (200, 50));
        assert_eq!((second.handoff_out.get(), second.handoff_in.get()), (50, 200));
        assert_eq!(
            (first.devices[0].tx_packets.get(), second.devices[0].tx_packets.get()),
            (50, 200)
        );
        testbed.stop_empty();
    });
}

#[test]
fn a_worker_without_a_transmit_queue_sends_by_another_one() {
    in_own_process("a_worker_without_a_transmit_queue_sends_by_another_one", || {
        let mut testbed = WorkersTestbed::start(&WorkersSettings {
            workers: 2,
            devices: 2,
            twins: 2,
            ..ONE
        });
        for device in 0..2 {
            testbed.send(0, 0, &[TRANSMIT, device], 40);
            testbed.send(1, 1, &[TRANSMIT, device], 60);
        }
        for device in 0..2 {
            assert_eq!(testbed.receive(device, 100).len(), 100);
            testbed.twins[device].send(&[9; 60]).unwrap();
            assert_eq!(
                testbed.receive(device, 1),
                [[9; 60]],
                "the twin's frame finds the worker with the queue"
            );
        }
        assert!(testbed.settles_at(202), "{:?}", testbed.account());
        assert_eq!(
            testbed.counters[0].devices[0].tx_packets.get(),
            101,
            "device 0 is worker 0's"
        );
        assert_eq!(
            testbed.counters[1].devices[1].tx_packets.get(),
            101,
            "device 1 is worker 1's"
        );
        testbed.stop_empty();
    });
}

#[test]
fn a_held_frame_leaves_once_its_neighbour_is_known() {
    in_own_process("a_held_frame_leaves_once_its_neighbour_is_known", || {
        let mut testbed = WorkersTestbed::start(&ONE);
        testbed.send(0, 0, &[HOLD, 5, 1], 1);
        testbed.send(0, 0, &[HOLD, 9, 2], 1);
        testbed.send(0, 0, &[HOLD, 5, 3], 1);
        let mut asked = vec![testbed.asked(0).unwrap().addr, testbed.asked(0).unwrap().addr];
        asked.sort();
        assert_eq!(
            asked,
            [neighbour(5).addr, neighbour(9).addr],
            "each neighbour is asked for once"
        );
        assert!(wait_until(|| testbed.counters[0].held.get() == 3));
        testbed.publish(0, snapshot(6));
        let frames = testbed.receive(0, 2);
        assert_eq!(
            frames.iter().map(|frame| frame[2]).collect::<Vec<_>>(),
            [1, 3],
            "in order"
        );
        let (old, mut again) = testbed.retired(0);
        assert_eq!(old.l3.generation, 0);
        // The worker asks again after a second, which may have passed already.
        while !again.contains(&neighbour(9)) {
            again.extend(Some(testbed.asked(0).expect("asked again")));
        }
        assert!(
            wait_until(|| testbed.drops(DropReason::NeighbourFailed) == 1),
            "given up"
        );
        assert!(testbed.settles_at(3), "{:?}", testbed.account());
        assert_eq!(testbed.counters[0].held.get(), 0);
        testbed.stop_empty();
    });
}

#[test]
fn held_frames_are_bounded_for_each_neighbour_and_in_all() {
    in_own_process("held_frames_are_bounded_for_each_neighbour_and_in_all", || {
        let mut testbed = WorkersTestbed::start(&ONE);
        testbed.send(0, 0, &[HOLD, 1], HELD_PER_NEIGHBOUR_MAX + 10);
        assert!(wait_until(|| testbed.drops(DropReason::HeldQueueFull) == 10));
        for number in 2..=8 {
            testbed.send(0, 0, &[HOLD, number], HELD_PER_NEIGHBOUR_MAX);
        }
        testbed.send(0, 0, &[HOLD, 9], 4);
        assert!(wait_until(|| testbed.drops(DropReason::HeldQueueFull) == 14));
        assert!(wait_until(|| testbed.counters[0].held.get() == HELD_MAX as u64));
        testbed.stop();
        assert_eq!(testbed.pool.in_use(), 0, "held frames are freed with their worker");
    });
}

#[test]
fn a_slow_device_costs_named_drops_and_no_buffer() {
    in_own_process("a_slow_device_costs_named_drops_and_no_buffer", || {
        let mut testbed = WorkersTestbed::start(&ONE);
        for round in 1..=5 {
            testbed.send(0, 0, &[TRANSMIT, 0], 500);
            assert!(testbed.settles_at(round * 500), "{:?}", testbed.account());
        }
        // The ring device holds 1023 frames; nobody receives them.
        assert_eq!(testbed.drops(DropReason::TxQueueFull), 2_500 - 1_023);
        testbed.stop();
        assert_eq!(testbed.pool.in_use(), 1_023);
    });
}

#[test]
fn commands_wait_until_their_replies_fit() {
    in_own_process("commands_wait_until_their_replies_fit", || {
        let mut testbed = WorkersTestbed::start(&ONE);
        let mailbox = Arc::clone(&testbed.mailboxes[0]);
        while mailbox.replies.push(Reply::Resolve(neighbour(0))).is_ok() {}
        let dump = ConnDump {
            cursor: Some(DumpCursor::V4(0)),
            records: Vec::with_capacity(8),
            ticket: 77,
        };
        mailbox.commands.push(Command::DumpConns(Box::new(dump))).unwrap();
        // The worker has looked into its mailbox after each of these.
        let slept = testbed.counters[0].sleeps.get();
        assert!(wait_until(|| testbed.counters[0].sleeps.get() > slept + 3));
        assert_eq!(mailbox.commands.len(), 1);
        // Taking the first reply frees a slot for the answer, which is the last one.
        loop {
            match testbed.reply(0) {
                Some(Reply::Resolve(_)) => {}
                Some(Reply::ConnDump(dump)) => break assert_eq!((dump.ticket, dump.cursor), (77, None)),
                other => panic!("{other:?}"),
            }
        }
        testbed.stop();
    });
}

#[test]
fn a_flood_to_the_kernel_does_not_starve_arp() {
    in_own_process("a_flood_to_the_kernel_does_not_starve_arp", || {
        let mut testbed = WorkersTestbed::start(&ONE);
        let (mut punted, _injected, mut end) = lvsd::worker::punt::rings();
        let flood = lvs_core::testing::udp4("198.51.100.1:40000 > 192.0.2.1:9").build();
        let mut arp = vec![0xff; 60];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        let frame = |content: &[u8]| {
            let mut mbuf = testbed.pool.alloc().unwrap();
            mbuf.fill(|buffer| {
                buffer[..content.len()].copy_from_slice(content);
                Ok::<_, ()>(content.len())
            })
            .unwrap();
            mbuf
        };
        while punted.send(frame(&flood), DeviceId(0)).is_ok() {}
        assert!(punted.send(frame(&arp), DeviceId(0)).is_ok());
        assert_eq!(end.take().unwrap().mbuf.bytes(), arp, "and it goes first");
        assert_eq!(end.take().unwrap().mbuf.bytes(), flood);
        testbed.stop();
    });
}

/// How many frames a capture of drops got for each reason. All of them were dropped after the path.
fn lost_by_reason(tap: &mut TapEnd) -> Vec<(DropReason, usize)> {
    let mut found: Vec<(DropReason, usize)> = Vec::new();
    while let Ok(record) = tap.records.pop() {
        let Verdict::Drop(reason) = record.verdict else {
            panic!("{:?} is no drop", record.verdict)
        };
        assert_eq!(
            (record.kind, record.device, record.wire_len),
            (Kind::Lost, DeviceId(0), 60)
        );
        match found.iter_mut().find(|(of, _)| *of == reason) {
            Some((_, count)) => *count += 1,
            None => found.push((reason, 1)),
        }
    }
    found
}

#[test]
fn drops_by_full_rings_and_queues_after_the_path_are_captured_by_name() {
    in_own_process(
        "drops_by_full_rings_and_queues_after_the_path_are_captured_by_name",
        || {
            let mut testbed = WorkersTestbed::start(&WorkersSettings { twins: 0, ..ONE });
            let settings = TapSettings {
                filter: CaptureFilter {
                    verdict: Some(VerdictName::Drop),
                    ..CaptureFilter::default()
                },
                arriving: true,
                leaving: true,
                snap: SNAP_MAX,
                end_cycles: u64::MAX,
            };
            let (tap, mut end) = Tap::new(settings, 1_024);
            testbed.mailboxes[0].commands.push(Command::Tap(tap)).unwrap();
            assert!(wait_until(|| testbed.mailboxes[0].commands.is_empty()));
            // The worker takes commands in order, so it has taken this one when it has taken a later one.
            testbed.publish(0, snapshot(0));
            assert!(testbed.reply(0).is_some());

            testbed.send(0, 0, &[HANDOFF, 0], 3);
            testbed.send(0, 0, &[HOLD, 1], HELD_PER_NEIGHBOUR_MAX + 10);
            testbed.send(0, 0, &[PUNT], 5);
            assert!(wait_until(|| testbed.drops(DropReason::NoTwin) == 5));
            let mut lost = lost_by_reason(&mut end);
            lost.sort_unstable_by_key(|(_, count)| *count);
            let expected = [
                (DropReason::HandoffRingFull, 3),
                (DropReason::NoTwin, 5),
                (DropReason::HeldQueueFull, 10),
            ];
            assert_eq!(lost, expected);

            // The ring device holds 1023 frames; nobody receives them.
            let before = 3 + HELD_PER_NEIGHBOUR_MAX as u64 + 10 + 5;
            for (count, in_all) in [(500, 500), (500, 1_000), (100, 1_100)] {
                testbed.send(0, 0, &[TRANSMIT, 0], count);
                assert!(testbed.settles_at(before + in_all), "{:?}", testbed.account());
            }
            assert_eq!(lost_by_reason(&mut end), [(DropReason::TxQueueFull, 1_100 - 1_023)]);
            assert_eq!(end.lost[0].get(), 0, "there was a box for each");
            testbed.stop();
        },
    );
}

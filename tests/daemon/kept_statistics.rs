//! Statistics of services and servers outlive the daemon, however it ends.

use std::fs;

use lvs_api::ServiceStatus;
use lvs_test_support::daemon::{Daemon, Testbed};
use nix::sys::signal::Signal;

use crate::kept_connections::end;
use crate::two_lans::{FULL_NAT_PORT, NAT_PORT, connected, lone_director, says_and_hears};

/// A segment without data, with timestamps.
const ACK_BYTES: u64 = 52;

/// Totals of all services and servers, and of everything.
fn totals(daemon: &Daemon<'_>) -> Vec<lvs_api::Totals> {
    let services: Vec<ServiceStatus> = daemon.get("/v1/services");
    let mut totals = vec![daemon.get::<lvs_api::Stats>("/v1/stats").totals];
    for service in services {
        totals.push(service.totals);
        totals.extend(service.servers.iter().map(|server| server.totals));
    }
    totals
}

/// Nobody says anything meanwhile. Each of the two connections may still owe an acknowledgement.
fn assert_go_on(before: &[lvs_api::Totals], now: &[lvs_api::Totals]) {
    assert_eq!(now.len(), before.len());
    for (now, before) in now.iter().zip(before) {
        let acknowledgements = now.in_packets - before.in_packets;
        assert!(acknowledgements <= 2, "{before:?} {now:?}");
        let expected = lvs_api::Totals {
            in_packets: before.in_packets + acknowledgements,
            in_bytes: before.in_bytes + acknowledgements * ACK_BYTES,
            ..*before
        };
        assert_eq!(*now, expected);
    }
}

/// The files of the state directory that hold statistics.
fn files(testbed: &Testbed) -> Vec<String> {
    let names = fs::read_dir(testbed.state_dir()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("count")).collect();
    names.sort();
    names
}

#[test]
fn statistics_go_on_after_a_kill_and_after_a_stop_until_they_are_zeroed() {
    let (lans, testbed) = lone_director();
    let mut daemon = testbed.start();
    let mut streams = [NAT_PORT, FULL_NAT_PORT].map(|port| connected(&lans.client, port));
    for (run, (word, signal)) in [
        ("killed", Signal::SIGKILL),
        ("stopped", Signal::SIGTERM),
        ("again", Signal::SIGKILL),
    ]
    .into_iter()
    .enumerate()
    {
        streams.iter_mut().for_each(|stream| says_and_hears(stream, word));
        let before = totals(&daemon);
        assert_eq!(before[0].connections, 2);
        let run = run + 1;
        assert_eq!(files(&testbed), [format!("counters-{run}-0"), "counts".to_owned()]);
        end(daemon, signal);
        daemon = testbed.start();
        assert_go_on(&before, &totals(&daemon));
    }
    streams.iter_mut().for_each(|stream| says_and_hears(stream, "more"));
    assert!(totals(&daemon)[0].in_packets > 0);
    daemon.printed("stats zero");
    let zeroed = totals(&daemon);
    end(daemon, Signal::SIGKILL);
    let daemon = testbed.start();
    assert_go_on(&zeroed, &totals(&daemon));
    assert_eq!(zeroed[0].connections, 0);
    daemon.stop();
}

/// What is done to the files of a run, and what the next one says.
type Fault = (&'static str, fn(&Testbed, u32), &'static str);

#[test]
fn statistics_that_cannot_be_read_begin_anew_and_a_sentence_says_so() {
    let (lans, testbed) = lone_director();
    let mut daemon = testbed.start();
    let mut stream = connected(&lans.client, NAT_PORT);
    says_and_hears(&mut stream, "counted");
    let faults: [Fault; 2] = [
        (
            "a worker's counters are missing",
            |testbed, run| fs::remove_file(testbed.state_dir().join(format!("counters-{run}-0"))).unwrap(),
            "go on from when services last changed",
        ),
        (
            "no text",
            |testbed, _| fs::write(testbed.state_dir().join("counts"), "{").unwrap(),
            "statistics of the lvsd before are lost: its file of them cannot be read",
        ),
    ];
    for (run, (fault, damage, sentence)) in (1..).zip(faults) {
        daemon.stop();
        damage(&testbed, run);
        daemon = testbed.start();
        let log = daemon.log();
        assert!(log.contains(sentence), "{fault}: {log}");
        says_and_hears(&mut stream, "counted");
    }
    assert!(totals(&daemon)[0].connections == 0);
    daemon.stop();
}

//! Clients that are slow, rude, many or greedy.

use std::sync::atomic::Ordering;

use lvs_test_support::http::{garbage, half_open_clients};
use lvs_test_support::waits::until;

use super::*;
use crate::mgmt::fake_worker::conn;

#[test]
fn garbage_is_refused_and_the_next_client_is_served() {
    let testbed = Testbed::new(AdminLimits::default());
    for garbage in garbage() {
        let mut stream = testbed.connect();
        // The daemon may close before all is written.
        let _ = stream.write_all(garbage.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert!(matches!(status(&read_all(&mut stream)), 0 | 400..=499));
        assert_eq!(testbed.ask("GET", "/v1/version", "").0, 200);
    }
}

#[test]
fn an_oversized_body_is_refused_whether_announced_or_not() {
    let limits = AdminLimits {
        body_max_bytes: 1_000,
        state_max_bytes: 100_000,
        ..AdminLimits::default()
    };
    let testbed = Testbed::new(limits);
    let padded = |size: usize| format!("{{\"services\": []{}}}", " ".repeat(size));
    assert_eq!(testbed.ask("POST", "/v1/services", &padded(1_000)).0, 413);
    assert_eq!(testbed.ask("PUT", "/v1/state", &padded(50_000)).0, 200);
    assert_eq!(testbed.ask("PUT", "/v1/state", &padded(100_000)).0, 413);

    let mut stream = testbed.connect();
    stream
        .write_all(b"POST /v1/services HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .unwrap();
    for _ in 0..10 {
        let _ = stream.write_all(format!("200\r\n{}\r\n", " ".repeat(512)).as_bytes());
    }
    let _ = stream.write_all(b"0\r\n\r\n");
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 413");
}

#[test]
fn a_hundred_half_open_clients_delay_nobody_and_are_sent_away() {
    // A client that they delayed would wait until they are sent away. A busy machine may need a longer limit to serve
    // it before that.
    let limits_ms = [700, 5_000, 20_000];
    let served_beside = limits_ms
        .map(Duration::from_millis)
        .into_iter()
        .any(serves_beside_half_open);
    assert!(served_beside);
}

/// Whether a client is served while a hundred others stay half-open, for as long as those may; all are sent away then.
fn serves_beside_half_open(limit: Duration) -> bool {
    let limits = AdminLimits {
        head_timeout: limit,
        body_timeout: limit,
        clients_max: 101,
        ..AdminLimits::default()
    };
    let testbed = Testbed::new(limits);
    let begun = Instant::now();
    let half_open = half_open_clients(|| testbed.connect());
    assert_eq!(testbed.ask("GET", "/v1/services", "").0, 200);
    let is_beside = begun.elapsed() < limit;
    for (index, mut stream) in half_open.into_iter().enumerate() {
        let answer = read_all(&mut stream);
        assert!(index % 3 != 2 || status(&answer) == 408, "{index}: {answer:?}");
    }
    // One that is not sent away is given up after a minute.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    // Their places are free again: so many come in at once.
    let all: Vec<_> = (0..100).map(|_| testbed.connect()).collect();
    assert_eq!(testbed.ask("GET", "/v1/version", "").0, 200);
    drop(all);
    is_beside
}

#[test]
fn one_client_too_many_is_told_so() {
    let testbed = Testbed::new(AdminLimits {
        clients_max: 2,
        ..AdminLimits::default()
    });
    let _places = [testbed.connect(), testbed.connect()];
    // They are let in one after the other.
    let answer = read_all(&mut testbed.connect());
    assert_eq!(status(&answer), 503);
    assert!(answer.contains("try again later"), "{answer}");
}

/// Two tables of 50,000 connections: 25 MB of JSON of which only a little is ever in memory.
fn fill(testbed: &Testbed) {
    for (worker, first) in testbed.workers.iter().zip([0, 50_000]) {
        *worker.conns.lock().unwrap() = (first..first + 50_000).map(conn).collect();
    }
}

fn dumps(testbed: &Testbed) -> usize {
    testbed
        .workers
        .iter()
        .map(|worker| worker.dumps.load(Ordering::Relaxed))
        .sum()
}

#[test]
fn a_hundred_thousand_connections_stream_no_faster_than_they_are_read() {
    let testbed = Testbed::new(AdminLimits::default());
    fill(&testbed);
    let mut stream = testbed.connect();
    stream
        .write_all(b"GET /v1/connections HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut head = [0; 1_000];
    stream.read_exact(&mut head).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(dumps(&testbed) < 10, "{} parts were read ahead", dumps(&testbed));
    let text = String::from_utf8_lossy(&head).into_owned() + &read_all(&mut stream);
    assert_eq!(text.matches("\"client\"").count(), 100_000);
    assert!(text.ends_with("0\r\n\r\n"), "the stream was not ended properly");
}

#[test]
fn lvsctl_prints_and_filters_connections() {
    let testbed = Testbed::new(AdminLimits::default());
    fill(&testbed);
    assert_eq!(testbed.printed("connections").lines().count(), 100_002);
    let line = "TCP 15:00  ESTABLISHED 198.51.100.0:1024  192.0.2.1:80       198.51.100.1:80";
    assert_eq!(testbed.printed("connections --limit 1").lines().nth(2), Some(line));
    let count = |arguments: &str| {
        testbed
            .printed(&format!("connections --json {arguments}"))
            .lines()
            .count()
    };
    assert_eq!(count("--client 198.51.100.1"), 16_384);
    assert_eq!(count("--client 198.51.100.1 --limit 5"), 5);
    assert_eq!(count("--client 203.0.113.1"), 0);
    assert_eq!(count("--service tcp:192.0.2.1:80 --state established --limit 7"), 7);
    assert_eq!(count("--service udp:192.0.2.1:80"), 0);
    assert_eq!(count("--server 198.51.100.2:80"), 0);
    assert_eq!(count("--state FIN_WAIT"), 0);
}

#[test]
fn a_limit_asks_workers_for_no_more_than_it_needs() {
    let testbed = Testbed::new(AdminLimits::default());
    fill(&testbed);
    assert_eq!(
        testbed
            .ask("GET", "/v1/connections?limit=10", "")
            .1
            .matches("\"client\"")
            .count(),
        10
    );
    assert_eq!(dumps(&testbed), 1);
}

#[test]
fn a_worker_that_does_not_answer_breaks_the_stream_visibly() {
    let testbed = Testbed::new(AdminLimits {
        worker_timeout: Duration::from_millis(100),
        ..AdminLimits::default()
    });
    fill(&testbed);
    testbed.workers[1].silent.store(true, Ordering::Relaxed);
    let output = testbed.lvsctl("connections");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("broke off"));
}

#[test]
fn a_client_that_reads_nothing_loses_its_place() {
    let short = Duration::from_millis(300);
    let testbed = Testbed::new(AdminLimits {
        write_timeout: short,
        clients_max: 1,
        ..AdminLimits::default()
    });
    fill(&testbed);
    // On a busy machine it may have lost its place before anybody asks.
    let has_place = (0..20).any(|_| {
        let mut greedy = testbed.connect();
        let _ = greedy.write_all(b"GET /v1/connections HTTP/1.1\r\nhost: a\r\n\r\n");
        let status = testbed.ask("GET", "/v1/version", "").0;
        until_version_answers(&testbed, 200);
        status == 503
    });
    assert!(has_place);
}

/// Asks until the answer has this status.
fn until_version_answers(testbed: &Testbed, status: u16) {
    until("the version is answered", || {
        testbed.ask("GET", "/v1/version", "").0 == status
    });
}

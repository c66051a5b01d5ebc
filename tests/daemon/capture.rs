//! `lvsctl capture` of a real daemon under load, read back by tshark.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lvs_core::testing::{CapturedFrame, tcp4, write_pcap};
use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::waits::{takes_less_than, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SERVICES: &str = "
[[service]]
protocol = \"tcp\"
address = \"192.0.2.100\"
port = 80
local_addresses = [\"198.51.100.200\"]
[[service.real_server]]
address = \"198.51.100.11\"
mode = \"nat\"
[[service]]
protocol = \"tcp\"
address = \"192.0.2.100\"
port = 81
";

/// Three frames without end: one for a server, one that nobody may take, one for the kernel.
fn testbed() -> Testbed {
    let testbed = Testbed::create();
    testbed.wan_and_lan();
    testbed.inside("ip neigh add 198.51.100.11 lladdr 02:00:00:00:02:11 dev lan nud permanent");
    testbed.inside("ip neigh add 192.0.2.7 lladdr 02:00:00:00:01:07 dev wan nud permanent");
    let frame = |port: u16| {
        let ends = format!("192.0.2.7:40000 > 192.0.2.100:{port}");
        let bytes = tcp4(&ends).syn().dst_mac([2, 0, 0, 0, 0, 1]).build();
        CapturedFrame::of(bytes)
    };
    std::fs::write(testbed.path("in.pcap"), write_pcap(&[frame(80), frame(81), frame(82)])).unwrap();
    testbed.configure(&format!(
        "[[device]]\nname = \"wan\"\ndpdk = \"net_pcap0,rx_pcap={},infinite_rx=1\"\nmac = \"02:00:00:00:00:01\"\npromiscuous = true\n\
         [[device]]\nname = \"lan\"\ndpdk = \"net_null0,no-rx=1\"\nmac = \"02:00:00:00:00:02\"\n\
         {SERVICES}",
        testbed.path("in.pcap").display()
    ));
    testbed
}

/// A frame as tshark reads it back.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    interface: String,
    dst: String,
    dst_port: String,
    comment: String,
}

fn tshark(file: &Path) -> Vec<Seen> {
    seen(Command::new("tshark").arg("-r").arg(file).stdin(Stdio::null()))
}

fn seen(command: &mut Command) -> Vec<Seen> {
    for field in ["frame.interface_name", "ip.dst", "tcp.dstport", "frame.comment"] {
        command.args(["-e", field]);
    }
    let output = command.args(["-T", "fields"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            let mut fields = line.split('\t').map(str::to_owned);
            let mut next = || fields.next().unwrap_or_default();
            Seen {
                interface: next(),
                dst: next(),
                dst_port: next(),
                comment: next(),
            }
        })
        .collect()
}

/// How many frames an `lvsctl capture` says it has captured, and how many it lost.
fn counted(output: &Output) -> (u64, u64) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let words: Vec<_> = stderr.split_whitespace().collect();
    let [frames, "frames", "captured,", lost, "lost"] = words[..] else {
        panic!("{stderr}")
    };
    (frames.parse().unwrap(), lost.parse().unwrap())
}

/// A capture of `arguments` into a file of the testbed.
fn captured(testbed: &Testbed, daemon: &Daemon<'_>, arguments: &str) -> Vec<Seen> {
    let file = testbed.path("out.pcapng");
    let output = daemon.lvsctl(&format!("capture -w {} {arguments}", file.display()));
    let frames = tshark(&file);
    assert_eq!(counted(&output).0, frames.len() as u64);
    frames
}

/// Whether the comments of all frames hold these words.
fn assert_all_say(frames: &[Seen], words: &str) {
    assert!(frames.iter().all(|frame| frame.comment.contains(words)), "{frames:?}");
}

fn received_packets(daemon: &Daemon<'_>) -> u64 {
    let workers: Vec<lvs_api::Worker> = daemon.get("/v1/workers");
    workers[0].rx_packets
}

#[test]
fn every_frame_tells_its_verdict_worker_connection_and_drop_reason() {
    let testbed = testbed();
    let daemon = testbed.start();
    let frames = captured(&testbed, &daemon, "-c 200 --seconds 60");
    assert_eq!(frames.len(), 200);
    let with = |start: &str| {
        frames
            .iter()
            .filter(|frame| frame.comment.starts_with(start))
            .collect::<Vec<_>>()
    };
    let of_conn = " mode=FullNat state=SYN_RECV client=192.0.2.7:40000 vip=192.0.2.100:80 local=198.51.100.200:";
    let arrived = with("received verdict=transmit to=lan worker=0 frame=tcp:192.0.2.7:40000>192.0.2.100:80 ");
    let left = with("forwarded verdict=transmit to=lan worker=0 frame=tcp:198.51.100.200:");
    assert!(arrived.len() >= 20 && left.len() >= 20, "{frames:?}");
    for (frame, interface, dst) in arrived
        .iter()
        .map(|frame| (frame, "wan", "192.0.2.100"))
        .chain(left.iter().map(|frame| (frame, "lan", "198.51.100.11")))
    {
        assert_eq!(
            (frame.interface.as_str(), frame.dst.as_str(), frame.dst_port.as_str()),
            (interface, dst, "80")
        );
        assert!(frame.comment.contains(of_conn), "{frame:?}");
        assert!(frame.comment.ends_with(" real=198.51.100.11:80"), "{frame:?}");
    }
    let punted = with("received verdict=punt worker=0 frame=tcp:192.0.2.7:40000>192.0.2.100:82");
    assert!(
        !punted.is_empty() && punted.iter().all(|frame| frame.dst_port == "82"),
        "{frames:?}"
    );

    // The answers of a service without servers are limited; what is above the limit is dropped by name.
    for frame in captured(&testbed, &daemon, "--drop no_real_server -c 5 --seconds 60") {
        let comment = "received verdict=drop reason=no_real_server worker=0 frame=tcp:192.0.2.7:40000>192.0.2.100:81";
        assert_eq!((frame.dst_port.as_str(), frame.comment.as_str()), ("81", comment));
    }
    daemon.stop();
}

#[test]
fn a_filter_follows_a_connection_through_its_rewriting() {
    let testbed = testbed();
    let daemon = testbed.start();
    let ports = |arguments: &str| -> BTreeSet<(String, String)> {
        let frames = captured(&testbed, &daemon, &format!("{arguments} -c 60 --seconds 60"));
        assert_eq!(frames.len(), 60, "{arguments}");
        frames
            .into_iter()
            .map(|frame| (frame.interface, frame.dst_port))
            .collect()
    };
    let set = |pairs: &[(&str, &str)]| -> BTreeSet<(String, String)> {
        pairs
            .iter()
            .map(|(interface, port)| ((*interface).to_owned(), (*port).to_owned()))
            .collect()
    };
    assert_eq!(ports("--real 198.51.100.11:80"), set(&[("wan", "80"), ("lan", "80")]));
    assert_eq!(
        ports("--vip 192.0.2.100:80 --client 192.0.2.7:40000 -Q out"),
        set(&[("lan", "80")])
    );
    assert_eq!(ports("--addr 198.51.100.200"), set(&[("lan", "80")]));
    assert_eq!(
        ports("--device wan --verdict punt --protocol tcp -Q in"),
        set(&[("wan", "82")])
    );
    daemon.stop();
}

#[test]
fn frames_bytes_and_seconds_are_bounds_and_a_short_frame_still_shows_its_length() {
    let testbed = testbed();
    let daemon = testbed.start();
    assert_eq!(captured(&testbed, &daemon, "-c 1 --seconds 60").len(), 1);
    // Two frames of 20 bytes fit into 50, three do not.
    let short = captured(
        &testbed,
        &daemon,
        "--real 198.51.100.11 --bytes 50 --snap 20 --seconds 60",
    );
    assert_eq!(short.len(), 2);
    assert_all_say(&short, " real=198.51.100.11:80");
    let lengths = Command::new("tshark")
        .arg("-r")
        .arg(testbed.path("out.pcapng"))
        .args(["-T", "fields", "-e", "frame.cap_len", "-e", "frame.len"])
        .output()
        .unwrap();
    let lengths = String::from_utf8(lengths.stdout).unwrap();
    assert!(
        lengths.lines().all(|line| line.starts_with("20\t") && line != "20\t20"),
        "{lengths}"
    );
    let begun = Instant::now();
    assert_eq!(captured(&testbed, &daemon, "--addr 192.0.2.99 --seconds 1"), []);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    daemon.stop();
}

#[test]
fn wrong_questions_are_told_place_cause_and_cure() {
    let testbed = testbed();
    let daemon = testbed.start();
    for (query, expected) in [
        (
            "reason=no_such",
            "reason: there is no reason \"no_such\"; choose one of truncated, malformed, ",
        ),
        (
            "reason=twin_write_failed",
            "reason: twin_write_failed happens outside the workers, where nothing is captured; lvsctl drops counts it",
        ),
        (
            "reason=no_route&verdict=punt",
            "reason: a frame with the verdict punt has no reason; leave one of them out",
        ),
        (
            "verdict=lost",
            "verdict: there is no verdict \"lost\"; choose one of transmit, punt, handoff, hold, consumed, drop",
        ),
        ("device=dmz", "device: there is no device \"dmz\"; there are wan, lan"),
        ("count=0", "count: 0 is out of range: give 1 to 10000000"),
        (
            "bytes=4294967297",
            "bytes: 4294967297 is out of range: give 1 to 4294967296",
        ),
        ("seconds=3601", "seconds: 3601 is out of range: give 1 to 3600"),
        ("snap=13", "snap: 13 is out of range: give 14 to 2048"),
        (
            "client=web:80",
            "client: \"web:80\": write ADDRESS or ADDRESS:PORT, as in 203.0.113.7:40000",
        ),
        (
            "cleint=192.0.2.7",
            "cleint: unknown field `cleint`, expected one of `client`, `vip`, ",
        ),
    ] {
        let (status, refusal) = daemon.refusal("GET", &format!("/v1/capture?{query}"), "");
        assert_eq!(status, 400, "{query}");
        assert!(refusal.contains(expected), "{query}: {refusal}");
    }
    let refused = daemon.lvsctl("capture --drop no_such -c 1");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).starts_with("lvsctl: reason: there is no reason"));
    let wrong = daemon.lvsctl("capture --client web:80");
    assert_eq!(wrong.status.code(), Some(2), "lvsctl itself knows better");
    daemon.stop();
}

#[test]
fn without_a_file_each_frame_is_a_line_and_a_pipe_leads_into_tshark() {
    let testbed = testbed();
    let daemon = testbed.start();
    let lines = daemon.printed("capture --vip 192.0.2.100:82 -c 3 --seconds 60");
    assert_eq!(lines.lines().count(), 3, "{lines}");
    for line in lines.lines() {
        let words: Vec<_> = line.split_whitespace().take(6).collect();
        let ["wan", "in", _, "received", "verdict=punt"] = words[1..] else {
            panic!("{line}")
        };
    }
    let mut lvsctl = start(&daemon, "-w - --vip 192.0.2.100:80 -c 7 --seconds 60");
    let piped = lvsctl.stdout.take().unwrap();
    let frames = seen(Command::new("tshark").args(["-r", "-"]).stdin(piped));
    assert_eq!(counted(&lvsctl.wait_with_output().unwrap()).0, 7);
    assert_eq!(frames.len(), 7);
    assert_all_say(&frames, " vip=192.0.2.100:80 ");
    daemon.stop();
}

/// An `lvsctl capture` that runs on.
fn start(daemon: &Daemon<'_>, arguments: &str) -> Child {
    let mut command = daemon.lvsctl_command(&format!("capture {arguments}"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn captures_run_side_by_side_and_one_too_many_is_told_so() {
    let testbed = testbed();
    let daemon = testbed.start();
    let begin = |number: u32| {
        let file = testbed.path(&format!("{number}.pcapng"));
        let child = start(
            &daemon,
            &format!(
                "--vip 192.0.2.100:8{number} -Q in -c 10000000 --seconds 600 -w {}",
                file.display()
            ),
        );
        // The head of the file is there when its taps are.
        until("the capture runs", || {
            std::fs::metadata(&file).is_ok_and(|file| file.len() > 0)
        });
        (file, child)
    };
    // Nobody sends to the last two ports; they begin first, so that little is written meanwhile.
    let running: Vec<_> = [4, 3, 1, 0].map(|number| (number, begin(number))).into();
    let refused = daemon.lvsctl("capture -c 1");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr),
        "lvsctl: as many captures run as may at once; wait for one, or end it\n"
    );
    // All end before the first is read: reading takes longer than writing.
    let ended: Vec<_> = running
        .into_iter()
        .rev()
        .map(|(number, (file, child))| {
            let expects_frames = number < 3;
            until("frames are there", || {
                std::fs::metadata(&file).is_ok_and(|file| !expects_frames || file.len() > 4_096)
            });
            // Broken off by its operator: the file ends with a whole frame.
            kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
            (number, file, counted(&child.wait_with_output().unwrap()).0)
        })
        .collect();
    for (number, file, reported) in ended {
        let wanted = format!("8{number}");
        let frames = tshark(&file);
        assert_eq!(frames.len() as u64, reported);
        assert_eq!(frames.is_empty(), number >= 3);
        assert!(frames.iter().all(|frame| frame.dst_port == wanted), "{wanted}");
    }
    until("their places are free", || {
        daemon.lvsctl("capture -c 1").status.success()
    });
    daemon.stop();
}

#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let testbed = testbed();
    let daemon = testbed.start();
    for _ in 0..40 {
        let mut stream = daemon.connect();
        stream
            .write_all(b"GET /v1/capture?count=1000000 HTTP/1.1\r\nhost: lvsd\r\n\r\n")
            .unwrap();
        let mut head = [0; 1_024];
        let count = stream.read(&mut head).unwrap();
        let head = String::from_utf8_lossy(&head[..count]).into_owned();
        drop(stream);
        // A place is free again as soon as the daemon has seen its client go.
        assert!(
            head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 503"),
            "{head}"
        );
    }
    until("a place is free", || daemon.lvsctl("capture -c 1").status.success());
    // Had the workers kept a tap of each, there would be none left for these frames.
    assert_eq!(captured(&testbed, &daemon, "-c 300 --seconds 60").len(), 300);
    daemon.stop();
}

#[test]
fn a_client_that_never_reads_delays_nobody_and_what_it_misses_is_counted() {
    let testbed = testbed();
    let daemon = testbed.start();
    // The daemon keeps a client that reads nothing for this time. Another client that it delays would wait as long.
    const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
    // lvsctl is there before the time begins.
    daemon.printed("version");
    let mut lazy = daemon.connect();
    let delays_nobody = takes_less_than(WRITE_TIMEOUT, || {
        lazy = daemon.connect();
        lazy.write_all(
            b"GET /v1/capture?count=30000&seconds=600&bytes=4294967296 HTTP/1.1\r\nhost: lvsd\r\nconnection: close\r\n\r\n",
        )
        .unwrap();
        let before = received_packets(&daemon);
        // Many times what the rings and the socket's buffers hold together.
        until("the worker goes on", || received_packets(&daemon) > before + 500_000);
        let frames = counted(&daemon.lvsctl("capture --vip 192.0.2.100:81 --drop -c 5 --seconds 600")).0;
        assert!(frames >= 5, "{frames}");
    });
    assert!(delays_nobody);
    // It reads after all: the end of the file says what it missed.
    let mut bytes = Vec::new();
    lazy.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("received verdict="), "{} bytes", bytes.len());
    assert!(lost_of(&bytes) > 100_000, "{} lost", lost_of(&bytes));
    daemon.stop();
}

/// The frames lost on `wan`, as the last statistics of a chunked pcapng stream say: option 5 (isb_ifdrop) of 8 bytes.
fn lost_of(bytes: &[u8]) -> u64 {
    let option = [5, 0, 8, 0];
    let places = bytes.windows(12).filter(|window| window.starts_with(&option));
    let counts = places.map(|window| u64::from_le_bytes(window[4..].try_into().unwrap()));
    counts.filter(|count| *count < 1 << 40).max().unwrap_or_default()
}

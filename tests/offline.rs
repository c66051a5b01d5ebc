//! `lvsd --offline`: captures in, captures out, read back by tshark.

use std::path::Path;
use std::process::{Command, Output};

use lvs_core::testing::network::{WAN, director_mac, neighbour_mac};
use lvs_core::testing::{CapturedFrame, tcp4, write_pcap};
use tempfile::TempDir;

const CONFIG: &str = "
[workers]
count = 2
[timeouts]
tcp_sec = 60
[[device]]
name = \"wan\"
dpdk = \"0000:01:00.0\"
[[service]]
protocol = \"tcp\"
address = \"192.0.2.100\"
port = 80
scheduler = \"rr\"
[[service.real_server]]
address = \"198.51.100.12\"
port = 8080
mode = \"nat\"
";

fn offline(folder: &Path, frames: &[(u64, Vec<u8>)]) -> Output {
    let captured: Vec<_> = frames
        .iter()
        .map(|(ms, bytes)| CapturedFrame {
            time_ns: 1_700_000_000_000_000_000 + ms * 1_000_000,
            wire_len: bytes.len() as u32,
            bytes: bytes.clone(),
        })
        .collect();
    std::fs::write(folder.join("in.pcap"), write_pcap(&captured)).unwrap();
    std::fs::write(folder.join("lvsd.toml"), CONFIG).unwrap();
    run(folder, "in.pcap")
}

fn run(folder: &Path, input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvsd"));
    command
        .args(["--config", "lvsd.toml", "--offline", input, "out.pcapng"])
        .current_dir(folder)
        .output()
        .unwrap()
}

/// The requested fields, one line per frame, by the real tshark.
fn tshark(file: &Path, fields: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        // A separator of our own would be escaped in values, by newer versions.
        .map(|line| line.replace('\t', " "))
        .collect()
}

fn client(ends: &str) -> lvs_core::testing::PacketBuilder {
    tcp4(ends).dst_mac(director_mac(WAN)).src_mac(neighbour_mac(WAN, 2))
}

#[test]
fn a_capture_goes_through_the_path_in_its_own_time() {
    let folder = TempDir::new().unwrap();
    let reply = tcp4("198.51.100.12:8080 > 192.0.2.2:40000")
        .syn()
        .ack()
        .dst_mac(director_mac(WAN))
        .src_mac(neighbour_mac(WAN, 12));
    let output = offline(
        folder.path(),
        &[
            (0, client("192.0.2.2:40000 > 192.0.2.100:80").syn().build()),
            (5, reply.build()),
            (10, client("192.0.2.2:40000 > 192.0.2.100:80").ack().build()),
            (30_000, client("192.0.2.2:40000 > 192.0.2.100:80").ack().build()),
            // 61 s later the connection is over: this is nobody's.
            (91_100, client("192.0.2.2:40000 > 192.0.2.100:80").ack().build()),
            (91_200, client("192.0.2.2:40001 > 192.0.2.100:81").syn().build()),
        ],
    );
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        said.lines().next().unwrap(),
        "6 frames read, 4 sent, 2 left to the kernel, 0 held, 0 consumed, 0 dropped, 1 connections"
    );
    let fields = [
        "frame.time_epoch",
        "ip.src",
        "ip.dst",
        "tcp.dstport",
        "eth.dst",
        "frame.comment",
    ];
    let frames = tshark(&folder.path().join("out.pcapng"), &fields);
    let client_mac = "02:00:00:00:01:02";
    let server_mac = "02:00:00:00:01:0c";
    let worker = frames[0]
        .split("worker ")
        .nth(1)
        .and_then(|after| after.split(',').next());
    let worker = worker.unwrap_or_else(|| panic!("no worker in {frames:?}"));
    let line = |time: &str, from: &str, to: &str, port: u16, mac: &str, frame: u32| {
        format!("{time} {from} {to} {port} {mac} worker {worker}, for frame {frame}")
    };
    let (client, server, vip) = ("192.0.2.2", "198.51.100.12", "192.0.2.100");
    assert_eq!(
        frames,
        [
            line("1700000000.000000000", client, server, 8_080, server_mac, 1),
            line("1700000000.005000000", vip, client, 40_000, client_mac, 2),
            line("1700000000.010000000", client, server, 8_080, server_mac, 3),
            line("1700000030.000000000", client, server, 8_080, server_mac, 4),
        ]
    );

    // It can read its own output, whose frames are no longer for the director.
    std::fs::rename(folder.path().join("out.pcapng"), folder.path().join("again.pcapng")).unwrap();
    let again = run(folder.path(), "again.pcapng");
    let said = String::from_utf8(again.stdout).unwrap();
    assert!(said.starts_with("4 frames read, 0 sent"), "{said}");
}

#[test]
fn a_file_that_is_no_capture_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("lvsd.toml"), CONFIG).unwrap();
    for (name, content) in [("empty", &b""[..]), ("text", b"no capture, but long enough to be one")] {
        std::fs::write(folder.path().join(name), content).unwrap();
        let output = run(folder.path(), name);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with(&format!("lvsd: {name}: ")), "{said}");
    }
}

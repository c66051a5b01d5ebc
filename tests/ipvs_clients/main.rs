//! The distribution's own ipvsadm under `liblvs_ipvs.so` against the IPVS socket: texts and exit codes equal
//! to a kernel's recordings, and what happens when the director is killed, stopped, flooded or lied to.

mod keepalived;
mod launcher;
mod ldirectord;
mod outages;
mod recordings;
mod supervised;
mod ways;

use std::fmt::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use lvs_test_support::ipvs_server::{Server, serve_if_child};
use lvs_test_support::tools::library;

/// This is no test of its own but the process that the others start.
#[test]
fn server_of_the_tests() {
    serve_if_child();
}

#[test]
fn the_library_exports_its_hooks_and_needs_only_the_c_library() {
    let tool = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).arg(library()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let symbols = tool("nm", &["-D", "--defined-only"]);
    let mut exports: Vec<&str> = symbols.lines().filter_map(|line| line.split(' ').next_back()).collect();
    exports.sort_unstable();
    let hooks = "__fxstatat __fxstatat64 __lxstat __lxstat64 __open64_2 __open_2 __openat64_2 __openat_2 __read_chk \
                 __readlink_chk __realpath_chk __recv_chk __recvfrom_chk __xstat __xstat64 access bind \
                 canonicalize_file_name connect creat creat64 eaccess euidaccess execv execve \
                 execvp execvpe faccessat fopen fopen64 fstatat fstatat64 getpeername getsockname getsockopt lstat lstat64 \
                 open open64 openat openat64 opendir posix_spawn posix_spawnp read readlink readv realpath recv recvfrom recvmmsg recvmsg send \
                 sendmmsg sendmsg sendto setsockopt shutdown socket stat stat64 statx write writev";
    assert_eq!(exports, hooks.split_whitespace().collect::<Vec<_>>());
    let dynamic = tool("readelf", &["-d"]);
    let needed: Vec<&str> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert_eq!(needed.len(), 1, "{needed:?}");
    assert!(needed[0].contains("[libc.so.6]"), "{needed:?}");
    assert!(!tool("nm", &[]).contains("panic"), "nothing in it can panic");
}

fn rules(services: usize, servers: usize) -> String {
    let mut text = String::new();
    for service in 0..services {
        let vip = format!("192.0.2.{}:{}", service % 250 + 1, 1000 + service / 250);
        writeln!(text, "-A -t {vip} -s wrr").unwrap();
        for server in 0..servers {
            writeln!(text, "-a -t {vip} -r 198.51.100.{}:80 -m -w {}", server + 1, server + 2).unwrap();
        }
    }
    text
}

fn restore(server: &Server, rules: &str) {
    assert!(server.restore(rules));
}

/// Restores 4,000 rules and saves them, in so much processor time of the server and of the tool with its library.
fn round_trip(server: &Server) {
    let rules = rules(800, 4);
    assert_eq!(rules.lines().count(), 4000);
    let file = server.socket().with_file_name("rules");
    std::fs::write(&file, &rules).unwrap();
    let (begun, before) = (Instant::now(), server.cpu_time());
    let (times, _, code) = server.shell(&format!("ipvsadm -R <{}; times", file.display()));
    assert_eq!(code, 0);
    let saved = server.shell("ipvsadm -Sn").0;
    let taken = server.cpu_time() - before + children_time(&times);
    println!(
        "4,000 rules are restored and saved in {:?}, of which {taken:?} of processors",
        begun.elapsed()
    );
    assert!(taken < Duration::from_secs(2), "{taken:?}");
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(sorted(&saved), sorted(&rules));
    restore(server, "-C\n");
    restore(server, &saved);
    assert_eq!(server.shell("ipvsadm -Sn").0, saved);
}

/// The CPU time of the shell's children as `times` prints it in its second line: user and system, `0m0.12s 0m0.30s`.
fn children_time(times: &str) -> Duration {
    let of = |word: &str| {
        let (minutes, seconds) = word.trim_end_matches('s').split_once('m').expect("minutes");
        Duration::from_secs(60 * minutes.parse::<u64>().unwrap()) + Duration::from_secs_f64(seconds.parse().unwrap())
    };
    times.lines().nth(1).expect("two lines").split(' ').map(of).sum()
}

#[test]
fn four_thousand_rules_are_restored_in_two_seconds_of_processors_and_saved_as_they_were() {
    round_trip(&Server::start());
}

#[test]
fn the_director_takes_four_thousand_rules_in_two_seconds_of_processors_and_has_them_after_a_crash() {
    let mut server = Server::start_director();
    round_trip(&server);
    let saved = server.shell("ipvsadm -Sn").0;
    server.kill();
    server.restart();
    assert_eq!(server.shell("ipvsadm -Sn").0, saved);
}

#[test]
fn the_director_answers_in_the_kernels_words() {
    let server = Server::start_director();
    let expect = |command: &str, code: i32, text: &str| {
        let (output, errors, found) = server.shell(command);
        assert_eq!((found, format!("{output}{errors}").as_str()), (code, text), "{command}");
    };
    expect("ipvsadm -A -t 192.0.2.1:80 -s sh -b sh-port", 0, "");
    expect("ipvsadm -A -t 192.0.2.1:80", 255, "Service already exists\n");
    expect(
        "ipvsadm -A -t 192.0.2.1:81 -s nonsense",
        255,
        "Scheduler or persistence engine not found\n",
    );
    expect(
        "ipvsadm -a -t 192.0.2.1:81 -r 198.51.100.1 -m",
        255,
        "Service not defined\n",
    );
    expect("ipvsadm -a -t 192.0.2.1:80 -r 198.51.100.1 -m -w 5 -x 10 -y 3", 0, "");
    expect(
        "ipvsadm -a -t 192.0.2.1:80 -r 198.51.100.1 -m",
        255,
        "Destination already exists\n",
    );
    expect("ipvsadm -a -t 192.0.2.1:80 -r 198.51.100.2 -i", 0, "");
    expect(
        "ipvsadm -d -t 192.0.2.1:80 -r 198.51.100.9",
        255,
        "No such destination\n",
    );
    expect("ipvsadm -A -u [2001:db8::1]:53 -s rr", 0, "");
    expect("ipvsadm --set 700 70 77", 0, "");
    expect("ipvsadm -L --timeout", 0, "Timeout (tcp tcpfin udp): 700 70 77\n");
    let thresholds = "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n  \
        -> RemoteAddress:Port\nTCP  192.0.2.1:80 sh (sh-port)\n  \
        -> 198.51.100.1:80              10         3          0          0         \n  \
        -> 198.51.100.2:80              0          0          0          0         \n";
    expect("ipvsadm -Ln --thresholds -t 192.0.2.1:80", 0, thresholds);
    expect("ipvsadm -Z -t 192.0.2.1:80", 0, "");
    expect("ipvsadm -Z", 0, "");
    let saved = "-A -t 192.0.2.1:80 -s sh -b sh-port\n-a -t 192.0.2.1:80 -r 198.51.100.1:80 -m -w 5\n\
        -a -t 192.0.2.1:80 -r 198.51.100.2:80 -i -w 1 --tun-type ipip\n-A -u [2001:db8::1]:53 -s rr\n";
    expect("ipvsadm -Sn", 0, saved);
    expect("ipvsadm -C", 0, "");
    expect("ipvsadm -Sn", 0, "");
}

#[test]
fn the_director_knows_persistence_marks_one_packet_and_tunnels_as_the_kernel_does() {
    let mut server = Server::start_director();
    let run = |server: &Server, command: &str, text: &str| {
        let (output, errors, code) = server.shell(command);
        assert_eq!((code, format!("{output}{errors}").as_str()), (0, text), "{command}");
    };
    for command in [
        "-A -t 192.0.2.1:0 -s rr -p 360 -M 255.255.255.0",
        "-A -u 192.0.2.1:53 -s rr -o",
        "-A -f 66 -s wlc -p",
        "-a -f 66 -r 198.51.100.1 -i --tun-type gue --tun-port 6080",
        "-a -f 66 -r 198.51.100.2 -i --tun-type gue --tun-port 6081 --tun-csum -w 2",
        "-a -f 66 -r 198.51.100.3 -i --tun-type gue --tun-port 6082 --tun-remcsum",
        "-a -f 66 -r 198.51.100.4 -i --tun-type gre",
        "-a -f 66 -r 198.51.100.5 -i --tun-type gre --tun-csum",
        "-A -f 66 -6 -s rr -p 10 -M 64",
    ] {
        run(&server, &format!("ipvsadm {command}"), "");
    }
    let saved = "-A -t 192.0.2.1:0 -s rr -p 360 -M 255.255.255.0\n-A -u 192.0.2.1:53 -s rr -o\n\
        -A -f 66 -s wlc -p 360\n\
        -a -f 66 -r 198.51.100.1:0 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum\n\
        -a -f 66 -r 198.51.100.2:0 -i -w 2 --tun-type gue --tun-port 6081 --tun-csum\n\
        -a -f 66 -r 198.51.100.3:0 -i -w 1 --tun-type gue --tun-port 6082 --tun-remcsum\n\
        -a -f 66 -r 198.51.100.4:0 -i -w 1 --tun-type gre --tun-nocsum\n\
        -a -f 66 -r 198.51.100.5:0 -i -w 1 --tun-type gre --tun-csum\n\
        -A -f 66 -6 -s rr -p 10 -M 64\n";
    run(&server, "ipvsadm -Sn", saved);
    restore(&server, "-C\n");
    restore(&server, saved);
    server.kill();
    server.restart();
    run(&server, "ipvsadm -Sn", saved);
    let (listed, _, _) = server.shell("ipvsadm -Ln");
    for line in [
        "TCP  192.0.2.1:0 rr persistent 360 mask 255.255.255.0\n",
        "UDP  192.0.2.1:53 rr ops\n",
        "FWM  66 wlc persistent 360\n",
        "FWM  66 IPv6 rr persistent 10 mask 64\n",
    ] {
        assert!(listed.contains(line), "{listed}");
    }
    // An edit says everything: what it leaves out ends.
    run(&server, "ipvsadm -E -f 66 -s rr", "");
    run(&server, "ipvsadm -e -f 66 -r 198.51.100.1 -m", "");
    let (saved, _, _) = server.shell("ipvsadm -Sn");
    assert!(
        saved.contains("-A -f 66 -s rr\n-a -f 66 -r 198.51.100.1:0 -m -w 1\n"),
        "{saved}"
    );
    let (listed, _, _) = server.shell("ipvsadm -Lnc");
    assert!(
        listed.starts_with("IPVS connection entries\npro expire state"),
        "{listed}"
    );
    run(&server, "ipvsadm -D -f 66 -6", "");
}

#[test]
fn the_files_of_proc_are_read_by_unmodified_programs() {
    let server = Server::start();
    restore(
        &server,
        "-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 198.51.100.1:80 -m\n",
    );
    let (text, _, code) = server.shell("cat /proc/net/ip_vs");
    assert_eq!(code, 0);
    assert!(
        text.ends_with("-> C6336401:0050      Masq    1      0          0         \n"),
        "{text}"
    );
    let (text, _, _) = server.shell("ipvsadm -Lnc");
    assert!(text.starts_with("IPVS connection entries\npro expire state"), "{text}");
    let (_, errors, code) = server.shell("cat /proc/net/ip_vs_nothing; cat /proc/net/ip_vs_app");
    assert!(errors.contains("No such file") && code != 0);
}

#[test]
fn fifty_clients_at_once_all_get_their_answer() {
    let server = Server::start_director();
    let clients: Vec<_> = (0..50)
        .map(|index| {
            let service = format!("192.0.2.1:{}", 1000 + index);
            server.command("ipvsadm").args(["-A", "-t", &service]).spawn().unwrap()
        })
        .collect();
    for mut client in clients {
        assert!(client.wait().unwrap().success());
    }
    assert_eq!(server.shell("ipvsadm -Sn").0.lines().count(), 50);
}

/// An attribute of a request.
fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + payload.len()).unwrap();
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `ipvsadm -e -t 192.0.2.1:1000 -r 198.51.100.1:80 -m -w WEIGHT`, as bytes.
fn edit(weight: u32) -> Vec<u8> {
    let number = |kind, value: u32| attribute(kind, &value.to_ne_bytes());
    let sixteen = |bytes: [u8; 4]| [&bytes[..], &[0; 12]].concat();
    let service = [
        attribute(1, &2_u16.to_ne_bytes()),
        attribute(2, &6_u16.to_ne_bytes()),
        attribute(3, &sixteen([192, 0, 2, 1])),
        attribute(4, &1000_u16.to_be_bytes()),
    ];
    let server = [
        attribute(1, &sixteen([198, 51, 100, 1])),
        attribute(2, &80_u16.to_be_bytes()),
        number(3, 0),
        number(4, weight),
        number(5, 0),
        number(6, 0),
    ];
    let body = [
        vec![6, 1, 0, 0],
        attribute(1, &service.concat()),
        attribute(2, &server.concat()),
    ]
    .concat();
    let len = u32::try_from(16 + body.len()).unwrap();
    let head = [&len.to_ne_bytes()[..], &[0xb5, 0xf1, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0]].concat();
    [head, body].concat()
}

/// Edits a server so many times. Returns what one edit took of the server's processors.
fn edits(server: &Server, client: &OwnedFd, count: u32) -> Duration {
    let before = server.cpu_time();
    for round in 0..count {
        outages::say(client, &edit(1 + round % 9)).unwrap();
        let mut buffer = [0; 512];
        let len = nix::sys::socket::recv(client.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty());
        assert_eq!((len, &buffer[16..20]), (Ok(36), &[0; 4][..]), "acknowledged");
    }
    (server.cpu_time() - before) / count
}

#[test]
fn with_ten_thousand_servers_a_change_takes_a_millisecond_of_the_processor() {
    let server = Server::start_director();
    restore(&server, &rules(1000, 10));
    let client = outages::connect(&server);
    outages::say(&client, &outages::hello()).unwrap();
    // The cheapest of ten rounds: what else runs on the machine makes each of them dearer by the cache lines it evicts.
    let taken = (0..10).map(|_| edits(&server, &client, 20)).min().unwrap();
    println!("an edit takes {taken:?} of a processor");
    assert!(taken < Duration::from_millis(1), "{taken:?}");
    let (services, _, _) = server.shell("ipvsadm -Sn");
    assert_eq!(services.lines().count(), 11_000);
}

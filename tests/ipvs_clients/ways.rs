//! Every way in which a program may use netlink, files and modules of IPVS, by the library and by the supervisor.
//!
//! `tests/programs/netlink_probe.py` uses generic netlink in one way at a time.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lvs_test_support::ipvs_server::Server;
use nix::sys::signal::Signal;

use crate::launcher::lvs_run;

const MODES: [&str; 2] = ["preload", "notify"];

/// Runs a command in a mode: its output with its errors, and its exit code.
fn run(server: &Server, mode: &str, command: &[&str]) -> (String, i32) {
    let output = lvs_run(server)
        .args(["--mode", mode, "--"])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (text, output.status.code().unwrap_or(-1))
}

fn probe() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/netlink_probe.py");
    path.to_str().unwrap().to_owned()
}

/// The system's Python, not a shell script in front of one.
const PYTHON: &str = "/usr/bin/python3";

fn check(ways: &[&str]) {
    let server = Server::start_director();
    let mut wrong = Vec::new();
    for mode in MODES {
        for way in ways {
            let (text, code) = run(&server, mode, &["timeout", "60", PYTHON, &probe(), way]);
            if (text.as_str(), code) != ("ok\n", 0) {
                wrong.push(format!("{mode} {way}: {code} {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pollers_and_threads_that_waited_before_the_first_request_hear_the_answer() {
    check(&["epoll", "poll", "selects", "waiting_thread", "asyncio_datagrams"]);
}

#[test]
fn copied_and_inherited_descriptors_are_the_same_socket() {
    check(&["copies", "forked", "inherited"]);
}

#[test]
fn every_way_to_send_and_receive_reaches_lvsd() {
    check(&[
        "write_and_read",
        "writev_and_readv",
        "sendmsg_and_recvmsg",
        "recvfrom",
        "peeked",
        "splice",
        "batch",
        "empty",
    ]);
}

#[test]
fn types_names_and_options_of_a_socket_are_those_of_netlink() {
    check(&["types", "names", "options"]);
}

#[test]
fn dumps_of_families_and_policies_have_ipvs_and_other_families_are_the_kernels() {
    check(&["families", "policy", "several", "members"]);
    let server = Server::start_director();
    for mode in ["auto", "preload", "notify"] {
        let (text, code) = run(&server, mode, &["genl-ctrl-list"]);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("0xf1b5 IPVS"), "{mode}: {text}");
        assert!(text.contains("nlctrl"), "{mode}: {text}");
    }
}

#[test]
fn forwarding_methods_and_what_persistence_does_not_use_are_listed_as_they_were_given() {
    check(&["kept"]);
}

#[test]
fn files_exist_under_every_name_that_a_kernel_gives_them() {
    let server = Server::start_director();
    for mode in MODES {
        let shell = |line: &str| run(&server, mode, &["sh", "-c", line]);
        for line in [
            "test -e /proc/net/ip_vs",
            "test -r /proc/self/net/ip_vs_conn",
            "! test -x /proc/net/ip_vs",
            "! test -e /proc/net/ip_vs_nothing",
            "ls -l /proc/net/ip_vs_stats",
            "cat /proc/self/net/ip_vs",
            "cat /proc/$$/net/ip_vs",
            "cat /proc/thread-self/net/ip_vs",
            "cat /proc//net/./ip_vs",
            "cd /proc/net && cat ip_vs",
            "test -d /proc/sys/net/ipv4/vs",
            "ls /proc/sys/net/ipv4/vs | grep -x drop_entry",
            "test -w /proc/sys/net/ipv4/vs/conn_reuse_mode",
            "sysctl -n net.ipv4.vs.conn_reuse_mode | grep -x 1",
            "sysctl -q -w net.ipv4.vs.conn_reuse_mode=0 && sysctl -n net.ipv4.vs.conn_reuse_mode | grep -x 0",
            "echo 1 >/proc/sys/net/ipv4/vs/conn_reuse_mode && grep -x 1 /proc/sys/net/ipv4/vs/conn_reuse_mode",
            "! cat /proc/sys/net/ipv4/vs/nothing",
            "test -d /sys/module/ip_vs && grep -x live /sys/module/ip_vs/initstate",
            "grep '^ip_vs ' /proc/modules && lsmod | grep '^ip_vs_rr '",
        ] {
            let (text, code) = shell(line);
            assert_eq!(code, 0, "{mode}: {line}: {text}");
        }
        let script = "import os\nd = os.open('/proc/net', os.O_RDONLY)\nassert os.stat('ip_vs', dir_fd=d).st_mode & 0o444\n\
                      assert os.read(os.open('ip_vs', os.O_RDONLY, dir_fd=d), 9) == b'IP Virtua'\n\
                      d = os.open('/proc/sys/net/ipv4/vs', os.O_RDONLY)\n\
                      assert os.read(os.open('drop_entry', os.O_RDONLY, dir_fd=d), 9) == b'0\\n'\n\
                      assert os.access('/proc/net/ip_vs', os.R_OK) and not os.access('/proc/net/ip_vs', os.W_OK)\n\
                      assert 'ip_vs' not in os.listdir('/proc/sys/net/ipv4/vs')\n";
        let (text, code) = run(&server, mode, &[PYTHON, "-c", script]);
        assert_eq!(code, 0, "{mode}: {text}");
    }
}

#[test]
fn loading_the_kernels_module_succeeds_and_loads_nothing() {
    let server = Server::start_director();
    for mode in ["auto", "preload", "notify"] {
        for command in [
            "['modprobe', 'ip_vs']",
            "['modprobe', '-q', 'ip_vs_rr']",
            "['/sbin/modprobe', '-va', 'ip_vs', 'ip_vs_wrr']",
        ] {
            let script = format!("import subprocess; subprocess.check_call({command})");
            let (text, code) = run(&server, mode, &[PYTHON, "-c", &script]);
            assert_eq!(code, 0, "{mode}: {command}: {text}");
        }
        let (text, code) = run(
            &server,
            mode,
            &["sh", "-c", "modprobe ip_vs && modprobe -s -- ip_vs_sh"],
        );
        assert_eq!(code, 0, "{mode}: {text}");
        let (_, code) = run(&server, mode, &["sh", "-c", "modprobe no_such_module 2>/dev/null"]);
        assert_ne!(code, 0, "{mode}");
    }
}

/// Builds a program of `tests/programs` with a C compiler.
fn built(source: &str, name: &str, options: &[&str]) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/programs")
        .join(source);
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let status = Command::new("gcc")
        .args(options)
        .arg("-o")
        .arg(&program)
        .arg(source)
        .status();
    assert!(status.expect("gcc is installed").success(), "{name}");
    program.to_str().unwrap().to_owned()
}

#[test]
fn the_old_socket_options_work_in_both_directions_and_both_abis() {
    let wide = built("old_options.c", "old_options", &[]);
    let narrow = built("old_options.c", "old_options_32", &["-m32"]);
    let expected = "info 1.2.1, 0 services\nadded\nserver added\n1 services: 192.0.2.9:99 rr 1 servers\n\
                    server 198.51.100.1:80 weight 3\ntimeouts 700 70 77\nexists already\nno such service\ndeleted\n";
    for (mode, program) in [
        ("preload", &wide),
        ("notify", &wide),
        ("notify", &narrow),
        ("auto", &narrow),
    ] {
        let server = Server::start_director();
        assert_eq!(
            run(&server, mode, &[program]),
            (expected.to_owned(), 0),
            "{mode} {program}"
        );
        assert_eq!(server.shell("ipvsadm -Sn").0, "", "{mode}");
    }
}

#[test]
fn io_uring_is_refused_so_that_nothing_passes_by() {
    let server = Server::start();
    let script = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n\
                  print(libc.syscall(425, 4, bytes(120)), ctypes.get_errno())";
    for mode in MODES {
        assert_eq!(
            run(&server, mode, &[PYTHON, "-c", script]),
            ("-1 38\n".to_owned(), 0),
            "{mode}"
        );
    }
}

#[test]
fn a_relative_socket_is_found_from_every_folder() {
    let server = Server::start_director();
    let [program, arguments @ ..] = lvs_test_support::tools::lvs_run(server.socket());
    for mode in MODES {
        let output = Command::new(&program)
            .args(&arguments[..2])
            .args(["--socket", "ipvs.sock", "--mode", mode, "sh", "-c", "cd /; ipvsadm -Ln"])
            .current_dir(server.socket().parent().unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{mode}: {output:?}");
    }
}

#[test]
fn a_director_that_is_busy_for_longer_than_five_seconds_is_no_missing_module() {
    const BUSY: Duration = Duration::from_secs(6);
    let server = Server::start_director();
    assert_eq!(server.shell("ipvsadm -A -t 192.0.2.1:80 -s rr").2, 0);
    server.signal(Signal::SIGSTOP);
    let tools: Vec<_> = MODES
        .iter()
        .map(|mode| {
            let mut tool = lvs_run(&server);
            tool.args(["--mode", mode, "ipvsadm", "-Sn"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            tool.spawn().unwrap()
        })
        .collect();
    // As long as it once waited, and a second.
    std::thread::sleep(BUSY);
    server.signal(Signal::SIGCONT);
    for tool in tools {
        let output = tool.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"-A -t 192.0.2.1:80 -s rr\n", "{output:?}");
    }
}

/// Go programs with the C library in them, and those of 32 bits, make their system calls themselves.
#[test]
fn go_programs_of_every_kind_are_supervised_or_refused_and_never_reach_the_kernel() {
    let server = Server::start_director();
    assert_eq!(server.shell("ipvsadm -A -t 192.0.2.1:80 -s wrr").2, 0);
    let cgo = &["-ldflags=-linkmode=external"][..];
    let stripped = &["-ldflags=-linkmode=external -s -w -buildid="][..];
    for (name, flags, environment) in [
        ("go_static", &[][..], [("CGO_ENABLED", "0"), ("GOARCH", "amd64")]),
        ("go_cgo", cgo, [("CGO_ENABLED", "1"), ("GOARCH", "amd64")]),
        ("go_stripped", stripped, [("CGO_ENABLED", "1"), ("GOARCH", "amd64")]),
        ("go_386", &[][..], [("CGO_ENABLED", "0"), ("GOARCH", "386")]),
    ] {
        let program = crate::supervised::go_program_of(name, flags, &environment);
        let program = program.to_str().unwrap();
        for library in ["mdlayher", "vishvananda"] {
            for mode in ["auto", "notify"] {
                let outcome = run(&server, mode, &[program, library, "list"]);
                assert_eq!(outcome, ("192.0.2.1:80 wrr\n".to_owned(), 0), "{name} {mode} {library}");
            }
        }
        let (text, code) = run(&server, "preload", &[program, "mdlayher", "list"]);
        assert_eq!(code, 5, "{name}: {text}");
        assert!(
            text.contains("is not started") && text.contains("--mode notify"),
            "{text}"
        );
        // A preloaded shell starts it by the launcher.
        let outcome = run(
            &server,
            "preload",
            &["sh", "-c", &format!("{program} mdlayher list; true")],
        );
        assert_eq!(outcome, ("192.0.2.1:80 wrr\n".to_owned(), 0), "{name}");
    }
}

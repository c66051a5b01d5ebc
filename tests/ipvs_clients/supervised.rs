//! `lvs-run --mode notify`: a static Go program on lvsd, its signals, exit codes and children, and outages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use lvs_test_support::ipvs_server::Server;
use lvs_test_support::waits::{takes_less_than, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::launcher::lvs_run;

/// A static program on Debian's Go libraries.
fn go_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| go_program_of("go_ipvs", &[], &[("CGO_ENABLED", "0")]))
}

/// The same program, built in another way.
pub fn go_program_of(name: &str, flags: &[&str], environment: &[(&str, &str)]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/go_ipvs/main.go");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = folder.join(name);
    let built = Command::new("go")
        .arg("build")
        .args(flags)
        .arg("-o")
        .arg(&program)
        .arg(source)
        .envs([("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode")])
        .envs(environment.iter().copied())
        .env("GOCACHE", folder.join("go-cache"))
        .status()
        .expect("go is installed");
    assert!(built.success());
    program
}

fn supervised(server: &Server, command: &[&str]) -> Command {
    let mut lvs_run = lvs_run(server);
    lvs_run.args(["--mode", "notify"]).args(command).stdin(Stdio::null());
    lvs_run
}

fn go(server: &Server, arguments: &[&str]) -> Output {
    let program = go_program().to_str().unwrap();
    supervised(server, &[&[program], arguments].concat()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Processes that supervise for this server.
fn supervisors(server: &Server) -> Vec<i32> {
    let socket = server.socket().to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = text(&command);
            command.contains("--supervise") && command.contains(socket)
        })
        .collect()
}

fn await_no_supervisor(server: &Server) {
    until("no supervisor outlives its program", || supervisors(server).is_empty());
}

#[test]
fn a_static_go_program_lists_adds_and_deletes_by_either_library() {
    let server = Server::start_director();
    for library in ["mdlayher", "vishvananda"] {
        let run = |arguments: &[&str]| {
            let output = go(&server, &[&[library], arguments].concat());
            (text(&output.stdout), text(&output.stderr), output.status.code())
        };
        assert_eq!(run(&["list"]), (String::new(), String::new(), Some(0)));
        assert_eq!(run(&["add", "80"]), (String::new(), String::new(), Some(0)));
        assert_eq!(run(&["add", "81"]).2, Some(0));
        assert_eq!(server.shell("ipvsadm -Sn").0.lines().count(), 2);
        let (listed, errors, code) = run(&["list"]);
        let mut lines: Vec<&str> = listed.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            (lines.as_slice(), errors.as_str(), code),
            (&["192.0.2.1:80 wrr", "192.0.2.1:81 wrr"][..], "", Some(0))
        );
        let (_, errors, code) = run(&["add", "80"]);
        assert!(errors.contains("exists") && code == Some(1), "{errors}");
        assert_eq!(run(&["delete", "80"]).2, Some(0));
        assert_eq!(run(&["delete", "81"]).2, Some(0));
        let (_, errors, code) = run(&["delete", "81"]);
        assert!(errors.contains("no such process") && code == Some(1), "{errors}");
    }
    await_no_supervisor(&server);
}

#[test]
fn a_long_dump_reaches_a_supervised_program_whole() {
    let server = Server::start();
    super::restore(&server, &super::rules(3000, 0));
    for library in ["mdlayher", "vishvananda"] {
        let output = go(&server, &[library, "list"]);
        assert_eq!(text(&output.stdout).lines().count(), 3000, "{}", text(&output.stderr));
    }
}

#[test]
fn auto_supervises_what_cannot_be_preloaded_and_preload_is_left_the_rest() {
    let server = Server::start();
    let folder = tempfile::TempDir::new().unwrap();
    let set_gid = folder.path().join("ipvsadm");
    fs::copy("/usr/sbin/ipvsadm", &set_gid).unwrap();
    std::os::unix::fs::chown(&set_gid, None, Some(65534)).unwrap();
    fs::set_permissions(&set_gid, fs::Permissions::from_mode(0o2755)).unwrap();
    let auto = |command: &[&str]| {
        let output = lvs_run(&server).args(command).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    auto(&[set_gid.to_str().unwrap(), "-A", "-t", "192.0.2.1:80", "-s", "rr"]);
    assert_eq!(
        auto(&[go_program().to_str().unwrap(), "mdlayher", "list"]),
        "192.0.2.1:80 rr\n"
    );
    assert_eq!(auto(&["ipvsadm", "-Sn"]), "-A -t 192.0.2.1:80 -s rr\n");
    assert_eq!(
        auto(&["grep", "^Seccomp:", "/proc/self/status"]),
        "Seccomp:\t2\n",
        "root's other programs are supervised: only of libnl's tools is all known that they do"
    );
    let output = lvs_run(&server)
        .args(["--mode", "preload"])
        .arg(&set_gid)
        .arg("-Sn")
        .output()
        .unwrap();
    assert!(!output.status.success(), "the loader ignores the library");
}

#[test]
fn the_distributions_tools_work_supervised_as_they_do_preloaded() {
    let server = Server::start_director();
    let run = |command: &[&str]| {
        let output = supervised(&server, command).output().unwrap();
        (
            text(&output.stdout) + &text(&output.stderr),
            output.status.code().unwrap_or(-1),
        )
    };
    assert_eq!(
        run(&["ipvsadm", "-A", "-t", "192.0.2.1:80", "-s", "rr"]),
        (String::new(), 0)
    );
    assert_eq!(
        run(&["ipvsadm", "-a", "-t", "192.0.2.1:80", "-r", "198.51.100.1", "-m"]),
        (String::new(), 0)
    );
    assert_eq!(
        run(&["ipvsadm", "-A", "-t", "192.0.2.1:80"]),
        ("Service already exists\n".into(), 255)
    );
    let saved = "-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 198.51.100.1:80 -m -w 1\n";
    assert_eq!(run(&["ipvsadm", "-Sn"]), (saved.into(), 0));
    assert_eq!(run(&["ipvsadm", "-Lnc"]).1, 0);
    // A child of a child, by exec after fork.
    assert_eq!(run(&["sh", "-c", "sh -c 'ipvsadm -Sn'; true"]), (saved.into(), 0));
    let (listed, _) = run(&["cat", "/proc/net/ip_vs"]);
    assert!(listed.contains("Masq    1"), "{listed}");
    let (listed, _) = run(&[go_program().to_str().unwrap(), "cat", "/proc/net/ip_vs"]);
    assert!(listed.contains("Masq    1"), "{listed}");
    let (errors, code) = run(&["cat", "/proc/net/ip_vs_nothing"]);
    assert!(errors.contains("No such file") && code == 1, "{errors}");
}

#[test]
fn sockets_that_are_not_for_ipvs_are_the_kernels() {
    let server = Server::start();
    let output = go(&server, &["mdlayher", "families"]);
    assert_eq!(text(&output.stdout), "nlctrl 0x10\n", "{}", text(&output.stderr));
    let plain = Command::new("ip").args(["-o", "link"]).output().unwrap();
    let output = supervised(&server, &["ip", "-o", "link"]).output().unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(0), text(&plain.stdout))
    );
}

#[test]
fn loading_the_kernels_ipvs_succeeds_for_supervised_programs_and_runs_nothing() {
    let server = Server::start();
    let folder = tempfile::TempDir::new().unwrap();
    let modprobe = folder.path().join("modprobe");
    fs::write(&modprobe, "#!/bin/sh\necho loaded \"$@\"\n").unwrap();
    fs::set_permissions(&modprobe, fs::Permissions::from_mode(0o755)).unwrap();
    let modprobe = modprobe.to_str().unwrap();
    let run = |module: &str| {
        let go = go_program().to_str().unwrap();
        let output = supervised(&server, &[go, "run", modprobe, "-va", module])
            .output()
            .unwrap();
        text(&output.stdout) + &text(&output.stderr)
    };
    assert_eq!(run("dummy"), "loaded -va dummy\n");
    assert_eq!(run("ip_vs"), "", "it ends well, and no modprobe ran");
    assert_eq!(run("dummy"), "loaded -va dummy\n", "the next one is itself again");
}

fn start_sleeper(server: &Server) -> (Child, Pid) {
    use std::io::BufRead;
    let program = go_program().to_str().unwrap();
    let mut child = supervised(server, &[program, "sleep"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let pid = Pid::from_raw(line.trim().parse().unwrap());
    (child, pid)
}

#[test]
fn a_supervised_program_keeps_its_process_its_signals_and_its_exit_code() {
    use std::os::unix::process::ExitStatusExt;
    let server = Server::start();
    let (mut child, pid) = start_sleeper(&server);
    assert_eq!(
        pid.as_raw(),
        child.id().cast_signed(),
        "it is the process that was started"
    );
    kill(pid, Signal::SIGUSR1).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));

    let (mut child, pid) = start_sleeper(&server);
    let supervisor = supervisors(&server);
    assert_eq!(supervisor.len(), 1);
    // systemd sends every process of a unit the same.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(Pid::from_raw(supervisor[0]), signal).unwrap();
    }
    let status = fs::read_to_string(format!("/proc/{}/status", supervisor[0])).unwrap();
    assert!(!status.contains("State:\tZ"), "{status}");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap();
    assert_ne!(
        parent,
        child.id().to_string(),
        "no child of the program, which might wait for it"
    );
    kill(pid, Signal::SIGKILL).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    await_no_supervisor(&server);

    let code = |command: &[&str]| supervised(&server, command).output().unwrap().status.code();
    assert_eq!(code(&["sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&["/etc/passwd"]), Some(127), "found by nobody");
    // The children that a program leaves behind are still supervised, and they hold no pipe of its parent open.
    let output = supervised(&server, &["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"])
        .output()
        .unwrap();
    let left = Pid::from_raw(text(&output.stdout).trim().parse().unwrap());
    assert_eq!(supervisors(&server).len(), 1);
    kill(left, Signal::SIGTERM).expect("it runs on");
    await_no_supervisor(&server);
}

#[test]
fn an_absent_or_silent_director_is_an_error_in_time_for_supervised_programs() {
    let mut server = Server::start();
    let probe = go_program().to_str().unwrap().to_owned();
    let loop_command =
        format!("{probe} mdlayher add 80; read line; {probe} mdlayher add 81; {probe} vishvananda add 82");
    // Without the variable each of the two requests waits for five seconds.
    let in_time = takes_less_than(Duration::from_secs(10), || {
        server.shell("ipvsadm -C");
        let mut child = supervised(&server, &["sh", "-c", &loop_command])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .env("LVS_IPVS_TIMEOUT", "0.5")
            .spawn()
            .unwrap();
        until("the first service has come", || {
            !server.shell("ipvsadm -Sn").0.is_empty()
        });
        server.signal(Signal::SIGSTOP);
        drop(child.stdin.take());
        let output = child.wait_with_output().unwrap();
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(errors.matches("no such device").count(), 2, "{errors}");
        server.signal(Signal::SIGCONT);
        assert_eq!(
            server.shell("ipvsadm -Sn").0.lines().count(),
            1,
            "what was given up is not done later"
        );
    });
    assert!(in_time);

    server.kill();
    let output = go(&server, &["mdlayher", "list"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("lvsd is not running"), "{output:?}");
}

#[test]
fn a_supervised_program_without_rights_is_not_led_to_lvsd() {
    let server = Server::start();
    assert_eq!(server.shell("ipvsadm -A -t 192.0.2.1:80").2, 0);
    let probe = go_program().to_str().unwrap();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    fs::set_permissions(server.socket().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = server.socket().with_file_name("go_ipvs");
    fs::copy(probe, &copy).unwrap();
    let command = [&nobody[..], &[copy.to_str().unwrap(), "mdlayher", "delete", "80"]].concat();
    let output = supervised(&server, &command).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(server.shell("ipvsadm -Sn").0.lines().count(), 1);
}

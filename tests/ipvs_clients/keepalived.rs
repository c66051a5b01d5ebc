//! The distribution's keepalived: checks, outages, reload and end.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lvs_test_support::ipvs_server::{Server, await_question};
use lvs_test_support::waits::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

struct Keepalived {
    child: Child,
    folder: TempDir,
}

fn configuration(port: u16, weight: u32) -> String {
    format!(
        "global_defs {{\n    router_id TEST\n}}\nvirtual_server 192.0.2.10 80 {{\n    delay_loop 1\n    lvs_sched wrr\n    \
         lvs_method NAT\n    protocol TCP\n    real_server 127.0.0.1 {port} {{\n        weight {weight}\n        \
         TCP_CHECK {{\n            connect_timeout 1\n            retry 0\n            delay_before_retry 1\n        \
         }}\n    }}\n}}\n"
    )
}

impl Keepalived {
    fn start(server: &Server, port: u16) -> Self {
        Self::start_with(server, port, &[])
    }

    fn start_with(server: &Server, port: u16, environment: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("keepalived.conf"), configuration(port, 3)).unwrap();
        let child = server
            .command("keepalived")
            .args(["--dont-fork", "--log-console", "--check"])
            .arg("--use-file")
            .arg(path("keepalived.conf"))
            .arg("--pid")
            .arg(path("pid"))
            .arg("--checkers_pid")
            .arg(path("checkers.pid"))
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Hundredths of a second that it and its children have computed.
    fn ticks(&self) -> u64 {
        let own = self.child.id().to_string();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let of = |folder: &Path| {
            let text = fs::read_to_string(folder.join("stat")).ok()?;
            let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
            let is_ours = folder.ends_with(&own) || fields.get(1) == Some(&own.as_str());
            is_ours.then(|| fields[11].parse::<u64>().unwrap_or(0) + fields[12].parse::<u64>().unwrap_or(0))
        };
        processes.filter_map(|entry| of(&entry.path())).sum()
    }

    /// Waits until the checker waits for an answer.
    fn await_request(&self) {
        let checker = fs::read_to_string(self.folder.path().join("checkers.pid")).unwrap();
        await_question(checker.trim());
    }

    fn end(&mut self) -> Duration {
        let begun = Instant::now();
        kill(self.pid(), Signal::SIGTERM).unwrap();
        until("keepalived has ended", || self.child.try_wait().unwrap().is_some());
        begun.elapsed()
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            // Its checker ends with it only when it is asked.
            let _ = kill(self.pid(), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

fn await_table(server: &Server, expected: &str) {
    server.await_table(expected, |table| table == expected);
}

/// The virtual service as `ipvsadm -Sn` prints it.
const SERVICE: &str = "-A -t 192.0.2.10:80 -s wrr\n";

/// A real server that accepts connections, and its port.
fn real_server() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn keepalived_checks_reloads_outlives_outages_and_ends() {
    let mut server = Server::start();
    let (listener, port) = real_server();
    let service = SERVICE;
    let with = |weight: u32| format!("{service}-a -t 192.0.2.10:80 -r 127.0.0.1:{port} -m -w {weight}\n");
    let mut keepalived = Keepalived::start(&server, port);
    await_table(&server, &with(3));

    drop(listener);
    await_table(&server, service);
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    await_table(&server, &with(3));

    fs::write(keepalived.folder.path().join("keepalived.conf"), configuration(port, 7)).unwrap();
    kill(keepalived.pid(), Signal::SIGHUP).unwrap();
    await_table(&server, &with(7));

    server.signal(Signal::SIGSTOP);
    let before = keepalived.ticks();
    drop(listener);
    std::thread::sleep(Duration::from_secs(10));
    let spent = keepalived.ticks() - before;
    assert!(spent < 20, "{spent} of 1000 ticks while the director was stopped");
    server.signal(Signal::SIGCONT);
    await_table(&server, service);

    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    await_table(&server, &with(7));
    server.kill();
    let before = keepalived.ticks();
    drop(_listener);
    std::thread::sleep(Duration::from_secs(3));
    let spent = keepalived.ticks() - before;
    assert!(spent < 10, "{spent} of 300 ticks");
    let ended = keepalived.end();
    println!("{spent} ticks in an outage of 3 s, ended after {ended:?}");
}

#[test]
fn keepalived_converges_after_a_crash_between_request_and_reply() {
    let mut server = Server::start_director();
    let (listener, port) = real_server();
    let service = SERVICE;
    let with = format!("{service}-a -t 192.0.2.10:80 -r 127.0.0.1:{port} -m -w 3\n");
    let mut keepalived = Keepalived::start_with(&server, port, &[("LVS_IPVS_TIMEOUT", "30")]);
    await_table(&server, &with);

    server.signal(Signal::SIGSTOP);
    drop(listener);
    keepalived.await_request();
    server.kill();
    let before = keepalived.ticks();
    std::thread::sleep(Duration::from_secs(3));
    let spent = keepalived.ticks() - before;
    assert!(spent < 10, "{spent} of 300 ticks after a lost answer");
    // The journal brings back a server that failed meanwhile; keepalived takes it out.
    server.restart();
    await_table(&server, service);
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    await_table(&server, &with);
    server.kill();
    keepalived.end();
}

#[test]
fn keepalived_may_be_started_before_the_director() {
    let mut server = Server::start_director();
    server.kill();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut keepalived = Keepalived::start_with(&server, port, &[("LVS_IPVS_WAIT", "30")]);
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        keepalived.child.try_wait().unwrap().is_none(),
        "it waits for the director"
    );
    server.restart();
    await_table(
        &server,
        &format!("-A -t 192.0.2.10:80 -s wrr\n-a -t 192.0.2.10:80 -r 127.0.0.1:{port} -m -w 3\n"),
    );
    keepalived.end();
}

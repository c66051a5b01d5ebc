//! The distribution's keepalived: checks, outages, reload and end.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::server::Server;

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

    fn end(&mut self) -> Duration {
        let begun = Instant::now();
        kill(self.pid(), Signal::SIGTERM).unwrap();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(10), "keepalived cannot be ended");
            std::thread::sleep(Duration::from_millis(20));
        }
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
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let (table, errors, _) = server.shell("ipvsadm -Sn");
        if table == expected {
            return;
        }
        assert!(Instant::now() < deadline, "wanted\n{expected}found\n{table}{errors}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn keepalived_checks_reloads_outlives_outages_and_ends() {
    let mut server = Server::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = "-A -t 192.0.2.10:80 -s wrr\n";
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
    drop(listener);
    std::thread::sleep(Duration::from_secs(3));
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

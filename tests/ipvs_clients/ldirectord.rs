//! The distribution's ldirectord: connect checks, a fallback, the end.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Stdio};

use lvs_test_support::ipvs_server::Server;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

struct Ldirectord(Child);

impl Drop for Ldirectord {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn await_servers(server: &Server, expected: &[u16]) {
    server.await_table(&format!("the servers {expected:?}"), |table| {
        let ports = table.lines().filter_map(|line| line.split("-r 127.0.0.1:").nth(1));
        let mut found: Vec<u16> = ports.filter_map(|rest| rest.split(' ').next()?.parse().ok()).collect();
        found.sort_unstable();
        found == expected
    });
}

#[test]
fn ldirectord_takes_servers_out_and_in_and_falls_back() {
    let server = Server::start();
    let folder = TempDir::new().unwrap();
    let mut listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.sort_by_key(|listener| listener.local_addr().unwrap().port());
    let ports: Vec<u16> = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect();
    let [first, second, fallback] = ports[..] else {
        panic!("three listeners");
    };
    let configuration = format!(
        "checktimeout=1\ncheckinterval=1\nquiescent=no\nsupervised=yes\nlogfile=\"{log}\"\n\
         virtual=192.0.2.20:80\n\treal=127.0.0.1:{first} masq\n\treal=127.0.0.1:{second} masq\n\
         \tfallback=127.0.0.1:{fallback} masq\n\tscheduler=rr\n\tprotocol=tcp\n\tchecktype=connect\n",
        log = folder.path().join("log").display()
    );
    let path = folder.path().join("lvsd-test.cf");
    fs::write(&path, configuration).unwrap();
    let mut command = server.command("ldirectord");
    command
        .arg(&path)
        .arg("start")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _ldirectord = Ldirectord(command.spawn().unwrap());
    await_servers(&server, &[first, second]);
    listeners.remove(0);
    await_servers(&server, &[second]);
    listeners.remove(0);
    await_servers(&server, &[fallback]);
    let _again = TcpListener::bind(("127.0.0.1", first)).unwrap();
    await_servers(&server, &[first]);
}

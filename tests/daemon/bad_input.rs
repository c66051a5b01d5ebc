//! What ipvsadm or the kernel refuses, row by row of `bad-input.toml`: by netlink, ipvsadm, REST and `lvsctl`.
//!
//! Every refusal has the kernel's error number, the distribution's exit code and words, or a status and a problem
//! that names the field and the cure; and after each the whole desired state is what it was.

mod request;

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Output;

use lvs_api::State;
use lvs_api::netlink::Hello;
use lvs_test_support::daemon::{Daemon, Testbed};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
use serde::Deserialize;

/// The table's columns; `bad-input.toml` says what they are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    what: String,
    #[serde(default)]
    before: Vec<String>,
    netlink: Option<String>,
    kernel: Option<i32>,
    lvsd: Option<i32>,
    why: Option<String>,
    ipvsadm: Option<Typed>,
    rest: Option<Asked>,
    lvsctl: Option<Typed>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Typed {
    words: String,
    code: i32,
    says: String,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Asked {
    request: String,
    #[serde(default)]
    body: String,
    status: u16,
    says: String,
}

#[derive(Deserialize)]
struct Table {
    base: String,
    row: Vec<Row>,
}

/// A daemon with the table's services, and the ways to it.
struct Ways<'a> {
    testbed: &'a Testbed,
    daemon: &'a Daemon<'a>,
    before: State,
}

impl Ways<'_> {
    fn state(&self) -> State {
        self.daemon.get("/v1/state")
    }

    /// The distribution's ipvsadm, or any shell line with it.
    fn shell(&self, line: &str) -> Output {
        self.testbed.lvs_run(&["sh", "-c", line]).output().unwrap()
    }

    /// The error number of the answer to a netlink request; 0 for success.
    fn netlink(&self, message: &[u8]) -> i32 {
        let fd: OwnedFd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let path = self.testbed.path("ipvs.sock");
        connect(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        let hello = Hello {
            port_id: 7,
            pid: 7,
            comm: "test".into(),
            net_namespace: 0,
            timeout_ms: 5_000,
        };
        for datagram in [&hello.to_bytes()[..], message] {
            send(fd.as_raw_fd(), datagram, MsgFlags::MSG_NOSIGNAL).unwrap();
        }
        let mut buffer = [0; 4_096];
        let len = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        assert!(len >= 20, "an answer of {len} bytes");
        assert_eq!(buffer[4..6], [2, 0], "an error message");
        -i32::from_ne_bytes(buffer[16..20].try_into().unwrap())
    }

    /// One way of a row, after what comes before it; `refused` of it must leave the state as it was.
    fn go<T>(&self, row: &Row, go: impl FnOnce() -> T, is_refusal: impl FnOnce(&T) -> bool) -> T {
        for line in &row.before {
            let output = self.shell(line);
            assert!(output.status.success(), "{line}: {output:?}");
        }
        let before = self.state();
        let outcome = go();
        if is_refusal(&outcome) {
            assert_eq!(self.state(), before, "{}: something changed", row.what);
        }
        let back = serde_json::to_string(&self.before).unwrap();
        let (status, answer) = self.daemon.ask("PUT", "/v1/state", &back);
        assert_eq!(status, 200, "{answer}");
        outcome
    }
}

fn typed(words: &str, output: &Output) -> Typed {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Typed {
        words: words.to_owned(),
        code: output.status.code().unwrap_or(-1),
        says: text(&output.stdout) + &text(&output.stderr),
    }
}

/// What `lvsctl` says. For wrong usage this is the first sentence, because help follows it.
fn first_sentence(mut said: Typed) -> Typed {
    if said.code == 2 {
        said.says = said.says.split("\n\n").next().unwrap_or_default().to_owned();
    }
    said
}

/// What differs from the table, as lines of the table.
fn differences(tx_routes: &Ways<'_>, row: &Row) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |same: bool, text: String| {
        if !same {
            found.push(format!("{}: {text}", row.what));
        }
    };
    if let Some(text) = &row.netlink {
        let errno = tx_routes.go(row, || tx_routes.netlink(&request::message(text)), |errno| *errno != 0);
        let wanted = row.lvsd.or(row.kernel);
        compare(Some(errno) == wanted, format!("netlink = {errno}"));
    }
    if let Some(wanted) = &row.ipvsadm {
        let line = format!("ipvsadm {}", wanted.words);
        let output = tx_routes.go(row, || tx_routes.shell(&line), |output| !output.status.success());
        let got = typed(&wanted.words, &output);
        compare(got == *wanted, format!("ipvsadm = {got:?}"));
    }
    if let Some(wanted) = &row.rest {
        let (method, path) = wanted.request.split_once(' ').expect("METHOD PATH");
        let (status, answer) = tx_routes.go(
            row,
            || tx_routes.daemon.ask(method, path, &wanted.body),
            |got| got.0 >= 400,
        );
        let says = match serde_json::from_str::<lvs_api::ApiError>(&answer) {
            Ok(error) => error.to_string(),
            Err(_) => String::new(),
        };
        compare(
            (status, &says) == (wanted.status, &wanted.says),
            format!("rest = {status} {says:?}"),
        );
    }
    if let Some(wanted) = &row.lvsctl {
        let output = tx_routes.go(
            row,
            || tx_routes.daemon.lvsctl(&wanted.words),
            |output| !output.status.success(),
        );
        let got = first_sentence(typed(&wanted.words, &output));
        compare(got == *wanted, format!("lvsctl = {got:?}"));
    }
    found
}

#[test]
fn what_the_kernel_refuses_is_refused_likewise_by_every_way_and_changes_nothing() {
    // Read, not included: a row more needs no compiler.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon/bad-input.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let table: Table = toml::from_str(&text).unwrap();
    let testbed = Testbed::create();
    testbed.configure("[[device]]\nname = \"cable\"\ndpdk = \"net_null0\"\n");
    testbed.twin("cable", "02:00:00:00:00:01");
    testbed.address("cable", "10.9.0.1/24");
    let mut daemon = testbed.start();
    let mut tx_routes = Ways {
        testbed: &testbed,
        daemon: &daemon,
        before: daemon.get("/v1/state"),
    };
    std::fs::write(testbed.path("base"), &table.base).unwrap();
    let restored = tx_routes.shell(&format!("ipvsadm -R < {}", testbed.path("base").display()));
    assert!(restored.status.success(), "{restored:?}");
    tx_routes.before = tx_routes.state();
    assert_eq!(tx_routes.before.services.len(), 4);
    let mut found = Vec::new();
    for row in &table.row {
        let differs = row.lvsd.is_some() && row.lvsd != row.kernel;
        assert_eq!(differs, row.why.is_some(), "{}: a reason where lvsd differs", row.what);
        found.extend(differences(&tx_routes, row));
    }
    assert!(found.is_empty(), "{} differences\n{}", found.len(), found.join("\n"));
    assert!(daemon.is_alive());
    daemon.stop();
}

//! `lvs-run`, as an operator types it.

use std::process::{Command, Output};

use lvs_test_support::ipvs_server::Server;
use lvs_test_support::tools;

/// `lvs-run` with the library and the socket of the tests.
pub fn lvs_run(server: &Server) -> Command {
    let [program, arguments @ ..] = tools::lvs_run(server.socket());
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn run(server: &Server, arguments: &[&str]) -> Output {
    lvs_run(server).args(arguments).output().unwrap()
}

#[test]
fn lvs_run_starts_tools_on_lvsd_and_says_when_it_is_not_there() {
    let mut server = Server::start();
    let output = run(&server, &["ipvsadm", "-A", "-t", "192.0.2.1:80", "-s", "rr"]);
    assert!(output.status.success(), "{output:?}");
    let output = run(&server, &["--", "ipvsadm", "-Sn"]);
    assert_eq!(output.stdout, b"-A -t 192.0.2.1:80 -s rr\n");
    assert_eq!(
        run(&server, &["ipvsadm", "-D", "-t", "192.0.2.2:80"]).status.code(),
        Some(255),
        "the tool's own"
    );
    assert_eq!(run(&server, &["no-such-tool"]).status.code(), Some(127));
    server.kill();
    let output = run(&server, &["ipvsadm", "-Ln"]);
    assert_eq!(output.status.code(), Some(3));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("lvsd is not running") && message.contains("systemctl start lvsd"),
        "{message}"
    );
}

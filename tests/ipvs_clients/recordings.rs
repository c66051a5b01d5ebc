//! Every ipvsadm line of the kernel's recordings that needs no traffic: the same text, the same exit code.

use std::fs;
use std::path::Path;

use lvs_test_support::ipvs_server::Server;

use serde_json::Value;

fn recording(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel-goldens/recordings");
    let text = fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn reset(server: &Server, rules: &str) {
    // A recording may hold rules that its kernel refused, too.
    server.restore(&format!("-C\n{rules}"));
    for state in ["master", "backup"] {
        server.shell(&format!("ipvsadm --stop-daemon {state}"));
    }
}

/// What the tests' table cannot know: other tools, and counters of traffic.
fn is_ours(command: &str) -> bool {
    command.starts_with("ipvsadm") || command == "cat /proc/net/ip_vs"
}

/// What ipvsadm itself complains about, in the words of Debian 12's, by which the recordings were made.
fn complaint(errors: &str) -> String {
    // Debian 13's.
    errors.replace("-6 must follow -f", "-6 used before -f")
}

/// The kernel lists services by hash; order among them is nobody's promise.
fn comparable(command: &str, text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if command.contains("nosort") || command.starts_with("cat") {
        lines.sort_unstable();
    }
    lines
}

fn replay(name: &str) -> (usize, Vec<String>) {
    let recording = recording(name);
    let server = Server::start();
    let rules = match &recording["config_in"] {
        Value::String(rules) => rules.clone(),
        Value::Array(lines) => lines
            .iter()
            .filter_map(Value::as_str)
            .map(|line| format!("{line}\n"))
            .collect(),
        _ => String::new(),
    };
    reset(&server, &rules);
    let (mut compared, mut differences) = (0, Vec::new());
    // The kernel's machine had no /etc/hosts; what follows on the same table would differ too.
    let mut names_a_host = false;
    for step in recording["steps"].as_array().unwrap() {
        if let Some(rules) = step["text"]
            .as_str()
            .and_then(|text| text.strip_prefix("table reset to: "))
        {
            reset(&server, rules);
            names_a_host = false;
        }
        let Some(command) = step["command"].as_str().filter(|command| is_ours(command)) else {
            continue;
        };
        names_a_host |= command.contains("localhost");
        if names_a_host {
            continue;
        }
        let (output, errors, code) = server.shell(command);
        let text = |key: &str| step[key].as_str().unwrap_or_default();
        let same = comparable(command, &output) == comparable(command, text("output"))
            && complaint(&errors) == text("stderr")
            && i64::from(code) == step["rc"].as_i64().unwrap_or(0);
        compared += 1;
        if !same {
            differences.push(format!(
                "{name}: {command}\n--- here, exit {code}\n{output}{errors}--- kernel, exit {}\n{}{}",
                step["rc"],
                text("output"),
                text("stderr")
            ));
        }
    }
    (compared, differences)
}

fn expect_same(name: &str, at_least: usize) {
    let (compared, differences) = replay(name);
    assert!(compared >= at_least, "only {compared} commands were compared");
    assert!(
        differences.is_empty(),
        "{} of {compared} differ\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn an_empty_table_is_listed_as_the_kernel_lists_it() {
    expect_same("list_empty", 30);
}

#[test]
fn a_mixed_table_is_listed_as_the_kernel_lists_it() {
    expect_same("list_big", 30);
}

#[test]
fn bad_commands_get_the_kernels_words_and_exit_codes() {
    expect_same("errors_cli_isolated", 250);
}

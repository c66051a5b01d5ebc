//! Plays recordings of a real kernel's IPVS through the real `lvsd`: in network namespaces, on software devices,
//! configured by the real ipvsadm, in real time.
//!
//! `scripts/dev goldens [DIR]` plays all; `cargo test` a few that take a minute together. `LVS_GOLDENS_ONLY=name` one,
//! `LVS_GOLDENS_SLOW=1` those with long pauses too, `LVS_GOLDENS_JOBS=N` so many at a time. Needs root.

// Both players of recordings share these files by path: `lvs-test-support` would bring DPDK into the tests of the core,
// and another crate would be more to know than five files.
#[path = "../../src/core/tests/kernel_goldens/frames.rs"]
mod frames;
mod messages;
mod player;
#[path = "../../src/core/tests/kernel_goldens/recordings.rs"]
mod recordings;
#[path = "../../src/core/tests/kernel_goldens/scenario.rs"]
mod scenario;
// The player of the pure core reads more of a recording's set-up.
#[allow(dead_code)]
#[path = "../../src/core/tests/kernel_goldens/setup.rs"]
mod setup;
#[path = "../../src/core/tests/kernel_goldens/stack_words.rs"]
mod stack_words;
mod testbed;
#[path = "../../src/core/tests/kernel_goldens/text.rs"]
mod text;
mod wire;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, OnceLock};
use std::thread;

use lvs_test_support::namespace::Namespace;
use lvs_test_support::tools;

use recordings::{Recordings, Summary};
use scenario::{Scenario, Step};

/// Recordings that pause longer are left to `LVS_GOLDENS_SLOW=1`.
const PAUSES_MAX_SEC: f64 = 60.0;

/// One recording of each thing that only the real machine has: what `cargo test` plays.
const SHORT: &[&str] = &[
    "arp_rs_unresolved",
    "arp_vip",
    "dr_tcp",
    "icmp_echo_vip",
    "list_order_all",
    "local_rs",
    "nat_fragments",
    "nat_tcp_full",
    "nat_udp",
    "no_dest",
    "schedule_icmp",
    "sched_wrr_3_1",
    "tun_header",
    "v6_nat_tcp",
];

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn main() -> ExitCode {
    let recordings = Recordings::of(Path::new(env!("CARGO_MANIFEST_DIR")));
    let not_applicable = recordings.not_applicable();
    let pending = recordings.listed("pending.txt");
    let is_short = setting("LVS_GOLDENS_ALL").is_none() && setting("LVS_GOLDENS_ONLY").is_none();
    let mut summary = Summary::default();
    let mut to_play = Vec::new();
    for path in recordings.paths() {
        let scenario = scenario::read(&path);
        let name = scenario.name.clone();
        if is_short && !SHORT.contains(&name.as_str()) {
            continue;
        }
        if let Some(reason) = not_applicable.get(&name) {
            summary.not_applicable.push((name, reason.clone()));
        } else if let Some(kind) = missing_link_kind(&scenario) {
            let reason = format!("this machine's kernel has no interfaces of the type {kind}");
            summary.elsewhere.push((name, reason));
        } else if is_slow(&scenario) {
            let reason = format!("pauses longer than {PAUSES_MAX_SEC} s: set LVS_GOLDENS_SLOW=1");
            summary.elsewhere.push((name, reason));
        } else {
            to_play.push(path);
        }
    }
    for (name, result) in play_all(to_play) {
        match result {
            Ok(()) => summary.passed += 1,
            Err(_) if pending.contains_key(&name) => summary.pending += 1,
            Err(difference) => {
                summary.failed += 1;
                println!("---- {name}\n{difference}\n");
            }
        }
    }
    summary.print()
}

/// A type of interface that the recording makes and the kernel here does not know.
fn missing_link_kind(scenario: &Scenario) -> Option<&'static str> {
    static KNOWN: OnceLock<[bool; 2]> = OnceLock::new();
    const KINDS: [(&str, &str); 2] = [
        (
            "vlan",
            "ip link add a type veth peer name b && ip link add link a a.7 type vlan id 7",
        ),
        ("dummy", "ip link add a type dummy"),
    ];
    let commands = scenario.steps.iter().filter_map(|step| match step {
        Step::Exec(command) => Some(&command.command),
        _ => None,
    });
    let commands: Vec<&String> = scenario.setup.iter().chain(commands).collect();
    let makes = |kind: &str| commands.iter().any(|line| line.contains(&format!(" type {kind}")));
    let is_known = || KINDS.map(|(_, line)| Namespace::create().shell(line).status.success());
    let needed = KINDS
        .iter()
        .enumerate()
        .find(|(number, (kind, _))| makes(kind) && !KNOWN.get_or_init(is_known).get(*number).copied().unwrap_or(false));
    needed.map(|(_, (kind, _))| *kind)
}

fn is_slow(scenario: &Scenario) -> bool {
    let pause = |step: &Step| match step {
        Step::Sleep { seconds, .. } => *seconds,
        _ => 0.0,
    };
    setting("LVS_GOLDENS_SLOW").is_none() && scenario.steps.iter().map(pause).sum::<f64>() > PAUSES_MAX_SEC
}

/// Plays several at a time; results by name.
fn play_all(paths: Vec<PathBuf>) -> BTreeMap<String, Result<(), String>> {
    let jobs = setting("LVS_GOLDENS_JOBS")
        .and_then(|jobs| jobs.parse().ok())
        .unwrap_or(3);
    let (left, results) = (Mutex::new(paths.into_iter()), Mutex::new(BTreeMap::new()));
    tools::lvs_run(Path::new(""));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(path) = { left.lock().expect("no panic while it is held").next() } {
                    let scenario = scenario::read(&path);
                    let result = catch_unwind(AssertUnwindSafe(|| player::play(&scenario)));
                    let result = result.unwrap_or_else(|_| Err("  the player panicked, see above".to_owned()));
                    println!("{} {}", if result.is_ok() { "ok    " } else { "FAILED" }, scenario.name);
                    let mut results = results.lock().expect("no panic while it is held");
                    results.insert(scenario.name, result);
                }
            });
        }
    });
    results.into_inner().expect("no panic while it was held")
}

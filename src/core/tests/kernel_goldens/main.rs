//! Plays recordings of a real kernel's IPVS through the pure core, in virtual time, and compares every
//! frame. `LVS_GOLDENS=DIR` plays another folder; `LVS_GOLDENS_ONLY=name` one recording, loudly.

mod commands;
mod frames;
mod host;
mod listing;
mod machine;
mod player;
mod scenario;
mod setup;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// The list of what cannot apply stays below this.
const NOT_APPLICABLE_MAX: usize = 10;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What cannot apply to lvsd: `name: reason`, one a line.
fn not_applicable() -> Vec<(String, String)> {
    let path = repository().join("tests/kernel-goldens/not-applicable.txt");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let list: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(": "))
        .map(|(name, reason)| (name.to_owned(), reason.to_owned()))
        .collect();
    assert!(
        list.len() < NOT_APPLICABLE_MAX,
        "{} recordings are too many to leave out",
        list.len()
    );
    list
}

/// Names in a list file: one a line, `#` begins a remark.
fn listed(file: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(repository().join("tests/kernel-goldens").join(file)).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(['#', ' ']).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn main() -> ExitCode {
    let folder = std::env::var_os("LVS_GOLDENS")
        .map_or_else(|| repository().join("tests/kernel-goldens/recordings"), PathBuf::from);
    let only = std::env::var("LVS_GOLDENS_ONLY").ok();
    let pending = listed("pending.txt");
    let not_applicable = not_applicable();
    let mut left_out = Vec::new();
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a readable entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter(|path| {
            only.as_deref()
                .is_none_or(|only| path.file_stem().is_some_and(|stem| stem == only))
        })
        .collect();
    paths.sort();

    let (mut passed, mut failed, mut skipped, mut unexpected) = (0, 0, 0, Vec::new());
    for path in paths {
        let scenario = scenario::read(&path);
        if let Some(one) = not_applicable.iter().find(|(name, _)| *name == scenario.name) {
            left_out.push(one);
            continue;
        }
        let is_pending = pending.contains(&scenario.name);
        match player::play(&scenario) {
            Ok(()) if is_pending => unexpected.push(scenario.name),
            Ok(()) => passed += 1,
            Err(_) if is_pending && only.is_none() => skipped += 1,
            Err(difference) => {
                failed += 1;
                println!("---- {}\n{difference}\n", scenario.name);
            }
        }
    }
    for name in &unexpected {
        println!("---- {name}\nlisted in tests/kernel-goldens/pending.txt, but it passes: take it off the list\n");
    }
    failed += unexpected.len();
    for (name, reason) in &left_out {
        println!("not applicable: {name}: {reason}");
    }
    println!(
        "{passed} passed, {failed} failed, {skipped} pending, {} not applicable",
        left_out.len()
    );
    if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

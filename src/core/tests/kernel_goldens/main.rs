//! Plays recordings of a real kernel's IPVS through the pure core, in virtual time, and compares every
//! frame. `LVS_GOLDENS=DIR` plays another folder; `LVS_GOLDENS_ONLY=name` one recording, loudly.

mod commands;
mod daemons;
mod frames;
mod host;
mod listing;
mod machine;
mod options;
mod player;
mod recordings;
// The player of the real binary reads more of a recording.
#[allow(dead_code)]
mod scenario;
mod setup;
mod stack_words;
mod text;

use std::path::Path;
use std::process::ExitCode;

use recordings::{Recordings, Summary};

fn main() -> ExitCode {
    let recordings = Recordings::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    let is_one = std::env::var_os("LVS_GOLDENS_ONLY").is_some();
    let not_applicable = recordings.not_applicable();
    let elsewhere = recordings.listed("real-tools-only.txt");
    let pending = recordings.listed("pending.txt");
    let mut summary = Summary::default();
    for path in recordings.paths() {
        let scenario = scenario::read(&path);
        let name = &scenario.name;
        if let Some(reason) = not_applicable.get(name) {
            summary.not_applicable.push((name.clone(), reason.clone()));
            continue;
        }
        if let Some(reason) = elsewhere.get(name) {
            summary.elsewhere.push((name.clone(), reason.clone()));
            continue;
        }
        let is_pending = pending.contains_key(name);
        match player::play(&scenario) {
            Ok(()) if is_pending => {
                summary.failed += 1;
                println!(
                    "---- {name}\nlisted in tests/kernel-goldens/pending.txt, but it passes: take it off the list\n"
                );
            }
            Ok(()) => summary.passed += 1,
            Err(_) if is_pending && !is_one => summary.pending += 1,
            Err(difference) => {
                summary.failed += 1;
                println!("---- {name}\n{difference}\n");
            }
        }
    }
    summary.print()
}

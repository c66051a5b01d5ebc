//! `cargo xtask COMMAND`: makes the files that are made from the sources.
//!
//! In:  the sources, the recordings of the kernel, and the definitions of command lines and routes. Out: files.
//! Needs no DPDK with `--no-default-features`, which leaves out what is made from the daemon itself.

#[cfg(feature = "daemon")]
mod documents;
mod fuzz_seeds;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Makes the files that are made from the sources.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Manual pages and shell completions, for the package.
    #[cfg(feature = "daemon")]
    Documents {
        /// Gets `man/` and `completion/`.
        folder: PathBuf,
    },
    /// `conf/openapi.json`, from the routes of the daemon.
    #[cfg(feature = "daemon")]
    Openapi,
    /// Makes the first inputs of fuzzing from the recordings of the kernel and the tests' bad input.
    FuzzSeeds {
        /// Gets a folder for each target.
        #[arg(default_value = "fuzz/corpus")]
        folder: PathBuf,
    },
}

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("below the root")
}

fn run(task: &Task) -> io::Result<()> {
    match task {
        #[cfg(feature = "daemon")]
        Task::Documents { folder } => documents::write(folder),
        #[cfg(feature = "daemon")]
        Task::Openapi => std::fs::write(root().join("conf/openapi.json"), lvsd::mgmt::admin::routes::openapi()),
        Task::FuzzSeeds { folder } => fuzz_seeds::write(root(), folder),
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

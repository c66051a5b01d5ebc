//! `lvsctl`: what an operator types. A client of the daemon's admin socket; runs where DPDK is absent.
//!
//! In:  a command line. Out: tables (or JSON), and an exit code that a script can trust: see [`command`].

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::command;
use crate::run::{self, Failure};

/// The whole program.
pub fn main() -> ExitCode {
    let arguments = command::Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run::run(arguments)),
        Err(error) => Err(Failure::Output(error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when stderr is closed too.
            let _ = writeln!(std::io::stderr(), "lvsctl: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

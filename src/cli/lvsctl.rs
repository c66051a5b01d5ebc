//! `lvsctl`, the operator's tool: a client of the daemon's admin socket, which runs without DPDK.
//!
//! In:  a command line. Out: tables (or JSON), and an exit code for scripts: see [`command`].

mod capture;
mod client;
pub mod command;
mod listing;
mod proc_files;
mod run;
mod status;
mod table;
mod top;
mod why;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use run::Failure;

/// The whole program.
pub fn main() -> ExitCode {
    let arguments = command::LvsctlArguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run::run(arguments)),
        Err(error) => Err(Failure::Output(error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody can read the message when stderr is closed too.
            let _ = writeln!(std::io::stderr(), "lvsctl: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

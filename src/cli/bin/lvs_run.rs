//! The program `lvs-run`: see [`lvs_cli::lvs_run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    lvs_cli::lvs_run::main()
}

//! The program `lvsctl`: see [`lvs_cli::lvsctl`].

use std::process::ExitCode;

fn main() -> ExitCode {
    lvs_cli::lvsctl::main()
}

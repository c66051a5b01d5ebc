//! The binary `lvsd`: parses the command line, sets up logging and runs what was asked for.
//!
//! [`lvsd::run`] shows start-up and shutdown in order.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use lvsd::arguments::Arguments;

/// What `lvsd --version` says.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("LVSD_REVISION"), ")");

fn main() -> ExitCode {
    let matches = Arguments::command().version(VERSION).get_matches();
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let outcome = if arguments.check {
        lvsd::startup::check(&arguments.config).map(|()| println!("{}: no errors", arguments.config.display()))
    } else if arguments.forget_state {
        lvsd::startup::forget_state(&arguments.config).map(|done| println!("{done}"))
    } else if arguments.salvage_journal {
        lvsd::startup::salvage_journal(&arguments.config).map(|salvaged| print!("{salvaged}"))
    } else if let Some([input, output]) = arguments.offline.as_deref() {
        lvsd::startup::offline(&arguments.config, input, output).map(|summary| print!("{summary}"))
    } else {
        lvsd::run(&arguments.config, env!("LVSD_REVISION"))
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lvsd: {error}");
            ExitCode::FAILURE
        }
    }
}

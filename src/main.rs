//! `lvsd`: start-up and shutdown in order, one line a step.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Linux Virtual Server director on DPDK.
#[derive(Parser)]
#[command(name = "lvsd", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("LVSD_REVISION"), ")"))]
struct Arguments {
    /// Configuration file.
    #[arg(long, short, default_value = "/etc/lvsd/lvsd.toml", env = "LVSD_CONFIG")]
    config: PathBuf,
    /// Read and check the configuration file, then exit.
    #[arg(long)]
    check: bool,
    /// Run the path over a capture file instead of devices, in the capture's time, and write what would be sent.
    #[arg(long, num_args = 2, value_names = ["IN", "OUT"], conflicts_with = "check")]
    offline: Option<Vec<PathBuf>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let outcome = if arguments.check {
        lvsd::startup::read_config(&arguments.config).map(|_| println!("{}: no errors", arguments.config.display()))
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

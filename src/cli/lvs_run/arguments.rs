//! `lvs-run`'s command line.
//!
//! In:  words. Out: [`RunArguments`]. Manual pages and completions are generated from it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use lvs_api::netlink::SOCKET_DEFAULT;

/// How the tool reaches lvsd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Choose by what the program's file is: preload for tools that link libnl, notify for all others that root starts,
    /// and for what cannot be preloaded: static, Go, musl, 32-bit, set-uid, file capabilities. What neither leads to lvsd
    /// is refused.
    Auto,
    /// By the library. A program that cannot be preloaded is refused.
    Preload,
    /// By a supervisor that answers system calls of the tool and of all programs that it starts.
    Notify,
}

/// Runs an unmodified IPVS tool (ipvsadm, keepalived, ldirectord) on lvsd.
#[derive(Debug, Parser)]
#[command(
    name = "lvs-run",
    version,
    override_usage = "lvs-run [OPTIONS] [--] COMMAND [ARGUMENT]..."
)]
pub struct RunArguments {
    /// How the tool reaches lvsd.
    #[arg(long, value_enum, default_value = "auto")]
    pub mode: Mode,
    /// lvsd's IPVS socket.
    #[arg(long, env = "LVS_IPVS_SOCK", default_value = SOCKET_DEFAULT)]
    pub socket: PathBuf,
    /// The library, when it is not in its usual place.
    #[arg(long, env = "LVS_IPVS_LIBRARY")]
    pub library: Option<PathBuf>,
    /// Seconds to wait for lvsd to answer.
    #[arg(long, env = "LVS_IPVS_WAIT", default_value_t = 0.0, value_parser = seconds)]
    pub wait: f64,
    /// Seconds that lvsd may take for an answer; 0: as long as it lives, as a kernel may.
    #[arg(long, env = "LVS_IPVS_TIMEOUT", default_value_t = 0.0, value_parser = seconds)]
    pub timeout: f64,
    /// For internal use: makes this process a part of the supervision.
    #[arg(long, hide = true, value_enum)]
    pub supervise: Option<Part>,
    /// The name that the tool sees as its own (its first argument), where it differs from the file's.
    #[arg(long)]
    pub name: Option<OsString>,
    /// The tool and its arguments.
    #[arg(
        required_unless_present = "supervise",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<OsString>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds from 0 to 86400".into()),
    }
}

/// The two processes of a supervision. The first ends at once, so the supervisor is no child of the tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Starts the supervisor and ends.
    Launcher,
    /// Supervises.
    Supervisor,
}

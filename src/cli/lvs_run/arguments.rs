//! `lvs-run`'s command line.
//!
//! In:  words. Out: what is wanted. Manual pages and completions are made from it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use lvs_api::netlink::SOCKET_DEFAULT;

/// How the tool is led to lvsd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// By what the program is: supervised if it is static, set-uid, set-gid or has file capabilities.
    Auto,
    /// By the library, without looking.
    Preload,
    /// By a supervisor that answers its system calls, and those of all programs it starts.
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
    /// How the tool is led to lvsd.
    #[arg(long, value_enum, default_value = "auto")]
    pub mode: Mode,
    /// lvsd's IPVS socket.
    #[arg(long, env = "LVS_IPVS_SOCK", default_value = SOCKET_DEFAULT)]
    pub socket: PathBuf,
    /// The library, when it is not where it was installed.
    #[arg(long, env = "LVS_IPVS_LIBRARY")]
    pub library: Option<PathBuf>,
    /// Seconds to wait for lvsd to answer.
    #[arg(long, env = "LVS_IPVS_WAIT", default_value_t = 0.0, value_parser = seconds)]
    pub wait: f64,
    /// Seconds that lvsd may take for an answer.
    #[arg(long, env = "LVS_IPVS_TIMEOUT", default_value_t = 5.0, value_parser = seconds)]
    pub timeout: f64,
    /// Not for people: this process is to supervise a tool.
    #[arg(long, hide = true, value_enum)]
    pub supervise: Option<Stage>,
    /// The name the tool is told that it has, where its file's is another.
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

/// Which of the two processes it takes to be nobody's child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Starts the other and ends.
    Leave,
    /// Supervises.
    Stay,
}

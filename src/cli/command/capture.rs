//! `lvsctl capture` on the command line.

use std::path::PathBuf;

use clap::Args;
use lvs_api::EndPattern;

const AFTER_HELP: &str = "\
All that is given must match. Ends are written ADDRESS or ADDRESS:PORT, as in 203.0.113.7 or [2001:db8::7]:443.
What became of a frame is its comment in the file; without --write the comments are printed, a line a frame.

Example:
  lvsctl capture --client 203.0.113.7
  lvsctl capture --drop no_route --count 20
  lvsctl capture --vip 198.51.100.80:443 --seconds 10 -w out.pcapng
  lvsctl capture --real 192.0.2.11 -w - | tshark -r - -T fields -e frame.time -e ip.src -e frame.comment";

/// `lvsctl capture`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Capture {
    /// Write pcapng to this file; - for standard output.
    #[arg(long, short = 'w', value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Frames of this client's connections; those without a connection: from there.
    #[arg(long, value_name = "END")]
    pub client: Option<EndPattern>,
    /// Frames of connections to this VIP; those without a connection: to there.
    #[arg(long, value_name = "END")]
    pub vip: Option<EndPattern>,
    /// Frames of this real server's connections; those without a connection: from or to there.
    #[arg(long, value_name = "END")]
    pub real: Option<EndPattern>,
    /// Frames from or to this end on the wire.
    #[arg(long, value_name = "END")]
    pub addr: Option<EndPattern>,
    /// tcp, udp or sctp.
    #[arg(long, value_name = "NAME", value_parser = ["tcp", "udp", "sctp"])]
    pub protocol: Option<String>,
    /// Frames that arrive or leave there.
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// Only frames dropped, for this reason (lvsctl drops names them) or any.
    #[arg(long, value_name = "REASON", num_args = 0..=1, default_missing_value = "any")]
    pub drop: Option<String>,
    /// Only frames with this verdict: transmit, punt, handoff, hold, consumed or drop.
    #[arg(long, value_name = "NAME", conflicts_with = "drop")]
    pub verdict: Option<String>,
    /// Frames as they arrive, as they leave, or both.
    #[arg(long, short = 'Q', value_name = "in|out|both", value_parser = ["in", "out", "both"], default_value = "both")]
    pub direction: String,
    /// Frames at most.
    #[arg(long, short = 'c', value_name = "FRAMES", default_value_t = 10_000)]
    pub count: u64,
    /// Bytes of frames at most.
    #[arg(long, value_name = "OCTETS", default_value_t = 64 << 20)]
    pub bytes: u64,
    /// Seconds at most.
    #[arg(long, value_name = "SEC", default_value_t = 60)]
    pub seconds: u64,
    /// Bytes kept of each frame.
    #[arg(long, short = 's', value_name = "OCTETS", default_value_t = 2_048)]
    pub snap: u64,
}

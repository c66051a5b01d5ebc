//! `lvsd`'s command line.
//!
//! In:  words. Out: [`Arguments`]. Manual pages and completions are generated from it.

use std::path::PathBuf;

use clap::Parser;

/// Linux Virtual Server director on DPDK.
#[derive(Parser)]
#[command(name = "lvsd")]
pub struct Arguments {
    /// Configuration file.
    #[arg(long, short, default_value = "/etc/lvsd/lvsd.toml", env = "LVSD_CONFIG")]
    pub config: PathBuf,
    /// Read and check the configuration file, then exit.
    #[arg(long)]
    pub check: bool,
    /// Give back what outlived an lvsd with this configuration, the memory of connections and the kernel twins, then exit.
    #[arg(long, conflicts_with_all = ["check", "salvage_journal"])]
    pub forget_state: bool,
    /// Leave out of a damaged journal what this version does not understand, then exit. The file as it was is kept beside
    /// it as .damaged.
    #[arg(long, conflicts_with_all = ["check", "offline"])]
    pub salvage_journal: bool,
    /// Run the path over a capture file instead of devices, in the capture's time, and write what would be sent.
    #[arg(long, num_args = 2, value_names = ["IN", "OUT"], conflicts_with_all = ["check", "forget_state"])]
    pub offline: Option<Vec<PathBuf>>,
}

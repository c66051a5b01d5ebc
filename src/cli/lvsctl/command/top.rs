//! `lvsctl top` on the command line.

use std::time::Duration;

use clap::Args;

/// `lvsctl top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Seconds between two updates.
    #[arg(long, short = 'd', value_name = "SEC", default_value = "2", value_parser = seconds)]
    pub interval: Duration,
    /// Print every table once, as text.
    #[arg(long)]
    pub once: bool,
    /// Show only lines that contain this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub filter: String,
    /// Sort by this column, the largest first: Active.
    #[arg(long, value_name = "COLUMN")]
    pub sort: Option<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "give a number of seconds")?;
    if (0.1..=3_600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("give 0.1 to 3600 seconds".to_owned())
    }
}

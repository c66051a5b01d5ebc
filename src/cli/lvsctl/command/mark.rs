//! `lvsctl mark`: the ordered rules that give packets the marks of fwmark services.

use clap::{Args, Subcommand};
use lvs_api::MarkRule;

/// `lvsctl mark`.
#[derive(Debug, Subcommand)]
pub enum MarkCommand {
    /// List the rules in order: the first that matches decides.
    List,
    /// Add a rule; what is not given matches everything.
    Add(MarkAdd),
    /// Delete the rule of this number; those behind it move up.
    #[command(visible_alias = "del")]
    Delete {
        /// As `mark list` numbers it.
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        number: u32,
    },
    /// Delete every rule.
    Clear,
}

/// `lvsctl mark add`.
#[derive(Debug, Args)]
pub struct MarkAdd {
    /// What the rule matches and does.
    #[command(flatten)]
    pub rule: MarkRule,
    /// The number that the rule gets; without it, it becomes the last.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub number: Option<u32>,
}

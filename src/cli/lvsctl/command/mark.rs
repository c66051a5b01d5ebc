//! `lvsctl mark`: the ordered rules that give packets the marks of fwmark services.

use clap::{Args, Subcommand};
use lvs_api::{MarkProtocol, MarkRule, PortRange, Prefix};

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
    /// The mark: 1 or more.
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    mark: u32,
    /// tcp, udp, sctp or icmp.
    #[arg(long)]
    protocol: Option<MarkProtocol>,
    /// Where packets come from: an address or a network.
    #[arg(long, value_name = "PREFIX")]
    source: Option<Prefix>,
    /// Where packets go: an address or a network.
    #[arg(long, value_name = "PREFIX")]
    destination: Option<Prefix>,
    /// Ports they come from: 80,8000-8010.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    source_ports: Vec<PortRange>,
    /// Ports they go to: 80,8000-8010.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    destination_ports: Vec<PortRange>,
    /// The device that receives them.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Balance packets to addresses that are not the director's, too (caches, transparent proxies).
    #[arg(long)]
    divert: bool,
    /// The number that the rule gets; without it, it becomes the last.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub number: Option<u32>,
}

impl MarkAdd {
    /// The rule that was described.
    pub fn rule(self) -> MarkRule {
        let Self {
            mark,
            protocol,
            source,
            destination,
            source_ports,
            destination_ports,
            device,
            divert,
            number: _,
        } = self;
        MarkRule {
            mark,
            protocol,
            source,
            destination,
            source_ports,
            destination_ports,
            device,
            divert,
        }
    }
}

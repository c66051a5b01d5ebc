//! Rules that give packets the marks of fwmark services, in order: the first that matches decides.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a rule may name as protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MarkProtocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
    /// RFC 792.
    Icmp,
}

impl MarkProtocol {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp];

    /// `tcp`, `udp`, `sctp` or `icmp`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        }
    }
}

impl FromStr for MarkProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|protocol| protocol.name() == text);
        known.ok_or_else(|| format!("{text:?} is no protocol: give tcp, udp, sctp or icmp"))
    }
}

/// An address or a network: `192.0.2.1`, `198.51.100.0/24`, `2001:db8::/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Prefix(IpNet);

impl Prefix {
    /// The network of `net`, host bits aside.
    pub fn new(net: IpNet) -> Self {
        Self(net.trunc())
    }

    /// As address and length.
    pub const fn net(self) -> IpNet {
        self.0
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host = || text.parse::<IpAddr>().map(IpNet::from).ok();
        let net = text.parse().ok().or_else(host);
        net.map(Self::new)
            .ok_or_else(|| format!("{text:?} is no prefix: write 192.0.2.0/24, 2001:db8::/32 or an address"))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

string_conversions!(Prefix, String);

/// A port or a range of ports: `80`, `8000-8010`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) => Ok(Self { first, last }),
            _ => Err(format!("{text:?} is no port or range of ports: write 80 or 8000-8010")),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last {
            write!(formatter, "{first}")
        } else {
            write!(formatter, "{first}-{last}")
        }
    }
}

string_conversions!(PortRange, String);

/// A rule of the classifier: what a packet must be like to get a mark. What is absent matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct MarkRule {
    /// The mark: 1 or more. Two rules with the same conditions are refused: the second could never match.
    #[cfg_attr(feature = "clap", arg(value_parser = clap::value_parser!(u32).range(1..)))]
    pub mark: u32,
    /// tcp, udp, sctp or icmp; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "clap", arg(long))]
    pub protocol: Option<MarkProtocol>,
    /// Where packets come from: an address or a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "198.51.100.0/24")]
    #[cfg_attr(feature = "clap", arg(long, value_name = "PREFIX"))]
    pub source: Option<Prefix>,
    /// Where packets go: an address or a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "192.0.2.100")]
    #[cfg_attr(feature = "clap", arg(long, value_name = "PREFIX"))]
    pub destination: Option<Prefix>,
    /// Ports they come from; empty: any. At most 32 ranges together with `destination_ports`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    #[cfg_attr(feature = "clap", arg(long, value_name = "PORTS", value_delimiter = ','))]
    pub source_ports: Vec<PortRange>,
    /// Ports they go to; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, example = json!(["80", "8000-8010"]))]
    #[cfg_attr(feature = "clap", arg(long, value_name = "PORTS", value_delimiter = ','))]
    pub destination_ports: Vec<PortRange>,
    /// The device that receives them, by its name in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME"))]
    pub device: Option<String>,
    /// Whether packets to addresses that are not the director's are balanced too. Default: no.
    #[serde(default)]
    #[cfg_attr(feature = "clap", arg(long))]
    pub divert: bool,
}

impl MarkRule {
    /// Whether both rules match the same packets: then they are the same rule, whatever they do with them.
    pub fn has_conditions_of(&self, other: &Self) -> bool {
        let Self {
            mark: _,
            protocol,
            source,
            destination,
            source_ports,
            destination_ports,
            device,
            divert: _,
        } = other;
        (self.protocol, self.source, self.destination) == (*protocol, *source, *destination)
            && (&self.source_ports, &self.destination_ports) == (source_ports, destination_ports)
            && self.device == *device
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_written_as_it_is_read_and_names_networks_without_host_bits() {
        let text = r#"{"mark":66,"protocol":"tcp","source":"198.51.100.7/24","destination":"192.0.2.100","destination_ports":["80","8000-8010"]}"#;
        let rule: MarkRule = serde_json::from_str(text).unwrap();
        assert_eq!(rule.source.unwrap().to_string(), "198.51.100.0/24");
        assert_eq!(rule.destination.unwrap().to_string(), "192.0.2.100/32");
        let written = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<MarkRule>(&written).unwrap(), rule);
        assert!(
            written.contains(r#""destination_ports":["80","8000-8010"]"#),
            "{written}"
        );
    }

    #[test]
    fn what_is_no_prefix_port_or_protocol_is_refused_with_the_right_form() {
        for (text, form) in [
            (r#"{"mark":1,"source":"192.0.2.0/33"}"#, "192.0.2.0/24"),
            (r#"{"mark":1,"source_ports":["http"]}"#, "8000-8010"),
            (r#"{"mark":1,"source_ports":["1-2-3"]}"#, "8000-8010"),
            (r#"{"mark":1,"source_ports":["65536"]}"#, "8000-8010"),
            (r#"{"mark":1,"protocol":"gre"}"#, "`sctp`"),
            (r#"{"mark":1,"ports":["80"]}"#, "unknown field"),
        ] {
            let error = serde_json::from_str::<MarkRule>(text).unwrap_err().to_string();
            assert!(error.contains(form), "{error}");
        }
    }

    #[test]
    fn rules_are_the_same_when_their_conditions_are() {
        let rule = |text: &str| serde_json::from_str::<MarkRule>(text).unwrap();
        let web = rule(r#"{"mark":1,"source":"192.0.2.0/24"}"#);
        assert!(web.has_conditions_of(&rule(r#"{"mark":2,"divert":true,"source":"192.0.2.9/24"}"#)));
        assert!(!web.has_conditions_of(&rule(r#"{"mark":1,"destination":"192.0.2.0/24"}"#)));
    }
}

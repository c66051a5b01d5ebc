//! Names of services in URLs, in the journal and on the command line: `tcp:192.0.2.1:80`, `udp:[2001:db8::1]:53`,
//! `fwm:66`, `fwm6:66`.
//!
//! In:  text. Out: [`ServiceId`] or an [`IdError`] that says what is wrong and shows the right form.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Protocol of a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp` or `sctp`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// What identifies a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ServiceId {
    /// Protocol, VIP and port.
    Address {
        /// TCP, UDP or SCTP.
        protocol: Protocol,
        /// The VIP.
        addr: IpAddr,
        /// L4 port in host order; 0 means every port.
        port: u16,
    },
    /// Packets to which the director's mark rules give this mark, of any protocol, address and port.
    Fwmark {
        /// Not 0.
        mark: u32,
        /// Whether it is for IPv6 packets.
        is_ipv6: bool,
    },
}

impl ServiceId {
    /// The port; 0 for services of every port.
    pub const fn port(&self) -> u16 {
        match self {
            Self::Address { port, .. } => *port,
            Self::Fwmark { .. } => 0,
        }
    }
}

/// Address and port as they are written: no zone, no zeros in front of the port.
pub fn endpoint(text: &str) -> Option<SocketAddr> {
    let (_, port) = text.rsplit_once(':')?;
    let is_plain = !text.contains('%') && (port == "0" || !port.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

/// Text that names no service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdError {
    text: String,
}

impl fmt::Display for IdError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "\"{}\" names no virtual service: write PROTOCOL:ADDRESS:PORT, as in tcp:192.0.2.1:80 or \
             udp:[2001:db8::1]:53, or fwm:MARK, as in fwm:66, or fwm6:66 for IPv6",
            self.text
        )
    }
}

impl std::error::Error for IdError {}

impl fmt::Display for ServiceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match *self {
            Self::Address { protocol, addr, port } => format!("{}:{}", protocol.name(), SocketAddr::new(addr, port)),
            Self::Fwmark { mark, is_ipv6: false } => format!("fwm:{mark}"),
            Self::Fwmark { mark, is_ipv6: true } => format!("fwm6:{mark}"),
        };
        formatter.pad(&text)
    }
}

impl FromStr for ServiceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError { text: text.to_owned() };
        let (protocol, end) = text.split_once(':').ok_or_else(wrong)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            "fwm" | "fwm6" => {
                let is_plain = end.starts_with(|first: char| matches!(first, '1'..='9'));
                let mark = end.parse().ok().filter(|_| is_plain).ok_or_else(wrong)?;
                let is_ipv6 = protocol == "fwm6";
                return Ok(Self::Fwmark { mark, is_ipv6 });
            }
            _ => return Err(wrong()),
        };
        let end = endpoint(end).ok_or_else(wrong)?;
        Ok(Self::Address {
            protocol,
            addr: end.ip(),
            port: end.port(),
        })
    }
}

string_conversions!(ServiceId, IdError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_text_and_back() {
        for text in [
            "tcp:192.0.2.1:80",
            "udp:[2001:db8::1]:53",
            "sctp:192.0.2.1:0",
            "fwm:66",
            "fwm6:4294967295",
        ] {
            assert_eq!(text.parse::<ServiceId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_service_is_refused_with_the_right_form() {
        for text in [
            "",
            "tcp",
            "tcp:192.0.2.1",
            "icmp:192.0.2.1:80",
            "tcp:2001:db8::1:53",
            "tcp:192.0.2.1:65536",
            "tcp:host:80",
            "fwm:0",
            "fwm:192.0.2.1:80",
            "fwm:4294967296",
        ] {
            let message = text.parse::<ServiceId>().unwrap_err().to_string();
            assert!(message.contains("tcp:192.0.2.1:80"), "{message}");
        }
    }
}

//! `GET /v1/capture`: which frames are recorded, and how many.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::Protocol;

/// What is recorded. All that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CaptureAsked {
    /// The client of its connection (without a connection: where it comes from): an address, or address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, example = "203.0.113.7:40000")]
    pub client: Option<EndPattern>,
    /// The VIP of its connection (without a connection: where it goes), likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub vip: Option<EndPattern>,
    /// The real server of its connection (without a connection: where it comes from or goes), likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub real: Option<EndPattern>,
    /// Its source or destination as it is on the wire, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub addr: Option<EndPattern>,
    /// Only frames of this protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub protocol: Option<Protocol>,
    /// Name of the device where it arrives or leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What became of it: `transmit`, `punt`, `handoff`, `hold`, `keep` or `drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Only frames dropped for this reason, as `GET /v1/drops` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `in`: as frames arrive; `out`: as they leave; left out: both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub direction: Option<CaptureDirection>,
    /// Bytes kept of each frame: 14 to 2048; left out: 2048.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snap: Option<u64>,
    /// Frames at most: 1 to 10,000,000; left out: 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Bytes of frames at most: 1 to 2^32; left out: 64 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Seconds at most: 1 to 3,600; left out: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// Frames as they arrive, or as they leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CaptureDirection {
    /// As they arrive.
    In,
    /// As they leave.
    Out,
}

/// An address, and a port if it matters: `203.0.113.7`, `203.0.113.7:40000`, `2001:db8::7`, `[2001:db8::7]:40000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct EndPattern {
    /// The address.
    pub addr: IpAddr,
    /// The port; `None` for any.
    pub port: Option<u16>,
}

impl FromStr for EndPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Ok(addr) = bare.unwrap_or(text).parse() {
            return Ok(Self { addr, port: None });
        }
        let end: SocketAddr = text.parse().map_err(|_| {
            format!("{text:?}: write ADDRESS or ADDRESS:PORT, as in 203.0.113.7:40000 or [2001:db8::7]:80")
        })?;
        Ok(Self {
            addr: end.ip(),
            port: Some(end.port()),
        })
    }
}

impl TryFrom<String> for EndPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for EndPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => self.addr.fmt(formatter),
            Some(port) => SocketAddr::new(self.addr, port).fmt(formatter),
        }
    }
}

impl From<EndPattern> for String {
    fn from(end: EndPattern) -> Self {
        end.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_an_address_with_or_without_a_port() {
        for text in ["203.0.113.7", "203.0.113.7:40000", "2001:db8::7", "[2001:db8::7]:80"] {
            assert_eq!(text.parse::<EndPattern>().unwrap().to_string(), text);
        }
        assert_eq!("[2001:db8::7]".parse::<EndPattern>().unwrap().port, None);
        for wrong in ["", "203.0.113", "203.0.113.7:", "web:80", "203.0.113.7:65536"] {
            assert!(wrong.parse::<EndPattern>().is_err(), "{wrong}");
        }
    }
}

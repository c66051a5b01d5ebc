//! The whole desired state, and what in it is no service: timeouts, pools, kernel settings.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{MarkRule, Service, SyncDaemon};

/// The local-address pool of a FULLNAT service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalAddresses {
    /// In the order in which they are used.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
}

/// Idle timeouts of connections (`ipvsadm --set`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Established TCP connections. Default: 900.
    pub tcp_sec: u32,
    /// TCP connections after a FIN (`FIN_WAIT`). Default: 120.
    pub tcp_fin_sec: u32,
    /// UDP. Default: 300.
    pub udp_sec: u32,
}

/// New idle timeouts; what is absent or 0 stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeoutsPatch {
    /// Established TCP connections.
    #[serde(default)]
    pub tcp_sec: u32,
    /// TCP connections after a FIN (`FIN_WAIT`).
    #[serde(default)]
    pub tcp_fin_sec: u32,
    /// UDP.
    #[serde(default)]
    pub udp_sec: u32,
}

impl From<Timeouts> for TimeoutsPatch {
    fn from(timeouts: Timeouts) -> Self {
        let Timeouts {
            tcp_sec,
            tcp_fin_sec,
            udp_sec,
        } = timeouts;
        Self {
            tcp_sec,
            tcp_fin_sec,
            udp_sec,
        }
    }
}

/// The whole desired state (`lvsctl state get`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Services, oldest first.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Connection timeouts; absent in a request: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// The kernel's settings that differ from its defaults, by name. Absent in a request: they stay; present: those
    /// that it does not name get their defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sysctls: Option<Settings>,
    /// The rules of the classifier of fwmark services, in order. Absent in a request: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<Vec<MarkRule>>,
    /// Sync daemons; absent in a request: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_daemons: Option<Vec<SyncDaemon>>,
}

/// The value of a kernel setting as `sysctl` prints it; a number or a boolean is understood too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, example = "1")]
pub struct SettingValue(pub String);

impl<'de> Deserialize<'de> for SettingValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Number(i64),
            Switch(bool),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Number(number) => number.to_string(),
            Written::Switch(on) => u8::from(on).to_string(),
        }))
    }
}

/// Kernel settings by name, without `net.ipv4.vs.` in front.
pub type Settings = BTreeMap<String, SettingValue>;

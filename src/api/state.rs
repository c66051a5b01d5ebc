//! The desired state: what an operator asks for.
//!
//! Order matters: services and servers stand in the order in which they were added, oldest first; the
//! director schedules newest first, as the kernel does.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ServiceId;

/// How a real server is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `-m`: addresses rewritten; FULLNAT when the service has local addresses.
    Nat,
    /// `-i`: encapsulated.
    Tunnel,
    /// `-g`: direct routing, only the MAC changes. The default, as in ipvsadm.
    #[default]
    Dr,
}

fn scheduler_default() -> String {
    "wlc".to_owned()
}

const fn weight_default() -> u32 {
    1
}

/// A virtual service with everything that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Protocol, VIP and port: `tcp:192.0.2.1:80`.
    #[schema(value_type = String, example = "tcp:192.0.2.1:80")]
    pub service: ServiceId,
    /// How it picks: an ipvsadm scheduler name. Default: `wlc`.
    #[serde(default = "scheduler_default")]
    #[schema(example = "wrr")]
    pub scheduler: String,
    /// Options of the scheduler: `sh-fallback`, `sh-port`, `mh-fallback`, `mh-port`.
    #[serde(default)]
    pub scheduler_flags: Vec<String>,
    /// Addresses from which masquerading servers are reached (FULLNAT); empty for plain NAT.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub local_addresses: Vec<IpAddr>,
    /// Real servers, oldest first.
    #[serde(default)]
    pub servers: Vec<Server>,
}

/// What `PUT /v1/services/{service}` sets: all of the service but its id, pool and servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// How it picks: an ipvsadm scheduler name. Default: `wlc`.
    #[serde(default = "scheduler_default")]
    #[schema(example = "wrr")]
    pub scheduler: String,
    /// Options of the scheduler: `sh-fallback`, `sh-port`, `mh-fallback`, `mh-port`.
    #[serde(default)]
    pub scheduler_flags: Vec<String>,
}

/// What `PATCH /v1/services/{service}` changes; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServicePatch {
    /// How it picks: an ipvsadm scheduler name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// Options of the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler_flags: Option<Vec<String>>,
}

impl From<ServiceSettings> for ServicePatch {
    fn from(settings: ServiceSettings) -> Self {
        let ServiceSettings {
            scheduler,
            scheduler_flags,
        } = settings;
        Self {
            scheduler: Some(scheduler),
            scheduler_flags: Some(scheduler_flags),
        }
    }
}

/// A real server of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port: `198.51.100.1:80`.
    #[schema(value_type = String, example = "198.51.100.1:80")]
    pub server: SocketAddr,
    /// How it is reached. Default: `dr`.
    #[serde(default)]
    pub mode: Mode,
    /// 0 (no new connections) to 65535. Default: 1.
    #[serde(default = "weight_default")]
    #[schema(maximum = 65_535)]
    pub weight: u32,
    /// Connections at which it takes no new ones; 0 for no limit. Default: 0.
    #[serde(default)]
    pub upper_threshold_conns: u32,
    /// Connections below which it takes new ones again; 0 for ¾ of the upper threshold. Default: 0.
    #[serde(default)]
    pub lower_threshold_conns: u32,
}

/// What `PUT /v1/services/{service}/servers/{server}` sets: all but the server's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// How it is reached. Default: `dr`.
    #[serde(default)]
    pub mode: Mode,
    /// 0 (no new connections) to 65535. Default: 1.
    #[serde(default = "weight_default")]
    #[schema(maximum = 65_535)]
    pub weight: u32,
    /// Connections at which it takes no new ones; 0 for no limit. Default: 0.
    #[serde(default)]
    pub upper_threshold_conns: u32,
    /// Connections below which it takes new ones again; 0 for ¾ of the upper threshold. Default: 0.
    #[serde(default)]
    pub lower_threshold_conns: u32,
}

/// What `PATCH /v1/services/{service}/servers/{server}` changes; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerPatch {
    /// How it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// 0 (no new connections) to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 65_535)]
    pub weight: Option<u32>,
    /// Connections at which it takes no new ones; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_threshold_conns: Option<u32>,
    /// Connections below which it takes new ones again; 0 for ¾ of the upper threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_threshold_conns: Option<u32>,
}

impl From<ServerSettings> for ServerPatch {
    fn from(settings: ServerSettings) -> Self {
        let ServerSettings {
            mode,
            weight,
            upper_threshold_conns,
            lower_threshold_conns,
        } = settings;
        Self {
            mode: Some(mode),
            weight: Some(weight),
            upper_threshold_conns: Some(upper_threshold_conns),
            lower_threshold_conns: Some(lower_threshold_conns),
        }
    }
}

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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_needs_only_its_address() {
        let server: Server = serde_json::from_str(r#"{"server": "198.51.100.1:80"}"#).unwrap();
        assert_eq!(
            (server.mode, server.weight, server.upper_threshold_conns),
            (Mode::Dr, 1, 0)
        );
    }

    #[test]
    fn unknown_fields_are_refused_at_every_depth() {
        for text in [
            r#"{"service": "tcp:192.0.2.1:80", "sheduler": "rr"}"#,
            r#"{"service": "tcp:192.0.2.1:80", "servers": [{"server": "198.51.100.1:80", "wieght": 3}]}"#,
        ] {
            assert!(
                serde_json::from_str::<Service>(text)
                    .unwrap_err()
                    .to_string()
                    .contains("unknown field")
            );
        }
    }
}

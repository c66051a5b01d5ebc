//! The desired state: what an operator asks for.
//!
//! Order matters: services and servers stand in the order in which they were added, oldest first; the
//! director schedules newest first, as the kernel does.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{MarkRule, ServiceId, SyncDaemon};

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

/// Which clients stick together: a netmask for IPv4 (`"255.255.255.0"`), a prefix length for IPv6 (`64`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "write a netmask for IPv4, as in \"255.255.255.0\", or a prefix length for IPv6, as in 64"
)]
pub enum Netmask {
    /// Of an IPv4 service.
    #[schema(value_type = String, example = "255.255.255.0")]
    Ipv4(Ipv4Addr),
    /// Of an IPv6 service: 1 to 128.
    Ipv6(u8),
}

impl Netmask {
    /// `None` when every client is on its own.
    pub fn narrowed(self) -> Option<Self> {
        let is_whole = matches!(self, Self::Ipv4(Ipv4Addr::BROADCAST) | Self::Ipv6(128));
        (!is_whole).then_some(self)
    }
}

impl fmt::Display for Netmask {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(mask) => mask.fmt(formatter),
            Self::Ipv6(len) => len.fmt(formatter),
        }
    }
}

impl FromStr for Netmask {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ipv4 = text.parse().map(Self::Ipv4).ok();
        ipv4.or_else(|| text.parse().map(Self::Ipv6).ok())
            .ok_or("give a netmask like 255.255.255.0 for an IPv4 service, a prefix length like 64 for an IPv6 one")
    }
}

/// How long clients stick to their real servers (`ipvsadm -p`, `-M`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Persistence {
    /// Kept for this long after the client's last connection. Default: 360.
    #[serde(default = "Persistence::timeout_default")]
    pub timeout_sec: u32,
    /// Which clients stick together; absent: every client on its own.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "narrowed")]
    pub netmask: Option<Netmask>,
}

impl Persistence {
    /// ipvsadm's, in seconds.
    pub const TIMEOUT_DEFAULT_SEC: u32 = 360;

    const fn timeout_default() -> u32 {
        Self::TIMEOUT_DEFAULT_SEC
    }
}

/// A mask that keeps every client on its own says nothing.
fn narrowed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Netmask>, D::Error> {
    Ok(Option::<Netmask>::deserialize(deserializer)?.and_then(Netmask::narrowed))
}

/// A value that is given, be it `null`.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Checksum of GUE packets (`ipvsadm --tun-nocsum`, `--tun-csum`, `--tun-remcsum`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GueChecksum {
    /// None.
    #[default]
    No,
    /// Of the whole UDP datagram.
    Full,
    /// Remote checksum offload; forwarded packets have a full one.
    Remote,
}

/// A kind without options has none: serde alone would pass over them.
fn nothing_else<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    Nothing::deserialize(deserializer).map(|Nothing {}| ())
}

/// How packets to a tunnelling server are wrapped (`ipvsadm --tun-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Tunnel {
    /// IP in IP.
    #[default]
    #[serde(deserialize_with = "nothing_else")]
    Ipip,
    /// GRE.
    Gre {
        /// Whether its checksum field is there. Default: no.
        #[serde(default)]
        checksum: bool,
    },
    /// Generic UDP encapsulation.
    Gue {
        /// UDP destination port, not 0.
        port: u16,
        /// What protects the packet. Default: `no`.
        #[serde(default)]
        checksum: GueChecksum,
    },
}

/// What carries the client's address to a FULLNAT server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddress {
    /// Nothing: the server sees a local address only.
    #[default]
    None,
    /// TCP option 254 (IPv4) or 253 (IPv6), until the server has answered.
    Toa,
    /// The PROXY protocol's line of text in front of the TCP stream.
    ProxyV1,
    /// The PROXY protocol's binary header in front of the TCP stream.
    ProxyV2,
    /// An IP option (IPv4) or the option protocol 248 (IPv6) of the first UDP datagrams.
    Uoa,
}

/// A virtual service with everything that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Protocol, VIP and port: `tcp:192.0.2.1:80`; or a firewall mark: `fwm:66`, `fwm6:66`.
    #[schema(value_type = String, example = "tcp:192.0.2.1:80")]
    pub service: ServiceId,
    /// How it picks: an ipvsadm scheduler name. Default: `wlc`.
    #[serde(default = "scheduler_default")]
    #[schema(example = "wrr")]
    pub scheduler: String,
    /// Options of the scheduler: `sh-fallback`, `sh-port`, `mh-fallback`, `mh-port`.
    #[serde(default)]
    pub scheduler_flags: Vec<String>,
    /// Clients stick to their real servers; absent: they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// Every UDP datagram is scheduled on its own. Default: no.
    #[serde(default)]
    pub one_packet: bool,
    /// How FULLNAT servers learn the client's address. Default: `none`.
    #[serde(default)]
    pub client_address: ClientAddress,
    /// Limit of the MSS that SYN segments announce, in bytes: 0 for none, or 88 to 65495. Default: 0.
    #[serde(default)]
    pub mss_max: u16,
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
    /// Clients stick to their real servers; absent: they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// Every UDP datagram is scheduled on its own. Default: no.
    #[serde(default)]
    pub one_packet: bool,
    /// How FULLNAT servers learn the client's address. Default: `none`.
    #[serde(default)]
    pub client_address: ClientAddress,
    /// Limit of the MSS that SYN segments announce, in bytes: 0 for none, or 88 to 65495. Default: 0.
    #[serde(default)]
    pub mss_max: u16,
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
    /// Clients stick to their real servers; `null`: they no longer do.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<Persistence>)]
    pub persistence: Option<Option<Persistence>>,
    /// Every UDP datagram is scheduled on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_packet: Option<bool>,
    /// How FULLNAT servers learn the client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_address: Option<ClientAddress>,
    /// Limit of the MSS that SYN segments announce, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss_max: Option<u16>,
}

impl From<ServiceSettings> for ServicePatch {
    fn from(settings: ServiceSettings) -> Self {
        let ServiceSettings {
            scheduler,
            scheduler_flags,
            persistence,
            one_packet,
            client_address,
            mss_max,
        } = settings;
        Self {
            scheduler: Some(scheduler),
            scheduler_flags: Some(scheduler_flags),
            persistence: Some(persistence),
            one_packet: Some(one_packet),
            client_address: Some(client_address),
            mss_max: Some(mss_max),
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
    /// How `tunnel` wraps packets; of no effect in other modes. Default: IP in IP.
    #[serde(default)]
    pub tunnel: Tunnel,
    /// 0 (no new connections) to 2147483647. Default: 1.
    #[serde(default = "weight_default")]
    #[schema(maximum = 2_147_483_647)]
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
    /// How `tunnel` wraps packets; of no effect in other modes. Default: IP in IP.
    #[serde(default)]
    pub tunnel: Tunnel,
    /// 0 (no new connections) to 2147483647. Default: 1.
    #[serde(default = "weight_default")]
    #[schema(maximum = 2_147_483_647)]
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
    /// How `tunnel` wraps packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    /// 0 (no new connections) to 2147483647.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 2_147_483_647)]
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
            tunnel,
            weight,
            upper_threshold_conns,
            lower_threshold_conns,
        } = settings;
        Self {
            mode: Some(mode),
            tunnel: Some(tunnel),
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
    fn what_older_versions_wrote_has_no_persistence_and_no_tunnel_but_ipip() {
        let text = r#"{"service": "tcp:192.0.2.1:80", "scheduler": "rr", "scheduler_flags": [], "local_addresses": [],
            "servers": [{"server": "198.51.100.1:80", "mode": "tunnel", "weight": 1,
                         "upper_threshold_conns": 0, "lower_threshold_conns": 0}]}"#;
        let service: Service = serde_json::from_str(text).unwrap();
        assert_eq!((service.persistence, service.one_packet), (None, false));
        assert_eq!(service.servers[0].tunnel, Tunnel::Ipip);
    }

    #[test]
    fn a_patch_tells_no_persistence_from_persistence_that_is_not_mentioned() {
        let patch = |text: &str| serde_json::from_str::<ServicePatch>(text).unwrap();
        assert_eq!(patch("{}").persistence, None);
        let ended = patch(r#"{"persistence": null}"#);
        assert_eq!(ended.persistence, Some(None));
        assert_eq!(serde_json::to_string(&ended).unwrap(), r#"{"persistence":null}"#);
        let begun = patch(r#"{"persistence": {"netmask": "255.255.255.0"}}"#);
        let netmask = Some(Netmask::Ipv4("255.255.255.0".parse().unwrap()));
        let timeout_sec = 360;
        assert_eq!(begun.persistence, Some(Some(Persistence { timeout_sec, netmask })));
        let ipv6 = patch(r#"{"persistence": {"timeout_sec": 10, "netmask": 64}}"#);
        assert_eq!(ipv6.persistence.unwrap().unwrap().netmask, Some(Netmask::Ipv6(64)));
        for whole in [r#""255.255.255.255""#, "128"] {
            let whole = patch(&format!(r#"{{"persistence": {{"netmask": {whole}}}}}"#));
            assert_eq!(whole.persistence.unwrap().unwrap().netmask, None);
        }
    }

    #[test]
    fn tunnels_are_named_by_their_kind() {
        for (text, tunnel) in [
            (r#"{"kind":"ipip"}"#, Tunnel::Ipip),
            (r#"{"kind":"gre","checksum":true}"#, Tunnel::Gre { checksum: true }),
            (
                r#"{"kind":"gue","port":6080,"checksum":"full"}"#,
                Tunnel::Gue {
                    port: 6080,
                    checksum: GueChecksum::Full,
                },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Tunnel>(text).unwrap(), tunnel);
            assert_eq!(serde_json::to_string(&tunnel).unwrap(), text);
        }
        let wrong = serde_json::from_str::<Tunnel>(r#"{"kind":"gre","prot":1}"#).unwrap_err();
        assert!(wrong.to_string().contains("unknown field"), "{wrong}");
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

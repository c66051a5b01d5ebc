//! Virtual services and real servers: what an operator asks for, and services as they run.
//!
//! Order matters: services and servers stand in the order in which they were added, oldest first; the
//! director schedules newest first, as the kernel does.
//! A new option of a service is one entry of the list below: settings, patch, status, merge and `lvsctl` have it then.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::de::value::{Error as ValueError, MapDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::options::options;
use crate::{Rates, ServerStatus, ServiceId, Totals};

/// How a real server is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `-m`: addresses are rewritten (NAT); FULLNAT if the service has local addresses.
    Nat,
    /// `-i`: encapsulated.
    Tunnel,
    /// `-g`: direct routing, only the MAC changes. The default, as in ipvsadm.
    #[default]
    Dr,
    /// The director's own stack is the real server, as the kernel's `Local`.
    Local,
    /// Packets go on to the client's destination, past all real servers (the kernel's `Bypass`).
    Bypass,
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
    /// How many seconds a client keeps its real server after its last connection. Default: 360.
    #[serde(default = "Persistence::timeout_default")]
    pub timeout_sec: u32,
    /// Which clients stick together. If it is absent, every client is on its own.
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

/// Timeout and netmask of a service without persistence: the kernel keeps and lists them, and they have no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnusedPersistence {
    /// Default: 0.
    #[serde(default)]
    pub timeout_sec: u32,
    /// Absent: every client on its own.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "narrowed")]
    pub netmask: Option<Netmask>,
}

/// A mask under which every client is on its own counts as none.
fn narrowed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Netmask>, D::Error> {
    Ok(Option::<Netmask>::deserialize(deserializer)?.and_then(Netmask::narrowed))
}

fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::endpoint(&text).ok_or_else(|| {
        let message = format!("{text:?} is no address and port; write them as in 198.51.100.1:80 or [2001:db8::1]:80");
        serde::de::Error::custom(message)
    })
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
    /// A checksum of the whole UDP datagram.
    Full,
    /// Remote checksum offload; packets that the director forwards carry a full checksum.
    Remote,
}

/// Refuses options of a kind that has none. serde alone would ignore them.
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

impl FromStr for ClientAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "toa" => Ok(Self::Toa),
            "proxy-v1" => Ok(Self::ProxyV1),
            "proxy-v2" => Ok(Self::ProxyV2),
            "uoa" => Ok(Self::Uoa),
            _ => Err("use none, toa, proxy-v1 or proxy-v2 (tcp), uoa (udp)"),
        }
    }
}

options! {
    /// What `PUT /v1/services/{service}` sets: all of the service but its id, pool and servers.
    settings ServiceSettings;

    /// What `PATCH /v1/services/{service}` changes; what is absent stays.
    patch ServicePatch;

    /// A virtual service with everything that belongs to it.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
    #[serde(deny_unknown_fields)]
    whole Service {
        /// Protocol, VIP and port: `tcp:192.0.2.1:80`; or a firewall mark: `fwm:66`, `fwm6:66`.
        #[schema(value_type = String, example = "tcp:192.0.2.1:80")]
        service: ServiceId,
    } {
        /// Addresses from which masquerading servers are reached (FULLNAT); empty for plain NAT.
        #[serde(default)]
        #[schema(value_type = Vec<String>)]
        local_addresses: Vec<IpAddr>,
        /// Real servers, oldest first.
        #[serde(default)]
        servers: Vec<Server>,
    }

    /// A virtual service as it runs.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
    whole ServiceStatus {
        /// Protocol, VIP and port.
        #[schema(value_type = String, example = "tcp:192.0.2.1:80")]
        service: ServiceId,
    } {
        /// Its local-address pool.
        #[schema(value_type = Vec<String>)]
        local_addresses: Vec<IpAddr>,
        /// Connections since start whose local port had not rested: the pool is too small for so many new connections.
        #[serde(default)]
        local_ports_unrested: u64,
        /// Its real servers, oldest first.
        servers: Vec<ServerStatus>,
        /// Counts since the start or the last zeroing; they include real servers that were deleted since.
        totals: Totals,
        /// Present rates.
        rates: Rates,
    }

    options {
        /// How it picks a real server: rr, wrr, lc, wlc, sh or another scheduler of ipvsadm.
        scheduler: String {
            whole:
                /// Default: `wlc`.
                #[serde(default = "scheduler_default")]
                #[schema(example = "wrr")]
            patch:
                #[cfg_attr(feature = "clap", arg(short = 's', long, value_name = "NAME"))]
        }
        /// Options of the scheduler: `sh-fallback`, `sh-port`, `mh-fallback`, `mh-port`.
        scheduler_flags: Vec<String> {
            whole:
                #[serde(default)]
            patch:
                #[cfg_attr(feature = "clap", arg(short = 'b', long = "sched-flags", value_name = "FLAG,FLAG",
                                                 value_delimiter = ','))]
        }
        /// Clients stick to their real servers.
        persistence: Option<Persistence> {
            whole:
                /// Absent: they do not.
                #[serde(default, skip_serializing_if = "Option::is_none")]
            patch:
                /// `null`: they no longer do.
                #[serde(deserialize_with = "given")]
                #[schema(value_type = Option<Persistence>)]
                #[cfg_attr(feature = "clap", arg(skip))]
        }
        /// The options that a client of IPVS gave persistence while it is off; such clients are shown them again.
        unused_persistence: Option<UnusedPersistence> {
            whole:
                /// Absent: nothing but the default.
                #[serde(default, skip_serializing_if = "Option::is_none")]
            patch:
                /// `null`: nothing but the default.
                #[serde(deserialize_with = "given")]
                #[schema(value_type = Option<UnusedPersistence>)]
                #[cfg_attr(feature = "clap", arg(skip))]
        }
        /// Every UDP datagram is scheduled on its own.
        one_packet: bool {
            whole:
                /// Default: no.
                #[serde(default)]
            patch:
                #[cfg_attr(feature = "clap", arg(skip))]
        }
        /// How FULLNAT servers learn the client's address; all but `none` need local addresses.
        client_address: ClientAddress {
            whole:
                /// Default: `none`.
                #[serde(default)]
            patch:
                #[cfg_attr(feature = "clap", arg(long, value_name = "none|toa|proxy-v1|proxy-v2|uoa"))]
        }
        /// Limit of the MSS that SYN segments announce, in bytes: 0 for none, or 88 to 65495.
        mss_max: u16 {
            whole:
                /// Default: 0.
                #[serde(default)]
            patch:
                #[cfg_attr(feature = "clap", arg(long, value_name = "BYTES"))]
        }
        /// Idle timeout of its established TCP and SCTP connections, in seconds: 0 for the director's, or 1 to 2678400.
        established_timeout_sec: u32 {
            whole:
                /// Default: 0.
                #[serde(default)]
            patch:
                #[cfg_attr(feature = "clap", arg(long = "established-timeout", value_name = "SEC"))]
        }
        /// Clients' TCP segments that belong to no connection, or to one of a deleted real server, get a reset.
        reset_unknown: bool {
            whole:
                /// Default: no.
                #[serde(default)]
            patch:
                #[cfg_attr(feature = "clap", arg(long, value_name = "true|false"))]
        }
    }
}

options! {
    /// What `PUT /v1/services/{service}/servers/{server}` sets: all but the server's address.
    settings ServerSettings;

    /// What `PATCH /v1/services/{service}/servers/{server}` changes; what is absent stays.
    patch ServerPatch;

    /// A real server of a service.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
    #[serde(deny_unknown_fields)]
    whole Server {
        /// Address and port: `198.51.100.1:80`.
        #[serde(deserialize_with = "endpoint")]
        #[schema(value_type = String, example = "198.51.100.1:80")]
        server: SocketAddr,
    } {}

    options {
        /// How it is reached.
        mode: Mode {
            whole:
                /// Default: `dr`.
                #[serde(default)]
            patch:
                #[cfg_attr(feature = "clap", arg(skip))]
        }
        /// How `tunnel` wraps packets; it has no effect in other modes.
        tunnel: Tunnel {
            whole:
                /// Default: IP in IP.
                #[serde(default)]
            patch:
                #[cfg_attr(feature = "clap", arg(skip))]
        }
        /// 0 (no new connections) to 2147483647.
        weight: u32 {
            whole:
                /// Default: 1.
                #[serde(default = "weight_default")]
                #[schema(maximum = 2_147_483_647)]
            patch:
                #[schema(maximum = 2_147_483_647)]
                #[cfg_attr(feature = "clap", arg(short = 'w', long, value_name = "N"))]
        }
        /// With this many connections it takes no new ones; 0 for no limit.
        upper_threshold_conns: u32 {
            whole:
                /// Default: 0.
                #[serde(default)]
            patch:
                #[cfg_attr(feature = "clap", arg(short = 'x', long = "upper-threshold", visible_alias = "u-threshold",
                                                 value_name = "CONNS"))]
        }
        /// With fewer connections it takes new ones again; 0 for ¾ of the upper threshold.
        lower_threshold_conns: u32 {
            whole:
                /// Default: 0.
                #[serde(default)]
            patch:
                #[cfg_attr(feature = "clap", arg(short = 'y', long = "lower-threshold", visible_alias = "l-threshold",
                                                 value_name = "CONNS"))]
        }
    }
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

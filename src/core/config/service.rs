//! `[[service]]` and `[[service.real_server]]`: as serde reads them, and the services that they come to.
//!
//! In:  the tables with the place of every value. Out: services that [`DesiredServices`] accepts, or the place, cause
//! and cure of a mistake.

use std::net::IpAddr;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::ServiceConfig;
use super::error::{ConfigProblem, Invalid};
use super::raw::Optional;
use super::validate::invalid;
use crate::address::AddressFamily;
use crate::ipvs::client_address::ClientAddress;
use crate::ipvs::desired::{DesiredServices, ServerSpec, ServiceError, ServiceSpec};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::persistence::{ClientMask, Persistence};
use crate::ipvs::scheduler::{Overhead, SchedulerFlags, SchedulerKind};
use crate::ipvs::service::{ServiceKey, ServiceProtocol};
use crate::ipvs::tunnel_kind::{GueChecksum, TunnelKind};

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawProtocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawService {
    protocol: Optional<RawProtocol>,
    address: Optional<IpAddr>,
    port: Optional<u16>,
    fwmark: Optional<u32>,
    fwmark_ipv6: Optional<bool>,
    scheduler: Optional<String>,
    scheduler_flags: Optional<Vec<Spanned<String>>>,
    persistence_timeout_sec: Optional<u32>,
    persistence_netmask: Optional<String>,
    one_packet: Optional<bool>,
    client_address: Optional<String>,
    mss_max: Optional<u16>,
    established_timeout_sec: Optional<u32>,
    reset_unknown: Optional<bool>,
    local_addresses: Optional<Vec<Spanned<IpAddr>>>,
    #[serde(default)]
    real_server: Vec<RawRealServer>,
}

impl RawService {
    /// Where an option of [`ServiceSpec::numbers`] stands.
    fn span_of(&self, option: &str) -> Option<Range<usize>> {
        match option {
            "mss_max" => self.mss_max.as_ref().map(Spanned::span),
            "established_timeout_sec" => self.established_timeout_sec.as_ref().map(Spanned::span),
            "reset_unknown" => self.reset_unknown.as_ref().map(Spanned::span),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawMode {
    Nat,
    Dr,
    Tunnel,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawTunnel {
    Ipip,
    Gre,
    Gue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawChecksum {
    No,
    Full,
    Remote,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRealServer {
    address: Spanned<IpAddr>,
    port: Optional<u16>,
    mode: Optional<RawMode>,
    tunnel: Optional<RawTunnel>,
    tunnel_port: Optional<u16>,
    tunnel_checksum: Optional<RawChecksum>,
    weight: Optional<u32>,
    upper_threshold: Optional<u32>,
    lower_threshold: Optional<u32>,
}

pub(super) fn services(raw: &[Spanned<RawService>], overhead: Overhead) -> Result<Vec<ServiceConfig>, Invalid> {
    let mut desired = DesiredServices::new(overhead);
    raw.iter().map(|service| self::service(service, &mut desired)).collect()
}

/// One service, tried out on `desired`.
fn service(spanned: &Spanned<RawService>, desired: &mut DesiredServices) -> Result<ServiceConfig, Invalid> {
    let raw = spanned.get_ref();
    let key = key_of(spanned)?;
    let named = raw.address.as_ref().map(Spanned::span);
    let named = named.or_else(|| raw.fwmark.as_ref().map(Spanned::span));
    let named = named.unwrap_or_else(|| spanned.span());
    let scheduler = scheduler(&raw.scheduler)?;
    let spec = ServiceSpec {
        key,
        scheduler,
        scheduler_flags: scheduler_flags(scheduler, raw)?,
        persistence: persistence(raw, &key)?,
        unused_persistence: None,
        one_packet: raw.one_packet.as_ref().is_some_and(|yes| *yes.get_ref()),
        client_address: client_address(&raw.client_address)?,
        mss_max: raw.mss_max.as_ref().map_or(0, |mss| *mss.get_ref()),
        established_timeout_sec: raw.established_timeout_sec.as_ref().map_or(0, |sec| *sec.get_ref()),
        reset_unknown: raw.reset_unknown.as_ref().is_some_and(|yes| *yes.get_ref()),
    };
    let refused = |error: ServiceError| {
        let at = match error {
            ServiceError::ClientAddressWithoutPool { .. } | ServiceError::ClientAddressProtocol { .. } => {
                raw.client_address.as_ref().map(Spanned::span)
            }
            ServiceError::OptionOutOfRange { option, .. } | ServiceError::OptionWithoutProtocol { option, .. } => {
                raw.span_of(option)
            }
            ServiceError::ZeroPortNotPersistent { .. } => raw.port.as_ref().map(Spanned::span),
            ServiceError::OnePacketWithoutUdp { .. } | ServiceError::OnePacketWithPool { .. } => {
                raw.one_packet.as_ref().map(Spanned::span)
            }
            ServiceError::PersistenceOutOfRange { .. } => raw.persistence_timeout_sec.as_ref().map(Spanned::span),
            ServiceError::PersistenceMask { .. } => raw.persistence_netmask.as_ref().map(Spanned::span),
            _ => None,
        };
        Invalid {
            span: at.unwrap_or_else(|| named.clone()),
            problem: error.into(),
        }
    };
    let without_pool = ServiceSpec {
        client_address: ClientAddress::None,
        ..spec
    };
    desired.add_service(without_pool).map_err(refused)?;
    let pool = raw.local_addresses.as_ref().map_or(&[][..], |pool| pool.get_ref());
    let local_addresses: Vec<IpAddr> = pool.iter().map(|addr| *addr.get_ref()).collect();
    desired
        .set_local_addresses(&key, local_addresses.clone())
        .map_err(|error| Invalid {
            span: local_address_span(pool, &error).unwrap_or_else(|| named.clone()),
            problem: error.into(),
        })?;
    desired.edit_service(spec).map_err(refused)?;
    let mut servers = Vec::new();
    for server in &raw.real_server {
        let spec = server_spec(server, key.port())?;
        desired.add_server(&key, spec).map_err(|error| Invalid {
            span: server_span(server, &error),
            problem: error.into(),
        })?;
        servers.push(spec);
    }
    Ok(ServiceConfig {
        spec,
        local_addresses,
        servers,
    })
}

fn scheduler(name: &Optional<String>) -> Result<SchedulerKind, Invalid> {
    let Some(name) = name else {
        return Ok(SchedulerKind::Wlc);
    };
    match SchedulerKind::parse(name.get_ref()) {
        Some(kind) => Ok(kind),
        None => {
            let names: Vec<&str> = SchedulerKind::ALL.iter().map(|kind| kind.name()).collect();
            let cure = format!("give one of {}", names.join(" "));
            invalid(
                name,
                ConfigProblem::NotA {
                    value: name.get_ref().clone(),
                    wanted: "a scheduler",
                    cure,
                },
            )
        }
    }
}

fn client_address(name: &Optional<String>) -> Result<ClientAddress, Invalid> {
    let Some(name) = name else {
        return Ok(ClientAddress::None);
    };
    ClientAddress::parse(name.get_ref()).map_or_else(
        || {
            let names = ClientAddress::ALL.map(ClientAddress::name);
            let problem = ConfigProblem::NotA {
                value: name.get_ref().clone(),
                wanted: "a carrier of the client's address",
                cure: format!("give one of {}", names.join(" ")),
            };
            invalid(name, problem)
        },
        Ok,
    )
}

fn scheduler_flags(scheduler: SchedulerKind, raw: &RawService) -> Result<SchedulerFlags, Invalid> {
    let known = scheduler.flag_names();
    let mut flags = SchedulerFlags(0);
    for name in raw.scheduler_flags.as_ref().map_or(&[][..], |names| names.get_ref()) {
        let Some(bit) = scheduler.flag_bit(name.get_ref()) else {
            let cure = match known {
                [] => format!("{} has none, remove it", scheduler.name()),
                known => format!("{} has {}", scheduler.name(), known.join(" and ")),
            };
            let value = name.get_ref().clone();
            return invalid(
                name,
                ConfigProblem::NotA {
                    value,
                    wanted: "an option of the scheduler",
                    cure,
                },
            );
        };
        flags.0 |= 1 << bit;
    }
    Ok(flags)
}

fn server_spec(raw: &RawRealServer, service_port: u16) -> Result<ServerSpec, Invalid> {
    let mode = match raw.mode.as_ref().map(Spanned::get_ref) {
        Some(RawMode::Nat) => ForwardingMode::Nat,
        Some(RawMode::Tunnel) => ForwardingMode::Tunnel,
        Some(RawMode::Dr) | None => ForwardingMode::DirectRouting,
    };
    let number = |value: &Optional<u32>, default: u32| value.as_ref().map_or(default, |value| *value.get_ref());
    Ok(ServerSpec {
        addr: *raw.address.get_ref(),
        port: raw.port.as_ref().map_or(service_port, |port| *port.get_ref()),
        weight: number(&raw.weight, 1),
        mode,
        tunnel: tunnel(raw)?,
        upper_threshold: number(&raw.upper_threshold, 0),
        lower_threshold: number(&raw.lower_threshold, 0),
    })
}

/// The key that an error of a real server is about.
fn server_span(raw: &RawRealServer, error: &ServiceError) -> Range<usize> {
    let at = match error {
        ServiceError::WeightOutOfRange { .. } => raw.weight.as_ref().map(Spanned::span),
        ServiceError::TunnelWithoutMode { .. } => raw.tunnel.as_ref().map(Spanned::span),
        ServiceError::GuePortZero { .. } => {
            let port = raw.tunnel_port.as_ref().map(Spanned::span);
            port.or_else(|| raw.tunnel.as_ref().map(Spanned::span))
        }
        ServiceError::ThresholdsReversed { .. } => raw.lower_threshold.as_ref().map(Spanned::span),
        ServiceError::ThresholdOutOfRange { .. } => raw.upper_threshold.as_ref().map(Spanned::span),
        _ => None,
    };
    at.unwrap_or_else(|| raw.address.span())
}

/// The element that an error of a local-address pool is about.
fn local_address_span(pool: &[Spanned<IpAddr>], error: &ServiceError) -> Option<Range<usize>> {
    let culprit = match error {
        ServiceError::LocalAddressFamily { addr, .. }
        | ServiceError::LocalAddressTwice { addr, .. }
        | ServiceError::LocalAddressNotUnicast { addr } => {
            pool.iter().rev().find(|candidate| candidate.get_ref() == addr)
        }
        _ => pool.first(),
    };
    culprit.map(Spanned::span)
}

/// Protocol, address and port, or a mark.
fn key_of(spanned: &Spanned<RawService>) -> Result<ServiceKey, Invalid> {
    let raw = spanned.get_ref();
    let Some(mark) = raw.fwmark.as_ref().filter(|mark| *mark.get_ref() != 0) else {
        let protocol = match required(spanned, &raw.protocol, "protocol")? {
            RawProtocol::Tcp => ServiceProtocol::Tcp,
            RawProtocol::Udp => ServiceProtocol::Udp,
            RawProtocol::Sctp => ServiceProtocol::Sctp,
        };
        return Ok(ServiceKey::Address {
            protocol,
            addr: required(spanned, &raw.address, "address")?,
            port: required(spanned, &raw.port, "port")?,
        });
    };
    if raw.protocol.is_some() || raw.address.is_some() || raw.port.is_some() {
        let problem = ConfigProblem::Text {
            message: "a service of packets with a mark takes any protocol, address and port".to_owned(),
            cure: "leave out fwmark, or protocol, address and port",
        };
        return Err(Invalid {
            span: mark.span(),
            problem,
        });
    }
    let is_ipv6 = raw.fwmark_ipv6.as_ref().is_some_and(|yes| *yes.get_ref());
    Ok(ServiceKey::Fwmark {
        mark: *mark.get_ref(),
        family: if is_ipv6 {
            AddressFamily::Ipv6
        } else {
            AddressFamily::Ipv4
        },
    })
}

fn required<T: Copy>(service: &Spanned<RawService>, value: &Optional<T>, key: &str) -> Result<T, Invalid> {
    value.as_ref().map(|value| *value.get_ref()).ok_or_else(|| Invalid {
        span: service.span(),
        problem: ConfigProblem::Text {
            message: format!("missing field `{key}`"),
            cure: "add it; lvsd.reference.toml explains it",
        },
    })
}

/// The persistence of the service `key`.
fn persistence(raw: &RawService, key: &ServiceKey) -> Result<Option<Persistence>, Invalid> {
    let timeout_sec = raw.persistence_timeout_sec.as_ref().map_or(0, |sec| *sec.get_ref());
    let text = raw
        .persistence_netmask
        .as_ref()
        .filter(|text| !text.get_ref().is_empty());
    let mask = match text {
        None => ClientMask::whole(key.family()),
        Some(text) => {
            let ipv4 = text.get_ref().parse().map(ClientMask::Ipv4).ok();
            let mask = ipv4.or_else(|| text.get_ref().parse().map(ClientMask::Ipv6).ok());
            mask.ok_or_else(|| {
                let cure = "give one like \"255.255.255.0\" for an IPv4 service, \"64\" for an IPv6 one";
                not_a(text, text.get_ref().clone(), "a netmask", cure)
            })?
        }
    };
    match (timeout_sec, text) {
        (0, None) => Ok(None),
        (0, Some(text)) => Err(Invalid {
            span: text.span(),
            problem: ConfigProblem::Text {
                message: "a netmask says nothing without persistence".to_owned(),
                cure: "set persistence_timeout_sec too, or leave it out",
            },
        }),
        _ => Ok(Some(Persistence { timeout_sec, mask })),
    }
}

/// How a tunnelling server is reached; the core checks the port.
fn tunnel(raw: &RawRealServer) -> Result<TunnelKind, Invalid> {
    let word = raw
        .tunnel_checksum
        .as_ref()
        .map_or(RawChecksum::No, |word| *word.get_ref());
    match raw.tunnel.as_ref().map_or(RawTunnel::Ipip, |kind| *kind.get_ref()) {
        RawTunnel::Ipip => Ok(TunnelKind::IpIp),
        RawTunnel::Gre => match &raw.tunnel_checksum {
            Some(text) if word == RawChecksum::Remote => {
                let cure = "give \"no\" or \"full\"";
                Err(not_a(text, "remote".to_owned(), "a checksum of GRE", cure))
            }
            _ => Ok(TunnelKind::Gre {
                checksum: word == RawChecksum::Full,
            }),
        },
        RawTunnel::Gue => Ok(TunnelKind::Gue {
            port: raw.tunnel_port.as_ref().map_or(0, |port| *port.get_ref()),
            checksum: match word {
                RawChecksum::No => GueChecksum::No,
                RawChecksum::Full => GueChecksum::Full,
                RawChecksum::Remote => GueChecksum::RemoteOffload,
            },
        }),
    }
}

fn not_a<T>(at: &Spanned<T>, value: String, wanted: &'static str, cure: &str) -> Invalid {
    Invalid {
        span: at.span(),
        problem: ConfigProblem::NotA {
            value,
            wanted,
            cure: cure.to_owned(),
        },
    }
}

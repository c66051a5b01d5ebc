//! `[[service]]`: its key and its persistence. `[[service.real_server]]`: its tunnel.

use toml::Spanned;

use super::error::{ConfigProblem, Invalid};
use super::raw::{Optional, RawChecksum, RawProtocol, RawRealServer, RawService, RawTunnel};
use crate::address::AddressFamily;
use crate::ipvs::persistence::{ClientMask, Persistence};
use crate::ipvs::service::{ServiceKey, ServiceProtocol};
use crate::ipvs::tunnel_kind::{GueChecksum, TunnelKind};

/// Protocol, address and port, or a mark.
pub(super) fn of(spanned: &Spanned<RawService>) -> Result<ServiceKey, Invalid> {
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
pub(super) fn persistence(raw: &RawService, key: &ServiceKey) -> Result<Option<Persistence>, Invalid> {
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
pub(super) fn tunnel(raw: &RawRealServer) -> Result<TunnelKind, Invalid> {
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

//! The conditions that a service, a real server and a pool must meet before anything is changed.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::{ServerSpec, ServiceError};
use crate::address::AddressFamily;
use crate::ipvs::client_address::ClientAddress;
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::persistence::{ClientMask, Persistence};
use crate::ipvs::scheduler::SchedulerKind;
use crate::ipvs::service::{NumberOption, ServiceKey, ServiceProtocol, ServiceSpec};
use crate::ipvs::tunnel_kind::TunnelKind;
use crate::limits::{LOCAL_ADDRESSES_MAX, TIMEOUT_CONFIGURED_MAX_SEC, WEIGHT_MAX};

pub(super) fn service(spec: &ServiceSpec) -> Result<(), ServiceError> {
    match spec.key {
        // Any address: the kernel also takes addresses that no packet can have.
        ServiceKey::Address { port, .. } => {
            if port == 0 && spec.persistence.is_none() {
                return Err(ServiceError::ZeroPortNotPersistent { service: spec.key });
            }
        }
        ServiceKey::Fwmark { mark: 0, .. } => return Err(ServiceError::MarkZero),
        ServiceKey::Fwmark { .. } => {}
    }
    spec.persistence
        .map_or(Ok(()), |persistence| self::persistence(&spec.key, &persistence))?;
    spec.unused_persistence
        .map_or(Ok(()), |unused| mask(&spec.key, unused.mask))?;
    protocols(spec)
}

/// Options that do not fit the protocol of the service. A fwmark service may have them all; each works on the packets
/// that it fits.
fn protocols(spec: &ServiceSpec) -> Result<(), ServiceError> {
    for option in spec.numbers().iter().filter(|option| option.value != 0) {
        number(&spec.key, option)?;
    }
    let ServiceKey::Address { protocol, .. } = spec.key else {
        return Ok(());
    };
    if spec.one_packet && protocol != ServiceProtocol::Udp {
        return Err(ServiceError::OnePacketWithoutUdp { service: spec.key });
    }
    match spec.client_address.protocol() {
        Some(wanted) if wanted != protocol.number() => Err(ServiceError::ClientAddressProtocol {
            service: spec.key,
            carrier: spec.client_address.name(),
        }),
        _ => Ok(()),
    }
}

fn number(key: &ServiceKey, option: &NumberOption) -> Result<(), ServiceError> {
    let (service, name) = (*key, option.name);
    if !option.range.contains(&option.value) {
        return Err(ServiceError::OptionOutOfRange {
            service,
            option: name,
            value: option.value,
            min: *option.range.start(),
            max: *option.range.end(),
        });
    }
    match key {
        ServiceKey::Address { protocol, .. } if !option.protocols.contains(protocol) => {
            Err(ServiceError::OptionWithoutProtocol { service, option: name })
        }
        _ => Ok(()),
    }
}

/// Only FULLNAT hides the client. One-packet connections have no local port: they end before the answer comes.
pub(super) fn has_pool(spec: &ServiceSpec, pool: &[IpAddr]) -> Result<(), ServiceError> {
    if spec.one_packet && !pool.is_empty() {
        return Err(ServiceError::OnePacketWithPool { service: spec.key });
    }
    if spec.client_address == ClientAddress::None || !pool.is_empty() {
        return Ok(());
    }
    Err(ServiceError::ClientAddressWithoutPool {
        service: spec.key,
        carrier: spec.client_address.name(),
    })
}

/// Whether the pool may become `addresses`.
pub(super) fn pool_is_free(spec: &ServiceSpec, addresses: &[IpAddr]) -> Result<(), ServiceError> {
    has_pool(spec, addresses).map_err(|error| match error {
        ServiceError::ClientAddressWithoutPool { service, carrier } => {
            ServiceError::PoolCarriesClientAddress { service, carrier }
        }
        error => error,
    })
}

fn persistence(key: &ServiceKey, persistence: &Persistence) -> Result<(), ServiceError> {
    let sec = persistence.timeout_sec;
    if !(1..=TIMEOUT_CONFIGURED_MAX_SEC).contains(&sec) {
        return Err(ServiceError::PersistenceOutOfRange { service: *key, sec });
    }
    mask(key, persistence.mask)
}

/// Also of a service without persistence, as in the kernel.
fn mask(key: &ServiceKey, mask: ClientMask) -> Result<(), ServiceError> {
    let fits = match mask {
        // 0.0.0.0 is allowed too: all clients count as one.
        ClientMask::Ipv4(_) => true,
        ClientMask::Ipv6(len) => (1..=128).contains(&len),
    };
    if !fits || mask.family() != key.family() {
        return Err(ServiceError::PersistenceMask { service: *key });
    }
    Ok(())
}

pub(super) fn server(key: &ServiceKey, spec: &ServerSpec) -> Result<(), ServiceError> {
    let server = SocketAddr::new(spec.addr, spec.port);
    if !is_unicast(spec.addr) || matches!(spec.addr, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return Err(ServiceError::ServerNotUnicast { addr: spec.addr });
    }
    if spec.mode == ForwardingMode::FullNat {
        return Err(ServiceError::ModeNotConfigurable {
            server,
            mode: spec.mode.name(),
        });
    }
    if AddressFamily::of(&spec.addr) != key.family() && spec.mode != ForwardingMode::Tunnel {
        return Err(ServiceError::MixedFamilies { service: *key, server });
    }
    if matches!(spec.tunnel, TunnelKind::Gue { port: 0, .. }) {
        return Err(ServiceError::GuePortZero { server });
    }
    if spec.tunnel != TunnelKind::IpIp && spec.mode != ForwardingMode::Tunnel {
        return Err(ServiceError::TunnelWithoutMode { server });
    }
    if spec.weight > WEIGHT_MAX {
        return Err(ServiceError::WeightOutOfRange {
            server,
            weight: spec.weight,
        });
    }
    if i32::try_from(spec.upper_threshold).is_err() {
        return Err(ServiceError::ThresholdOutOfRange {
            server,
            upper: spec.upper_threshold,
        });
    }
    if spec.lower_threshold > spec.upper_threshold {
        let (upper, lower) = (spec.upper_threshold, spec.lower_threshold);
        return Err(ServiceError::ThresholdsReversed { server, upper, lower });
    }
    Ok(())
}

/// lt and wlt compare the traffic of servers. It includes replies only if replies pass through the director.
pub(super) fn modes(
    key: &ServiceKey,
    scheduler: SchedulerKind,
    mut modes: impl Iterator<Item = ForwardingMode>,
) -> Result<(), ServiceError> {
    let compares_traffic = matches!(scheduler, SchedulerKind::Lt | SchedulerKind::Wlt);
    let first = modes.next();
    if compares_traffic && modes.any(|mode| Some(mode) != first) {
        return Err(ServiceError::MixedModes {
            service: *key,
            scheduler: scheduler.name(),
        });
    }
    Ok(())
}

pub(super) fn local_addresses(key: &ServiceKey, addresses: &[IpAddr]) -> Result<(), ServiceError> {
    if addresses.len() > LOCAL_ADDRESSES_MAX {
        return Err(ServiceError::TooManyLocalAddresses {
            service: *key,
            count: addresses.len(),
        });
    }
    let mut seen = HashSet::new();
    for &addr in addresses {
        if !is_unicast(addr) {
            return Err(ServiceError::LocalAddressNotUnicast { addr });
        }
        if AddressFamily::of(&addr) != key.family() {
            return Err(ServiceError::LocalAddressFamily { service: *key, addr });
        }
        if !seen.insert(addr) {
            return Err(ServiceError::LocalAddressTwice { service: *key, addr });
        }
    }
    Ok(())
}

/// Whether a real server can have the address. Broadcast addresses of networks pass, because only the director knows
/// its networks.
const fn is_unicast(addr: IpAddr) -> bool {
    let is_other = match addr {
        IpAddr::V4(v4) => v4.is_broadcast(),
        // No packet has such an address; the kernel calls it no unicast address either.
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    !(addr.is_unspecified() || addr.is_multicast() || is_other)
}

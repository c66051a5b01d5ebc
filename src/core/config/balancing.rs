//! `[sysctl]`, `[[mark]]` and `[[sync_daemon]]`: the kernel's settings, the classifier of fwmark services, and who
//! tells whom of connections.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use toml::Spanned;

use super::error::{ConfigProblem, Invalid};
use super::raw::{Optional, RawDevice, RawMark, RawRole, RawSyncDaemon};
use super::validate::in_range;
use crate::ipvs::mark::{MarkRule, MarkRules};
use crate::ipvs::service::ServiceProtocol;
use crate::ipvs::sync::daemon::{SyncDaemon, SyncDaemonError, SyncRole};
use crate::ipvs::sysctl::Sysctls;
use crate::l3::DeviceId;

pub(super) fn sysctls(raw: &BTreeMap<Spanned<String>, Spanned<toml::Value>>) -> Result<Sysctls, Invalid> {
    let mut sysctls = Sysctls::default();
    for (name, value) in raw {
        let text = match value.get_ref() {
            toml::Value::String(text) => text.clone(),
            toml::Value::Boolean(yes) => u8::from(*yes).to_string(),
            other => other.to_string(),
        };
        sysctls.set(name.get_ref(), &text).map_err(|error| Invalid {
            span: value.span(),
            problem: ConfigProblem::Sysctl(error),
        })?;
    }
    Ok(sysctls)
}

pub(super) fn marks(raw: &[RawMark], devices: &[RawDevice]) -> Result<MarkRules, Invalid> {
    let rules: Vec<MarkRule> = raw.iter().map(|one| rule(one, devices)).collect::<Result<_, _>>()?;
    MarkRules::new(rules).map_err(|error| {
        let culprit = error.rule().map_or(raw.last(), |rule| raw.get(rule));
        Invalid {
            span: culprit.map_or(0..0, |one| one.mark.span()),
            problem: ConfigProblem::Mark(error),
        }
    })
}

pub(super) fn sync_daemons(raw: &[RawSyncDaemon]) -> Result<Vec<SyncDaemon>, Invalid> {
    let mut daemons: Vec<SyncDaemon> = Vec::new();
    for one in raw {
        let daemon = sync_daemon(one)?;
        if daemons.iter().any(|other| other.role == daemon.role) {
            let problem = ConfigProblem::Duplicate {
                what: "sync daemon",
                value: daemon.role.name().to_owned(),
                cure: "at most one of each role runs",
            };
            let span = one.role.span();
            return Err(Invalid { span, problem });
        }
        daemons.push(daemon);
    }
    daemons.sort_by_key(|daemon| daemon.role);
    Ok(daemons)
}

fn sync_daemon(raw: &RawSyncDaemon) -> Result<SyncDaemon, Invalid> {
    let role = match raw.role.get_ref() {
        RawRole::Master => SyncRole::Master,
        RawRole::Backup => SyncRole::Backup,
    };
    let default = SyncDaemon::new(role, raw.interface.get_ref());
    let daemon = SyncDaemon {
        sync_id: in_range(&raw.sync_id, 0..=255, u16::from(default.sync_id))? as u8,
        max_len: in_range(&raw.max_len_bytes, 0..=65_507, u32::from(default.max_len))? as u16,
        group: raw.group.as_ref().map_or(default.group, |group| *group.get_ref()),
        port: in_range(&raw.port, 1..=65_535, default.port)?,
        ttl: in_range(&raw.ttl, 1..=255, u16::from(default.ttl))? as u8,
        ..default
    };
    daemon.check().map_err(|error| {
        let group = raw.group.as_ref().map(Spanned::span);
        let at = match error {
            SyncDaemonError::Group { .. } => group,
            _ => None,
        };
        Invalid {
            span: at.unwrap_or_else(|| raw.interface.span()),
            problem: ConfigProblem::SyncDaemon(error),
        }
    })?;
    Ok(daemon)
}

fn rule(raw: &RawMark, devices: &[RawDevice]) -> Result<MarkRule, Invalid> {
    let device = given(
        &raw.device,
        "a device of this file",
        "name a [[device]], or \"\" for any",
        |name| {
            let index = devices.iter().position(|device| device.name.get_ref() == name)?;
            Some(DeviceId(index as u8))
        },
    )?;
    let protocol = given(
        &raw.protocol,
        "a protocol",
        "give tcp, udp, sctp, icmp or \"\" for any",
        |name| match name {
            "icmp" => Some(1),
            _ => ServiceProtocol::parse(name).map(ServiceProtocol::number),
        },
    )?;
    Ok(MarkRule {
        mark: *raw.mark.get_ref(),
        protocol,
        source: prefix(&raw.source)?,
        destination: prefix(&raw.destination)?,
        source_ports: ranges(&raw.source_ports)?,
        destination_ports: ranges(&raw.destination_ports)?,
        device,
        divert: raw.divert.as_ref().is_some_and(|divert| *divert.get_ref()),
    })
}

fn prefix(raw: &Optional<String>) -> Result<Option<IpNet>, Invalid> {
    let cure = "give an address or prefix like 192.0.2.0/24, or \"\" for any";
    given(raw, "a prefix", cure, |text| {
        text.parse()
            .ok()
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
            .map(|net: IpNet| net.trunc())
    })
}

/// A value that may be left out or empty, read by `read`.
fn given<T>(
    raw: &Optional<String>,
    wanted: &'static str,
    cure: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Invalid> {
    match raw.as_ref().filter(|text| !text.get_ref().is_empty()) {
        None => Ok(None),
        Some(text) => match read(text.get_ref()) {
            Some(value) => Ok(Some(value)),
            None => Err(not_a(text, wanted, cure)),
        },
    }
}

fn not_a(text: &Spanned<String>, wanted: &'static str, cure: &str) -> Invalid {
    Invalid {
        span: text.span(),
        problem: ConfigProblem::NotA {
            value: text.get_ref().clone(),
            wanted,
            cure: cure.to_owned(),
        },
    }
}

/// `"80"`, `"8000-8010"`.
fn ranges(raw: &Optional<Vec<Spanned<String>>>) -> Result<Vec<RangeInclusive<u16>>, Invalid> {
    let all = raw.as_ref().map_or(&[][..], |ranges| ranges.get_ref());
    all.iter().map(range).collect()
}

fn range(raw: &Spanned<String>) -> Result<RangeInclusive<u16>, Invalid> {
    let text = raw.get_ref();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) => Ok(first..=last),
        _ => Err(not_a(raw, "a port or range of ports", "give \"80\" or \"8000-8010\"")),
    }
}

//! `[[mark]]`: the classifier of fwmark services.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use toml::Spanned;

use super::error::{ConfigProblem, Invalid};
use super::raw::{Optional, RawDevice, RawMark};
use crate::ipvs::mark::{MarkRule, MarkRules};
use crate::ipvs::service::ServiceProtocol;
use crate::l3::DeviceId;

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

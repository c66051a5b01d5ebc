//! Marks packets for fwmark services: the director's own ordered classifier. It replaces iptables' `-j MARK`, whose
//! rules do not see what DPDK receives.
//!
//! In:  the device and flow of a packet without a connection. Out: the mark of the first rule that matches.
//! Never: allocates on lookup; sees packets of known connections.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use thiserror::Error;

use crate::address::{Address, AddressFamily, FlowKey};
use crate::l3::DeviceId;
use crate::limits::{MARK_PORT_RANGES_MAX, MARK_RULES_MAX};

/// The conditions for a mark. A condition that is not given matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkRule {
    /// The mark: not 0.
    pub mark: u32,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Where it comes from.
    pub source: Option<IpNet>,
    /// Where it goes.
    pub destination: Option<IpNet>,
    /// The sender's port lies in one of these; none for any.
    pub source_ports: Vec<RangeInclusive<u16>>,
    /// The receiver's port lies in one of these; none for any.
    pub destination_ports: Vec<RangeInclusive<u16>>,
    /// The device that received it.
    pub device: Option<DeviceId>,
    /// Whether packets to addresses that are not the director's are balanced too, as with
    /// `ip rule add fwmark … lookup` to a table that makes everything local (transparent proxies, caches).
    pub divert: bool,
}

/// Why rules are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MarkError {
    /// 0 means no mark.
    #[error("mark rule {} sets mark 0, which means no mark: give 1 or more", .rule + 1)]
    Zero {
        /// Which rule, from 0.
        rule: usize,
    },
    /// Nothing could match.
    #[error("mark rule {} has a source and a destination of different address families: give prefixes of one", .rule + 1)]
    MixedFamilies {
        /// Which rule, from 0.
        rule: usize,
    },
    /// A range that ends before it begins.
    #[error("mark rule {} has a port range that ends before it begins: give FIRST-LAST with FIRST at most LAST", .rule + 1)]
    EmptyRange {
        /// Which rule, from 0.
        rule: usize,
    },
    /// Ports with a protocol that has none.
    #[error("mark rule {} has ports but its protocol has none: give protocol tcp, udp or sctp", .rule + 1)]
    PortsWithoutProtocol {
        /// Which rule, from 0.
        rule: usize,
    },
    /// [`MARK_PORT_RANGES_MAX`].
    #[error("mark rule {} has more than {MARK_PORT_RANGES_MAX} port ranges: split it", .rule + 1)]
    TooManyRanges {
        /// Which rule, from 0.
        rule: usize,
    },
    /// An earlier rule matches all its packets.
    #[error("mark rule {} has the conditions of rule {}, so it can never match: change or remove it", .rule + 1, .earlier + 1)]
    Twice {
        /// Which rule, from 0.
        rule: usize,
        /// The rule that it repeats.
        earlier: usize,
    },
    /// [`MARK_RULES_MAX`].
    #[error("{count} mark rules are too many: give at most {MARK_RULES_MAX}")]
    TooMany {
        /// How many there were.
        count: usize,
    },
}

/// What the classifier says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Not 0.
    pub mark: u32,
    /// See [`MarkRule::divert`].
    pub divert: bool,
}

/// The rules in order; the first that matches decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkRules(Box<[MarkRule]>);

impl MarkRules {
    /// Checked rules.
    ///
    /// # Errors
    /// See [`MarkError`].
    pub fn new(rules: Vec<MarkRule>) -> Result<Self, MarkError> {
        if rules.len() > MARK_RULES_MAX {
            return Err(MarkError::TooMany { count: rules.len() });
        }
        for (index, rule) in rules.iter().enumerate() {
            rule.check(index)?;
            let earlier = rules.iter().take(index).position(|other| rule.has_conditions_of(other));
            if let Some(earlier) = earlier {
                return Err(MarkError::Twice { rule: index, earlier });
            }
        }
        Ok(Self(rules.into_boxed_slice()))
    }

    /// The rules in order.
    pub fn rules(&self) -> &[MarkRule] {
        &self.0
    }

    /// The mark of a packet; `None` when no rule matches.
    #[inline]
    pub fn classify<A: Address>(&self, device: DeviceId, key: &FlowKey<A>) -> Option<Marked> {
        let rule = self.0.iter().find(|rule| rule.matches(device, key))?;
        Some(Marked {
            mark: rule.mark,
            divert: rule.divert,
        })
    }
}

impl MarkRules {
    /// Whether a packet between these hosts can have a mark. It is for fragments, of which only the first has ports.
    #[inline]
    pub fn may_mark<A: Address>(&self, device: DeviceId, key: &FlowKey<A>) -> bool {
        self.0.iter().any(|rule| rule.matches_hosts(device, key))
    }
}

impl MarkError {
    /// Which rule is wrong, from 0; `None` when there are too many.
    pub const fn rule(&self) -> Option<usize> {
        match *self {
            Self::Zero { rule }
            | Self::MixedFamilies { rule }
            | Self::EmptyRange { rule }
            | Self::PortsWithoutProtocol { rule }
            | Self::TooManyRanges { rule }
            | Self::Twice { rule, .. } => Some(rule),
            Self::TooMany { .. } => None,
        }
    }
}

impl MarkRule {
    /// Whether both rules match the same packets. Then they are the same rule, whatever they do with the packets.
    pub fn has_conditions_of(&self, other: &Self) -> bool {
        let conditions = |rule: &Self| Self {
            mark: 0,
            divert: false,
            ..rule.clone()
        };
        conditions(self) == conditions(other)
    }

    fn check(&self, rule: usize) -> Result<(), MarkError> {
        let family = |net: &IpNet| AddressFamily::of(&net.addr());
        let ranges = || self.source_ports.iter().chain(&self.destination_ports);
        if self.mark == 0 {
            return Err(MarkError::Zero { rule });
        }
        if let (Some(source), Some(destination)) = (&self.source, &self.destination)
            && family(source) != family(destination)
        {
            return Err(MarkError::MixedFamilies { rule });
        }
        if ranges().count() > MARK_PORT_RANGES_MAX {
            return Err(MarkError::TooManyRanges { rule });
        }
        if ranges().any(RangeInclusive::is_empty) {
            return Err(MarkError::EmptyRange { rule });
        }
        if ranges().next().is_some() && self.protocol.is_some_and(|protocol| !has_ports(protocol)) {
            return Err(MarkError::PortsWithoutProtocol { rule });
        }
        Ok(())
    }

    fn matches<A: Address>(&self, device: DeviceId, key: &FlowKey<A>) -> bool {
        let in_range = |ranges: &[RangeInclusive<u16>], port: u16| {
            ranges.is_empty() || has_ports(key.protocol) && ranges.iter().any(|range| range.contains(&port))
        };
        self.matches_hosts(device, key)
            && in_range(&self.source_ports, key.src.port)
            && in_range(&self.destination_ports, key.dst.port)
    }

    /// Whether everything except the ports matches.
    fn matches_hosts<A: Address>(&self, device: DeviceId, key: &FlowKey<A>) -> bool {
        let within = |net: &Option<IpNet>, addr: A| net.is_none_or(|net| net.contains(&addr.to_ip()));
        self.protocol.is_none_or(|protocol| protocol == key.protocol)
            && self.device.is_none_or(|wanted| wanted == device)
            && within(&self.source, key.src.addr)
            && within(&self.destination, key.dst.addr)
    }
}

const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 132)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Addr4, Endpoint};

    fn key(src: &str, src_port: u16, dst: &str, dst_port: u16, protocol: u8) -> FlowKey<Addr4> {
        let end = |addr: &str, port| Endpoint::new(Addr4::from_ip(addr.parse().unwrap()).unwrap(), port);
        FlowKey {
            src: end(src, src_port),
            dst: end(dst, dst_port),
            protocol,
        }
    }

    fn web(mark: u32) -> MarkRule {
        MarkRule {
            mark,
            protocol: Some(6),
            destination: Some("192.0.2.0/24".parse().unwrap()),
            destination_ports: vec![80..=80, 443..=444],
            ..MarkRule::default()
        }
    }

    #[test]
    fn a_rule_matches_only_what_fits_all_its_conditions() {
        let rules = MarkRules::new(vec![MarkRule {
            source: Some("198.51.100.0/25".parse().unwrap()),
            device: Some(DeviceId(1)),
            ..web(7)
        }])
        .unwrap();
        let mark = |device, key| rules.classify(DeviceId(device), &key).map(|marked| marked.mark);
        assert_eq!(mark(1, key("198.51.100.1", 9, "192.0.2.9", 444, 6)), Some(7));
        assert_eq!(mark(0, key("198.51.100.1", 9, "192.0.2.9", 444, 6)), None, "device");
        assert_eq!(mark(1, key("198.51.100.200", 9, "192.0.2.9", 444, 6)), None, "source");
        assert_eq!(
            mark(1, key("198.51.100.1", 9, "192.0.3.9", 444, 6)),
            None,
            "destination"
        );
        assert_eq!(mark(1, key("198.51.100.1", 9, "192.0.2.9", 445, 6)), None, "port");
        assert_eq!(mark(1, key("198.51.100.1", 9, "192.0.2.9", 444, 17)), None, "protocol");
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let wider = MarkRule {
            destination: None,
            ..web(2)
        };
        let rules = MarkRules::new(vec![web(1), wider]).unwrap();
        let marked = rules.classify(DeviceId(0), &key("198.51.100.1", 9, "192.0.2.9", 80, 6));
        assert_eq!(marked, Some(Marked { mark: 1, divert: false }));
    }

    #[test]
    fn ports_do_not_match_packets_that_have_none() {
        let rules = MarkRules::new(vec![MarkRule {
            protocol: None,
            destination_ports: vec![0..=65_535],
            ..web(1)
        }])
        .unwrap();
        assert_eq!(
            rules.classify(DeviceId(0), &key("198.51.100.1", 0, "192.0.2.9", 0, 1)),
            None
        );
    }

    #[test]
    fn rules_that_can_never_match_are_refused() {
        let refused = |rule: MarkRule| MarkRules::new(vec![web(1), rule]).unwrap_err();
        assert_eq!(refused(web(0)), MarkError::Zero { rule: 1 });
        let mixed = MarkRule {
            source: Some("2001:db8::/32".parse().unwrap()),
            ..web(1)
        };
        assert_eq!(refused(mixed), MarkError::MixedFamilies { rule: 1 });
        #[expect(clippy::reversed_empty_ranges, reason = "what is refused")]
        let empty = MarkRule {
            source_ports: vec![2..=1],
            ..web(1)
        };
        assert_eq!(refused(empty), MarkError::EmptyRange { rule: 1 });
        let icmp = MarkRule {
            protocol: Some(1),
            ..web(1)
        };
        assert_eq!(refused(icmp), MarkError::PortsWithoutProtocol { rule: 1 });
        let again = MarkRule { divert: true, ..web(2) };
        let twice = refused(again);
        assert_eq!(twice, MarkError::Twice { rule: 1, earlier: 0 });
        assert!(
            twice
                .to_string()
                .starts_with("mark rule 2 has the conditions of rule 1"),
            "{twice}"
        );
        assert_eq!(
            MarkRules::new(vec![web(1); MARK_RULES_MAX + 1]).unwrap_err(),
            MarkError::TooMany {
                count: MARK_RULES_MAX + 1
            }
        );
    }
}

//! Policy rules: which table a packet's route is looked up in.
//!
//! In:  the rules of one family in the kernel's order, and a question.
//! Out: whether a rule is for the question.
//! Ref:  Linux net/core/fib_rules.c `fib_rule_match`, net/ipv4/fib_rules.c `fib4_rule_match`, net/ipv6/fib6_rules.c
//! `fib6_rule_match`.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::RouteQuery;
use crate::l3::InterfaceId;

/// What a rule does with the packets that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Looks the route up in this table.
    Table(u32),
    /// Looks the route up in the table of the packet's VRF.
    VrfTable,
    /// Goes on with the first rule of this priority.
    Goto(u32),
    /// Does nothing.
    Nop,
    /// There is no route.
    Unreachable,
    /// There is no route, by order.
    Prohibit,
    /// There is no route, silently.
    Blackhole,
    /// Something that is not followed here.
    Unfollowed,
}

/// A policy rule as the kernel has it. What is `None` is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Rules are asked in ascending order.
    pub priority: u32,
    /// For all but what the conditions say (`ip rule add not …`).
    pub is_inverted: bool,
    /// Network of the source.
    pub from: Option<IpNet>,
    /// Network of the destination.
    pub to: Option<IpNet>,
    /// The interface that received the packet; [`InterfaceId::LOOPBACK`] for what the director itself sends,
    /// [`InterfaceId::NONE`] for an interface that does not exist.
    pub iif: Option<InterfaceId>,
    /// Whether it asks for an outgoing interface, which no packet of the director has before it is routed.
    pub has_oif: bool,
    /// Firewall mark and the bits of it that count.
    pub mark: (u32, u32),
    /// TOS or traffic class; 0 for any.
    pub tos: u8,
    /// Protocol number.
    pub protocol: Option<u8>,
    /// Source ports.
    pub src_ports: Option<RangeInclusive<u16>>,
    /// Destination ports.
    pub dst_ports: Option<RangeInclusive<u16>>,
    /// Whether it is for no packet of the director: of a user or tunnel that the director's packets never have.
    pub is_for_others: bool,
    /// A route with a prefix no longer than this is not taken.
    pub suppress_prefix_len: Option<u8>,
    /// A route out of an interface of this group is not taken.
    pub suppress_group: Option<u32>,
    /// What it does.
    pub action: RuleAction,
}

impl Rule {
    /// A rule for all packets.
    pub const fn new(priority: u32, action: RuleAction) -> Self {
        Self {
            priority,
            is_inverted: false,
            from: None,
            to: None,
            iif: None,
            has_oif: false,
            mark: (0, 0),
            tos: 0,
            protocol: None,
            src_ports: None,
            dst_ports: None,
            is_for_others: false,
            suppress_prefix_len: None,
            suppress_group: None,
            action,
        }
    }

    pub(super) fn is_for(&self, query: &RouteQuery) -> bool {
        let vrf = query.vrf;
        let mut is_for = self
            .iif
            .is_none_or(|iif| iif == query.iif || vrf.is_some_and(|vrf| vrf.interface == iif))
            && !self.has_oif
            && !self.is_for_others
            && (self.mark.0 ^ query.mark) & self.mark.1 == 0
            && (self.action != RuleAction::VrfTable || vrf.is_some());
        is_for &= contains(self.from, query.src) && contains(self.to, Some(query.dst));
        is_for &= self.tos == 0 || self.tos == query.tos;
        is_for &= self.protocol.is_none_or(|protocol| protocol == query.protocol);
        is_for &= self
            .src_ports
            .as_ref()
            .is_none_or(|ports| ports.contains(&query.ports.0));
        is_for &= self
            .dst_ports
            .as_ref()
            .is_none_or(|ports| ports.contains(&query.ports.1));
        is_for != self.is_inverted
    }
}

/// A packet that has no source yet is in no network but that of all addresses.
fn contains(net: Option<IpNet>, addr: Option<IpAddr>) -> bool {
    net.is_none_or(|net| net.prefix_len() == 0 || addr.is_some_and(|addr| net.contains(&addr)))
}

/// What a lookup must know of a packet besides its destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    /// The source address.
    pub src: bool,
    /// The firewall mark.
    pub mark: bool,
    /// The interface that received it.
    pub iif: bool,
    /// TOS or traffic class.
    pub tos: bool,
    /// Protocol and ports.
    pub ports: bool,
}

impl Selectors {
    /// Whether the destination decides alone.
    #[inline]
    pub const fn are_none(self) -> bool {
        !(self.src | self.mark | self.iif | self.tos | self.ports)
    }
}

/// The rules of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RuleSet {
    rules: Vec<Rule>,
    pub(super) selectors: Selectors,
    /// [`Selectors::are_none`].
    pub(super) is_by_destination: bool,
    /// Whether nothing but the family's own rules has been there.
    pub(super) is_untouched: bool,
}

impl RuleSet {
    /// `rules` in the kernel's order; `defaults` are those that a fresh kernel has.
    pub(super) fn new(rules: Vec<Rule>, defaults: &[Rule]) -> Self {
        let any = |look: fn(&Rule) -> bool| rules.iter().any(look);
        let selectors = Selectors {
            src: any(|rule| rule.from.is_some()),
            mark: any(|rule| rule.mark.1 != 0),
            iif: any(|rule| rule.iif.is_some() || rule.action == RuleAction::VrfTable),
            tos: any(|rule| rule.tos != 0),
            ports: any(|rule| rule.protocol.is_some() || rule.src_ports.is_some() || rule.dst_ports.is_some()),
        };
        let is_untouched = rules == defaults;
        Self {
            rules,
            selectors,
            is_by_destination: selectors.are_none(),
            is_untouched,
        }
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule after `rule`, which stands at `at`: the kernel goes forward only.
    pub(super) fn next(&self, at: usize, rule: &Rule, is_taken: bool) -> usize {
        match rule.action {
            RuleAction::Goto(priority) if is_taken => {
                let target = self.rules.iter().position(|rule| rule.priority == priority);
                target.filter(|&target| target > at).unwrap_or(at + 1)
            }
            _ => at + 1,
        }
    }
}

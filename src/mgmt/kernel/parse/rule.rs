//! Policy rules read into plain records.
//!
//! Ref:  Linux include/uapi/linux/fib_rules.h.

use ipnet::IpNet;
use lvs_core::l3::fib::{Rule, RuleAction};
use rtnetlink::packet_core::{DefaultNla, Nla};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::rule::{RuleAction as Reported, RuleAttribute, RuleFlags, RuleMessage, RulePortRange};

use crate::mgmt::kernel::records::RuleRecord;

// What the netlink crate does not know.
/// The last attribute that is understood here; what newer ones ask of a packet is not known.
const FRA_DPORT_RANGE: u16 = 24;
const FRA_PAD: u16 = 18;
const FRA_DSCP: u16 = 25;
/// Newer kernels report them with every single port.
const FRA_SPORT_MASK: u16 = 28;
const FRA_DPORT_MASK: u16 = 29;
const FRA_DSCP_MASK: u16 = 30;
/// All six bits of a DSCP.
const WHOLE_DSCP: u8 = 0x3f;

/// A rule of one of the two families.
pub(crate) fn rule(message: &RuleMessage) -> Option<RuleRecord> {
    let header = &message.header;
    let is_v4 = match header.family {
        AddressFamily::Inet => true,
        AddressFamily::Inet6 => false,
        _ => return None,
    };
    let mut rule = Rule::new(0, RuleAction::Nop);
    rule.is_inverted = header.flags.contains(RuleFlags::Invert);
    rule.tos = header.tos;
    let (mut table, mut target, mut is_vrf, mut iif) = (u32::from(header.table), None, false, None);
    let (mut mask, mut is_followed) = (None, true);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Source(addr) => rule.from = IpNet::new(*addr, header.src_len).ok(),
            RuleAttribute::Destination(addr) => rule.to = IpNet::new(*addr, header.dst_len).ok(),
            RuleAttribute::Iifname(name) => iif = Some(name.clone()),
            RuleAttribute::Oifname(_) => rule.has_oif = true,
            RuleAttribute::FwMark(mark) => rule.mark.0 = *mark,
            RuleAttribute::FwMask(bits) => mask = Some(*bits),
            RuleAttribute::Table(wide) => table = *wide,
            RuleAttribute::Goto(priority) => target = Some(*priority),
            RuleAttribute::L3MDev(is) => is_vrf = *is,
            RuleAttribute::TunId(id) => rule.is_for_others |= *id != 0,
            // What the director sends belongs to root.
            RuleAttribute::UidRange(range) => rule.is_for_others |= range.start > 0,
            // -1 stands for none.
            RuleAttribute::SuppressPrefixLen(len) => rule.suppress_prefix_len = u8::try_from(*len).ok(),
            RuleAttribute::SuppressIfGroup(group) => rule.suppress_group = Some(*group).filter(|&id| id != u32::MAX),
            RuleAttribute::IpProtocol(protocol) => rule.protocol = u8::try_from(i32::from(*protocol)).ok(),
            RuleAttribute::SourcePortRange(range) => rule.src_ports = ports(range),
            RuleAttribute::DestinationPortRange(range) => rule.dst_ports = ports(range),
            RuleAttribute::Other(other) => match (other.kind(), &*value(other)) {
                (FRA_DSCP, [dscp @ 1..=WHOLE_DSCP]) => rule.tos = dscp << 2,
                (FRA_DSCP_MASK, [WHOLE_DSCP]) | (FRA_SPORT_MASK | FRA_DPORT_MASK, [0xff, 0xff]) => {}
                (kind, _) => is_followed &= kind <= FRA_DPORT_RANGE || kind == FRA_PAD,
            },
            _ => {}
        }
    }
    rule.mark.1 = mask.unwrap_or(if rule.mark.0 == 0 { 0 } else { u32::MAX });
    rule.action = match header.action {
        _ if !is_followed => RuleAction::Unfollowed,
        Reported::ToTable if is_vrf => RuleAction::VrfTable,
        Reported::ToTable => RuleAction::Table(table),
        Reported::Goto => RuleAction::Goto(target?),
        Reported::Nop => RuleAction::Nop,
        Reported::Blackhole => RuleAction::Blackhole,
        Reported::Unreachable => RuleAction::Unreachable,
        Reported::Prohibit => RuleAction::Prohibit,
        _ => RuleAction::Unfollowed,
    };
    Some(RuleRecord { is_v4, rule, iif })
}

fn ports(range: &RulePortRange) -> Option<std::ops::RangeInclusive<u16>> {
    Some(range.start..=range.end)
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

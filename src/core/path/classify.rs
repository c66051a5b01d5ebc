//! Stage 2: a packet to look up, a fragment, ICMP, or the kernel's?
//!
//! In:  a parsed packet and the device it came from.
//! Out: its [`Class`]: whole TCP, UDP and SCTP packets to an interface of the kernel go on to lookup.

use crate::headers::{Fragment, Headers};
use crate::path::stack::ip_options;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet::EthernetHeader;
use crate::wire::vlan::VlanTag;
use crate::wire::{icmp, sctp, tcp, udp};
use crate::worker_state::context::Context;

/// What happens to a packet next.
pub(crate) enum Class {
    /// It is looked up.
    Balanced,
    /// A fragment, or IPv6 with a fragment header that it does not need.
    Fragment,
    /// ICMP: it may be an error about a connection.
    Icmp,
    /// Its verdict.
    Decided(Verdict),
}

/// See the module.
#[inline]
pub(crate) fn classify(ctx: &Context<'_>, frame: &[u8], headers: &Headers) -> Class {
    let is_untagged = usize::from(headers.l3_offset) == EthernetHeader::LEN;
    if (!is_untagged || !frame.starts_with(&ctx.snapshot.l3.mac(ctx.device)))
        && let Some(verdict) = judge_link(ctx, frame, headers)
    {
        return Class::Decided(verdict);
    }
    if ip_options::are_there(headers) && !ip_options::may_pass(frame, headers) {
        // The kernel drops it, or says to its sender what is wrong.
        return Class::Decided(Verdict::Punt);
    }
    if is_balanced(headers.protocol) && headers.fragment == Fragment::Whole {
        return Class::Balanced;
    }
    not_looked_up(headers)
}

/// Whether there can be services of this protocol.
#[inline]
pub(crate) const fn is_balanced(protocol: u8) -> bool {
    matches!(protocol, tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL)
}

/// A frame with a tag, or not to the MAC address of the device's kernel twin: `None` if an interface of the kernel
/// receives it. A device in promiscuous mode also sees its neighbours' frames; group frames are the kernel's to judge.
fn judge_link(ctx: &Context<'_>, frame: &[u8], headers: &Headers) -> Option<Verdict> {
    let l3 = &ctx.snapshot.l3;
    let mac: [u8; 6] = *frame.first_chunk()?;
    if mac[0] & 1 == 1 {
        return Some(Verdict::Punt);
    }
    let tags_len = usize::from(headers.l3_offset).saturating_sub(EthernetHeader::LEN);
    let is_simple = tags_len == 0 || tags_len == VlanTag::LEN && frame.get(12..14) == Some(&[0x81, 0]);
    if is_simple && l3.receiver(ctx.device, headers.vlan, mac).is_some() {
        return None;
    }
    let is_known = is_simple && l3.interface(ctx.device, headers.vlan).is_some();
    Some(match is_known {
        _ if l3.is_punted(ctx.device, headers.vlan, mac) => Verdict::Punt,
        true => Verdict::Drop(DropReason::OtherHost),
        false => Verdict::Drop(DropReason::UnknownVlan),
    })
}

#[cold]
fn not_looked_up(headers: &Headers) -> Class {
    match (headers.fragment, headers.protocol) {
        (Fragment::Whole, icmp::PROTOCOL_V4 | icmp::PROTOCOL_V6) => Class::Icmp,
        (Fragment::Whole, _) => Class::Decided(Verdict::Punt),
        (Fragment::First | Fragment::Later | Fragment::Atomic, _) => Class::Fragment,
    }
}

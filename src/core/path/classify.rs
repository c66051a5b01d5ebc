//! Stage 2: a packet to look up, a fragment, ICMP, or the kernel's?
//!
//! In:  a parsed packet and the device it came from.
//! Out: its [`Class`]: whole TCP, UDP and SCTP packets sent to the device's own MAC go on to lookup.

use crate::headers::{Fragment, Headers};
use crate::verdict::{DropReason, Verdict};
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
    if !frame.starts_with(&ctx.snapshot.l3.mac(ctx.device)) {
        return Class::Decided(other_host(frame));
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

/// A device in promiscuous mode also sees its neighbours' frames; group frames are the kernel's to judge.
#[cold]
fn other_host(frame: &[u8]) -> Verdict {
    let group = frame.first().is_some_and(|first| first & 1 == 1);
    if group {
        Verdict::Punt
    } else {
        Verdict::Drop(DropReason::OtherHost)
    }
}

#[cold]
fn not_looked_up(headers: &Headers) -> Class {
    match (headers.fragment, headers.protocol) {
        (Fragment::Whole, icmp::PROTOCOL_V4 | icmp::PROTOCOL_V6) => Class::Icmp,
        (Fragment::Whole, _) => Class::Decided(Verdict::Punt),
        (Fragment::First | Fragment::Later | Fragment::Atomic, _) => Class::Fragment,
    }
}

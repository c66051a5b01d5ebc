//! Step 2: a packet to look up, a fragment, ICMP, or the kernel's?
//!
//! In:  a parsed packet and the device it came from.
//! Out: `None` for a whole TCP, UDP or SCTP packet sent to the device's own MAC, which goes on to lookup;
//!      otherwise its verdict.

use crate::path::headers::{Flow, Fragment, Headers};
use crate::path::verdict::{DropReason, Verdict};
use crate::wire::{sctp, tcp, udp};
use crate::worker_state::Step;

/// See the module.
#[inline]
pub(crate) fn classify(step: &Step<'_>, frame: &[u8], headers: &Headers, flow: &Flow) -> Option<Verdict> {
    if !frame.starts_with(&step.snapshot.l3.mac(step.device)) {
        return Some(other_host(frame));
    }
    let balanced = matches!(headers.protocol, tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL);
    if balanced && headers.fragment == Fragment::Whole {
        return None;
    }
    Some(not_looked_up(step, balanced, flow))
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

/// Fragments of balanced flows must not reach the local stack, which would answer for a service it does
/// not run; everything else that is not looked up (ICMP first of all) is the kernel's.
#[cold]
fn not_looked_up(step: &Step<'_>, balanced: bool, flow: &Flow) -> Verdict {
    let services = &step.snapshot.services;
    let ours = balanced
        && match flow {
            Flow::V4(key) => services.has_vip(key.dst.addr) || services.is_local_address(key.dst.addr),
            Flow::V6(key) => services.has_vip(key.dst.addr) || services.is_local_address(key.dst.addr),
        };
    if ours {
        Verdict::Drop(DropReason::Fragment)
    } else {
        Verdict::Punt
    }
}

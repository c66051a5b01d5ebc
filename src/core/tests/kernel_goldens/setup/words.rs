//! Words of `ip` commands, and routes of them.

use std::net::IpAddr;
use std::sync::Arc;

use lvs_core::l3::InterfaceId;
use lvs_core::l3::fib::{Leg, RouteAction, RouteEntry, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN, Target};

/// The word behind `name`.
pub fn option<'w>(words: &[&'w str], name: &str) -> Option<&'w str> {
    words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1])
}

pub fn number_of(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

pub fn table_of(name: &str) -> Option<u32> {
    match name {
        "local" => Some(TABLE_LOCAL),
        "main" => Some(TABLE_MAIN),
        "default" => Some(TABLE_DEFAULT),
        number => number.parse().ok(),
    }
}

pub fn leg(target: Target, mtu: Option<u16>, source: Option<IpAddr>) -> Arc<Leg> {
    Arc::new(Leg { target, mtu, source })
}

pub fn plain(action: RouteAction, metric: u32) -> RouteEntry {
    RouteEntry {
        tos: 0,
        metric,
        action,
        from: None,
        leg: leg(Target::Nowhere, None, None),
    }
}

pub fn path_interfaces(entry: &RouteEntry) -> Vec<InterfaceId> {
    match &entry.leg.target {
        Target::Paths(paths) => paths.iter().map(|path| path.interface).collect(),
        _ => Vec::new(),
    }
}

/// What is not said in `ip route del` is not compared.
pub fn is_meant(known: &RouteEntry, said: &RouteEntry, has_metric: bool) -> bool {
    let says_where = said.leg.target != Target::Nowhere;
    (!has_metric || known.metric == said.metric)
        && (said.action == RouteAction::Forward && !says_where || known.action == said.action)
        && (!says_where || known.leg.target == said.leg.target)
        && known.tos == said.tos
}

//! `lvsctl why`: where a packet would go and why, one decision per line.

use lvs_api::{ConnRecord, Why, WhyHop, WhyServer, WhyVerdict};

use crate::lvsctl::client::{Client, escape};
use crate::lvsctl::command::why::WhyArguments;
use crate::lvsctl::run::Failure;

/// Asks the daemon.
pub async fn ask(client: &Client, wanted: &WhyArguments) -> Result<Why, Failure> {
    let (protocol, virt) = wanted.virt;
    let mut path = format!(
        "/why?client={}&protocol={}&virt={}&established={}",
        escape(&wanted.client.0.to_string()),
        protocol.name(),
        escape(&virt.to_string()),
        wanted.established
    );
    if let Some(port) = wanted.client.1 {
        path += &format!("&client_port={port}");
    }
    if let Some(device) = &wanted.device {
        path += &format!("&device={}", escape(device));
    }
    client.get(&path).await
}

/// One decision per line.
pub fn text(why: &Why) -> String {
    let mut lines = vec![("packet", why.packet.clone()), ("worker", why.worker.to_string())];
    lines.push((
        "connection",
        why.connection.as_ref().map_or_else(|| "none".to_owned(), connection),
    ));
    if why.must_reschedule {
        lines.push(("", "it has ended; the packet starts a new one".to_owned()));
    }
    if why.is_reply {
        lines.push(("", "the packet is a reply of its real server".to_owned()));
    }
    if let Some(mark) = why.mark {
        lines.push(("mark", mark.to_string()));
    }
    if let Some(service) = &why.service {
        lines.push((
            "service",
            format!("{service} {}", why.scheduler.as_deref().unwrap_or_default()),
        ));
    }
    if let Some(left_ms) = why.template_expires_in_ms {
        lines.push((
            "template",
            format!("the client came before; {} s left", left_ms / 1_000),
        ));
    }
    for (index, server) in why.servers.iter().enumerate() {
        lines.push((if index == 0 { "servers" } else { "" }, candidate(server)));
    }
    if let Some(server) = why.server {
        lines.push((
            "real server",
            format!("{server} {}", why.forward.as_deref().unwrap_or_default()),
        ));
    }
    if let Some(local) = why.local {
        lines.push(("from", local.to_string()));
    }
    if let Some(hop) = &why.next_hop {
        lines.push(("next hop", next_hop(hop)));
    }
    lines.push(("verdict", verdict(why)));
    lines
        .iter()
        .map(|(name, value)| format!("{name:<12}{value}\n"))
        .collect()
}

fn connection(record: &ConnRecord) -> String {
    let ConnRecord {
        state,
        client,
        virt,
        real,
        expires_in_ms,
        ..
    } = record;
    format!(
        "{state}, {} s left: {client} -> {virt} -> {real}",
        expires_in_ms / 1_000
    )
}

fn candidate(server: &WhyServer) -> String {
    let WhyServer {
        server,
        weight,
        active_conns,
        inactive_conns,
        is_overloaded,
        is_chosen,
    } = server;
    let remark = match (is_chosen, weight, is_overloaded) {
        (true, ..) => "  <- chosen",
        (_, 0, _) => "  quiesced",
        (_, _, true) => "  overloaded",
        _ => "",
    };
    format!("{server:<22} weight {weight:<5} active {active_conns:<8} inactive {inactive_conns}{remark}")
}

fn next_hop(hop: &WhyHop) -> String {
    let vlan = if hop.vlan == 0 {
        String::new()
    } else {
        format!(" vlan {}", hop.vlan)
    };
    match (&hop.mac, hop.waits_for) {
        (Some(mac), _) => format!("{mac} on {}{vlan}, MTU {}", hop.device, hop.mtu),
        (None, Some(addr)) => format!("{addr} on {}{vlan}, not resolved yet", hop.device),
        (None, None) => format!("{}{vlan}", hop.device),
    }
}

fn verdict(why: &Why) -> String {
    let reason = why.reason.as_deref().unwrap_or_default();
    match why.verdict {
        WhyVerdict::Transmit => "transmit".to_owned(),
        WhyVerdict::Hold => "hold, until the kernel has resolved the next hop".to_owned(),
        WhyVerdict::Punt => format!("punt to the kernel: {reason}"),
        WhyVerdict::Drop => format!("drop: {reason}"),
    }
}

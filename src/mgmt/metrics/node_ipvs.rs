//! What node_exporter says of a kernel director: the same names, labels and help, from the same sums as `/proc/net/ip_vs`.
//!
//! Ref: prometheus/node_exporter collector/ipvs_linux.go, prometheus/procfs ipvs.go. One thing differs: node_exporter
//! takes an SCTP service for a part of the service before it, and lvsd does not.

use lvs_api::{Protocol, ServerStatus, ServiceId};

use super::Scrape;
use super::page::{Page, Sample};

pub(super) fn write(page: &mut Page, scrape: &Scrape) {
    let totals = scrape.stats.totals;
    let sums = [
        (
            "node_ipvs_connections_total",
            "The total number of connections made.",
            totals.connections,
        ),
        (
            "node_ipvs_incoming_packets_total",
            "The total number of incoming packets.",
            totals.in_packets,
        ),
        (
            "node_ipvs_outgoing_packets_total",
            "The total number of outgoing packets.",
            totals.out_packets,
        ),
        (
            "node_ipvs_incoming_bytes_total",
            "The total amount of incoming data.",
            totals.in_bytes,
        ),
        (
            "node_ipvs_outgoing_bytes_total",
            "The total amount of outgoing data.",
            totals.out_bytes,
        ),
    ];
    for (name, help, value) in sums {
        page.counter((name, help), [Sample([], value as f64)]);
    }
    type Read = fn(&ServerStatus) -> f64;
    let gauges: [(&str, &str, Read); 3] = [
        (
            "node_ipvs_backend_connections_active",
            "The current active connections by local and remote address.",
            |server| f64::from(server.active_conns),
        ),
        (
            "node_ipvs_backend_connections_inactive",
            "The current inactive connections by local and remote address.",
            |server| f64::from(server.inactive_conns),
        ),
        (
            "node_ipvs_backend_weight",
            "The current backend weight by local and remote address.",
            |server| f64::from(server.config.weight),
        ),
    ];
    for (name, help, read) in gauges {
        let samples = scrape.services.iter().flat_map(|service| {
            let of = move |server| Sample(labels(service.service, server), read(server));
            service.servers.iter().map(of)
        });
        page.gauge((name, help), samples);
    }
}

/// In the order in which node_exporter's client sorts them.
fn labels(service: ServiceId, server: &ServerStatus) -> [(&'static str, String); 6] {
    let (address, mark, port, proto) = match service {
        ServiceId::Address { protocol, addr, port } => {
            let proto = match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            };
            (addr.to_string(), String::new(), port, proto)
        }
        ServiceId::Fwmark { mark, .. } => (String::new(), format!("{mark:08X}"), 0, "FWM"),
    };
    let end = server.config.server;
    [
        ("local_address", address),
        ("local_mark", mark),
        ("local_port", port.to_string()),
        ("proto", proto.to_owned()),
        ("remote_address", end.ip().to_string()),
        ("remote_port", end.port().to_string()),
    ]
}

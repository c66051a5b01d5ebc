//! The listing of `ipvsadm -Ln` from what the daemon reports.

use lvs_api::ipvsadm_text::{self, Name, Server, Service};
pub use lvs_api::ipvsadm_text::{Columns, Style};
use lvs_api::{Protocol, Rates, ServerStatus, ServiceStatus, Totals};
use std::net::SocketAddr;

#[cfg(test)]
mod tests;

/// The listing; the first line, present when all services are listed, shows the connection table's `size`.
/// Unsorted, the newest comes first.
pub fn print(services: Vec<ServiceStatus>, size: Option<u64>, style: Style) -> String {
    let services = services.iter().rev().map(service).collect();
    ipvsadm_text::list(services, size, style)
}

fn service(status: &ServiceStatus) -> Service {
    let id = &status.service;
    let protocol = match id.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    Service {
        name: Name::Address {
            protocol,
            end: SocketAddr::new(id.addr, id.port),
        },
        scheduler: status.scheduler.clone(),
        scheduler_flags: status.scheduler_flags.clone(),
        persistence: None,
        one_packet: false,
        totals: totals(&status.totals),
        rates: rates(&status.rates),
        servers: status.servers.iter().rev().map(server).collect(),
    }
}

fn server(status: &ServerStatus) -> Server {
    let config = &status.config;
    Server {
        end: config.server,
        forward: status.forward.clone(),
        weight: config.weight,
        upper_threshold: config.upper_threshold_conns,
        lower_threshold: config.lower_threshold_conns,
        tunnel: (status.forward == "Tunnel").then(|| "ipip".to_owned()),
        active_conns: status.active_conns,
        inactive_conns: status.inactive_conns,
        persistent_conns: 0,
        totals: totals(&status.totals),
        rates: rates(&status.rates),
    }
}

const fn totals(totals: &Totals) -> [u64; 5] {
    [
        totals.connections,
        totals.in_packets,
        totals.out_packets,
        totals.in_bytes,
        totals.out_bytes,
    ]
}

const fn rates(rates: &Rates) -> [u64; 5] {
    [
        rates.connections_cps,
        rates.in_pps,
        rates.out_pps,
        rates.in_bytes_per_sec,
        rates.out_bytes_per_sec,
    ]
}

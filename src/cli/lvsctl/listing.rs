//! The listing of `ipvsadm -Ln` from what the daemon reports.

use lvs_api::ipvsadm_text::{self, ListedServer, ListedService, Name};
pub use lvs_api::ipvsadm_text::{Columns, Style};
use lvs_api::{GueChecksum, Protocol, Rates, ServerStatus, ServiceId, ServiceStatus, Totals, Tunnel};
use std::net::SocketAddr;

#[cfg(test)]
mod tests;

/// The listing. When all services are listed, the first line shows the connection table's `size`. Unsorted, the newest
/// service comes first.
pub fn print(services: Vec<ServiceStatus>, size: Option<u64>, style: Style) -> String {
    let services = services.iter().rev().map(service).collect();
    ipvsadm_text::list(services, size, style)
}

fn service(status: &ServiceStatus) -> ListedService {
    ListedService {
        name: name(status.service),
        scheduler: status.scheduler.clone(),
        scheduler_flags: status.scheduler_flags.clone(),
        persistence: status.persistence.map(|persistence| ipvsadm_text::ListedPersistence {
            timeout_sec: persistence.timeout_sec,
            mask: persistence.netmask.map(|netmask| netmask.to_string()),
        }),
        one_packet: status.one_packet,
        totals: totals(&status.totals),
        rates: rates(&status.rates),
        servers: status.servers.iter().rev().map(server).collect(),
    }
}

fn name(id: ServiceId) -> Name {
    match id {
        ServiceId::Address { protocol, addr, port } => Name::Address {
            protocol: match protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
                Protocol::Sctp => 132,
            },
            end: SocketAddr::new(addr, port),
        },
        ServiceId::Fwmark { mark, is_ipv6 } => Name::Fwmark { mark, is_ipv6 },
    }
}

/// As `ipvsadm --tun-info` names it: `ipip`, `gre:+c`, `gue:6080:-c`.
fn tunnel(tunnel: Tunnel) -> String {
    match tunnel {
        Tunnel::Ipip => "ipip".to_owned(),
        Tunnel::Gre { checksum } => format!("gre:{}", if checksum { "+c" } else { "-c" }),
        Tunnel::Gue { port, checksum } => {
            let flag = match checksum {
                GueChecksum::No => "-c",
                GueChecksum::Full => "+c",
                GueChecksum::Remote => "r+c",
            };
            format!("gue:{port}:{flag}")
        }
    }
}

fn server(status: &ServerStatus) -> ListedServer {
    let config = &status.config;
    ListedServer {
        end: config.server,
        forward: status.forward.clone(),
        weight: config.weight,
        upper_threshold: config.upper_threshold_conns,
        lower_threshold: config.lower_threshold_conns,
        tunnel: (status.forward == "Tunnel").then(|| tunnel(config.tunnel)),
        active_conns: status.active_conns,
        inactive_conns: status.inactive_conns,
        persistent_conns: status.persistent_conns,
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

//! The listing of `ipvsadm -Ln`, column for column (spec: ipvsadm 1.31 `print_service_entry`), plus `FullNat`.

use std::fmt::Write;
use std::net::SocketAddr;

use lvs_api::{Rates, ServiceStatus, Totals};

#[cfg(test)]
mod tests;

/// Which columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// Forward, Weight, ActiveConn, InActConn.
    Conns,
    /// `--stats`.
    Stats,
    /// `--rate`.
    Rate,
    /// `--thresholds`.
    Thresholds,
}

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Which columns.
    pub columns: Columns,
    /// No K, M, G.
    pub exact: bool,
    /// Sorted as ipvsadm does, or newest first as the scheduler sees it.
    pub sorted: bool,
}

/// The listing; the first line, present when all services are listed, shows the connection table's `size`.
pub fn print(mut services: Vec<ServiceStatus>, size: Option<u64>, style: Style) -> String {
    if style.sorted {
        services.sort_by_key(|status| (status.service.addr.is_ipv6(), status.service));
    } else {
        services.reverse();
    }
    let mut text = String::new();
    if let Some(size) = size {
        text += &format!("IP Virtual Server version 1.2.1 (size={size})\n");
    }
    text += &title(style.columns);
    for mut status in services {
        if style.sorted {
            status.servers.sort_by_key(|server| server.config.server);
        } else {
            status.servers.reverse();
        }
        print_service(&mut text, &status, style);
    }
    text
}

fn title(columns: Columns) -> String {
    let titled = |names: [&str; 5]| {
        let [a, b, c, d, e] = names;
        format!(
            "{:<33} {a:>8} {b:>8} {c:>8} {d:>8} {e:>8}\n  -> RemoteAddress:Port\n",
            "Prot LocalAddress:Port"
        )
    };
    match columns {
        Columns::Conns => "Prot LocalAddress:Port Scheduler Flags\n  \
                           -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
            .to_owned(),
        Columns::Stats => titled(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
        Columns::Rate => titled(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
        Columns::Thresholds => format!(
            "{:<33} {:<10} {:<10} {:<10} {:<10}\n  -> RemoteAddress:Port\n",
            "Prot LocalAddress:Port", "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
        ),
    }
}

fn print_service(text: &mut String, status: &ServiceStatus, style: Style) {
    let id = &status.service;
    let name = format!(
        "{:<4} {}",
        id.protocol.name().to_uppercase(),
        end(SocketAddr::new(id.addr, id.port), 33)
    );
    match style.columns {
        Columns::Conns | Columns::Thresholds => {
            *text += &format!("{name} {}", status.scheduler);
            if !status.scheduler_flags.is_empty() {
                *text += &format!(" ({})", status.scheduler_flags.join(","));
            }
            text.push('\n');
        }
        Columns::Stats => numbers(text, &format!("{name:<33}"), totals(&status.totals), style.exact),
        Columns::Rate => numbers(text, &format!("{name:<33}"), rates(&status.rates), style.exact),
    }
    for server in &status.servers {
        let config = &server.config;
        let name = format!("  -> {:<28}", end(config.server, 28));
        let (active, inactive) = (server.active_conns, server.inactive_conns);
        match style.columns {
            Columns::Conns => {
                *text += &format!(
                    "{name} {:<7} {:<6} {active:<10} {inactive:<10}\n",
                    server.forward, config.weight
                );
            }
            Columns::Stats => numbers(text, &name, totals(&server.totals), style.exact),
            Columns::Rate => server_rates(text, &name, &server.rates, style.exact),
            Columns::Thresholds => {
                let (upper, lower) = (config.upper_threshold_conns, config.lower_threshold_conns);
                *text += &format!("{name} {upper:<10} {lower:<10} {active:<10} {inactive:<10}\n");
            }
        }
    }
}

/// Address and port; IPv4 is cut to the column as ipvsadm does, IPv6 is not.
fn end(end: SocketAddr, width: usize) -> String {
    let mut text = end.to_string();
    if end.is_ipv4() {
        text.truncate(width);
    }
    text
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

fn numbers(text: &mut String, name: &str, values: [u64; 5], exact: bool) {
    text.push_str(name);
    for value in values {
        text.push_str(&large_number(value, exact));
    }
    text.push('\n');
}

/// ipvsadm shortens the octet rates of a real server but never its packet rates.
fn server_rates(text: &mut String, name: &str, server: &Rates, exact: bool) {
    let [cps, in_pps, out_pps, in_bytes, out_bytes] = rates(server);
    let octets = large_number(in_bytes, exact) + &large_number(out_bytes, exact);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name} {cps:>8} {in_pps:>8} {out_pps:>8}{octets}");
}

/// ipvsadm's `print_largenum`.
fn large_number(value: u64, exact: bool) -> String {
    if exact {
        return format!("{value:>width$}", width = 9.max(value.to_string().len() + 1));
    }
    match value {
        0..100_000_000 => format!("{value:>9}"),
        100_000_000..1_000_000_000 => format!("{:>8}K", value / 1_000),
        1_000_000_000..100_000_000_000 => format!("{:>8}M", value / 1_000_000),
        100_000_000_000..100_000_000_000_000 => format!("{:>8}G", value / 1_000_000_000),
        _ => format!("{:>8}T", value / 1_000_000_000_000),
    }
}

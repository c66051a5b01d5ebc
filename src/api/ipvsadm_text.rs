//! What `ipvsadm` 1.31 prints, column for column, from plain values: for `lvsctl list` and for the
//! comparison with recordings of the real one.
//!
//! In:  services, connections, timeouts. Out: text. Never: names lvs-core, sorts saner than ipvsadm does.
//! Ref: ipvsadm.c `print_service_entry`, `print_conn`, `print_largenum`, `cmp_services`, `cmp_dests`.

use std::cmp::Ordering;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

/// First lines of `ipvsadm -Lnc`.
pub const CONNECTIONS_TITLE: &str =
    "IPVS connection entries\npro expire state       source             virtual            destination\n";

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
    /// `--persistent-conn`.
    PersistentConns,
    /// `--tun-info`.
    TunnelInfo,
}

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Which columns.
    pub columns: Columns,
    /// No K, M, G.
    pub exact: bool,
    /// Sorted as ipvsadm does, or as given.
    pub sorted: bool,
}

/// What a service is called. The order is ipvsadm's: by mark, family, protocol, address, port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Protocol, VIP and port.
    Address {
        /// IP protocol number: 6, 17 or 132.
        protocol: u8,
        /// VIP and port.
        end: SocketAddr,
    },
    /// A firewall mark.
    Fwmark {
        /// Not 0.
        mark: u32,
        /// Whether it is for IPv6.
        is_ipv6: bool,
    },
}

/// Persistence of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPersistence {
    /// In seconds.
    pub timeout_sec: u32,
    /// Netmask or prefix length; `None` when every client is on its own.
    pub mask: Option<String>,
}

/// A service and its real servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedService {
    /// Its name.
    pub name: Name,
    /// `wlc` and the like.
    pub scheduler: String,
    /// `sh-port` and the like.
    pub scheduler_flags: Vec<String>,
    /// `-p`, `-M`.
    pub persistence: Option<ListedPersistence>,
    /// `-o`.
    pub one_packet: bool,
    /// Connections, packets and bytes in and out.
    pub totals: [u64; 5],
    /// The same per second.
    pub rates: [u64; 5],
    /// Newest first.
    pub servers: Vec<ListedServer>,
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedServer {
    /// RIP and port.
    pub end: SocketAddr,
    /// `Masq`, `Route`, `Tunnel`, `Local`, `Bypass` or our own `FullNat`.
    pub forward: String,
    /// 0 to 2147483647.
    pub weight: u32,
    /// `-x`.
    pub upper_threshold: u32,
    /// `-y`.
    pub lower_threshold: u32,
    /// `ipip`, `gue:6080:+c` and the like; `None` without a tunnel.
    pub tunnel: Option<String>,
    /// `ActiveConn`.
    pub active_conns: u32,
    /// `InActConn`.
    pub inactive_conns: u32,
    /// `PersistConn`.
    pub persistent_conns: u32,
    /// Connections, packets and bytes in and out.
    pub totals: [u64; 5],
    /// The same per second.
    pub rates: [u64; 5],
}

/// A line of `ipvsadm -Lnc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conn {
    /// `TCP`, `UDP`, `SCTP` or `IP`.
    pub protocol: &'static str,
    /// Until it expires.
    pub expires_sec: u32,
    /// As ipvsadm names it.
    pub state: String,
    /// CIP and port.
    pub client: SocketAddr,
    /// VIP and port.
    pub virt: SocketAddr,
    /// RIP and port.
    pub real: SocketAddr,
}

/// The name of an IP protocol in listings.
pub const fn protocol_name(protocol: u8) -> &'static str {
    match protocol {
        6 => "TCP",
        17 => "UDP",
        132 => "SCTP",
        _ => "IP",
    }
}

/// `ipvsadm -Ln`; the first line, present when all services are listed, shows the connection table's `size`.
pub fn list(mut services: Vec<ListedService>, size: Option<u64>, style: Style) -> String {
    sort(&mut services, style.sorted);
    let mut text = String::new();
    if let Some(size) = size {
        text += &format!("IP Virtual Server version 1.2.1 (size={size})\n");
    }
    text += &title(style.columns);
    for service in &services {
        print_service(&mut text, service, style);
    }
    text
}

/// `ipvsadm -Sn`: thresholds are not saved, as in the original.
pub fn save(mut services: Vec<ListedService>) -> String {
    sort(&mut services, true);
    let mut text = String::new();
    for service in &services {
        let name = option_of(&service.name);
        text += &format!("-A {name} -s {}", service.scheduler);
        if let Some(persistence) = &service.persistence {
            text += &format!(" -p {}", persistence.timeout_sec);
            if let Some(mask) = &persistence.mask {
                text += &format!(" -M {mask}");
            }
        }
        if service.one_packet {
            text += " -o";
        }
        if !service.scheduler_flags.is_empty() {
            text += &format!(" -b {}", service.scheduler_flags.join(","));
        }
        text.push('\n');
        for server in &service.servers {
            let mode = match server.forward.as_str() {
                "Route" | "Local" | "Bypass" => "-g",
                "Tunnel" => "-i",
                _ => "-m",
            };
            text += &format!("-a {name} -r {} {mode} -w {}", server.end, server.weight);
            if let Some(tunnel) = &server.tunnel {
                text += &tunnel_options(tunnel);
            }
            text.push('\n');
        }
    }
    text
}

/// A line of `ipvsadm -Lnc`.
pub fn conn(conn: &Conn) -> String {
    format!(
        "{:<3} {:02}:{:02}  {:<11} {:<18} {:<18} {}\n",
        conn.protocol,
        conn.expires_sec / 60,
        conn.expires_sec % 60,
        conn.state,
        conn.client.to_string(),
        conn.virt.to_string(),
        conn.real
    )
}

/// `ipvsadm -L --timeout`.
pub fn timeouts(tcp_sec: u32, tcp_fin_sec: u32, udp_sec: u32) -> String {
    format!("Timeout (tcp tcpfin udp): {tcp_sec} {tcp_fin_sec} {udp_sec}\n")
}

fn sort(services: &mut [ListedService], sorted: bool) {
    if sorted {
        merge_sort(services, &compare_services);
        for service in services {
            merge_sort(&mut service.servers, &|a: &ListedServer, b: &ListedServer| {
                compare_ends(a.end, b.end)
            });
        }
    }
}

/// Sorts as the C library's `qsort()` does. [`compare_ends`] is no consistent order, so only the same algorithm gives
/// the same result, and the standard library's sort may panic.
fn merge_sort<T: Clone>(items: &mut [T], compare: &impl Fn(&T, &T) -> Ordering) {
    if items.len() < 2 {
        return;
    }
    let (left, right) = items.split_at_mut(items.len() / 2);
    merge_sort(left, compare);
    merge_sort(right, compare);
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    while let (Some(first), Some(second)) = (left.peek(), right.peek()) {
        let from = if compare(first, second).is_le() {
            &mut left
        } else {
            &mut right
        };
        merged.extend(from.next().cloned());
    }
    merged.extend(left.chain(right).cloned());
    items.clone_from_slice(&merged);
}

fn compare_services(a: &ListedService, b: &ListedService) -> Ordering {
    let rank = |name: &Name| match *name {
        Name::Address { protocol, end } => (0, end.is_ipv6(), protocol),
        Name::Fwmark { mark, is_ipv6 } => (mark, is_ipv6, 0),
    };
    rank(&a.name).cmp(&rank(&b.name)).then_with(|| match (a.name, b.name) {
        (Name::Address { end: a, .. }, Name::Address { end: b, .. }) => compare_ends(a, b),
        _ => Ordering::Equal,
    })
}

/// Addresses by the sign of the 32-bit difference, which wraps, of the first word that differs.
fn compare_ends(a: SocketAddr, b: SocketAddr) -> Ordering {
    let sign = |a: u32, b: u32| (a.wrapping_sub(b) as i32).cmp(&0);
    let by_addr = match (a.ip(), b.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => sign(u32::from(a), u32::from(b)),
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let shift = (u128::from(a) ^ u128::from(b)).leading_zeros() / 32 * 32;
            let word = |addr| (u128::from(addr).checked_shl(shift).unwrap_or(0) >> 96) as u32;
            sign(word(a), word(b))
        }
        (a, b) => a.cmp(&b),
    };
    by_addr.then_with(|| a.port().cmp(&b.port()))
}

fn title(columns: Columns) -> String {
    let prot = "Prot LocalAddress:Port";
    let numbers = |names: [&str; 5]| {
        let [a, b, c, d, e] = names;
        format!("{prot:<33} {a:>8} {b:>8} {c:>8} {d:>8} {e:>8}\n  -> RemoteAddress:Port\n")
    };
    match columns {
        Columns::Conns => "Prot LocalAddress:Port Scheduler Flags\n  \
                           -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
            .to_owned(),
        Columns::TunnelInfo => "Prot LocalAddress:Port Scheduler Flags\n  \
                                -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn\n"
            .to_owned(),
        Columns::Stats => numbers(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
        Columns::Rate => numbers(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
        Columns::Thresholds => format!(
            "{prot:<33} {:<10} {:<10} {:<10} {:<10}\n  -> RemoteAddress:Port\n",
            "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
        ),
        Columns::PersistentConns => format!(
            "{prot:<33} {:<9} {:<11} {:<10} {:<10}\n  -> RemoteAddress:Port\n",
            "Weight", "PersistConn", "ActiveConn", "InActConn"
        ),
    }
}

fn print_service(text: &mut String, service: &ListedService, style: Style) {
    let name = match service.name {
        Name::Address { protocol, end } => format!("{:<4} {}", protocol_name(protocol), shortened(end, 33)),
        Name::Fwmark { mark, is_ipv6 } => format!("FWM  {mark}{}", if is_ipv6 { " IPv6" } else { "" }),
    };
    match style.columns {
        Columns::Stats => numbers(text, &format!("{name:<33}"), &service.totals, style.exact),
        Columns::Rate => numbers(text, &format!("{name:<33}"), &service.rates, style.exact),
        _ => {
            *text += &format!("{name} {}", service.scheduler);
            if !service.scheduler_flags.is_empty() {
                *text += &format!(" ({})", service.scheduler_flags.join(","));
            }
            if let Some(persistence) = &service.persistence {
                *text += &format!(" persistent {}", persistence.timeout_sec);
                if let Some(mask) = &persistence.mask {
                    *text += &format!(" mask {mask}");
                }
            }
            *text += if service.one_packet { " ops\n" } else { "\n" };
        }
    }
    for server in &service.servers {
        print_server(text, server, style);
    }
}

fn print_server(text: &mut String, server: &ListedServer, style: Style) {
    let name = format!("  -> {:<28}", shortened(server.end, 28));
    let (forward, weight) = (&server.forward, server.weight);
    let (active, inactive) = (server.active_conns, server.inactive_conns);
    match style.columns {
        Columns::Conns => *text += &format!("{name} {forward:<7} {weight:<6} {active:<10} {inactive:<10}\n"),
        Columns::TunnelInfo => {
            let tunnel = server.tunnel.as_deref().unwrap_or("n/a");
            *text += &format!("{name} {forward:<7} {tunnel:<13} {weight:<6} {active:<10} {inactive:<10}\n");
        }
        Columns::Stats => numbers(text, &name, &server.totals, style.exact),
        Columns::Rate => server_rates(text, &name, &server.rates, style.exact),
        Columns::Thresholds => {
            let (upper, lower) = (server.upper_threshold, server.lower_threshold);
            *text += &format!("{name} {upper:<10} {lower:<10} {active:<10} {inactive:<10}\n");
        }
        Columns::PersistentConns => {
            let persistent = server.persistent_conns;
            *text += &format!("{name} {weight:<9} {persistent:<11} {active:<10} {inactive:<10}\n");
        }
    }
}

/// `-t 10.0.0.100:80`, `-f 66 -6`.
fn option_of(name: &Name) -> String {
    match *name {
        Name::Address { protocol, end } => {
            let option = match protocol {
                6 => "-t",
                17 => "-u",
                _ => "--sctp-service",
            };
            format!("{option} {end}")
        }
        Name::Fwmark { mark, is_ipv6 } => format!("-f {mark}{}", if is_ipv6 { " -6" } else { "" }),
    }
}

/// `gue:6080:+c` as the options that make it.
fn tunnel_options(tunnel: &str) -> String {
    let mut words = tunnel.split(':');
    let kind = words.next().unwrap_or_default();
    let mut text = format!(" --tun-type {kind}");
    for word in words {
        match word {
            "-c" => text += " --tun-nocsum",
            "+c" => text += " --tun-csum",
            "r+c" => text += " --tun-remcsum",
            port => text += &format!(" --tun-port {port}"),
        }
    }
    text
}

/// Address and port; IPv4 is cut to the column as ipvsadm does, IPv6 is not.
fn shortened(end: SocketAddr, width: usize) -> String {
    let mut text = end.to_string();
    if end.is_ipv4() {
        text.truncate(width);
    }
    text
}

fn numbers(text: &mut String, name: &str, values: &[u64; 5], exact: bool) {
    text.push_str(name);
    for value in values {
        text.push_str(&large_number(*value, exact));
    }
    text.push('\n');
}

/// ipvsadm shortens the byte rates of a real server but never its packet rates.
fn server_rates(text: &mut String, name: &str, rates: &[u64; 5], exact: bool) {
    let [cps, in_pps, out_pps, in_bytes, out_bytes] = *rates;
    let bytes = large_number(in_bytes, exact) + &large_number(out_bytes, exact);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name} {cps:>8} {in_pps:>8} {out_pps:>8}{bytes}");
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

/// A sync daemon as `-L --daemon` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// `master` or `backup`.
    pub role: &'static str,
    /// Interface of its messages.
    pub interface: String,
    /// 0 to 255.
    pub sync_id: u32,
    /// Bytes of a message at most.
    pub max_len: u16,
    /// Where messages go.
    pub group: IpAddr,
    /// UDP port.
    pub port: u16,
    /// The TTL of messages: 1 to 255.
    pub ttl: u8,
}

/// What `-L --daemon` prints: a line for each daemon, the master first.
pub fn daemons(daemons: &[Daemon]) -> String {
    let line = |daemon: &Daemon| {
        format!(
            "{} sync daemon (mcast={}, syncid={}, maxlen={}, group={}, port={}, ttl={})\n",
            daemon.role, daemon.interface, daemon.sync_id, daemon.max_len, daemon.group, daemon.port, daemon.ttl
        )
    };
    daemons.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: Name) -> ListedService {
        ListedService {
            name,
            scheduler: "rr".into(),
            scheduler_flags: vec![],
            persistence: None,
            one_packet: false,
            totals: [0; 5],
            rates: [0; 5],
            servers: vec![],
        }
    }

    fn tcp(end: &str) -> Name {
        let end = end.parse().unwrap();
        Name::Address { protocol: 6, end }
    }

    #[test]
    fn services_are_sorted_by_mark_family_protocol_address_and_port_and_addresses_wrap() {
        let names = [
            Name::Fwmark {
                mark: 66,
                is_ipv6: true,
            },
            Name::Fwmark {
                mark: 66,
                is_ipv6: false,
            },
            Name::Fwmark {
                mark: 7,
                is_ipv6: false,
            },
            tcp("[fd00::1]:80"),
            Name::Address {
                protocol: 17,
                end: "10.0.0.1:53".parse().unwrap(),
            },
            tcp("1.1.1.1:80"),
            tcp("203.0.113.1:443"),
            tcp("203.0.113.1:80"),
        ];
        let saved = save(names.into_iter().map(service).collect());
        let order: Vec<&str> = saved.lines().map(|line| &line[3..line.len() - 6]).collect();
        let expected = [
            "-t 203.0.113.1:80",
            "-t 203.0.113.1:443",
            "-t 1.1.1.1:80",
            "-u 10.0.0.1:53",
            "-t [fd00::1]:80",
            "-f 7",
            "-f 66",
            "-f 66 -6",
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn persistence_flags_and_one_packet_stand_behind_the_scheduler() {
        let mut one = service(tcp("10.0.0.100:0"));
        one.scheduler_flags = vec!["sh-fallback".into(), "sh-port".into()];
        one.persistence = Some(ListedPersistence {
            timeout_sec: 300,
            mask: Some("255.255.255.0".into()),
        });
        one.one_packet = true;
        let style = Style {
            columns: Columns::Conns,
            exact: false,
            sorted: true,
        };
        let text = list(vec![one.clone()], None, style);
        assert!(
            text.ends_with("TCP  10.0.0.100:0 rr (sh-fallback,sh-port) persistent 300 mask 255.255.255.0 ops\n"),
            "{text}"
        );
        assert_eq!(
            save(vec![one]),
            "-A -t 10.0.0.100:0 -s rr -p 300 -M 255.255.255.0 -o -b sh-fallback,sh-port\n"
        );
    }
}

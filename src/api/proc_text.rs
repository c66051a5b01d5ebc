//! The texts of `/proc/net/ip_vs*`, column for column.
//!
//! In:  rows as plain data. Out: what `ipvsadm -Lnc`, node_exporter and people read.
//! Ref: Linux net/netfilter/ipvs/ip_vs_ctl.c `ip_vs_info_seq_show()`, `ip_vs_stats_show()`,
//! `ip_vs_stats_percpu_show()`, ip_vs_conn.c `ip_vs_conn_seq_show()`.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

use crate::netlink::{Granularity, ServerRow, ServiceKey, ServiceRow, Statistics};

/// The files there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcFile {
    /// `ip_vs`: services and servers.
    Services,
    /// `ip_vs_conn`.
    Connections,
    /// `ip_vs_conn_sync`: connections and whether they came from another director.
    ConnectionOrigins,
    /// `ip_vs_stats`.
    Statistics,
    /// `ip_vs_stats_percpu`.
    StatisticsPerCpu,
    /// `ip_vs_app`: helpers of protocols, of which there are none.
    Applications,
}

impl ProcFile {
    /// The file of a path in `/proc/net`.
    pub fn of_path(path: &str) -> Option<Self> {
        match path.strip_prefix("/proc/net/")? {
            "ip_vs" => Some(Self::Services),
            "ip_vs_conn" => Some(Self::Connections),
            "ip_vs_conn_sync" => Some(Self::ConnectionOrigins),
            "ip_vs_stats" => Some(Self::Statistics),
            "ip_vs_stats_percpu" => Some(Self::StatisticsPerCpu),
            "ip_vs_app" => Some(Self::Applications),
            _ => None,
        }
    }
}

/// Their names below `/proc/net/`.
pub const NAMES: [&str; 6] = [
    "ip_vs",
    "ip_vs_app",
    "ip_vs_conn",
    "ip_vs_conn_sync",
    "ip_vs_stats",
    "ip_vs_stats_percpu",
];

/// What `ip_vs_app` says when no helper is loaded.
pub const APPLICATIONS: &str = "prot port    usecnt name\n";

/// The kernel's ticks of a second: persistence is shown in them.
const JIFFIES_PER_SEC: u32 = 250;

/// A connection as listings show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRow {
    /// IP protocol number.
    pub protocol: u8,
    /// Who connects.
    pub client: (IpAddr, u16),
    /// To what.
    pub virt: (IpAddr, u16),
    /// The real server that got it.
    pub real: (IpAddr, u16),
    /// As `ipvsadm -Lnc` names it.
    pub state: &'static str,
    /// Time until it is forgotten if no packet comes.
    pub expires_sec: u32,
    /// It came from another director.
    pub is_synced: bool,
}

fn protocol_name(protocol: u16) -> String {
    match protocol {
        0 => "IP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        132 => "SCTP".into(),
        other => format!("IP_{other}"),
    }
}

/// `%pI6`: all eight groups with all their digits.
struct Full(Ipv6Addr);

impl std::fmt::Display for Full {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, segment) in self.0.segments().into_iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(formatter, "{colon}{segment:04x}")?;
        }
        Ok(())
    }
}

/// `0A000064:0050`, `[fd00:…:0100]:0050`.
fn place(addr: IpAddr, port: u16) -> String {
    match addr {
        IpAddr::V4(v4) => format!("{:08X}:{port:04X}", v4.to_bits()),
        IpAddr::V6(v6) => format!("[{}]:{port:04X}", Full(v6)),
    }
}

fn end(addr: IpAddr, port: u16) -> String {
    match addr {
        IpAddr::V4(v4) => format!("{:08X} {port:04X}", v4.to_bits()),
        IpAddr::V6(v6) => format!("{} {port:04X}", Full(v6)),
    }
}

/// `ip_vs`. `table_size`: buckets of the connection table.
pub fn services<'rows>(table_size: u32, rows: impl Iterator<Item = (&'rows ServiceRow, &'rows [ServerRow])>) -> String {
    let mut text = format!(
        "IP Virtual Server version 1.2.1 (size={table_size})\nProt LocalAddress:Port Scheduler Flags\n  \
         -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n"
    );
    for (service, servers) in rows {
        service_line(&mut text, service);
        for server in servers {
            server_line(&mut text, server);
        }
    }
    text
}

fn service_line(text: &mut String, service: &ServiceRow) {
    let ops = if service.flags & ServiceRow::ONE_PACKET != 0 {
        "ops "
    } else {
        ""
    };
    // Writing to memory cannot fail.
    let _ = match service.key {
        ServiceKey::Mark { mark, .. } => write!(text, "FWM  {mark:08X} {} {ops}", service.scheduler),
        ServiceKey::Address {
            protocol,
            addr: addr @ IpAddr::V6(_),
            port,
        } => write!(
            text,
            "{}  {} {} ",
            protocol_name(protocol),
            place(addr, port),
            service.scheduler
        ),
        ServiceKey::Address { protocol, addr, port } => {
            let (protocol, place) = (protocol_name(protocol), place(addr, port));
            write!(text, "{protocol}  {place} {} {ops} ", service.scheduler)
        }
    };
    if service.flags & ServiceRow::PERSISTENT != 0 {
        let mask = match service.granularity {
            Granularity::V4(mask) => mask.to_bits(),
            // A prefix length, printed as the kernel prints it: as if it were in network order.
            Granularity::V6(length) => length.swap_bytes(),
        };
        let jiffies = service.timeout_sec.wrapping_mul(JIFFIES_PER_SEC);
        let _ = write!(text, "persistent {jiffies} {mask:08X}");
    }
    text.push('\n');
}

fn server_line(text: &mut String, server: &ServerRow) {
    let method = match server.method {
        ServerRow::LOCAL => "Local",
        ServerRow::TUNNEL => "Tunnel",
        ServerRow::DIRECT_ROUTING => "Route",
        _ => "Masq",
    };
    let _ = writeln!(
        text,
        "  -> {}      {method:<7} {:<6} {:<10} {:<10}",
        place(server.addr, server.port),
        server.weight,
        server.active,
        server.inactive
    );
}

/// `ip_vs_conn`.
pub fn connections<'rows>(rows: impl Iterator<Item = &'rows ConnectionRow>) -> String {
    let mut text = String::from("Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n");
    for row in rows {
        let ConnectionRow {
            protocol,
            client,
            virt,
            real,
            state,
            expires_sec,
            ..
        } = row;
        let _ = writeln!(
            text,
            "{:<3} {} {} {} {state:<11} {expires_sec:7}",
            protocol_name(u16::from(*protocol)),
            end(client.0, client.1),
            end(virt.0, virt.1),
            end(real.0, real.1)
        );
    }
    text
}

/// `ip_vs_conn_sync`.
pub fn connection_origins<'rows>(rows: impl Iterator<Item = &'rows ConnectionRow>) -> String {
    let mut text = String::from("Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires\n");
    for row in rows {
        let origin = if row.is_synced { "SYNC" } else { "LOCAL" };
        let _ = writeln!(
            text,
            "{:<3} {} {} {} {:<11} {origin:<6} {:7}",
            protocol_name(u16::from(row.protocol)),
            end(row.client.0, row.client.1),
            end(row.virt.0, row.virt.1),
            end(row.real.0, row.real.1),
            row.state,
            row.expires_sec
        );
    }
    text
}

/// `ip_vs_stats`: hexadecimal.
pub fn statistics(total: &Statistics) -> String {
    format!(
        "   Total Incoming Outgoing         Incoming         Outgoing\n   \
         Conns  Packets  Packets            Bytes            Bytes\n\
         {:8X} {:8X} {:8X} {:16X} {:16X}\n\n \
         Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n\
         {:8X} {:8X} {:8X} {:16X} {:16X}\n",
        total.connections,
        total.in_packets,
        total.out_packets,
        total.in_bytes,
        total.out_bytes,
        total.connections_per_sec,
        total.in_packets_per_sec,
        total.out_packets_per_sec,
        total.in_bytes_per_sec,
        total.out_bytes_per_sec
    )
}

/// `ip_vs_stats_percpu`: a line a worker, then the sum and its rates; hexadecimal.
pub fn statistics_per_cpu(workers: &[Statistics], total: &Statistics) -> String {
    let mut text = String::from(
        "       Total Incoming Outgoing         Incoming         Outgoing\n\
         CPU    Conns  Packets  Packets            Bytes            Bytes\n",
    );
    let mut line = |cpu: &str, counts: &Statistics| {
        let _ = writeln!(
            text,
            "{cpu:>3} {:8X} {:8X} {:8X} {:16X} {:16X}",
            counts.connections, counts.in_packets, counts.out_packets, counts.in_bytes, counts.out_bytes
        );
    };
    for (index, worker) in workers.iter().enumerate() {
        line(&format!("{index:X}"), worker);
    }
    line("~", total);
    let _ = write!(
        text,
        "\n     Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n    \
         {:8X} {:8X} {:8X} {:16X} {:16X}\n",
        total.connections_per_sec,
        total.in_packets_per_sec,
        total.out_packets_per_sec,
        total.in_bytes_per_sec,
        total.out_bytes_per_sec
    );
    text
}

#[cfg(test)]
mod tests;

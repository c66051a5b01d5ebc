//! Netlink requests by which ipvsadm would make the rules of the recordings, and those that need no rule.
//!
//! In:  lines of `ipvsadm-save`. Out: datagrams. A request holds what the answer about the same thing holds, so lvsd's own
//! answers, with the flags of requests, are the requests.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use lvs_api::netlink::{
    Addressee, DaemonRow, FAMILY_ID, FILE_MAGIC, Family, Granularity, Hello, ServerRow, ServiceKey, ServiceRow,
    Statistics, TimeoutsRow, TunnelRow, daemon, server, service, timeouts,
};

use super::Target;
use super::recording::Recording;

/// `nlmsghdr` and `genlmsghdr`.
const HEADERS_BYTES: usize = 20;
const FLAGS_REQUEST_ACK: u16 = 5;
const FLAGS_REQUEST_DUMP: u16 = 0x301;
/// The family of families.
const CONTROL_ID: u16 = 16;
/// Commands without attributes: listings of services and daemons, timeouts, information, `-Z` and `-C`.
const BARE_COMMANDS: [u8; 7] = [4, 8, 11, 13, 15, 16, 17];
const TO: Addressee = Addressee {
    sequence: 1,
    port_id: 2,
    multi: false,
};

/// A datagram of one message.
fn message(kind: u16, flags: u16, command: u8, attributes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADERS_BYTES + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0, command, 1, 0, 0]);
    bytes.extend_from_slice(attributes);
    bytes
}

/// The attributes of an answer.
fn attributes(answer: &[u8]) -> &[u8] {
    answer.get(HEADERS_BYTES..).unwrap_or_default()
}

fn end(text: &str) -> Option<(IpAddr, u16)> {
    let (addr, port) = text.rsplit_once(':')?;
    Some((addr.trim_matches(['[', ']']).parse().ok()?, port.parse().ok()?))
}

fn key(words: &[&str]) -> Option<ServiceKey> {
    let protocol = match *words.first()? {
        "-t" => 6,
        "-u" => 17,
        "--sctp-service" => 132,
        "-f" => {
            let family = if words.contains(&"-6") { Family::V6 } else { Family::V4 };
            let mark = words.get(1)?.parse().ok()?;
            return Some(ServiceKey::Mark { family, mark });
        }
        _ => return None,
    };
    let (addr, port) = end(words.get(1)?)?;
    Some(ServiceKey::Address { protocol, addr, port })
}

/// The word behind `option`.
fn value<'rule>(words: &[&'rule str], option: &str) -> Option<&'rule str> {
    words.iter().skip_while(|word| **word != option).nth(1).copied()
}

fn number(words: &[&str], option: &str) -> u32 {
    value(words, option).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn service_row(key: ServiceKey, words: &[&str]) -> ServiceRow {
    ServiceRow {
        key,
        scheduler: value(words, "-s").unwrap_or("wlc").to_owned(),
        engine: value(words, "--pe").map(str::to_owned),
        flags: u32::from(words.contains(&"-p")) | u32::from(words.contains(&"-o")) << 2,
        timeout_sec: number(words, "-p"),
        granularity: match key.family() {
            Family::V4 => Granularity::V4(Ipv4Addr::BROADCAST),
            Family::V6 => Granularity::V6(128),
        },
        statistics: Statistics::default(),
    }
}

fn server_row(words: &[&str]) -> Option<ServerRow> {
    let (addr, port) = end(value(words, "-r")?)?;
    Some(ServerRow {
        addr,
        port,
        method: match () {
            () if words.contains(&"-g") => ServerRow::DIRECT_ROUTING,
            () if words.contains(&"-i") => ServerRow::TUNNEL,
            () => ServerRow::MASQUERADING,
        },
        weight: number(words, "-w"),
        upper_threshold: number(words, "-x"),
        lower_threshold: number(words, "-y"),
        tunnel: TunnelRow {
            kind: match value(words, "--tun-type") {
                Some("gue") => TunnelRow::KIND_GUE,
                Some("gre") => TunnelRow::KIND_GRE,
                _ => 0,
            },
            port: u16::try_from(number(words, "--tun-port")).unwrap_or(0),
            flags: 0,
        },
        active: 0,
        inactive: 0,
        persistent: 0,
        statistics: Statistics::default(),
    })
}

/// The request of one line: `-A` adds a service, `-a` a real server.
fn request(rule: &str) -> Option<Vec<u8>> {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let (command, words) = words.split_first()?;
    let of_service = service(TO, &service_row(key(words)?, words));
    let (number, attributes) = match *command {
        "-A" => (1, attributes(&of_service).to_vec()),
        "-a" => {
            let of_server = server(TO, &server_row(words)?);
            (5, [attributes(&of_service), attributes(&of_server)].concat())
        }
        _ => return None,
    };
    Some(message(FAMILY_ID, FLAGS_REQUEST_ACK, number, &attributes))
}

/// What needs no rule.
fn others() -> Vec<Vec<u8>> {
    let hello = Hello {
        port_id: 2,
        pid: 3,
        comm: "ipvsadm".to_owned(),
        net_namespace: 4,
        timeout_ms: 5_000,
    };
    let family_by_name = [&[9, 0, 2, 0], b"IPVS\0\0\0\0".as_slice()].concat();
    let set = TimeoutsRow {
        tcp_sec: 900,
        tcp_fin_sec: 120,
        udp_sec: 300,
    };
    let master = DaemonRow {
        state: 1,
        interface: "eth0".to_owned(),
        sync_id: 7,
        max_len: 1_472,
        group: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 81)),
        port: 8_848,
        ttl: 1,
    };
    let mut datagrams = vec![
        hello.to_bytes().to_vec(),
        [&FILE_MAGIC, b"/proc/net/ip_vs\0".as_slice()].concat(),
        message(CONTROL_ID, FLAGS_REQUEST_ACK, 3, &family_by_name),
        message(CONTROL_ID, FLAGS_REQUEST_DUMP, 3, &[]),
        message(FAMILY_ID, FLAGS_REQUEST_ACK, 12, attributes(&timeouts(TO, &set))),
        message(FAMILY_ID, FLAGS_REQUEST_ACK, 9, attributes(&daemon(TO, &master))),
        message(FAMILY_ID, FLAGS_REQUEST_ACK, 10, attributes(&daemon(TO, &master))),
    ];
    for command in BARE_COMMANDS {
        datagrams.push(message(FAMILY_ID, FLAGS_REQUEST_DUMP, command, &[]));
        datagrams.push(message(FAMILY_ID, FLAGS_REQUEST_ACK, command, &[]));
    }
    datagrams
}

/// Writes the seeds.
pub(super) fn write(recordings: &[Recording], target: &Target) -> io::Result<()> {
    let rules = recordings.iter().flat_map(|recording| &recording.rules);
    let requests: BTreeSet<Vec<u8>> = rules.filter_map(|rule| request(rule)).chain(others()).collect();
    for (number, datagram) in requests.iter().enumerate() {
        target.add(&format!("request-{number}"), datagram)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lvs_api::netlink::{Messages, Request};

    use super::*;

    #[test]
    fn rules_become_requests_that_the_daemon_understands() {
        let parse = |rule: &str| Request::parse(&Messages::new(&request(rule).unwrap()).next().unwrap()).unwrap();
        assert!(matches!(
            parse("-A -t 10.0.0.100:80 -s rr -p 300"),
            Request::AddService { .. }
        ));
        assert!(matches!(parse("-A -f 66 -6 -s rr"), Request::AddService { .. }));
        assert!(matches!(
            parse("-a -u [fd00:a::100]:53 -r [fd00:b::11]:53 -m -w 2"),
            Request::AddServer { .. }
        ));
    }
}

//! Lines recorded from ipvsadm 1.31 on a 6.1 kernel, with our addresses.

use super::*;
use lvs_api::{Server, ServerStatus, ServiceSettings};

fn server(end: &str, forward: &str, weight: u32, active: u32) -> ServerStatus {
    let config: Server = serde_json::from_str(&format!(r#"{{"server": "{end}", "weight": {weight}}}"#)).unwrap();
    let (totals, rates) = (Totals::default(), Rates::default());
    ServerStatus {
        config,
        forward: forward.to_owned(),
        active_conns: active,
        inactive_conns: 0,
        persistent_conns: 0,
        totals,
        rates,
    }
}

fn service(id: &str, scheduler: &str, servers: Vec<ServerStatus>) -> ServiceStatus {
    let scheduler = scheduler.to_owned();
    let settings = ServiceSettings {
        scheduler,
        ..ServiceSettings::default()
    };
    let (totals, rates) = (Totals::default(), Rates::default());
    ServiceStatus::new(settings, id.parse().unwrap(), Vec::new(), 0, servers, totals, rates)
}

fn style(columns: Columns) -> Style {
    Style {
        columns,
        exact: false,
        sorted: true,
    }
}

#[test]
fn the_listing_has_ipvsadms_columns_and_trailing_spaces() {
    let services = vec![
        service(
            "tcp:[fd00:a::100]:80",
            "nq",
            vec![server("[fd00:b::11]:80", "Masq", 1, 0)],
        ),
        service("udp:10.0.0.100:53", "rr", vec![]),
        service(
            "tcp:10.0.0.100:80",
            "wlc",
            vec![
                server("10.1.0.13:8080", "Masq", 100, 0),
                server("10.1.0.12:80", "Tunnel", 65535, 0),
                server("10.1.0.11:80", "Route", 1, 7),
                server("10.1.0.14:80", "FullNat", 1, 0),
            ],
        ),
    ];
    let expected = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.0.0.100:80 wlc
  -> 10.1.0.11:80                 Route   1      7          0         \n  \
  -> 10.1.0.12:80                 Tunnel  65535  0          0         \n  \
  -> 10.1.0.13:8080               Masq    100    0          0         \n  \
  -> 10.1.0.14:80                 FullNat 1      0          0         \nUDP  10.0.0.100:53 rr
TCP  [fd00:a::100]:80 nq
  -> [fd00:b::11]:80              Masq    1      0          0         \n";
    assert_eq!(print(services, Some(4096), style(Columns::Conns)), expected);
}

#[test]
fn flags_of_the_scheduler_stand_in_brackets() {
    let mut status = service("tcp:10.0.0.100:0", "sh", vec![]);
    status.scheduler_flags = vec!["sh-fallback".to_owned(), "sh-port".to_owned()];
    let text = print(vec![status], None, style(Columns::Conns));
    assert!(text.ends_with("TCP  10.0.0.100:0 sh (sh-fallback,sh-port)\n"), "{text}");
}

#[test]
fn one_service_alone_has_no_first_line() {
    let text = print(
        vec![service("tcp:10.0.0.1:22", "lblcr", vec![])],
        None,
        style(Columns::Conns),
    );
    assert!(text.starts_with("Prot LocalAddress:Port Scheduler Flags\n"));
}

#[test]
fn statistics_are_shortened_where_ipvsadm_shortens_them() {
    let mut status = service("udp:10.0.0.100:53", "rr", vec![server("10.1.0.11:53", "Masq", 1, 0)]);
    let totals = Totals {
        connections: 1,
        in_packets: 12_500,
        in_bytes: 111_600_000,
        ..Totals::default()
    };
    status.totals = totals;
    status.servers[0].totals = totals;
    let expected = "\
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
UDP  10.0.0.100:53                       1    12500        0  111600K        0
  -> 10.1.0.11:53                        1    12500        0  111600K        0
";
    assert_eq!(print(vec![status.clone()], None, style(Columns::Stats)), expected);
    let exact = print(
        vec![status],
        None,
        Style {
            exact: true,
            ..style(Columns::Stats)
        },
    );
    assert!(exact.ends_with("  -> 10.1.0.11:53                        1    12500        0 111600000        0\n"));
}

#[test]
fn packet_rates_of_a_real_server_are_never_shortened() {
    let mut status = service("udp:10.0.0.100:53", "rr", vec![server("10.1.0.11:53", "Masq", 1, 0)]);
    let rates = Rates {
        in_pps: 123_456_789,
        in_bytes_per_sec: 9_166_196,
        ..Rates::default()
    };
    status.rates = rates;
    status.servers[0].rates = rates;
    let expected = "\
Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS
  -> RemoteAddress:Port
UDP  10.0.0.100:53                       0  123456K        0  9166196        0
  -> 10.1.0.11:53                        0 123456789        0  9166196        0
";
    assert_eq!(print(vec![status], None, style(Columns::Rate)), expected);
}

#[test]
fn thresholds_have_their_own_columns() {
    let mut status = service("tcp:10.0.0.100:80", "wlc", vec![server("10.1.0.12:80", "Tunnel", 1, 0)]);
    status.servers[0].config.upper_threshold_conns = 100;
    status.servers[0].config.lower_threshold_conns = 20;
    let expected = "\
Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n  \
  -> RemoteAddress:Port
TCP  10.0.0.100:80 wlc
  -> 10.1.0.12:80                 100        20         0          0         \n";
    assert_eq!(print(vec![status], None, style(Columns::Thresholds)), expected);
}

#[test]
fn unsorted_is_newest_first() {
    let servers = vec![
        server("10.1.0.11:80", "Route", 1, 0),
        server("10.1.0.12:80", "Route", 1, 0),
    ];
    let services = vec![
        service("tcp:10.0.0.1:80", "rr", servers),
        service("tcp:10.0.0.2:80", "rr", vec![]),
    ];
    let text = print(
        services,
        None,
        Style {
            sorted: false,
            ..style(Columns::Conns)
        },
    );
    let ends: Vec<_> = text
        .lines()
        .skip(2)
        .map(|line| line.split_whitespace().nth(1).unwrap())
        .collect();
    assert_eq!(ends, ["10.0.0.2:80", "10.0.0.1:80", "10.1.0.12:80", "10.1.0.11:80"]);
}

#[test]
fn fwmark_services_show_persistence_one_packet_and_their_servers_tunnels() {
    let mut marked = service("fwm6:66", "rr", vec![server("[2001:db8::1]:0", "Tunnel", 1, 0)]);
    marked.persistence = Some(serde_json::from_str(r#"{"timeout_sec": 10, "netmask": 64}"#).unwrap());
    marked.one_packet = true;
    marked.servers[0].config.tunnel = Tunnel::Gue {
        port: 6080,
        checksum: GueChecksum::Full,
    };
    let text = print(vec![marked], None, style(Columns::TunnelInfo));
    assert!(text.contains("FWM  66 IPv6 rr persistent 10 mask 64 ops\n"), "{text}");
    assert!(
        text.contains(" Tunnel  gue:6080:+c   1      0          0         \n"),
        "{text}"
    );
}

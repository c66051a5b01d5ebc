//! Against what a kernel printed: recordings `list_big`, `nat_tcp_full`, `v6_nat_tcp`, `sync_backup`, `counters`.

use std::net::IpAddr;

use super::*;
use crate::netlink::Family;

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(key: ServiceKey, scheduler: &str, flags: u32, timeout_sec: u32, granularity: Granularity) -> ServiceRow {
    ServiceRow {
        key,
        scheduler: scheduler.into(),
        engine: None,
        flags,
        timeout_sec,
        granularity,
        statistics: Statistics::default(),
    }
}

fn server(place: &str, port: u16, method: u32, weight: u32) -> ServerRow {
    ServerRow {
        weight,
        ..ServerRow::idle(addr(place), port, method)
    }
}

fn at(protocol: u16, place: &str, port: u16) -> ServiceKey {
    ServiceKey::Address {
        protocol,
        addr: addr(place),
        port,
    }
}

#[test]
fn services_are_printed_as_the_kernel_prints_them() {
    let all = Granularity::V4([255; 4].into());
    let rows = [
        (
            service(
                at(6, "10.0.0.100", 443),
                "wrr",
                1,
                360,
                Granularity::V4([255, 255, 255, 0].into()),
            ),
            vec![server("10.1.0.11", 443, 3, 0)],
        ),
        (
            service(at(6, "10.0.0.100", 80), "wlc", 0, 0, all),
            vec![server("10.1.0.12", 80, 2, 65535), server("10.1.0.13", 8080, 0, 100)],
        ),
        (
            service(at(17, "fd00:a::100", 53), "fo", 1, 100, Granularity::V6(64)),
            vec![],
        ),
        (
            service(at(6, "fd00:a::100", 80), "nq", 0, 0, Granularity::V6(128)),
            vec![server("fd00:b::11", 80, 0, 1)],
        ),
        (
            service(at(17, "10.0.0.100", 53), "rr", 4, 0, all),
            vec![server("10.1.0.11", 5353, 0, 2)],
        ),
        (
            service(
                ServiceKey::Mark {
                    family: Family::V4,
                    mark: 7,
                },
                "rr",
                1,
                50,
                all,
            ),
            vec![],
        ),
        (
            service(
                ServiceKey::Mark {
                    family: Family::V6,
                    mark: 66,
                },
                "ovf",
                0,
                0,
                Granularity::V6(128),
            ),
            vec![server("fd00:b::12", 0, 2, 4)],
        ),
    ];
    let text = services(
        4096,
        rows.iter().map(|(service, servers)| (service, servers.as_slice())),
    );
    let expected = "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A000064:01BB wrr  persistent 90000 FFFFFF00
  -> 0A01000B:01BB      Route   0      0          0         |
TCP  0A000064:0050 wlc  |
  -> 0A01000C:0050      Tunnel  65535  0          0         |
  -> 0A01000D:1F90      Masq    100    0          0         |
UDP  [fd00:000a:0000:0000:0000:0000:0000:0100]:0035 fo persistent 25000 40000000
TCP  [fd00:000a:0000:0000:0000:0000:0000:0100]:0050 nq |
  -> [fd00:000b:0000:0000:0000:0000:0000:0011]:0050      Masq    1      0          0         |
UDP  0A000064:0035 rr ops  |
  -> 0A01000B:14E9      Masq    2      0          0         |
FWM  00000007 rr persistent 12500 FFFFFFFF
FWM  00000042 ovf |
  -> [fd00:000b:0000:0000:0000:0000:0000:0012]:0000      Tunnel  4      0          0         |
";
    assert_eq!(text, expected.replace("|\n", "\n"));
}

#[test]
fn connections_are_printed_as_the_kernel_prints_them() {
    let mut row = ConnectionRow {
        protocol: 6,
        client: (addr("10.0.0.2"), 40000),
        virt: (addr("10.0.0.100"), 80),
        real: (addr("10.1.0.11"), 8080),
        state: "TIME_WAIT",
        expires_sec: 117,
        is_synced: false,
    };
    let text = connections([&row].into_iter());
    let expected = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0A000002 9C40 0A000064 0050 0A01000B 1F90 TIME_WAIT       117\n";
    assert_eq!(text, expected);
    row.is_synced = true;
    let text = connection_origins([&row].into_iter());
    assert!(
        text.ends_with("TCP 0A000002 9C40 0A000064 0050 0A01000B 1F90 TIME_WAIT   SYNC       117\n"),
        "{text}"
    );
    row.client.0 = addr("fd00:a::2");
    row.virt.0 = addr("fd00:a::100");
    row.real.0 = addr("fd00:b::11");
    let line = "TCP fd00:000a:0000:0000:0000:0000:0000:0002 9C40 fd00:000a:0000:0000:0000:0000:0000:0100 0050 \
        fd00:000b:0000:0000:0000:0000:0000:0011 1F90 TIME_WAIT       117\n";
    assert!(connections([&row].into_iter()).ends_with(line));
}

#[test]
fn statistics_are_hexadecimal() {
    let total = Statistics {
        in_packets: 2,
        in_bytes: 0x118,
        in_bytes_per_sec: 0x1f,
        ..Statistics::default()
    };
    let expected = "   Total Incoming Outgoing         Incoming         Outgoing
   Conns  Packets  Packets            Bytes            Bytes
       0        2        0              118                0

 Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s
       0        0        0               1F                0
";
    assert_eq!(statistics(&total), expected);
    let expected = "       Total Incoming Outgoing         Incoming         Outgoing
CPU    Conns  Packets  Packets            Bytes            Bytes
  0        0        0        0                0                0
  ~        0        0        0                0                0

     Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s
           0        0        0                0                0
";
    let nothing = Statistics::default();
    assert_eq!(statistics_per_cpu(&[nothing], &nothing), expected);
}

//! Captures of real clients, and bytes of no client at all.

use std::net::IpAddr;

use super::*;

/// Bytes from hex, spaces and all.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn only(datagram: &[u8]) -> Message<'_> {
    let mut messages = Messages::new(datagram);
    let message = messages.next().unwrap();
    assert!(messages.next().is_none());
    message
}

fn parse(text: &str) -> Result<Request, Errno> {
    Request::parse(&only(&hex(text)))
}

const GET_FAMILY: &str = "20000000 10000500 8bcd036b d9090027 03010000 09000200 49505653 00000000";
const NEW_SERVICE: &str = "68000000 f1b50500 8dcd036b d909c049 01010000 54000180 06000100 02000000 06000200 06000000 \
    14000300 c000020a 00000000 00000000 00000000 06000400 00500000 08000600 77727200 0c000700 00000000 ffffffff \
    08000800 00000000 08000900 ffffffff";
const TO: Addressee = Addressee {
    sequence: 0x6b03_cd8b,
    port_id: 0x2700_09d9,
    multi: false,
};

fn new_service() -> String {
    NEW_SERVICE.replacen("f1b5", "b5f1", 1)
}

#[test]
fn a_client_finds_the_family_by_its_name() {
    assert_eq!(parse(GET_FAMILY), Ok(Request::GetFamily));
    let answer = family(TO);
    let head = hex(
        "10000000 8bcd036b d9090027 01020000 09000200 49505653 00000000 06000100 b5f10000 08000300 01000000 \
        08000400 00000000 08000500 06000000",
    );
    assert_eq!(answer[4..4 + head.len()], head[..]);
    assert_eq!(only(&answer).bytes.len(), answer.len());
}

#[test]
fn acknowledgements_and_errors_are_the_kernels_bytes() {
    let request = hex(GET_FAMILY);
    let acknowledgement = hex("24000000 02000001 8bcd036b d9090027 00000000 20000000 10000500 8bcd036b d9090027");
    assert_eq!(acknowledge(&only(&request), 0x2700_09d9), acknowledgement);
    let request = hex(&new_service());
    let refusal = refuse(&only(&request), 7, Errno::Exists);
    assert_eq!(refusal[..8], hex("7c000000 02000000"));
    assert_eq!(refusal[16..20], hex("efffffff"));
    assert_eq!(refusal[20..], request);
    assert_eq!(done(1, 2), hex("14000000 03000200 01000000 02000000 00000000"));
}

#[test]
fn information_and_timeouts_are_the_kernels_bytes() {
    let table = Info {
        version: Info::VERSION_1_2_1,
        table_size: 4096,
    };
    assert_eq!(
        parse("14000000 b5f10500 8ccd036b d909c049 0f010000"),
        Ok(Request::GetInfo)
    );
    let expected = hex("24000000 b5f10000 8bcd036b d9090027 0e010000 08000100 01020100 08000200 00100000");
    assert_eq!(info(TO, &table), expected);
    let set =
        parse("2c000000 b5f10500 00000000 00000000 0c010000 08000400 bc020000 08000500 46000000 08000600 4d000000");
    let wanted = TimeoutsRequest {
        tcp_sec: Some(700),
        tcp_fin_sec: Some(70),
        udp_sec: Some(77),
    };
    assert_eq!(set, Ok(Request::SetTimeouts(wanted)));
    assert_eq!(
        parse("14000000 b5f10500 00000000 00000000 0d010000"),
        Ok(Request::GetTimeouts)
    );
    let answer = timeouts(
        TO,
        &TimeoutsRow {
            tcp_sec: 900,
            tcp_fin_sec: 120,
            udp_sec: 300,
        },
    );
    assert_eq!(answer.len(), 0x2c);
    assert_eq!(answer[16..24], hex("0c010000 08000400"));
}

#[test]
fn a_new_service_is_read_whole() {
    let Ok(Request::AddService { key, options }) = parse(&new_service()) else {
        panic!("no new service");
    };
    let addr: IpAddr = "192.0.2.10".parse().unwrap();
    let expected = ServiceKey::Address {
        protocol: 6,
        addr,
        port: 80,
    };
    assert_eq!(key, expected);
    assert_eq!((options.scheduler.as_str(), options.flags_mask), ("wrr", u32::MAX));
    assert_eq!(options.granularity, Granularity::V4([255; 4].into()));
    assert_eq!(options.merge_flags(ServiceRow::HASHED), 0);
}

#[test]
fn a_mark_needs_neither_protocol_nor_address() {
    let deletion = "28000000 b5f10500 00000000 00000000 03010000 14000180 06000100 0a000000 08000500 42000000";
    let key = ServiceKey::Mark {
        family: Family::V6,
        mark: 66,
    };
    assert_eq!(parse(deletion), Ok(Request::DeleteService { key }));
}

#[test]
fn faults_come_in_the_kernels_order() {
    let command = |rest: &str| {
        parse(&format!(
            "{:02x}000000 b5f10500 00000000 00000000 {rest}",
            16 + hex(rest).len()
        ))
    };
    assert_eq!(command("01010000"), Err(Errno::Invalid), "no service");
    assert_eq!(
        command("03010000 0c000180 06000100 02000000"),
        Err(Errno::Invalid),
        "no identity"
    );
    let odd_family = "03010000 14000180 06000100 03000000 08000500 01000000";
    assert_eq!(command(odd_family), Err(Errno::NoFamily));
    let bare = "02010000 14000180 06000100 02000000 08000500 01000000";
    assert_eq!(command(bare), Err(Errno::Invalid), "editing needs the whole service");
    let no_server = "05010000 14000180 06000100 02000000 08000500 01000000";
    let Ok(Request::AddServer { server, .. }) = command(no_server) else {
        panic!("the service is looked up before the server is judged");
    };
    assert_eq!(server, Err(Errno::Invalid));
    assert_eq!(command("10010000"), Ok(Request::ZeroAll));
    assert_eq!(command("11010000"), Ok(Request::Flush));
    assert_eq!(command("0e010000"), Err(Errno::NotSupported), "SET_INFO is an answer");
    assert_eq!(command("08010000"), Err(Errno::NotSupported), "GET_DEST is a dump");
    assert_eq!(
        parse("12000000 b5f10500 00000000 00000000 0000"),
        Err(Errno::Invalid),
        "no space for a command"
    );
    assert_eq!(
        parse("14000000 34120500 00000000 00000000 01010000"),
        Err(Errno::NoEntry),
        "another family"
    );
}

#[test]
fn a_destination_may_give_four_bytes_or_sixteen() {
    let with = |addr: &str| {
        let nests = format!("14000180 06000100 02000000 08000500 01000000 {addr}");
        let body = hex(&format!("07010000 {nests}"));
        let text = format!(
            "{:02x}000000 b5f10500 00000000 00000000 07010000 {nests}",
            16 + body.len()
        );
        match parse(&text) {
            Ok(Request::DeleteServer { server: Ok(server), .. }) => server.address(Family::V4),
            other => panic!("{other:?}"),
        }
    };
    let expected: IpAddr = "198.51.100.1".parse().unwrap();
    assert_eq!(with("14000280 08000100 c6336401 06000200 1f900000"), Ok(expected));
    let sixteen = "20000280 14000100 c6336401 00000000 00000000 00000000 06000200 1f900000";
    assert_eq!(with(sixteen), Ok(expected));
}

fn row(port: u16) -> ServiceRow {
    ServiceRow {
        key: ServiceKey::Address {
            protocol: 6,
            addr: "192.0.2.10".parse().unwrap(),
            port,
        },
        scheduler: "wrr".into(),
        engine: None,
        flags: ServiceRow::HASHED,
        timeout_sec: 0,
        granularity: Granularity::V4([255; 4].into()),
        statistics: Statistics::default(),
    }
}

#[test]
fn rows_are_as_long_as_the_kernels() {
    assert_eq!(service(TO, &row(80)).len(), 0x140);
    let server_row = ServerRow::idle("198.51.100.1".parse().unwrap(), 8080, ServerRow::MASQUERADING);
    assert_eq!(server(TO, &server_row).len(), 0x164);
}

#[test]
fn a_long_dump_comes_in_bounded_datagrams_and_ends_once() {
    let to = Addressee { multi: true, ..TO };
    let rows = (0..1000).map(|port| service(to, &row(port)));
    let datagrams: Vec<Vec<u8>> = Dump::new(rows, TO.sequence, TO.port_id).collect();
    assert!(datagrams.iter().all(|datagram| datagram.len() <= DATAGRAM_MAX_BYTES));
    let kinds: Vec<u16> = datagrams
        .iter()
        .flat_map(|datagram| Messages::new(datagram))
        .map(|m| m.kind)
        .collect();
    assert_eq!(kinds.len(), 1001);
    assert_eq!(kinds.iter().filter(|kind| **kind == 3).count(), 1);
    assert_eq!(kinds.last(), Some(&3));
}

#[test]
fn a_hello_survives_the_way() {
    let hello = Hello {
        port_id: 0x4242,
        pid: 77,
        comm: "keepalived".into(),
        net_namespace: 0xf000_0001,
        timeout_ms: 5000,
    };
    assert_eq!(Opening::parse(&hello.to_bytes()), Some(Opening::Netlink(hello)));
    let file = b"LVSDPF1\0/proc/net/ip_vs_conn";
    assert_eq!(Opening::parse(file), Some(Opening::File("/proc/net/ip_vs_conn".into())));
    assert_eq!(Opening::parse(b"GET / HTTP/1.1"), None);
}

/// Number and payload of each attribute, in their order.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let [l0, l1, k0, k1, ..] = *bytes {
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        found.push((u16::from_ne_bytes([k0, k1]), &bytes[4..len]));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn shape(bytes: &[u8]) -> Vec<(u16, usize)> {
    attributes(bytes)
        .iter()
        .map(|(kind, payload)| (*kind, payload.len()))
        .collect()
}

/// The payload of attribute `kind` of the nest in an answer.
fn inside(answer: &[u8], kind: u16) -> Vec<u8> {
    let nest = attributes(&answer[20..])[0].1;
    let found = attributes(nest).into_iter().find(|(number, _)| *number == kind);
    found.unwrap_or_else(|| panic!("no attribute {kind}")).1.to_vec()
}

/// `enum ip_vs_stats_attr`: counters of packets and connections, then bytes, then rates.
const STATISTICS: Statistics = Statistics {
    connections: 0x1_0000_0001,
    in_packets: 0x2_0000_0002,
    out_packets: 0x3_0000_0003,
    in_bytes: 0x4_0000_0004,
    out_bytes: 0x5_0000_0005,
    connections_per_sec: 6,
    in_packets_per_sec: 7,
    out_packets_per_sec: 8,
    in_bytes_per_sec: 9,
    out_bytes_per_sec: 10,
};

fn expect_statistics(answer: &[u8]) {
    let narrow = inside(answer, 10);
    let lengths: Vec<usize> = shape(&narrow).iter().map(|(_, len)| *len).collect();
    assert_eq!(lengths, [4, 4, 4, 8, 8, 4, 4, 4, 4, 4]);
    let wide = inside(answer, 12);
    let values: Vec<u64> = attributes(&wide)
        .iter()
        .map(|(_, payload)| u64::from_ne_bytes((*payload).try_into().unwrap()))
        .collect();
    assert_eq!(values[0], 0x1_0000_0001);
    assert_eq!(values[4..], [0x5_0000_0005, 6, 7, 8, 9, 10]);
    assert_eq!(attributes(&narrow)[0].1, 1_u32.to_ne_bytes(), "the low half");
    let numbers: Vec<u16> = shape(&wide).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
}

#[test]
fn a_service_has_every_attribute_of_the_kernels_with_its_size() {
    let full = ServiceRow {
        engine: Some("sip".into()),
        flags: ServiceRow::HASHED | ServiceRow::PERSISTENT | ServiceRow::SCHEDULER_1,
        timeout_sec: 360,
        statistics: STATISTICS,
        ..row(80)
    };
    let answer = service(TO, &full);
    let nest = attributes(&answer[20..]);
    assert_eq!((nest.len(), nest[0].0), (1, 1), "one SERVICE");
    let mut found = shape(nest[0].1);
    found.sort_unstable();
    let (narrow, wide) = (8 * 8 + 2 * 12, 10 * 12);
    let expected = [
        (1, 2),
        (2, 2),
        (3, 16),
        (4, 2),
        (6, 4),
        (7, 8),
        (8, 4),
        (9, 4),
        (10, narrow),
        (11, 4),
        (12, wide),
    ];
    assert_eq!(found, expected);
    assert_eq!(inside(&answer, 4), [0, 80], "ports are in network order");
    assert_eq!(inside(&answer, 6), b"wrr\0");
    assert_eq!(inside(&answer, 11), b"sip\0");
    assert_eq!(inside(&answer, 7), [11, 0, 0, 0, 255, 255, 255, 255]);
    expect_statistics(&answer);
    let mark = ServiceRow {
        key: ServiceKey::Mark {
            family: Family::V6,
            mark: 66,
        },
        granularity: Granularity::V6(64),
        ..full
    };
    let answer = service(TO, &mark);
    assert_eq!(inside(&answer, 5), 66_u32.to_ne_bytes());
    assert_eq!(inside(&answer, 1), 10_u16.to_ne_bytes());
    assert_eq!(inside(&answer, 9), 64_u32.to_ne_bytes(), "a prefix length");
}

#[test]
fn a_server_has_every_attribute_of_the_kernels_with_its_size() {
    for (kind, port, flags) in [
        (0, 0, 0),
        (TunnelRow::KIND_GUE, 6080, TunnelRow::REMOTE_CHECKSUM),
        (TunnelRow::KIND_GRE, 0, TunnelRow::CHECKSUM),
    ] {
        let full = ServerRow {
            addr: "2001:db8::1".parse().unwrap(),
            port: 8080,
            method: ServerRow::TUNNEL,
            weight: 3,
            upper_threshold: 10,
            lower_threshold: 5,
            tunnel: TunnelRow { kind, port, flags },
            active: 1,
            inactive: 2,
            persistent: 4,
            statistics: STATISTICS,
        };
        let answer = server(TO, &full);
        assert_eq!(attributes(&answer[20..])[0].0, 2, "one DEST");
        let mut found = shape(attributes(&answer[20..])[0].1);
        found.sort_unstable();
        let numbers: Vec<u16> = found.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(numbers, (1..=15).collect::<Vec<_>>());
        assert_eq!(found[10], (11, 2), "the family of its address");
        assert_eq!(found[12..], [(13, 1), (14, 2), (15, 2)]);
        assert_eq!(inside(&answer, 13), [kind]);
        assert_eq!(inside(&answer, 14), port.to_be_bytes());
        assert_eq!(inside(&answer, 15), flags.to_ne_bytes());
        let numbers = [3, 4, 5, 6, 7, 8, 9].map(|kind| inside(&answer, kind));
        assert_eq!(
            numbers,
            [2_u32, 3, 10, 5, 1, 2, 4].map(|value| value.to_ne_bytes().to_vec())
        );
        expect_statistics(&answer);
    }
}

/// xorshift: the same bytes every time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// `ipvsadm -a -t 192.0.2.10:80 -r 198.51.100.1:8080 -i --tun-type gue --tun-port 6080`, as bytes.
const NEW_SERVER: &str = "a0000000 b5f10500 8dcd036b d909c049 05010000 30000180 06000100 02000000 06000200 06000000 \
    14000300 c000020a 00000000 00000000 00000000 06000400 00500000 5c000280 06000b00 02000000 \
    14000100 c6336401 00000000 00000000 00000000 06000200 1f900000 08000300 02000000 08000400 03000000 \
    05000d00 01000000 06000e00 17c00000 06000f00 00000000 08000500 00000000 08000600 00000000";
/// `ipvsadm --start-daemon master --mcast-interface lo --syncid 7`, as bytes.
const NEW_DAEMON: &str = "30000000 b5f10500 00000000 00000000 09010000 1c000380 08000100 01000000 07000200 6c6f0000 \
    08000300 07000000";

/// Datagrams to try.
const ROUNDS: usize = 10_000_000;

#[test]
fn arbitrary_datagrams_are_read_without_harm() {
    let seeds = [GET_FAMILY, &new_service(), NEW_SERVER, NEW_DAEMON].map(hex);
    for seed in &seeds {
        assert!(Request::parse(&only(seed)).is_ok(), "each seed is understood");
    }
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut understood = 0;
    for round in 0..ROUNDS {
        let mut datagram = seeds[round % seeds.len()].clone();
        if noise.next().is_multiple_of(2) {
            datagram[16] = (noise.next() % 19) as u8;
        }
        for _ in 0..noise.next() % 5 {
            let place = noise.next() as usize % datagram.len();
            datagram[place] = noise.next() as u8;
        }
        if noise.next().is_multiple_of(8) {
            datagram.truncate(noise.next() as usize % (datagram.len() + 1));
        }
        for message in Messages::new(&datagram) {
            let request = Request::parse(&message);
            understood += usize::from(request.is_ok());
            if let Err(errno) = request {
                assert!(refuse(&message, 1, errno).len() >= 36);
            }
        }
        let _ = Opening::parse(&datagram);
    }
    assert!(understood > ROUNDS / 10, "{understood} of {ROUNDS}");
}

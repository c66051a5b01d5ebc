//! Good files, bad files, and the two files of `conf/`.

use super::*;
use crate::address::AddressFamily;
use crate::ipvs::client_address::ClientAddress;
use crate::ipvs::mark::MarkRules;
use crate::ipvs::persistence::{ClientMask, Persistence};
use crate::ipvs::scheduler::{SchedulerFlags, SchedulerKind};
use crate::ipvs::service::ServiceKey;
use crate::ipvs::sync::policy::{SyncAccept, SyncMode};
use crate::ipvs::sysctl::Sysctls;
use crate::ipvs::tunnel_kind::{GueChecksum, TunnelKind};
use crate::limits::{TIMEOUT_CONFIGURED_MAX_SEC, WORKERS_MAX};

const REFERENCE: &str = include_str!("../../../conf/lvsd.reference.toml");
const SHIPPED: &str = include_str!("../../../conf/lvsd.toml");

fn parse(text: &str) -> Config {
    Config::parse(text, "lvsd.toml").unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(text: &str) -> String {
    Config::parse(text, "lvsd.toml")
        .expect_err("should be refused")
        .to_string()
}

/// The reference file with all its keys uncommented.
fn uncommented() -> String {
    let is_key =
        |line: &str| line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    REFERENCE
        .lines()
        .map(|line| if is_key(line) { &line[1..] } else { line })
        .collect::<Vec<_>>()
        .join("\n")
}

/// The keys that serde accepts in a table, as its own error message lists them.
fn keys_of(table: &str) -> Vec<String> {
    let probe = format!("{table}\nno_such_key = 1\n");
    let message = raw::RawConfig::parse(&probe).unwrap_err().message().to_owned();
    let (_, expected) = message
        .split_once("expected")
        .unwrap_or_else(|| panic!("{table}: {message}"));
    expected.split('`').skip(1).step_by(2).map(Into::into).collect()
}

const TABLES: [&str; 15] = [
    "[eal]",
    "[workers]",
    "[connections]",
    "[timeouts]",
    "[api]",
    "[metrics]",
    "[journal]",
    "[ipvs]",
    "[sysctl]",
    "[[mark]]",
    "[sync]",
    "[[sync_daemon]]",
    "[[device]]",
    "[[service]]",
    "[[service.real_server]]",
];

#[test]
fn the_reference_lists_every_key_that_the_code_knows_and_no_other() {
    let mut listed: Vec<(String, Vec<String>)> = vec![];
    for line in REFERENCE.lines().filter_map(|line| line.strip_prefix('#')) {
        if line.starts_with('[') {
            listed.push((line.into(), vec![]));
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with(' ')) {
            listed.last_mut().expect("a table before its keys").1.push(key.into());
        }
    }
    let known: Vec<(String, Vec<String>)> = TABLES
        .iter()
        .map(|&table| {
            let context = if table == "[[service.real_server]]" {
                "[[service]]\nprotocol = \"tcp\"\naddress = \"192.0.2.1\"\nport = 1\n"
            } else {
                ""
            };
            let mut keys = if table == "[sysctl]" {
                Sysctls::NAMES.iter().map(|name| (*name).to_owned()).collect()
            } else {
                keys_of(&format!("{context}{table}"))
            };
            keys.retain(|key| key != "real_server");
            (table.into(), keys)
        })
        .collect();
    assert_eq!(listed, known);
    let top: Vec<String> = keys_of("");
    let tables: Vec<&str> = TABLES.iter().map(|table| table.trim_matches(['[', ']'])).collect();
    assert!(
        top.iter().all(|key| tables.contains(&key.as_str())) && top.len() == TABLES.len() - 1,
        "{top:?}"
    );
}

#[test]
fn the_defaults_that_the_reference_states_are_the_real_ones() {
    let stated = parse(&uncommented());
    let real = parse(
        "[[mark]]\nmark = 66\n[[sync_daemon]]\nrole = 'master'\ninterface = 'dp0'\n[[device]]\nname = 'dp0'\ndpdk = '0000:03:00.0'\n\
         [[service]]\nprotocol = 'tcp'\naddress = '192.0.2.100'\nport = 80\n\
         [[service.real_server]]\naddress = '198.51.100.11'\n",
    );
    assert_eq!(stated, real);
    assert_eq!(parse(""), Config::default());
    assert_eq!(
        Config {
            marks: MarkRules::default(),
            sync_daemons: vec![],
            devices: vec![],
            services: vec![],
            ..real
        },
        Config::default()
    );
}

#[test]
fn every_key_in_the_reference_says_type_default_range_and_restart() {
    let lines: Vec<&str> = REFERENCE.lines().collect();
    for (above, line) in lines.iter().zip(&lines[1..]) {
        if line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase()) {
            let (_, value) = line.split_once(" = ").unwrap();
            let default = format!("default: {value} ");
            let is_stated = above.contains(&default) || above.contains("required") || above.contains("the service's");
            assert!(is_stated, "{line}: {above}");
            assert!(
                above.starts_with("# type: ") && above.contains("range: ") && above.contains("restart: "),
                "{line}"
            );
        }
    }
}

#[test]
fn the_ranges_that_the_reference_states_are_the_real_ones() {
    for (limit, stated) in [
        (WORKERS_MAX as u64, "range: 1 to 64 -"),
        (u64::from(TIMEOUT_CONFIGURED_MAX_SEC), "range: 1 to 2678400 -"),
        (u64::from(crate::limits::WEIGHT_MAX), "range: 0 to 2147483647 -"),
        (crate::limits::DEVICES_MAX as u64, "for each, at most 32."),
        (crate::limits::LOCAL_ADDRESSES_MAX as u64, "at most 1024 -"),
    ] {
        assert!(
            stated.contains(&limit.to_string()) && REFERENCE.contains(stated),
            "{stated}"
        );
    }
    let schedulers: Vec<String> = SchedulerKind::ALL
        .iter()
        .map(|kind| format!("{:?}", kind.name()))
        .collect();
    assert!(REFERENCE.contains(&format!("# {}.", schedulers.join(", "))));
}

#[test]
fn the_shipped_file_works() {
    assert_eq!(parse(SHIPPED), Config::default());
    let examples: Vec<&str> = SHIPPED
        .lines()
        .map(|line| line.strip_prefix('#').unwrap_or(line))
        .collect();
    let examples = examples
        .iter()
        .filter(|line| !line.starts_with(' '))
        .copied()
        .collect::<Vec<_>>()
        .join("\n");
    let config = parse(&examples);
    assert_eq!(
        (
            config.devices.len(),
            config.services.len(),
            config.services[0].servers.len()
        ),
        (1, 1, 2)
    );
}

#[test]
fn a_full_file_is_read_as_it_stands() {
    let config = parse(
        r#"
        [eal]
        hugepages = "never"
        memory_mb = 256
        main_core = 2
        worker_cores = [3, 5]
        extra_args = ["--no-pci"]
        [workers]
        idle = "sleep"
        idle_sleep_us = 100
        [timeouts]
        tcp_fin_sec = 30
        [ipvs]
        overhead = "current"
        [[device]]
        name = "dp0"
        dpdk = "net_tap0,iface=tap0"
        mac = "02:00:00:0a:0B:01"
        mtu = 9000
        [[service]]
        protocol = "udp"
        address = "2001:db8::1"
        port = 53
        scheduler = "sh"
        scheduler_flags = ["sh-port"]
        local_addresses = ["2001:db8:1::1", "2001:db8:1::2"]
        [[service.real_server]]
        address = "2001:db8:2::1"
        port = 5353
        mode = "nat"
        weight = 7
        upper_threshold = 100
        lower_threshold = 60
        [[service.real_server]]
        address = "198.51.100.1"
        mode = "tunnel"
        "#,
    );
    assert_eq!((config.workers.count, &config.eal.worker_cores[..]), (2, &[3, 5][..]));
    assert_eq!(config.timeouts.shown(), (900, 30, 300));
    assert_eq!(config.devices[0].mac, Some([2, 0, 0, 10, 11, 1]));
    let service = &config.services[0];
    assert_eq!(
        (service.spec.scheduler, service.spec.scheduler_flags),
        (SchedulerKind::Sh, SchedulerFlags::PORT)
    );
    let desired = config.desired_services().unwrap();
    let table = desired.build();
    let servers: Vec<(u16, &str, u32)> = table.services()[0]
        .servers
        .iter()
        .map(|server| (server.port, server.mode.name(), server.weight))
        .collect();
    assert_eq!(servers, [(53, "Tunnel", 1), (5353, "FullNat", 7)]);
    assert_eq!(table.services()[0].overhead, crate::ipvs::scheduler::Overhead::Current);
}

/// A service with one server, to which `more` is added.
fn with_server(more: &str) -> String {
    format!(
        "[[service]]\nprotocol = \"tcp\"\naddress = \"192.0.2.1\"\nport = 80\n\
         [[service.real_server]]\naddress = \"198.51.100.1\"\n{more}\n"
    )
}

#[track_caller]
fn assert_refused(text: &str, expected: &str) {
    assert_eq!(refusal(text), expected);
}

#[test]
fn unknown_missing_and_mistyped_keys_are_named_with_their_line() {
    assert_refused(
        "\n[workers]\ncuont = 2\n",
        "lvsd.toml:3:1: workers.cuont: unknown field `cuont`, expected one of `count`, `idle`, `idle_sleep_us`, \
         `standstill_sec`: correct its name or remove it; lvsd.reference.toml lists every key",
    );
    assert_refused(
        "[workers]\ncount = \"two\"\n",
        "lvsd.toml:2:9: workers.count: invalid type: string \"two\", expected u32: \
         give a value as lvsd.reference.toml describes it",
    );
    assert_refused(
        "[workers]\nidle = \"rest\" # lazy\n",
        "lvsd.toml:2:8: workers.idle: unknown variant `rest`, expected one of `spin`, `pause`, `sleep`, `adaptive`: \
         give a value as lvsd.reference.toml describes it",
    );
    assert_refused(
        "[[device]]\nname = \"dp0\"\n",
        "lvsd.toml:1:1: device: missing field `dpdk`: add it; lvsd.reference.toml explains it",
    );
    assert_refused(
        &with_server("weight = -1"),
        "lvsd.toml:7:10: service.real_server.weight: invalid value: integer `-1`, expected u32: \
         give a value as lvsd.reference.toml describes it",
    );
    let message = refusal("[worker]\n");
    assert!(
        message.starts_with("lvsd.toml:1:2: worker: unknown field `worker`, expected one of `eal`"),
        "{message}"
    );
    let message = refusal("[workers]\ncount = \n");
    assert!(message.starts_with("lvsd.toml:2:"), "{message}");
    assert!(
        message.ends_with("correct the line; it must be TOML (https://toml.io)"),
        "{message}"
    );
    let message = refusal(&with_server("").replace("198.51.100.1", "198.51.100.256"));
    assert!(
        message.starts_with("lvsd.toml:6:11: service.real_server.address: invalid IP address"),
        "{message}"
    );
}

#[test]
fn numbers_out_of_range_are_refused() {
    for (text, expected) in [
        (
            "[workers]\ncount = 0",
            "2:9: workers.count: 0 is out of range: give 1 to 64",
        ),
        (
            "[workers]\ncount = 65",
            "2:9: workers.count: 65 is out of range: give 1 to 64",
        ),
        (
            "[workers]\nidle_sleep_us = 0",
            "2:17: workers.idle_sleep_us: 0 is out of range: give 1 to 1000",
        ),
        (
            "[workers]\nstandstill_sec = 0",
            "2:18: workers.standstill_sec: 0 is out of range: give 1 to 3600",
        ),
        (
            "[connections]\n\nipv4_max = 7",
            "3:12: connections.ipv4_max: 7 is out of range: give 1024 to 268435456",
        ),
        (
            "[timeouts]\nudp_sec = 0",
            "2:11: timeouts.udp_sec: 0 is out of range: give 1 to 2678400",
        ),
        (
            "[timeouts]\ntcp_sec = 2678401",
            "2:11: timeouts.tcp_sec: 2678401 is out of range: give 1 to 2678400",
        ),
        (
            "[eal]\nmain_core = 5000",
            "2:13: eal.main_core: 5000 is out of range: give 0 to 1023",
        ),
    ] {
        assert_refused(text, &format!("lvsd.toml:{expected}"));
    }
}

#[test]
fn cores_may_be_shared_by_workers_that_sleep() {
    let text = "[eal]\nmain_core = 0\nworker_cores = [0, 1, 1]\n[workers]\nidle = \"sleep\"";
    assert_eq!(Config::parse(text, "lvsd.toml").unwrap().eal.worker_cores, [0, 1, 1]);
}

#[test]
fn cores_must_be_distinct_and_as_many_as_workers() {
    let cure = "give every worker a core of its own, other than eal.main_core, or set workers.idle = \"sleep\"";
    assert_refused(
        "[eal]\nworker_cores = [\n  1,\n  2,\n  1,\n]",
        &format!("lvsd.toml:5:3: eal.worker_cores: core 1 is there twice: {cure}"),
    );
    assert_refused(
        "[eal]\nmain_core = 3\nworker_cores = [2, 3]",
        &format!("lvsd.toml:3:20: eal.worker_cores: core 3 is there twice: {cure}"),
    );
    assert_refused(
        "[eal]\nworker_cores = [1, 2]\n[workers]\ncount = 3",
        "lvsd.toml:4:9: workers.count: 3 workers but 2 worker cores: \
         give eal.worker_cores one core for each worker, or leave one of the two out",
    );
}

#[test]
fn devices_must_be_distinct_and_well_formed() {
    let device = |name: &str, dpdk: &str, more: &str| format!("[[device]]\nname = {name:?}\ndpdk = {dpdk:?}\n{more}\n");
    let good = device("dp0", "0000:03:00.0", "");
    assert_refused(
        &format!("{good}{}", device("dp0", "0000:03:00.1", "")),
        "lvsd.toml:6:8: device.name: device dp0 is there twice: give every device a name of its own",
    );
    assert_refused(
        &format!("{good}{}", device("dp1", "0000:03:00.0", "")),
        "lvsd.toml:7:8: device.dpdk: NIC 0000:03:00.0 is there twice: name every NIC once",
    );
    assert_refused(
        &device("a-name-that-is-too-long", "x", ""),
        "lvsd.toml:2:8: device.name: \"a-name-that-is-too-long\" is not an interface name: \
         give 1 to 15 letters and digits, like \"dp0\"",
    );
    assert_refused(
        &device("dp0", "net_tap0 iface", ""),
        "lvsd.toml:3:8: device.dpdk: \"net_tap0 iface\" is not a DPDK device: \
         give a PCI address like \"0000:03:00.0\" or a virtual device like \"net_tap0,iface=tap0\"",
    );
    for mac in [
        "02:00:00:00:01",
        "01:00:00:00:00:01",
        "00:00:00:00:00:00",
        "2:0:0:0:0:1",
        "+2:00:00:00:00:01",
    ] {
        assert_refused(
            &device("dp0", "x", &format!("mac = {mac:?}")),
            &format!(
                "lvsd.toml:4:7: device.mac: {mac:?} is not a unicast MAC address: \
                 give six bytes like \"02:00:00:00:00:01\", the first one even"
            ),
        );
    }
    assert_refused(
        &device("dp0", "x", "rx_queue_size = 1000"),
        "lvsd.toml:4:17: device.rx_queue_size: \"1000\" is not a power of two: give 512 or 1024",
    );
    assert_refused(
        &device("dp0", "x", "mtu = 500"),
        "lvsd.toml:4:7: device.mtu: 500 is out of range: give 1280 to 9600",
    );
    let many: String = (0..33)
        .map(|n| device(&format!("dp{n}"), &format!("net_null{n}"), ""))
        .collect();
    assert!(refusal(&many).ends_with("33 is out of range: give 0 to 32"));
}

#[test]
fn services_are_refused_as_the_api_refuses_them() {
    let twice = format!("{}{}", with_server(""), with_server(""));
    assert_refused(
        &twice,
        "lvsd.toml:10:11: service.address: service tcp:192.0.2.1:80 exists already: edit it instead of adding it",
    );
    assert_refused(
        &with_server("weight = 2147483648"),
        "lvsd.toml:7:10: service.real_server.weight: weight 2147483648 of real server 198.51.100.1:80 is out of range: \
         give 0 (no new connections) to 2147483647",
    );
    assert_refused(
        &with_server("upper_threshold = 5\nlower_threshold = 6"),
        "lvsd.toml:8:19: service.real_server.lower_threshold: lower threshold 6 of real server 198.51.100.1:80 \
         is above its upper threshold 5: give a lower one of at most 5, or raise the upper one",
    );
    assert_refused(
        &with_server("").replace("198.51.100.1", "2001:db8::1"),
        "lvsd.toml:6:11: service.real_server.address: real server [2001:db8::1]:80 is of another address family than \
         service tcp:192.0.2.1:80: give an address of the service's family, or use tunnel mode",
    );
    assert_refused(
        &with_server("[[service.real_server]]\naddress = \"198.51.100.1\""),
        "lvsd.toml:8:11: service.real_server.address: real server 198.51.100.1:80 of service tcp:192.0.2.1:80 \
         exists already: edit it instead of adding it",
    );
    let service =
        |more: &str| with_server("").replace("[[service.real_server]]", &format!("{more}\n[[service.real_server]]"));
    let pool = "local_addresses = [\"198.51.100.200\"]";
    assert_eq!(
        parse(&service(&format!("client_address = \"proxy-v2\"\n{pool}"))).services[0]
            .spec
            .client_address,
        ClientAddress::ProxyV2
    );
    assert_refused(
        &service("client_address = \"toa\""),
        "lvsd.toml:5:18: service.client_address: client address by toa for service tcp:192.0.2.1:80 needs FULLNAT: \
         give the service a local-address pool first, or client address none",
    );
    assert_refused(
        &service(&format!("client_address = \"uoa\"\n{pool}")),
        "lvsd.toml:5:18: service.client_address: client address by uoa does not go with service tcp:192.0.2.1:80: \
         give toa, proxy-v1 or proxy-v2 for tcp, uoa for udp, none for others",
    );
    assert_refused(
        &service("client_address = \"proxy\""),
        "lvsd.toml:5:18: service.client_address: \"proxy\" is not a carrier of the client's address: \
         give one of none toa proxy-v1 proxy-v2 uoa",
    );
    assert_refused(
        &service("mss_max = 87"),
        "lvsd.toml:5:11: service.mss_max: mss_max 87 of service tcp:192.0.2.1:80 is out of range: \
         give 0 (not set), or 88 to 65495",
    );
    let long_lived = parse(&service("established_timeout_sec = 7200"));
    assert_eq!(long_lived.services[0].spec.established_timeout_sec, 7_200);
    assert_refused(
        &service("established_timeout_sec = 2678401"),
        "lvsd.toml:5:27: service.established_timeout_sec: established_timeout_sec 2678401 of service \
         tcp:192.0.2.1:80 is out of range: give 0 (not set), or 1 to 2678400",
    );
    assert_refused(
        &service("established_timeout_sec = 7200").replace("\"tcp\"", "\"udp\""),
        "lvsd.toml:5:27: service.established_timeout_sec: established_timeout_sec means nothing for the protocol of \
         service udp:192.0.2.1:80: leave it out",
    );
    assert!(parse(&service("reset_unknown = true")).services[0].spec.reset_unknown);
    assert_refused(
        &service("reset_unknown = true").replace("\"tcp\"", "\"udp\""),
        "lvsd.toml:5:17: service.reset_unknown: reset_unknown means nothing for the protocol of service \
         udp:192.0.2.1:80: leave it out",
    );
    let same_port = parse(&with_server("port = 0"));
    assert_eq!(
        same_port.services[0].servers[0].port, 0,
        "the port that packets come with"
    );
    assert_refused(
        &with_server("").replace("port = 80", "port = 0"),
        "lvsd.toml:4:8: service.port: service tcp:192.0.2.1:0 has port 0, which means every port and needs \
         persistence: give a port from 1 to 65535, or a persistence timeout",
    );
}

#[test]
fn pools_and_schedulers_of_services_are_checked() {
    let with = |more: &str| with_server("").replace("port = 80\n", &format!("port = 80\n{more}\n"));
    assert_refused(
        &with("local_addresses = [\n  \"203.0.113.1\",\n  \"2001:db8::9\",\n]"),
        "lvsd.toml:7:3: service.local_addresses: local address 2001:db8::9 is of another address family than \
         service tcp:192.0.2.1:80: give addresses of the service's family",
    );
    assert_refused(
        &with("local_addresses = [\"203.0.113.1\", \"203.0.113.1\"]"),
        "lvsd.toml:5:35: service.local_addresses: local address 203.0.113.1 is in the pool of service \
         tcp:192.0.2.1:80 twice: name it once",
    );
    assert_refused(
        &with("scheduler = \"random\""),
        "lvsd.toml:5:13: service.scheduler: \"random\" is not a scheduler: \
         give one of rr wrr lc wlc lblc lblcr sh dh mh conhash sed nq fo ovf twos lt wlt wrt",
    );
    assert_refused(
        &with("scheduler = \"sh\"\nscheduler_flags = [\"mh-port\"]"),
        "lvsd.toml:6:20: service.scheduler_flags: \"mh-port\" is not an option of the scheduler: \
         sh has sh-fallback and sh-port",
    );
    assert_refused(
        &with("scheduler_flags = [\"sh-port\"]"),
        "lvsd.toml:5:20: service.scheduler_flags: \"sh-port\" is not an option of the scheduler: \
         wlc has none, remove it",
    );
}

#[test]
fn paths_must_be_absolute() {
    assert_refused(
        "[api]\nsocket = \"lvsd.sock\"",
        "lvsd.toml:2:10: api.socket: \"lvsd.sock\" is not an absolute path: let it begin with /",
    );
    assert_refused(
        "[connections]\nstate_dir = \"state\"",
        "lvsd.toml:2:13: connections.state_dir: \"state\" is not an absolute path: let it begin with /",
    );
    for root in ["/", "/dev/shm/", "/dev/shm/..", "/dev/shm/."] {
        assert_refused(
            &format!("[connections]\nstate_dir = \"{root}\""),
            &format!(
                "lvsd.toml:2:13: connections.state_dir: \"{root}\" is not the path of a directory of lvsd's own: give it \
                 a name on a tmpfs, like \"/dev/shm/lvsd\""
            ),
        );
    }
}

#[test]
fn columns_count_characters_and_any_garbage_is_an_error_not_a_panic() {
    assert_refused(
        "[api]\ngroup = \"ä\" # ö\nsocket = 'é'",
        "lvsd.toml:3:10: api.socket: \"é\" is not an absolute path: let it begin with /",
    );
    for garbage in [
        "=",
        "[",
        "]\n[[",
        "\u{feff}ä=ö",
        "a.b.c",
        "[eal",
        "[eal]\nmain_core",
        "\0",
        "[[eal]]",
        "eal=1",
        "[service]",
    ] {
        let message = refusal(garbage);
        assert!(message.starts_with("lvsd.toml:"), "{message}");
    }
}

#[test]
fn marks_and_settings_are_read_and_refused_with_their_line() {
    let config = parse(
        "[sysctl]\nexpire_nodest_conn = 1\nsync_threshold = \"0 1\"\n\
         [[mark]]\nmark = 66\nprotocol = \"tcp\"\ndestination = \"192.0.2.100\"\n\
         destination_ports = [\"80\", \"443-444\"]\ndevice = \"dp0\"\n\
         [[device]]\nname = \"dp0\"\ndpdk = \"0000:03:00.0\"\n",
    );
    assert!(config.sysctls.expire_nodest_conn);
    assert_eq!(config.sysctls.sync_threshold, [0, 1]);
    let rule = &config.marks.rules()[0];
    assert_eq!(
        (rule.mark, rule.protocol, rule.device),
        (66, Some(6), Some(crate::l3::DeviceId(0)))
    );
    assert_eq!(rule.destination, Some("192.0.2.100/32".parse().unwrap()));
    assert_eq!(rule.destination_ports, [80..=80, 443..=444]);
    for (text, place) in [
        ("[sysctl]\ndrop_entry = 4\n", "lvsd.toml:2:14: sysctl.drop_entry"),
        ("[sysctl]\nconn_min = 4\n", "lvsd.toml:2:12: sysctl.conn_min"),
        ("[[mark]]\nmark = 0\n", "lvsd.toml:2:8: mark.mark"),
        ("[[mark]]\nmark = 1\ndevice = \"dp9\"\n", "lvsd.toml:3:10: mark.device"),
        (
            "[[mark]]\nmark = 1\nsource_ports = [\"x\"]\n",
            "lvsd.toml:3:17: mark.source_ports",
        ),
    ] {
        let error = refusal(text);
        assert!(error.starts_with(place) && error.contains(": "), "{error}");
    }
}

#[test]
fn services_of_marks_persistence_and_tunnels_are_read() {
    let text = "[[service]]\nfwmark = 66\nfwmark_ipv6 = true\npersistence_timeout_sec = 360\n\
        persistence_netmask = '64'\none_packet = true\n\
        [[service.real_server]]\naddress = '2001:db8::1'\nmode = 'tunnel'\ntunnel = 'gue'\ntunnel_port = 6080\n\
        tunnel_checksum = 'remote'\n\
        [[service.real_server]]\naddress = '2001:db8::2'\nmode = 'tunnel'\ntunnel = 'gre'\n\
        tunnel_checksum = 'full'\n\
        [[service]]\nprotocol = 'tcp'\naddress = '192.0.2.1'\nport = 0\npersistence_timeout_sec = 10\n";
    let [marked, every_port] = parse(text).services.try_into().unwrap();
    let spec = marked.spec;
    let family = AddressFamily::Ipv6;
    assert_eq!(spec.key, ServiceKey::Fwmark { mark: 66, family });
    let (timeout_sec, mask) = (360, ClientMask::Ipv6(64));
    assert_eq!(spec.persistence, Some(Persistence { timeout_sec, mask }));
    assert!(spec.one_packet);
    let (port, checksum) = (6080, GueChecksum::RemoteOffload);
    let tunnels: Vec<_> = marked
        .servers
        .iter()
        .map(|server| (server.port, server.tunnel))
        .collect();
    let expected = [
        (0, TunnelKind::Gue { port, checksum }),
        (0, TunnelKind::Gre { checksum: true }),
    ];
    assert_eq!(tunnels, expected);
    let (timeout_sec, mask) = (10, ClientMask::whole(AddressFamily::Ipv4));
    assert_eq!(every_port.spec.persistence, Some(Persistence { timeout_sec, mask }));
}

#[test]
fn services_of_marks_persistence_and_tunnels_are_refused_with_their_line() {
    assert_refused(
        "[[service]]\nprotocol = \"tcp\"\naddress = \"192.0.2.1\"\n",
        "lvsd.toml:1:1: service: missing field `port`: add it; lvsd.reference.toml explains it",
    );
    assert_refused(
        "[[service]]\nport = 80\nfwmark = 66\n",
        "lvsd.toml:3:10: service.fwmark: a service of packets with a mark takes any protocol, address and port: \
         leave out fwmark, or protocol, address and port",
    );
    for (text, place) in [
        (
            "fwmark = 66\npersistence_netmask = '64'",
            "3:23: service.persistence_netmask: ",
        ),
        (
            "fwmark = 66\npersistence_netmask = '64'\npersistence_timeout_sec = 1",
            "3:23: service.persistence_netmask: ",
        ),
        (
            "fwmark = 66\npersistence_netmask = 'wide'",
            "3:23: service.persistence_netmask: \"wide\" is not a netmask: ",
        ),
        (
            "fwmark = 66\npersistence_timeout_sec = 2678401",
            "3:27: service.persistence_timeout_sec: ",
        ),
    ] {
        let message = refusal(&format!("[[service]]\n{text}\n"));
        assert!(message.starts_with(&format!("lvsd.toml:{place}")), "{message}");
    }
    for (text, place) in [
        ("tunnel = 'gue'", "8:10: service.real_server.tunnel: "),
        (
            "tunnel = 'gue'\ntunnel_port = 0",
            "9:15: service.real_server.tunnel_port: ",
        ),
        (
            "tunnel = 'gre'\ntunnel_checksum = 'remote'",
            "9:19: service.real_server.tunnel_checksum: ",
        ),
    ] {
        let message = refusal(&with_server(&format!("mode = 'tunnel'\n{text}")));
        assert!(message.starts_with(&format!("lvsd.toml:{place}")), "{message}");
    }
}

#[test]
fn a_service_that_carries_the_clients_address_starts_as_the_file_says() {
    let text = r#"
        [[device]]
        name = "wan"
        dpdk = "0000:01:00.0"
        mac = "02:00:00:00:00:01"
        [[service]]
        protocol = "tcp"
        address = "192.0.2.100"
        port = 80
        scheduler = "rr"
        client_address = "toa"
        local_addresses = ["192.0.2.200"]
        [[service.real_server]]
        address = "198.51.100.12"
        port = 8080
        mode = "nat"
    "#;
    let services = parse(text).desired_services().unwrap();
    let listing = services.services().next().unwrap();
    assert_eq!(listing.spec.client_address.name(), "toa");
    assert_eq!((listing.local_addresses.len(), listing.servers().len()), (1, 1));
}

#[test]
fn sync_is_read_and_what_is_wrong_in_it_has_its_place_and_cure() {
    let config = parse(
        "[sync]\nmode = 'every'\naccept = 'kernel'\npeers = ['192.0.2.3', '2001:db8::3']\nkey_file = '/etc/lvsd/key'\n\
         table_percent = 100\nbulk_rate = 0\n",
    );
    let policy = SyncPolicy {
        mode: SyncMode::Every,
        accept: SyncAccept::Kernel,
        is_authenticated: true,
        table_percent: 100,
    };
    assert_eq!((config.sync.policy, config.sync.bulk_rate), (policy, 0));
    assert_eq!(
        config.sync.peers,
        ["192.0.2.3", "2001:db8::3"].map(|peer| peer.parse::<IpAddr>().unwrap())
    );
    assert_eq!(config.sync.key_file, Some("/etc/lvsd/key".into()));
    for (text, expected) in [
        (
            "table_percent = 0",
            "lvsd.toml:2:17: sync.table_percent: 0 is out of range: give 1 to 100",
        ),
        (
            "table_percent = 101",
            "lvsd.toml:2:17: sync.table_percent: 101 is out of range: give 1 to 100",
        ),
        (
            "bulk_rate = 200001",
            "lvsd.toml:2:13: sync.bulk_rate: 200001 is out of range: give 0 to 200000",
        ),
        (
            "key_file = 'key'",
            "lvsd.toml:2:12: sync.key_file: \"key\" is not an absolute path: let it begin with /",
        ),
        (
            "peers = ['192.0.2.300']",
            "lvsd.toml:2:10: sync.peers: \"192.0.2.300\" is not an address: write one like \"192.0.2.3\" or \"2001:db8::3\"",
        ),
        (
            "peers = ['192.0.2.3', '192.0.2.3']",
            "lvsd.toml:2:23: sync.peers: peer 192.0.2.3 is there twice: name every director once",
        ),
        (
            "mode = 'all'",
            "lvsd.toml:2:8: sync.mode: unknown variant `all`, expected `kernel` or `every`: \
             give a value as lvsd.reference.toml describes it",
        ),
    ] {
        assert_eq!(refusal(&format!("[sync]\n{text}\n")), expected);
    }
}

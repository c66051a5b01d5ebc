//! The testbed of a recording: the director's namespace with its twins and cables, the daemon, the tools.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::Stdio;

use ipnet::IpNet;
use lvs_api::Why;
use lvs_core::ipvs::mark::MarkRule;
use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::namespace::Namespace;
use lvs_test_support::waits::until;

use crate::scenario::{Scenario, Step, bytes};
use crate::setup::Setup;
use crate::wire::Wire;

const DEVICES: [&str; 2] = ["eth0", "eth1"];

/// A service on an address of the director that all recordings have. It exists only while the player waits for the
/// network, and no recording has traffic for it.
const PROBE_SERVICE: &str = "udp:10.0.0.1:9";
/// The real server of that service.
const PROBE_SERVER: &str = "198.18.255.2";
/// A client of that service.
const PROBE_CLIENT: &str = "198.18.255.3";
/// The routing table that leads to the real server, by a rule that exists only while the player waits.
const PROBE_TABLE: u32 = 198;

/// What a command printed.
pub struct Printed {
    pub output: String,
    pub errors: String,
    pub code: i32,
}

/// Makes the namespace of the far ends, the cables, and the twins with their addresses and neighbours.
pub fn lay(testbed: &Testbed, far: &Namespace, is_ipv6: bool) {
    far.inside("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    testbed.inside("ip link set lo up");
    for (number, device) in DEVICES.into_iter().enumerate() {
        let (cable, end) = (format!("cable{number}"), format!("far{number}"));
        testbed.inside(&format!(
            "ip link add {cable} type veth peer name {end} netns {}",
            far.name()
        ));
        for (place, interface) in [(&**testbed, &cable), (far, &end)] {
            place.inside(&format!("ethtool -K {interface} tx off rx off tso off gso off gro off"));
            place.inside(&format!("sysctl -qw net.ipv6.conf.{interface}.disable_ipv6=1"));
            place.inside(&format!("ip link set {interface} arp off promisc on mtu 9000 up"));
        }
        // The kernel must be deaf on the cable: it belongs to lvsd.
        testbed.inside(&format!("nft add table netdev deaf{number}"));
        testbed.inside(&format!(
            "nft add chain netdev deaf{number} ingress {{ type filter hook ingress device {cable} priority 0 ; policy drop ; }}"
        ));
        testbed.twin(device, &format!("02:00:00:00:00:0{}", number + 1));
    }
    let setting = |name: &str, value: u8| {
        let names =
            ["all", "default", "eth0", "eth1"].map(|device| format!("net.{}={value}", name.replace('%', device)));
        testbed.inside(&format!("sysctl -qw {}", names.join(" ")));
    };
    setting("ipv4.conf.%.rp_filter", 0);
    for name in ["accept_ra", "autoconf", "dad_transmits", "router_solicitations"] {
        setting(&format!("ipv6.conf.%.{name}"), 0);
    }
    setting("ipv6.conf.%.disable_ipv6", u8::from(!is_ipv6));
    testbed.inside("sysctl -qw net.ipv4.ip_forward=1");
    addresses(testbed, is_ipv6);
}

/// The network of all recordings.
fn addresses(testbed: &Testbed, is_ipv6: bool) {
    let mut lines = vec![
        "addr add 10.0.0.1/24 dev eth0".to_owned(),
        "addr add 10.1.0.1/24 dev eth1".to_owned(),
        "addr add 10.0.0.100/32 dev eth0".to_owned(),
    ];
    let mut neighbour = |addr: String, mac: String, device: &str| {
        lines.push(format!("neigh add {addr} lladdr {mac} dev {device} nud permanent"));
    };
    neighbour("10.0.0.254".into(), "02:00:00:00:01:fe".into(), "eth0");
    neighbour("10.0.0.253".into(), "02:00:00:00:ff:fd".into(), "eth0");
    neighbour("10.1.0.253".into(), "02:00:00:00:ff:fd".into(), "eth1");
    for n in 2..10 {
        neighbour(format!("10.0.0.{n}"), format!("02:00:00:00:01:{n:02x}"), "eth0");
    }
    for n in 11..20 {
        neighbour(format!("10.1.0.{n}"), format!("02:00:00:00:02:{n:02x}"), "eth1");
    }
    if is_ipv6 {
        for n in 2..10 {
            neighbour(format!("fd00:a::{n}"), format!("02:00:00:00:01:{n:02x}"), "eth0");
        }
        for n in 11..20 {
            neighbour(format!("fd00:b::{n}"), format!("02:00:00:00:02:{n:02x}"), "eth1");
        }
        neighbour("fd00:a::fe".into(), "02:00:00:00:01:fe".into(), "eth0");
        for (index, address) in [
            "fd00:a::1/64 dev eth0",
            "fd00:b::1/64 dev eth1",
            "fd00:a::100/128 dev eth0",
        ]
        .into_iter()
        .enumerate()
        {
            lines.insert(index, format!("addr add {address} nodad"));
        }
        lines.push("route add default via fd00:a::fe".to_owned());
        testbed.inside("sysctl -qw net.ipv6.conf.all.forwarding=1");
    }
    lines.push("route add default via 10.0.0.254".to_owned());
    lines.push(format!("route add local {PROBE_SERVER} dev lo table {PROBE_TABLE}"));
    let batch = testbed.path("network");
    fs::write(&batch, lines.join("\n") + "\n").expect("the testbed has a directory");
    testbed.inside(&format!("ip -batch {}", batch.display()));
}

/// The daemon of a recording and everything around it.
pub struct GoldenTestbed<'s> {
    testbed: &'s Testbed,
    pub daemon: Daemon<'s>,
    pub wire: Wire,
    setup: Setup,
}

impl<'s> GoldenTestbed<'s> {
    /// Runs the set-up commands, starts the daemon and feeds `ipvsadm -R`.
    ///
    /// # Errors
    /// A set-up command that is not understood.
    pub fn start(testbed: &'s Testbed, far: &Namespace, scenario: &Scenario) -> Result<Self, String> {
        let setup = Setup::read(&scenario.setup)?;
        for (name, value) in &scenario.sysctls {
            if !name.starts_with("net.ipv4.vs.") {
                // Some are the whole machine's and not to be set in a namespace.
                testbed.shell(&format!("sysctl -qw {name}={value}"));
            }
        }
        testbed.configure(&config(scenario, &setup)?);
        let daemon = testbed.start();
        for line in &scenario.setup {
            run_in(testbed, line)?;
        }
        let golden = Self {
            testbed,
            daemon,
            wire: Wire::open(far, ["far0", "far1"]),
            setup,
        };
        golden.await_network();
        golden.restore(&scenario.config_in);
        Ok(golden)
    }

    /// See [`Setup::is_let_in`].
    pub fn is_let_in(&self, frame: &[u8]) -> bool {
        self.setup.is_let_in(frame)
    }

    /// Brings the table back to `rules` between commands, as it was done on the recorded machine.
    pub fn reset(&self, rules: &str) {
        self.restore(&format!("-C\n{rules}"));
        for role in ["master", "backup"] {
            // One that does not run cannot be stopped.
            let _ = self.testbed.lvs_run(&["ipvsadm", "--stop-daemon", role]).output();
        }
    }

    /// Feeds `rules` to `ipvsadm -R`. If it refuses some, later listings differ from the recording.
    pub fn restore(&self, rules: &str) {
        let mut command = self.testbed.lvs_run(&["ipvsadm", "-R"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("ipvsadm is installed");
        let mut input = child.stdin.take().expect("it has an input");
        // One that has ended already does not read.
        let _ = input.write_all(rules.as_bytes());
        drop(input);
        let _ = child.wait();
    }

    /// A shell line in the director's namespace, with IPVS tools led to the daemon. Settings of the kernel's IPVS are
    /// changed and read by `lvsctl` and the API instead.
    ///
    /// # Errors
    /// A mark rule that is not understood.
    pub fn run(&mut self, line: &str) -> Result<Printed, String> {
        let (mut left, mut printed) = (Vec::new(), None);
        for command in line.split(';').map(str::trim) {
            if let Some(setting) = command.strip_prefix("sysctl -w net.ipv4.vs.") {
                let done = self
                    .daemon
                    .lvsctl(&format!("sysctl {}", setting.replace(['\'', '"'], "")));
                printed = Some(Printed {
                    output: format!(
                        "net.ipv4.vs.{} = {}\n",
                        setting.split('=').next().unwrap_or_default(),
                        setting.split('=').nth(1).unwrap_or_default()
                    ),
                    errors: String::from_utf8_lossy(&done.stderr).into_owned(),
                    code: done.status.code().unwrap_or(-1),
                });
            } else if let Some((value, name)) = written_setting(command) {
                let done = self.daemon.lvsctl(&format!("sysctl {name}={value}"));
                printed = Some(Printed {
                    output: String::new(),
                    errors: String::from_utf8_lossy(&done.stderr).into_owned(),
                    code: done.status.code().unwrap_or(-1),
                });
            } else if let Some(name) = command.strip_prefix("sysctl net.ipv4.vs.") {
                printed = Some(self.settings(|known| known == name));
            } else if command.starts_with("sysctl -a") && line.contains("net.ipv4.vs") {
                return Ok(self.settings(|_| true));
            } else if command.starts_with("iptables") || command.starts_with("ip6tables") {
                return Err("mark rules are for the set-up only".to_owned());
            } else if !command.starts_with("modprobe") {
                left.push(command);
            }
        }
        if left.is_empty() {
            return Ok(printed.unwrap_or(Printed {
                output: String::new(),
                errors: String::new(),
                code: 0,
            }));
        }
        // The recorded machine knew no names and could ask nobody for them. So it is here.
        let script = format!(
            "mount --bind /dev/null /etc/hosts; mount --bind /dev/null /etc/resolv.conf; {}",
            left.join("; ")
        );
        let done = self
            .testbed
            .lvs_run(&["sh", "-c", &script])
            .stdin(Stdio::null())
            .output();
        let done = done.map_err(|error| error.to_string())?;
        // A change of services is with the workers when the command ends. A change of the network follows later.
        if self.setup.run(line).is_ok() {
            self.await_network();
        }
        Ok(Printed {
            output: String::from_utf8_lossy(&done.stdout).into_owned(),
            errors: String::from_utf8_lossy(&done.stderr).into_owned(),
            code: done.status.code().unwrap_or(-1),
        })
    }

    /// Waits until the workers have the kernel's network as all commands so far have left it.
    ///
    /// The probe is a rule, of which the kernel only says that rules have changed. It says so behind everything that it
    /// announced before, and the daemon then lists what the kernel does not announce in full. That listing comes after
    /// those that were due before. So when a worker follows the rule, it has everything. The rule is removed in the same
    /// way, because rules change what the kernel does with other packets.
    fn await_network(&self) {
        let service = format!(
            r#"{{"service": "{PROBE_SERVICE}", "scheduler": "rr", "servers": [{{"server": "{PROBE_SERVER}:9"}}]}}"#
        );
        let (status, answer) = self.daemon.ask("POST", "/v1/services", &service);
        assert_eq!(status, 201, "{answer}");
        let rule = format!("to {PROBE_SERVER} lookup {PROBE_TABLE} pref 0");
        self.testbed.inside(&format!("ip rule add {rule}"));
        until("the workers follow a new rule", || self.probe_is_local());
        self.testbed.inside(&format!("ip rule del {rule}"));
        until("the workers follow the rule no longer", || !self.probe_is_local());
        let (status, answer) = self.daemon.ask("DELETE", &format!("/v1/services/{PROBE_SERVICE}"), "");
        assert_eq!(status, 204, "{answer}");
    }

    /// Whether a worker takes the probe's real server for an address of the director.
    fn probe_is_local(&self) -> bool {
        let (_, virt) = PROBE_SERVICE.split_once(':').expect("a protocol stands before it");
        let why: Why = self
            .daemon
            .get(&format!("/v1/why?client={PROBE_CLIENT}&virt={virt}&protocol=udp"));
        why.reason.as_deref() == Some("the real server is the director itself")
    }

    /// Settings of the daemon as `sysctl` prints the kernel's.
    fn settings(&self, wanted: impl Fn(&str) -> bool) -> Printed {
        let all: BTreeMap<String, String> = self.daemon.get("/v1/sysctls");
        let line = |(name, value): (&String, &String)| {
            let value = value.replace(' ', "\t");
            wanted(name).then(|| format!("net.ipv4.vs.{name} = {value}\n"))
        };
        Printed {
            output: all.iter().filter_map(line).collect(),
            errors: String::new(),
            code: 0,
        }
    }
}

/// `echo VALUE > /proc/sys/net/ipv4/vs/NAME`.
fn written_setting(command: &str) -> Option<(&str, &str)> {
    command.strip_prefix("echo ")?.split_once(" > /proc/sys/net/ipv4/vs/")
}

/// A set-up command; mark rules and modules are not the kernel's here.
fn run_in(testbed: &Testbed, line: &str) -> Result<(), String> {
    let is_kernels = |command: &&str| {
        !(command.starts_with("iptables") || command.starts_with("ip6tables") || command.starts_with("modprobe"))
    };
    let commands: Vec<&str> = line.split(';').map(str::trim).filter(is_kernels).collect();
    if commands.is_empty() {
        return Ok(());
    }
    let output = testbed.shell(&commands.join("; "));
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("setup {line}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn has_fragments(scenario: &Scenario) -> bool {
    let is_fragment = |frame: &[u8]| {
        let is_ipv4 = frame.get(12..14) == Some(&[8, 0]);
        is_ipv4 && frame.get(20..22).is_some_and(|two| (two[0] & 0x3F, two[1]) != (0, 0))
    };
    scenario.steps.iter().any(|step| match step {
        Step::Inject { frame, .. } => is_fragment(&bytes(frame)),
        _ => false,
    })
}

fn config(scenario: &Scenario, setup: &Setup) -> Result<String, String> {
    // The kernel puts fragments together for all sockets of net_af_packet (PACKET_FANOUT_FLAG_DEFRAG); the path is
    // to do that.
    let driver = |number: usize| {
        if has_fragments(scenario) {
            format!("net_pcap{number},rx_iface_in=cable{number},tx_iface=cable{number}")
        } else {
            format!("net_af_packet{number},iface=cable{number},qpairs=1,blocksz=4096,framesz=2048,framecnt=512")
        }
    };
    // A kernel believes any entry of a sync message, and has no bulk sync.
    let mut text = "[sync]\naccept = \"kernel\"\nbulk_rate = 0\n[ipvs]\noverhead = \"current\"\n[sysctl]\n".to_owned();
    for (name, value) in &scenario.sysctls {
        let Some(name) = name.strip_prefix("net.ipv4.vs.") else {
            continue;
        };
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let is_number = value.parse::<u32>().is_ok();
        text += &if is_number {
            format!("{name} = {value}\n")
        } else {
            format!("{name} = {value:?}\n")
        };
    }
    for rule in setup.marks()?.rules() {
        text += &mark(rule);
    }
    for (number, device) in DEVICES.into_iter().enumerate() {
        text += &format!(
            "[[device]]\nname = {device:?}\nmac = \"02:00:00:00:00:0{}\"\npromiscuous = true\n\
             dpdk = {:?}\n",
            number + 1,
            driver(number)
        );
    }
    Ok(text)
}

fn mark(rule: &MarkRule) -> String {
    let mut text = format!("[[mark]]\nmark = {}\n", rule.mark);
    let protocol = match rule.protocol {
        Some(6) => "tcp",
        Some(17) => "udp",
        Some(132) => "sctp",
        Some(1 | 58) => "icmp",
        _ => "",
    };
    let prefix = |net: &Option<IpNet>| net.map(|net| net.to_string()).unwrap_or_default();
    text += &format!(
        "protocol = {protocol:?}\nsource = {:?}\ndestination = {:?}\n",
        prefix(&rule.source),
        prefix(&rule.destination)
    );
    let ranges = |all: &[std::ops::RangeInclusive<u16>]| {
        let one = |range: &std::ops::RangeInclusive<u16>| format!("\"{}-{}\"", range.start(), range.end());
        all.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    text += &format!(
        "source_ports = [{}]\ndestination_ports = [{}]\n",
        ranges(&rule.source_ports),
        ranges(&rule.destination_ports)
    );
    if let Some(device) = rule.device {
        text += &format!("device = {:?}\n", DEVICES[usize::from(device.0)]);
    }
    text
}

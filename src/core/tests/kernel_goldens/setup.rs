//! What a recording's set-up commands mean for the director: its network, and its classifier.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use lvs_core::ipvs::mark::{MarkRule, MarkRules};
use lvs_core::l3::{DeviceId, IcmpPauses, Interface, L3, L3Builder, NeighbourKey, NeighbourState, RouteKind};

const DIRECTOR_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const DEVICES: [&str; 2] = ["eth0", "eth1"];

/// See the module.
#[derive(Default)]
pub struct Setup {
    mtus: Vec<(String, u16)>,
    routes: Vec<(IpNet, RouteKind)>,
    forgotten: Vec<IpAddr>,
    removed: Vec<IpNet>,
    added: Vec<(DeviceId, IpNet)>,
    /// Neighbours that answered.
    learned: Vec<(NeighbourKey, [u8; 6])>,
    accepts_local: bool,
    icmp_pauses: IcmpPauses,
    generation: u32,
    /// In the order of iptables, where the last that matches decides.
    marks: Vec<MarkRule>,
}

impl Setup {
    /// Reads set-up commands.
    ///
    /// # Errors
    /// The first that is not understood.
    pub fn read(commands: &[String]) -> Result<Self, String> {
        let mut setup = Self::default();
        commands.iter().try_for_each(|line| setup.run(line))?;
        Ok(setup)
    }

    /// Reads one line of commands.
    ///
    /// # Errors
    /// The first that is not understood.
    pub fn run(&mut self, line: &str) -> Result<(), String> {
        for command in line.split(';') {
            let mut words: Vec<&str> = command.split_whitespace().collect();
            // The family follows from the address.
            words.retain(|word| !matches!(*word, "-4" | "-6"));
            self.command(&words)
                .ok_or_else(|| format!("setup not understood: {command}"))?;
        }
        self.generation += 1;
        Ok(())
    }

    fn command(&mut self, words: &[&str]) -> Option<()> {
        match words {
            ["ip", "link", "set", device, "mtu", mtu] => self.mtus.push(((*device).to_owned(), mtu.parse().ok()?)),
            ["ip", "link", "set", _, "up"] | ["ethtool" | "true", ..] | [] => {}
            ["ip", "neigh", "del", addr, "dev", _] => self.forgotten.push(addr.parse().ok()?),
            ["ip", "neigh", "add" | "replace", addr, "lladdr", mac, "dev", device, ..] => {
                let (device, addr) = (device_of(device)?, addr.parse().ok()?);
                self.learn(NeighbourKey { device, vlan: 0, addr }, mac_of(mac)?);
            }
            ["ip", "addr" | "address", "add", addr, "dev", device, ..] => {
                let device = match *device {
                    "lo" => DeviceId(0),
                    device => device_of(device)?,
                };
                self.added.push((device, prefix_of(addr)?));
            }
            ["ip", "route", "add" | "replace", route @ ..] => self.routes.push(route_of(route)?),
            ["iptables" | "ip6tables", "-t", "mangle", "-A", "PREROUTING", rule @ ..] => {
                self.marks.push(mark_of(rule)?)
            }
            ["ip", "addr", "del", addr, "dev", _] => self.removed.push(prefix_of(addr)?),
            ["echo", value, ">", file] => {
                let name = file.strip_prefix("/proc/sys/")?.replace('/', ".");
                self.set_sysctl(&name, value);
            }
            // Those of IPVS are the director's.
            ["sysctl", "-w" | "-qw", settings @ ..] if !settings.iter().any(|one| one.starts_with("net.ipv4.vs.")) => {
                for (name, value) in settings.iter().filter_map(|setting| setting.split_once('=')) {
                    self.set_sysctl(name, value);
                }
            }
            ["modprobe", "crc32c_generic"] => {}
            ["modprobe", module] if module.starts_with("ip_vs_") => {}
            _ => return None,
        }
        Some(())
    }

    /// Whether the kernel takes packets from its own addresses on the real servers' side.
    pub const fn accepts_local(&self) -> bool {
        self.accepts_local
    }

    /// A setting of the kernel beside IPVS.
    pub fn set_sysctl(&mut self, name: &str, value: &str) {
        if ["net.ipv4.conf.eth1.accept_local", "net.ipv4.conf.all.accept_local"].contains(&name) {
            self.accepts_local = value != "0";
        }
        let pauses = &mut self.icmp_pauses;
        let pause = match name {
            "net.ipv4.icmp_ratelimit" => &mut pauses.v4_ms,
            "net.ipv6.icmp.ratelimit" => &mut pauses.v6_ms,
            _ => return,
        };
        *pause = value.parse().unwrap_or(*pause);
        self.generation += 1;
    }

    /// Records the MAC address that a neighbour announced.
    pub fn learn(&mut self, key: NeighbourKey, mac: [u8; 6]) {
        self.learned.push((key, mac));
        self.generation += 1;
    }

    /// The classifier.
    pub fn marks(&self) -> Result<MarkRules, String> {
        let mut rules: Vec<_> = Vec::new();
        for rule in self.marks.iter().rev() {
            // iptables may repeat a rule: the last one decides.
            if !rules.iter().any(|later| rule.has_conditions_of(later)) {
                rules.push(rule.clone());
            }
        }
        MarkRules::new(rules).map_err(|error| error.to_string())
    }

    fn mtu(&self, device: &str) -> u16 {
        let set = self.mtus.iter().rev().find(|(name, _)| name == device);
        set.map_or(1_500, |(_, mtu)| *mtu)
    }

    /// The network that all recordings were made in.
    pub fn network(&self) -> L3 {
        let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
        let mut builder = L3Builder::new();
        for (index, name) in ["eth0", "eth1"].into_iter().enumerate() {
            builder.interface(Interface {
                device: DeviceId(index as u8),
                vlan: 0,
                name: name.to_owned(),
                mac: DIRECTOR_MACS[index],
                mtu: self.mtu(name),
                addresses: Vec::new(),
            });
        }
        let (client, rs) = (DeviceId(0), DeviceId(1));
        for (device, address) in [
            (client, "10.0.0.1/24"),
            (client, "fd00:a::1/64"),
            (rs, "10.1.0.1/24"),
            (rs, "fd00:b::1/64"),
        ] {
            builder.connected(device, 0, net(address));
        }
        for vip in [net("10.0.0.100/32"), net("fd00:a::100/128")] {
            if !self.removed.contains(&vip) {
                builder.address(client, 0, vip);
            }
        }
        for (device, address) in &self.added {
            builder.connected(*device, 0, *address);
        }
        builder.route(net("127.0.0.0/8"), RouteKind::Local);
        for broadcast in ["10.0.0.255/32", "10.1.0.255/32"] {
            builder.local_route(net(broadcast), RouteKind::Broadcast);
        }
        for (prefix, gateway) in [("0.0.0.0/0", "10.0.0.254"), ("::/0", "fd00:a::fe")] {
            let gateway = Some(gateway.parse::<IpAddr>().expect("an address"));
            builder.route(
                net(prefix),
                RouteKind::Via {
                    device: client,
                    vlan: 0,
                    gateway,
                    mtu: None,
                    source: None,
                },
            );
        }
        let mut neighbour = |device, addr: String, mac: [u8; 6]| {
            let addr: IpAddr = addr.parse().expect("an address");
            if !self.forgotten.contains(&addr) {
                builder.neighbour(NeighbourKey { device, vlan: 0, addr }, NeighbourState::Resolved(mac));
            }
        };
        for n in 2..10_u8 {
            neighbour(client, format!("10.0.0.{n}"), [2, 0, 0, 0, 1, n]);
            neighbour(client, format!("fd00:a::{n}"), [2, 0, 0, 0, 1, n]);
        }
        neighbour(client, "10.0.0.254".into(), [2, 0, 0, 0, 1, 0xFE]);
        neighbour(client, "fd00:a::fe".into(), [2, 0, 0, 0, 1, 0xFE]);
        for n in 11..20_u8 {
            neighbour(rs, format!("10.1.0.{n}"), [2, 0, 0, 0, 2, n]);
            neighbour(rs, format!("fd00:b::{n}"), [2, 0, 0, 0, 2, n]);
        }
        for (key, mac) in &self.learned {
            builder.neighbour(*key, NeighbourState::Resolved(*mac));
        }
        for (prefix, kind) in &self.routes {
            match kind {
                RouteKind::Local => builder.local_route(*prefix, *kind),
                _ => builder.route(*prefix, *kind),
            };
        }
        let mut l3 = builder.build(self.generation);
        l3.icmp_pauses = self.icmp_pauses;
        l3
    }
}

fn device_of(name: &str) -> Option<DeviceId> {
    let index = DEVICES.iter().position(|device| *device == name)?;
    Some(DeviceId(index as u8))
}

fn mac_of(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

fn prefix_of(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| Some(IpNet::from(text.parse::<IpAddr>().ok()?)))
}

fn route_of(words: &[&str]) -> Option<(IpNet, RouteKind)> {
    let (prefix, kind) = match words {
        ["local", prefix, "dev", "lo"] => (prefix, RouteKind::Local),
        ["unreachable" | "prohibit", prefix] => (prefix, RouteKind::Unreachable),
        ["blackhole", prefix] => (prefix, RouteKind::Blackhole),
        [prefix, "dev", device] => {
            let kind = RouteKind::Via {
                device: device_of(device)?,
                vlan: 0,
                gateway: None,
                mtu: None,
                source: None,
            };
            (prefix, kind)
        }
        [prefix, "via", gateway, options @ ..] => {
            let option = |name: &str| options.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
            let gateway: IpAddr = gateway.parse().ok()?;
            let device = match option("dev") {
                Some(name) => device_of(name)?,
                None if gateway.to_string().starts_with("10.1.") => DeviceId(1),
                None => DeviceId(0),
            };
            let kind = RouteKind::Via {
                device,
                vlan: 0,
                gateway: Some(gateway),
                mtu: option("mtu").and_then(|mtu| mtu.parse().ok()),
                source: None,
            };
            (prefix, kind)
        }
        _ => return None,
    };
    Some((prefix_of(prefix)?, kind))
}

/// `-d 10.0.0.100 -p tcp -m multiport --dports 80,443 -j MARK --set-mark 66`.
fn mark_of(words: &[&str]) -> Option<MarkRule> {
    let mut rule = MarkRule::default();
    for option in words.chunks(2) {
        let &[name, value] = option else {
            return None;
        };
        match (name, value) {
            ("-d", prefix) => rule.destination = Some(prefix_of(prefix)?),
            ("-s", prefix) => rule.source = Some(prefix_of(prefix)?),
            ("-i", device) => rule.device = Some(device_of(device)?),
            ("-p", protocol) => rule.protocol = Some(protocol_number(protocol)?),
            ("--dport" | "--dports", ports) => rule.destination_ports = ranges_of(ports)?,
            ("--sport" | "--sports", ports) => rule.source_ports = ranges_of(ports)?,
            ("-m", "multiport" | "tcp" | "udp") | ("-j", "MARK") => {}
            ("--set-mark", mark) => rule.mark = mark.parse().ok()?,
            _ => return None,
        }
    }
    Some(rule)
}

fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmpv6" | "ipv6-icmp" => Some(58),
        "sctp" => Some(132),
        _ => None,
    }
}

fn ranges_of(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let range = |text: &str| {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.split(',').map(range).collect()
}

//! What a recording's set-up commands mean for the director: its network, and its classifier.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use lvs_core::ipvs::mark::{MarkRule, MarkRules};
use lvs_core::l3::{DeviceId, IcmpPauses, L3, NeighbourKey};

// Where this file is shared by path, its folder is not the one beside the including file.
#[path = "setup/network.rs"]
mod network;

use network::Network;

use crate::stack_words::StackWords;

const DEVICES: [&str; 2] = ["eth0", "eth1"];

/// See the module.
#[derive(Default)]
pub struct Setup {
    network: Network,
    accepts_local: bool,
    /// The module is there.
    has_vlans: bool,
    icmp_pauses: IcmpPauses,
    stack: StackWords,
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
            let words: Vec<&str> = command.split_whitespace().collect();
            self.command(&words)
                .ok_or_else(|| format!("setup not understood: {command}"))?;
        }
        self.generation += 1;
        Ok(())
    }

    fn command(&mut self, words: &[&str]) -> Option<()> {
        match words {
            ["ethtool" | "true", ..] | [] => {}
            ["ip", rest @ ..] => {
                self.has_vlans |= rest.contains(&"vlan");
                self.network.command(rest)?;
            }
            ["modprobe", "8021q"] => self.has_vlans = true,
            ["iptables" | "ip6tables", "-t", "mangle", "-A", "PREROUTING", rule @ ..] => {
                self.marks.push(mark_of(rule)?);
            }
            ["echo", value, ">", file] => {
                let name = file.strip_prefix("/proc/sys/")?.replace('/', ".");
                if name.starts_with("net.ipv4.vs.") {
                    return None;
                }
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

    /// Whether the machine's NICs let a frame in. Without its VLAN module the kernel has not asked them for priority
    /// tags, and qemu's filter by VLANs.
    pub fn is_let_in(&self, frame: &[u8]) -> bool {
        self.has_vlans || !matches!(frame.get(12..16), Some([0x81, 0, high, 0]) if high & 0x0F == 0)
    }

    /// A setting of the kernel beside IPVS.
    pub fn set_sysctl(&mut self, name: &str, value: &str) {
        if self.stack.set(name, value) {
            self.generation += 1;
            return;
        }
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
        self.network.learn(key, mac);
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

    /// The network of the recording.
    pub fn network(&self) -> L3 {
        let mut l3 = self.network.build(self.generation);
        l3.icmp_pauses = self.icmp_pauses;
        l3.set_stack(self.stack.stack(&l3));
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

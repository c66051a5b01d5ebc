//! The kernel's network as `ip` changes it: links, addresses, routes, rules, nexthop objects, neighbours.
//!
//! In:  the words of an `ip` command. Out: `None` for words that are not known; the network as the director mirrors it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use lvs_core::l3::fib::{
    Decision, Fib, NexthopObject, Objects, Path, Placement, RouteAction, RouteEntry, RouteQuery, Rule, RuleAction,
    TABLE_LOCAL, TABLE_MAIN, Target,
};
use lvs_core::l3::{DeviceId, Interface, InterfaceId, L3, L3Builder, NeighbourKey, NeighbourState};

use super::{mac_of, prefix_of};
use words::{is_meant, leg, number_of, option, path_interfaces, plain, table_of};

#[path = "words.rs"]
mod words;

/// An interface.
#[derive(Clone)]
struct Link {
    name: String,
    id: InterfaceId,
    mac: [u8; 6],
    mtu: u16,
    is_up: bool,
    /// Its device, VLAN, and whether it is a macvlan; `None` for one that leads nowhere.
    standing: Option<(DeviceId, u16, bool)>,
    addresses: Vec<IpNet>,
}

/// See the module.
#[derive(Clone)]
pub struct Network {
    links: Vec<Link>,
    fib: Fib,
    rules: [Vec<Rule>; 2],
    neighbours: Vec<(NeighbourKey, [u8; 6])>,
}

impl Default for Network {
    fn default() -> Self {
        let mut network = Self {
            links: Vec::new(),
            fib: Fib::default(),
            rules: [Fib::default_rules(true), Fib::default_rules(false)],
            neighbours: Vec::new(),
        };
        network.add_link("lo", InterfaceId::LOOPBACK, [0; 6], None);
        for (number, name) in ["eth0", "eth1"].into_iter().enumerate() {
            let device = DeviceId(number as u8);
            let mac = [2, 0, 0, 0, 0, number as u8 + 1];
            network.add_link(name, InterfaceId::of(device, 0), mac, Some((device, 0, false)));
        }
        network.links.iter_mut().for_each(|link| link.is_up = true);
        for line in [
            "route add local 127.0.0.0/8 dev lo table local",
            "addr add 10.0.0.1/24 dev eth0",
            "addr add fd00:a::1/64 dev eth0",
            "addr add 10.1.0.1/24 dev eth1",
            "addr add fd00:b::1/64 dev eth1",
            "addr add 10.0.0.100/32 dev eth0",
            "addr add fd00:a::100/128 dev eth0",
            "route add default via 10.0.0.254",
            "-6 route add default via fd00:a::fe",
        ] {
            network.say(line);
        }
        for (net, device, hosts) in [(0, "eth0", 2..10_u8), (1, "eth1", 11..20)] {
            let prefix = ["fd00:a::", "fd00:b::"][net];
            for n in hosts {
                network.say(&format!(
                    "neigh add 10.{net}.0.{n} lladdr 02:00:00:00:0{}:{n:02x} dev {device}",
                    net + 1
                ));
                network.say(&format!(
                    "neigh add {prefix}{n} lladdr 02:00:00:00:0{}:{n:02x} dev {device}",
                    net + 1
                ));
            }
        }
        network.say("neigh add 10.0.0.254 lladdr 02:00:00:00:01:fe dev eth0");
        network.say("neigh add fd00:a::fe lladdr 02:00:00:00:01:fe dev eth0");
        network
    }
}

impl Network {
    fn say(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.command(&words)
            .unwrap_or_else(|| panic!("not understood: ip {line}"));
    }

    /// The words behind `ip`.
    pub fn command(&mut self, words: &[&str]) -> Option<()> {
        let is_v6 = words.contains(&"-6");
        let words: Vec<&str> = words
            .iter()
            .copied()
            .filter(|word| !matches!(*word, "-4" | "-6"))
            .collect();
        match &words[..] {
            ["link", "add", rest @ ..] => self.link_add(rest),
            ["link", "del" | "delete", name] | ["link", "del" | "delete", "dev", name] => self.link_del(name),
            ["link", "set", "dev", name, rest @ ..] | ["link", "set", name, rest @ ..] => self.link_set(name, rest),
            ["addr" | "address", "add" | "replace", addr, "dev", name, ..] => self.addr_add(prefix_of(addr)?, name),
            ["addr" | "address", "del", addr, "dev", name, ..] => self.addr_del(prefix_of(addr)?, name),
            ["neigh", "del", addr, "dev", _] => {
                let addr: IpAddr = addr.parse().ok()?;
                self.neighbours.retain(|(key, _)| key.addr != addr);
                Some(())
            }
            ["neigh", "add" | "replace", addr, "lladdr", mac, "dev", name, ..] => {
                let (link, addr) = (self.link(name)?, addr.parse().ok()?);
                let key = NeighbourKey {
                    device: link.standing.map_or(DeviceId(0), |standing| standing.0),
                    interface: link.id,
                    addr,
                };
                self.learn(key, mac_of(mac)?);
                Some(())
            }
            ["route", verb, rest @ ..] => self.route(verb, rest, is_v6),
            ["rule", verb, rest @ ..] => self.rule(verb, rest, is_v6),
            ["nexthop", verb, "id", id, rest @ ..] => self.nexthop(verb, id.parse().ok()?, rest),
            _ => None,
        }
    }

    /// A neighbour has answered with its MAC address.
    pub fn learn(&mut self, key: NeighbourKey, mac: [u8; 6]) {
        self.neighbours.push((key, mac));
    }

    fn add_link(&mut self, name: &str, id: InterfaceId, mac: [u8; 6], standing: Option<(DeviceId, u16, bool)>) {
        self.links.push(Link {
            name: name.to_owned(),
            id,
            mac,
            mtu: 1_500,
            is_up: false,
            standing,
            addresses: Vec::new(),
        });
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    fn link_mut(&mut self, name: &str) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.name == name)
    }

    /// `NAME type dummy`, `link DEV name NAME [address MAC] type vlan id N | macvlan mode …`.
    fn link_add(&mut self, words: &[&str]) -> Option<()> {
        let id = InterfaceId(100 + self.links.len() as u32);
        let name = option(words, "name").or_else(|| words.first().copied())?;
        match option(words, "type")? {
            "dummy" | "bridge" => self.add_link(name, id, [2, 0, 0, 0, 0xDD, 1], None),
            "vlan" => {
                let below = self.link(option(words, "link")?)?;
                let (device, _, is_macvlan) = below.standing?;
                let mac = option(words, "address").map_or(Some(below.mac), mac_of)?;
                self.add_link(
                    name,
                    id,
                    mac,
                    Some((device, option(words, "id")?.parse().ok()?, is_macvlan)),
                );
            }
            "macvlan" => {
                let (device, vlan, _) = self.link(option(words, "link")?)?.standing?;
                let mac = option(words, "address").map_or(Some([2, 0, 0, 0, 0xDD, 2]), mac_of)?;
                self.add_link(name, id, mac, Some((device, vlan, true)));
            }
            _ => return None,
        }
        self.name_interfaces();
        Some(())
    }

    fn link_del(&mut self, name: &str) -> Option<()> {
        self.link_set(name, &["down"])?;
        let id = self.link(name)?.id;
        self.drop_routes(|entry| path_interfaces(entry).contains(&id));
        self.links.retain(|link| link.name != name);
        self.name_interfaces();
        Some(())
    }

    fn link_set(&mut self, name: &str, words: &[&str]) -> Option<()> {
        let link = self.link_mut(name)?;
        match words {
            ["up"] => {
                link.is_up = true;
                let (id, addresses) = (link.id, link.addresses.clone());
                self.set_dead(id, false);
                addresses.into_iter().for_each(|address| self.connect(id, address));
            }
            ["down"] => {
                link.is_up = false;
                let id = link.id;
                // The addresses stay local.
                self.drop_routes(|entry| entry.action == RouteAction::Forward && path_interfaces(entry) == [id]);
                self.set_dead(id, true);
            }
            ["mtu", mtu] => link.mtu = mtu.parse().ok()?,
            ["address", mac] => link.mac = mac_of(mac)?,
            [first, rest @ ..] if !rest.is_empty() && matches!(*first, "up" | "down") => {
                self.link_set(name, &[first])?;
                self.link_set(name, rest)?;
            }
            _ => return None,
        }
        Some(())
    }

    fn addr_add(&mut self, net: IpNet, name: &str) -> Option<()> {
        let link = self.link_mut(name)?;
        link.addresses.push(net);
        let (id, is_up) = (link.id, link.is_up);
        let local = RouteEntry {
            leg: leg(Target::Paths(Box::new([Path::new(id, None)])), None, None),
            ..plain(RouteAction::Local, 0)
        };
        self.fib
            .add(TABLE_LOCAL, IpNet::from(net.addr()), local, Placement::Last);
        if is_up {
            self.connect(id, net);
        }
        Some(())
    }

    /// The routes of an address on a link that is up.
    fn connect(&mut self, id: InterfaceId, net: IpNet) {
        if net.prefix_len() == net.max_prefix_len() {
            return;
        }
        let target = Target::Paths(Box::new([Path::new(id, None)]));
        let (metric, source) = match net {
            IpNet::V4(v4) => {
                let broadcast = RouteEntry {
                    leg: leg(target.clone(), None, None),
                    ..plain(RouteAction::Broadcast, 0)
                };
                let addr = IpNet::from(IpAddr::from(v4.broadcast()));
                self.fib.add(TABLE_LOCAL, addr, broadcast, Placement::Last);
                (0, Some(net.addr()))
            }
            IpNet::V6(_) => (256, None),
        };
        let entry = RouteEntry {
            leg: leg(target, None, source),
            ..plain(RouteAction::Forward, metric)
        };
        self.fib.change(TABLE_MAIN, net.trunc(), |routes| {
            if !routes.contains(&entry) {
                lvs_core::l3::fib::insert(routes, entry, Placement::Last);
            }
        });
    }

    fn addr_del(&mut self, net: IpNet, name: &str) -> Option<()> {
        let link = self.link_mut(name)?;
        let position = link.addresses.iter().position(|known| known.addr() == net.addr())?;
        let net = link.addresses.remove(position);
        let id = link.id;
        // The first address of a network takes those that came after it with it (`promote_secondaries` is off).
        let is_first = !link.addresses[..position]
            .iter()
            .any(|known| known.trunc() == net.trunc());
        let mut followers = link.addresses[position..].iter().copied();
        let follower = followers.find(|known| is_first && net.addr().is_ipv4() && known.trunc() == net.trunc());
        let is_of_link = |entry: &RouteEntry| path_interfaces(entry) == [id];
        self.fib.change(TABLE_LOCAL, IpNet::from(net.addr()), |routes| {
            routes.retain(|entry| !is_of_link(entry))
        });
        let addr = net.addr();
        self.drop_routes(|entry| entry.leg.source == Some(addr));
        follower.map_or(Some(()), |follower| self.addr_del(follower, name))
    }

    fn drop_routes(&mut self, is_lost: impl Fn(&RouteEntry) -> bool) {
        let mut lost = Vec::new();
        self.fib.for_each(|table, prefix, entry| {
            if is_lost(entry) {
                lost.push((table, prefix));
            }
        });
        for (table, prefix) in lost {
            self.fib
                .change(table, prefix, |routes| routes.retain(|entry| !is_lost(entry)));
        }
    }

    fn set_dead(&mut self, id: InterfaceId, is_dead: bool) {
        let mut found = Vec::new();
        self.fib.for_each(|table, prefix, entry| {
            if path_interfaces(entry).contains(&id) {
                found.push((table, prefix));
            }
        });
        for (table, prefix) in found {
            self.fib.change(table, prefix, |routes| {
                for entry in routes.iter_mut() {
                    let mut leg = (*entry.leg).clone();
                    if let Target::Paths(paths) = &mut leg.target {
                        let of_link = paths.iter_mut().filter(|path| path.interface == id);
                        of_link.for_each(|path| path.is_dead = is_dead);
                        entry.leg = Arc::new(leg);
                    }
                }
            });
        }
        if is_dead {
            let objects = self.fib.objects().iter();
            let lost: Vec<u32> = objects
                .filter(|(_, object)| matches!(object, NexthopObject::Path(path) if path.interface == id))
                .map(|(id, _)| *id)
                .collect();
            lost.into_iter().for_each(|id| self.forget_object(id));
        }
    }

    /// The route that the words describe: table, prefix, entry.
    fn described(&self, words: &[&str], is_v6: bool) -> Option<(u32, IpNet, RouteEntry)> {
        let (action, words) = match words {
            ["unicast", rest @ ..] => (RouteAction::Forward, rest),
            ["local", rest @ ..] => (RouteAction::Local, rest),
            ["unreachable", rest @ ..] => (RouteAction::Unreachable, rest),
            ["prohibit", rest @ ..] => (RouteAction::Prohibit, rest),
            ["blackhole", rest @ ..] => (RouteAction::Blackhole, rest),
            ["throw", rest @ ..] => (RouteAction::Throw, rest),
            rest => (RouteAction::Forward, rest),
        };
        let (prefix, words) = words.split_first()?;
        let prefix = match *prefix {
            "default" if is_v6 => "::/0".parse().ok()?,
            "default" => "0.0.0.0/0".parse().ok()?,
            prefix => prefix_of(prefix)?,
        };
        let is_v6 = prefix.addr().is_ipv6();
        let (first, legs) = match words.iter().position(|word| *word == "nexthop") {
            Some(position) => words.split_at(position),
            None => (words, &[][..]),
        };
        let target = if let Some(id) = option(first, "nhid") {
            Target::Object(id.parse().ok()?)
        } else if legs.is_empty() {
            self.path(first)
                .map_or(Target::Nowhere, |path| Target::Paths(Box::new([path])))
        } else {
            let legs = legs.split(|word| *word == "nexthop").filter(|leg| !leg.is_empty());
            Target::Paths(legs.map(|leg| self.path(leg)).collect::<Option<_>>()?)
        };
        let mtu = option(first, "mtu").map(|mtu| {
            if mtu == "lock" {
                option(first, "lock").unwrap_or("0")
            } else {
                mtu
            }
        });
        let source = option(first, "src").map(|addr| addr.parse().ok());
        let metric =
            option(first, "metric").map_or(Some(if is_v6 { 1_024 } else { 0 }), |metric| metric.parse().ok())?;
        let table = match action {
            RouteAction::Local => TABLE_LOCAL,
            _ => TABLE_MAIN,
        };
        let table = option(first, "table").map_or(Some(table), table_of)?;
        let entry = RouteEntry {
            tos: option(first, "tos").map_or(Some(0), number_of)? as u8,
            leg: leg(target, mtu.and_then(|mtu| mtu.parse().ok()), source.flatten()),
            ..plain(action, metric)
        };
        Some((table, prefix, entry))
    }

    /// `via 10.1.0.21 dev eth1 weight 2`: the device follows from the gateway.
    fn path(&self, words: &[&str]) -> Option<Path> {
        let gateway = match option(words, "via") {
            Some("inet6" | "inet") => option(words, "inet6").or_else(|| option(words, "inet")),
            gateway => gateway,
        };
        let gateway: Option<IpAddr> = match gateway {
            Some(gateway) => Some(gateway.parse().ok()?),
            None => None,
        };
        let interface = match (option(words, "dev"), gateway) {
            (Some(name), _) => self.link(name)?.id,
            (None, Some(gateway)) => match self.fib.lookup(&RouteQuery::output(gateway), |_| true) {
                Decision::Forward { path, .. } => path.interface,
                _ => return None,
            },
            (None, None) => return None,
        };
        let mut path = Path::new(interface, gateway);
        path.weight = option(words, "weight").map_or(Some(1), |weight| weight.parse().ok())?;
        path.is_dead = self.links.iter().any(|link| link.id == interface && !link.is_up);
        Some(path)
    }

    fn route(&mut self, verb: &str, words: &[&str], is_v6: bool) -> Option<()> {
        if let ("flush", ["table", name]) = (verb, words) {
            let id = table_of(name)?;
            let mut found = Vec::new();
            self.fib
                .for_each(|known, prefix, _| found.extend((known == id).then_some(prefix)));
            found
                .into_iter()
                .for_each(|prefix| self.fib.change(id, prefix, Vec::clear));
            return Some(());
        }
        let (table, prefix, entry) = self.described(words, is_v6)?;
        let placement = match verb {
            "add" | "append" => Placement::Last,
            "prepend" => Placement::First,
            "replace" | "change" => Placement::Replace,
            "del" | "delete" => {
                let has_metric = option(words, "metric").is_some();
                self.fib.change(table, prefix, |routes| {
                    let position = routes.iter().position(|known| is_meant(known, &entry, has_metric));
                    position.map(|position| routes.remove(position));
                });
                return Some(());
            }
            _ => return None,
        };
        self.fib.add(table, prefix, entry, placement);
        Some(())
    }

    fn rule(&mut self, verb: &str, words: &[&str], is_v6: bool) -> Option<()> {
        let has_v6_prefix = words.iter().any(|word| word.contains(':'));
        let family = usize::from(is_v6 || has_v6_prefix);
        let rule = self.rule_of(words, family)?;
        let has_preference = ["pref", "priority", "preference", "order"]
            .iter()
            .any(|name| words.contains(name));
        let rules = &mut self.rules[family];
        match verb {
            "add" => {
                let position = rules.iter().position(|known| known.priority > rule.priority);
                rules.insert(position.unwrap_or(rules.len()), rule);
            }
            "del" | "delete" => {
                let is_meant = |known: &Rule| {
                    let is_there = !has_preference || known.priority == rule.priority;
                    let is_bare = words.len() == 2 && has_preference;
                    let same = || {
                        (known.from, known.to, known.iif, known.mark) == (rule.from, rule.to, rule.iif, rule.mark)
                            && (rule.action == RuleAction::Table(TABLE_MAIN) || known.action == rule.action)
                    };
                    is_there && (is_bare || same())
                };
                let position = rules.iter().position(is_meant)?;
                rules.remove(position);
            }
            _ => return None,
        }
        self.name_interfaces();
        Some(())
    }

    fn rule_of(&self, words: &[&str], family: usize) -> Option<Rule> {
        let first_own = self.rules[family]
            .iter()
            .map(|rule| rule.priority)
            .find(|priority| *priority > 0);
        let mut rule = Rule::new(first_own.unwrap_or(32_766) - 1, RuleAction::Table(TABLE_MAIN));
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            match *word {
                "not" => rule.is_inverted = true,
                "unreachable" => rule.action = RuleAction::Unreachable,
                "prohibit" => rule.action = RuleAction::Prohibit,
                "blackhole" => rule.action = RuleAction::Blackhole,
                "nop" => rule.action = RuleAction::Nop,
                name => {
                    let value = *rest.next()?;
                    match name {
                        "from" | "to" if value == "all" => {}
                        "from" => rule.from = Some(prefix_of(value)?),
                        "to" => rule.to = Some(prefix_of(value)?),
                        "iif" => rule.iif = Some(self.link(value).map_or(InterfaceId::NONE, |link| link.id)),
                        "oif" => rule.has_oif = true,
                        "fwmark" => {
                            let (mark, mask) = value.split_once('/').unwrap_or((value, "0xffffffff"));
                            rule.mark = (number_of(mark)?, number_of(mask)?);
                        }
                        "tos" | "dsfield" => rule.tos = number_of(value)? as u8,
                        "ipproto" => rule.protocol = Some(super::protocol_number(value)?),
                        "sport" => rule.src_ports = super::ranges_of(&value.replace('-', ":"))?.pop(),
                        "dport" => rule.dst_ports = super::ranges_of(&value.replace('-', ":"))?.pop(),
                        "suppress_prefixlength" => rule.suppress_prefix_len = value.parse().ok(),
                        "lookup" | "table" => rule.action = RuleAction::Table(table_of(value)?),
                        "goto" => rule.action = RuleAction::Goto(value.parse().ok()?),
                        "pref" | "priority" | "preference" | "order" => rule.priority = value.parse().ok()?,
                        _ => return None,
                    }
                }
            }
        }
        Some(rule)
    }

    fn name_interfaces(&mut self) {
        self.fib.set_rules(true, self.rules[0].clone());
        self.fib.set_rules(false, self.rules[1].clone());
    }

    fn nexthop(&mut self, verb: &str, id: u32, words: &[&str]) -> Option<()> {
        let object = match (verb, words) {
            ("del" | "delete", _) => {
                self.forget_object(id);
                return Some(());
            }
            ("add" | "replace", ["blackhole"]) => NexthopObject::Blackhole,
            ("add" | "replace", ["group", members, ..]) => {
                let member = |text: &str| {
                    let (id, weight) = text.split_once(',').unwrap_or((text, "1"));
                    Some((id.parse().ok()?, weight.parse().ok()?))
                };
                NexthopObject::Group(members.split('/').map(member).collect::<Option<_>>()?)
            }
            ("add" | "replace", words) => NexthopObject::Path(self.path(words)?),
            _ => return None,
        };
        self.fib.set_object(id, object);
        Some(())
    }

    /// Routes to it go too, and groups without members.
    fn forget_object(&mut self, id: u32) {
        let mut objects: Objects = self.fib.objects().clone();
        objects.remove(&id);
        for object in objects.values_mut() {
            if let NexthopObject::Group(members) = object {
                members.retain(|(member, _)| *member != id);
            }
        }
        let is_empty = |object: &NexthopObject| matches!(object, NexthopObject::Group(members) if members.is_empty());
        let empty: Vec<u32> = objects
            .iter()
            .filter(|(_, object)| is_empty(object))
            .map(|(id, _)| *id)
            .collect();
        self.fib.set_objects(objects);
        self.drop_routes(|entry| entry.leg.target == Target::Object(id));
        empty.into_iter().for_each(|id| self.forget_object(id));
    }

    /// As the director mirrors it.
    pub fn build(&self, generation: u32) -> L3 {
        let mut builder = L3Builder::new();
        builder.fib(self.fib.clone());
        for link in &self.links {
            let Some((device, vlan, is_macvlan)) = link.standing else {
                continue;
            };
            let mut interface = Interface::new(device, vlan, link.mac, link.mtu, &link.name);
            (interface.id, interface.is_macvlan) = (link.id, is_macvlan);
            interface.addresses = link
                .addresses
                .iter()
                .map(|net| lvs_core::l3::InterfaceAddress {
                    net: *net,
                    global: true,
                })
                .collect();
            builder.interface(interface);
        }
        for (key, mac) in &self.neighbours {
            builder.neighbour(*key, NeighbourState::Resolved(*mac));
        }
        builder.build(generation)
    }
}

//! Random rules, tables, nexthop objects and questions: the mirror must answer as the kernel does (`ip route get … from
//! … mark … iif …`), and what it followed event by event must be what a listing shows.
//!
//! What cannot be compared: which of several equal paths the kernel's secret hash takes (any of them counts), and
//! packets from addresses that the kernel does not take from a wire.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lvs_core::l3::fib::{Decision, Fib, RouteQuery};
use lvs_core::l3::{DeviceId, InterfaceId};
use lvs_core::random::Random;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::listing::{self, Parts};
use super::network::Network;
use super::records::Change;
use super::watch::Watch;
use super::{MirroredTwin, Neighbours};
use crate::mgmt::namespace::{in_namespace, ip};

/// How many namespaces, and questions in each; `LVS_ROUTING_TABLES` says more, `LVS_ROUTING_SEED` which.
const TABLES: u64 = 40;
const QUESTIONS: u32 = 40;

/// Only a fault makes anybody wait that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tables about which the two once differed.
const ONCE_DIFFERENT: [u64; 5] = [159, 262, 707, 900, 1065];

const TAKEN: [&str; 3] = ["v0", "v1", "v2"];

struct Dice(Random);

impl Dice {
    fn below(&mut self, count: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(count)) >> 32) as u32
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u32) as usize]
    }

    /// Somewhere in few networks, so that prefixes and questions meet.
    fn v4(&mut self) -> Ipv4Addr {
        let (second, third, fourth) = (
            self.of(&[0, 1, 2, 16, 17]),
            self.of(&[0, 1, 128]),
            self.of(&[0, 1, 2, 9, 129]),
        );
        Ipv4Addr::new(10, second, third, fourth)
    }

    fn v6(&mut self) -> Ipv6Addr {
        let (third, fourth) = (self.of(&[0xa, 0xb, 0xc, 0x10, 0x11]), self.of(&[0, 1, 0x8000]));
        Ipv6Addr::new(0x2001, 0xdb8, third, fourth, 0, 0, 0, self.of(&[0, 1, 2, 9]))
    }

    fn prefix(&mut self, is_v4: bool) -> String {
        if self.one_in(8) {
            return "default".to_owned();
        }
        if is_v4 {
            let len = self.of(&[8, 12, 16, 17, 24, 25, 32]);
            let net = ipnet::Ipv4Net::new(self.v4(), len).unwrap().trunc();
            return net.to_string();
        }
        let len = self.of(&[32, 40, 48, 49, 64, 65, 128]);
        ipnet::Ipv6Net::new(self.v6(), len).unwrap().trunc().to_string()
    }

    fn gateway(&mut self, is_v4: bool) -> String {
        let net = self.below(3);
        let host = 3 + self.below(4);
        if is_v4 {
            format!("via 10.{net}.0.{host} dev v{net}")
        } else {
            format!("via 2001:db8:{:x}::{host} dev v{net}", 0xa + net)
        }
    }

    fn table(&mut self) -> &'static str {
        self.of(&["main", "main", "main", "5", "6", "7", "700", "local", "default"])
    }

    fn route(&mut self, is_v4: bool) -> String {
        let verb = self.of(&["add", "add", "add", "add", "append", "prepend", "replace", "del"]);
        let table = self.table();
        let mut line = format!("{} route {verb} ", if is_v4 { "-4" } else { "-6" });
        let prefix = self.prefix(is_v4);
        let mut legs = String::new();
        let kind = if table == "local" { 4 } else { self.below(16) };
        let _ = match kind {
            0 => write!(line, "unreachable {prefix}"),
            1 => write!(line, "prohibit {prefix}"),
            2 => write!(line, "blackhole {prefix}"),
            3 => write!(line, "throw {prefix}"),
            4 => write!(line, "local {prefix} dev lo"),
            5 => write!(line, "{prefix} nhid {}", self.of(&[1, 2, 3, 4, 5, 10, 11])),
            6 | 7 => {
                for _ in 0..2 + self.below(2) {
                    let _ = write!(legs, " nexthop {} weight {}", self.gateway(is_v4), 1 + self.below(5));
                }
                write!(line, "{prefix}")
            }
            8 => write!(line, "{prefix} dev {}", self.of(&TAKEN)),
            9 if is_v4 => write!(line, "{prefix} {} onlink", self.gateway(true)),
            10 if is_v4 => write!(line, "{prefix} {} src 10.{}.0.1", self.gateway(true), self.below(3)),
            11 if is_v4 => write!(line, "{prefix} via inet6 2001:db8:a::{} dev v0", 3 + self.below(4)),
            _ => write!(line, "{prefix} {}", self.gateway(is_v4)),
        };
        if self.one_in(3) {
            let _ = write!(line, " metric {}", 5 + self.below(3));
        }
        if is_v4 && self.one_in(6) {
            let _ = write!(line, " tos {}", self.of(&["0x10", "0x08"]));
        }
        if !is_v4 && self.one_in(6) {
            let from = self.prefix(false);
            let _ = write!(line, " from {from}");
        }
        let _ = write!(line, " table {table}{legs}");
        line
    }

    fn rule(&mut self, is_v4: bool) -> String {
        let mut line = format!("{} rule add ", if is_v4 { "-4" } else { "-6" });
        if self.one_in(8) {
            line += "not ";
        }
        if self.one_in(2) {
            let prefix = self.prefix(is_v4).replace("default", "all");
            let _ = write!(line, "from {prefix} ");
        }
        if self.one_in(3) {
            let prefix = self.prefix(is_v4).replace("default", "all");
            let _ = write!(line, "to {prefix} ");
        }
        let conditions = [
            "fwmark 1 ",
            "fwmark 2/3 ",
            "iif v0 ",
            "iif v1 ",
            "iif lo ",
            "iif nobody ",
            "oif v1 ",
            "ipproto tcp ",
            "ipproto udp dport 53 ",
            "sport 1000-2000 ",
            "tos 0x10 ",
            "uidrange 0-0 ",
            "uidrange 5-9 ",
        ];
        for _ in 0..self.below(3) {
            line += self.of(&conditions);
        }
        let preference = 1 + self.below(60);
        let _ = match self.below(12) {
            0 => write!(line, "unreachable"),
            1 => write!(line, "prohibit"),
            2 => write!(line, "blackhole"),
            3 => write!(line, "goto {}", preference + 1 + self.below(30)),
            4 => write!(line, "nop"),
            5 => write!(
                line,
                "lookup {} suppress_prefixlength {}",
                self.table(),
                self.of(&[0, 8, 16, 24])
            ),
            6 => write!(line, "lookup {} suppress_ifgroup 7", self.table()),
            _ => write!(line, "lookup {}", self.table()),
        };
        let _ = write!(line, " pref {preference}");
        line
    }

    fn commands(&mut self) -> String {
        let mut lines = Vec::new();
        for id in 1..4 {
            lines.push(format!("nexthop add id {id} {}", self.gateway(true)));
        }
        lines.push(format!("nexthop add id 4 {}", self.gateway(false)));
        lines.push("nexthop add id 5 blackhole".to_owned());
        lines.push("nexthop add id 10 group 1,3/2,1".to_owned());
        lines.push("nexthop add id 11 group 1/3,254".to_owned());
        // Now and then nobody touches the rules, of which the kernel takes notice.
        let rules = if self.one_in(4) { 0 } else { self.below(14) };
        for _ in 0..20 + self.below(30) {
            let is_v4 = !self.one_in(3);
            lines.push(self.route(is_v4));
        }
        for _ in 0..rules {
            let is_v4 = !self.one_in(3);
            lines.push(self.rule(is_v4));
        }
        match self.below(8) {
            0 => lines.push(format!("link set {} down", self.of(&TAKEN))),
            1 => lines.push("nexthop del id 1".to_owned()),
            2 => lines.push(format!("nexthop replace id 2 {}", self.gateway(true))),
            3 => lines.push(format!("addr del 10.{0}.0.1/24 dev v{0}", self.below(3))),
            4 => lines.push("link del v2".to_owned()),
            _ => {}
        }
        lines.join("\n")
    }

    fn question(&mut self) -> Question {
        let is_v4 = !self.one_in(3);
        let mut query = RouteQuery::output(if is_v4 { self.v4().into() } else { self.v6().into() });
        if self.one_in(2) {
            query.iif = InterfaceId(0);
            query.src = Some(if is_v4 { self.v4().into() } else { self.v6().into() });
        } else if self.one_in(2) {
            let net = self.below(3) as u16;
            query.src = Some(if is_v4 {
                Ipv4Addr::new(10, net as u8, 0, 1).into()
            } else {
                Ipv6Addr::new(0x2001, 0xdb8, 0xa + net, 0, 0, 0, 0, 1).into()
            });
        }
        query.mark = self.of(&[0, 0, 1, 2, 3, 6]);
        query.tos = if is_v4 { self.of(&[0, 0, 0x10, 0x08]) } else { 0 };
        if self.one_in(2) {
            query.protocol = self.of(&[6, 17]);
            query.ports = (self.of(&[1_000, 1_500, 40_000]), self.of(&[53, 80]));
        }
        Question {
            query,
            input: self.of(&["v0", "v1"]),
        }
    }
}

struct Question {
    query: RouteQuery,
    /// By which it came, if it came.
    input: &'static str,
}

/// What the kernel says: a kind of route or an error, and where it leads.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    kind: Result<RouteType, i32>,
    interface: InterfaceId,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
}

/// One question after the other.
struct Kernel(Socket);

impl Kernel {
    fn open() -> Self {
        let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
        socket.bind_auto().unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        Self(socket)
    }

    fn ask(&self, query: &RouteQuery) -> Answer {
        let address = |addr| match addr {
            IpAddr::V4(addr) => RouteAddress::Inet(addr),
            IpAddr::V6(addr) => RouteAddress::Inet6(addr),
        };
        let mut message = RouteMessage::default();
        let (family, len) = match query.dst {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.header.address_family = family;
        message.header.destination_prefix_length = len;
        message.header.tos = query.tos;
        message.attributes.push(RouteAttribute::Destination(address(query.dst)));
        if let Some(src) = query.src {
            message.header.source_prefix_length = len;
            message.attributes.push(RouteAttribute::Source(address(src)));
        }
        if query.iif != InterfaceId::LOOPBACK {
            message.attributes.push(RouteAttribute::Iif(query.iif.0));
        }
        if query.mark != 0 {
            message.attributes.push(RouteAttribute::Mark(query.mark));
        }
        // A packet from the wire counts as root's (`ip6_route_input`), a question about one as nobody's.
        message.attributes.push(RouteAttribute::Uid(0));
        if query.protocol != 0 {
            message.attributes.push(RouteAttribute::IpProto(query.protocol));
            message.attributes.push(RouteAttribute::Sport(query.ports.0));
            message.attributes.push(RouteAttribute::Dport(query.ports.1));
        }
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(message));
        request.header.flags = NLM_F_REQUEST;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0).unwrap();
        let (bytes, _) = self.0.recv_from_full().unwrap();
        answer_of(NetlinkMessage::deserialize(&bytes).unwrap().payload)
    }
}

fn answer_of(payload: NetlinkPayload<RouteNetlinkMessage>) -> Answer {
    let mut answer = Answer {
        kind: Err(0),
        interface: InterfaceId::NONE,
        gateway: None,
        source: None,
    };
    let route = match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => route,
        NetlinkPayload::Error(error) => {
            answer.kind = Err(-error.raw_code());
            return answer;
        }
        other => panic!("{other:?}"),
    };
    answer.kind = Ok(route.header.kind);
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => answer.interface = InterfaceId(index),
            RouteAttribute::Gateway(RouteAddress::Inet(addr)) | RouteAttribute::Via(RouteVia::Inet(addr)) => {
                answer.gateway = Some(addr.into());
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(addr)) | RouteAttribute::Via(RouteVia::Inet6(addr)) => {
                answer.gateway = Some(addr.into());
            }
            RouteAttribute::PrefSource(RouteAddress::Inet(addr)) => answer.source = Some(addr.into()),
            _ => {}
        }
    }
    answer
}

/// Whether the two agree.
fn agree(fib: &Fib, decision: &Decision<'_>, answer: &Answer) -> bool {
    match (decision, answer.kind) {
        (Decision::Forward { leg, .. }, Ok(RouteType::Unicast)) => fib
            .paths(leg)
            .any(|path| !path.is_dead && (path.interface, path.gateway) == (answer.interface, answer.gateway)),
        (Decision::Local, Ok(RouteType::Local)) => true,
        (Decision::Broadcast, Ok(RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast)) => true,
        // Which of the two IPv6 says depends on where the packet comes from.
        (Decision::NoRoute, Err(101))
        | (Decision::Unreachable, Ok(RouteType::Unreachable) | Err(101 | 113))
        | (Decision::Prohibit, Ok(RouteType::Prohibit) | Err(13))
        | (Decision::Blackhole, Ok(RouteType::BlackHole) | Err(22)) => true,
        _ => false,
    }
}

/// The commands in their order, each with its family (`-4`, `-6`) or without. How many the kernel refused.
fn batch(commands: &str) -> usize {
    let family = |line: &str| ["-4", "-6"].into_iter().find(|family| line.starts_with(family));
    let lines: Vec<&str> = commands.lines().collect();
    // `ip` takes the family for a whole batch only.
    let batches = lines.chunk_by(|one, next| family(one) == family(next));
    batches.map(|lines| batch_of(family(lines[0]), lines)).sum()
}

fn batch_of(family: Option<&str>, lines: &[&str]) -> usize {
    let mut child = Command::new("ip")
        .args(family)
        .args(["-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("iproute2 is installed");
    let mut stdin = child.stdin.take().unwrap();
    for line in lines {
        let line = line.trim_start_matches(family.unwrap_or_default());
        std::io::Write::write_all(&mut stdin, format!("{line}\n").as_bytes()).unwrap();
    }
    drop(stdin);
    let complaints = child.wait_with_output().unwrap().stderr;
    let complaints = String::from_utf8_lossy(&complaints);
    let is_misspelt = ["is unknown", "is wrong", "garbage", "not allowed", "is expected"]
        .iter()
        .any(|word| complaints.contains(word));
    assert!(!is_misspelt, "{complaints}{lines:?}");
    complaints
        .lines()
        .filter(|line| line.starts_with("Command failed"))
        .count()
}

fn lay() {
    let mut lines = String::new();
    for (net, name) in TAKEN.iter().enumerate() {
        let _ = writeln!(lines, "link add {name} type veth peer name w{net}");
        let _ = writeln!(lines, "link set w{net} up");
        let _ = writeln!(lines, "link set {name} up");
        let _ = writeln!(lines, "addr add 10.{net}.0.1/24 dev {name}");
        let _ = writeln!(lines, "-6 addr add 2001:db8:{:x}::1/64 dev {name} nodad", 0xa + net);
    }
    lines += "link set v1 group 7\n";
    for name in [
        "ipv4/conf/all/rp_filter",
        "ipv4/conf/default/rp_filter",
        "ipv6/conf/default/accept_dad",
    ] {
        std::fs::write(format!("/proc/sys/net/{name}"), "0").unwrap();
    }
    for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{name}"), "1").unwrap();
    }
    assert_eq!(batch(&lines), 0);
    for name in TAKEN {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").unwrap();
    }
    // The kernel finishes addresses and notices carriers later; the anycast routes are the last of it.
    let links = TAKEN.len() * 2;
    let deadline = Instant::now() + PATIENCE;
    while ip("-6 route show table local type anycast").lines().count() < links + TAKEN.len() {
        assert!(Instant::now() < deadline, "addresses are not finished");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn twins() -> Vec<MirroredTwin> {
    let twin = |(number, name): (usize, &&str)| MirroredTwin {
        device: DeviceId(number as u8),
        ifindex: nix::net::if_::if_nametoindex(*name).unwrap(),
        name: (*name).to_owned(),
    };
    TAKEN.iter().enumerate().map(twin).collect()
}

fn take_in(network: &mut Network, wanted: Parts) {
    let listing = listing::list(wanted, network.fib()).unwrap();
    if let Some(topology) = listing.topology {
        network.set_topology(topology);
    }
    if let Some(routes) = listing.routes {
        network.set_routes(routes);
    }
}

const ALL: Parts = Parts {
    topology: true,
    routes: true,
    neighbours: false,
};

/// Every route in its order.
fn listed(fib: &Fib) -> String {
    let mut text = String::new();
    fib.for_each(|table, prefix, route| {
        let _ = writeln!(text, "{table} {prefix} {route:?}");
    });
    text
}

/// The first line in which the two differ.
fn first_difference(followed: &str, listed: &str) -> String {
    let mut listed = listed.lines();
    let same = followed.lines().find_map(|line| {
        let other = listed.next();
        (other != Some(line)).then(|| format!("followed {line}\nlisted {other:?}"))
    });
    same.unwrap_or_else(|| format!("listed only {:?}", listed.next()))
}

/// Lays a network, changes it at random, and compares. How many questions could be compared.
fn one_table(seed: u64) -> u32 {
    let mut dice = Dice(Random::new(seed));
    lay();
    let twins = twins();
    let input = |name: &str| InterfaceId(twins.iter().find(|twin| twin.name == name).unwrap().ifindex);
    let mut followed = Network::new(&twins);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut watch = Watch::start().unwrap();
    take_in(&mut followed, ALL);
    let commands = dice.commands();
    let refused = batch(&commands);
    assert!(refused * 2 < commands.lines().count(), "{refused} of\n{commands}");
    assert_eq!(batch("link add end type bridge"), 0);
    runtime.block_on(async {
        let mut wanted = Parts::default();
        loop {
            let changes = watch.next().await;
            for change in &changes {
                wanted.add(followed.apply(change).wanted);
            }
            if changes
                .iter()
                .any(|change| matches!(change, Change::Link(link) if link.name == "end"))
            {
                break;
            }
        }
        take_in(&mut followed, wanted);
    });
    drop(watch);
    let mut fresh = Network::new(&twins);
    fresh.keep_history_of(&followed);
    take_in(&mut fresh, ALL);
    let (ours, theirs) = (listed(followed.fib()), listed(fresh.fib()));
    assert!(
        ours == theirs,
        "{seed}: {}\n{commands}",
        first_difference(&ours, &theirs)
    );
    let l3 = followed.build(&Neighbours::default(), 1);
    // IPv6 suppresses a group after its secret hash has chosen among equal paths (`fib6_rule_suppress`).
    let has_v6 = |word: &str| {
        commands
            .lines()
            .any(|line| line.starts_with("-6") && line.contains(word))
    };
    let is_secret_v6 = has_v6("suppress_ifgroup") && has_v6(" nexthop ");
    let kernel = Kernel::open();
    let mut compared = 0;
    for _ in 0..QUESTIONS {
        let Question { mut query, input: name } = dice.question();
        if query.iif != InterfaceId::LOOPBACK {
            query.iif = input(name);
        }
        let answer = kernel.ask(&query);
        if is_not_comparable(followed.fib(), &query, &answer) || is_secret_v6 && query.dst.is_ipv6() {
            continue;
        }
        let decision = l3.decide(&query);
        let case = || format!("{seed}: {query:?}\nkernel {answer:?}\nmirror {decision:?}\n{commands}");
        assert!(agree(followed.fib(), &decision, &answer), "{}", case());
        let normalised = query.normalised(l3.selectors(lvs_core::address::AddressFamily::of(&query.dst)));
        assert!(
            agree(followed.fib(), &l3.decide(&normalised), &answer),
            "{normalised:?} {}",
            case()
        );
        if let (Decision::Forward { path, .. }, None, true) = (decision, query.src, query.dst.is_ipv4())
            && path.interface == answer.interface
            && path.gateway == answer.gateway
        {
            assert_eq!(l3.source_of(&query), answer.source, "{}", case());
        }
        compared += 1;
    }
    compared
}

/// A source from which the kernel takes nothing, whatever the route.
fn is_not_comparable(fib: &Fib, query: &RouteQuery, answer: &Answer) -> bool {
    let Some(src) = query.src else {
        return false;
    };
    let mut back = RouteQuery::output(src);
    (back.src, back.iif) = (Some(query.dst), query.iif);
    let is_output = query.iif == InterfaceId::LOOPBACK;
    let is_from_wire = !is_output && src.is_ipv4();
    // IPv4 routes nothing from an address that it does not have, and takes nothing that is from one that it has.
    let is_own =
        matches!(fib.lookup(&back, |_| true), Decision::Local | Decision::Broadcast) || fib.local(src).is_some();
    is_from_wire && is_own || is_output && src.is_ipv4() && fib.local(src).is_none() || {
        // The reverse path may be refused (`fib_validate_source`): the kernel says EINVAL for it, and for blackholes.
        is_from_wire && answer.kind == Err(22)
    }
}

#[test]
fn the_mirror_answers_as_the_kernel_does() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let tables = setting("LVS_ROUTING_TABLES").unwrap_or(TABLES);
    let first = setting("LVS_ROUTING_SEED").unwrap_or(1);
    let compared = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    for seed in (first..first + tables).chain(ONCE_DIFFERENT) {
        let sum = std::sync::Arc::clone(&compared);
        in_namespace(move || {
            sum.fetch_add(one_table(seed), std::sync::atomic::Ordering::Relaxed);
        });
    }
    let compared = compared.load(std::sync::atomic::Ordering::Relaxed);
    println!("{compared} questions about {tables} tables");
    assert!(
        u64::from(compared) > tables * u64::from(QUESTIONS) * 3 / 5,
        "{compared}"
    );
}

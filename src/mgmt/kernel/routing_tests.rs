//! Random rules, tables, nexthop objects and questions: the mirror must answer as the kernel does (`ip route get … from
//! … mark … iif …`), and what it followed event by event must be what a listing shows.
//!
//! What cannot be compared: which of several equal paths the kernel's secret hash takes (any of them counts), packets
//! from addresses that the kernel does not take from a wire, and routes that the kernel lists but forgets to use. What
//! kinds of interfaces and routes the kernel was built without is left out, and said at the end.

mod dice;
mod extras;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lvs_core::l3::fib::{Decision, Fib, RouteQuery};
use lvs_core::l3::{DeviceId, InterfaceId};
use lvs_core::random::Random;
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use dice::{Dice, Question};
use extras::Extras;

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

/// What the kernel says: a kind of route or an error, and where it leads.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    kind: Result<RouteType, i32>,
    interface: InterfaceId,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    /// Whether the packet gets a header.
    has_header: bool,
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
        has_header: false,
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
            RouteAttribute::EncapType(_) => answer.has_header = true,
            _ => {}
        }
    }
    answer
}

/// Whether the two agree.
fn agree(fib: &Fib, decision: &Decision<'_>, answer: &Answer) -> bool {
    match (decision, answer.kind) {
        (Decision::Forward { leg, .. }, Ok(RouteType::Unicast)) if !answer.has_header => fib
            .paths(leg)
            .any(|path| !path.is_dead && (path.interface, path.gateway) == (answer.interface, answer.gateway)),
        (Decision::Unfollowed, Ok(RouteType::Unicast)) => answer.has_header,
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

fn lay(extras: Extras) {
    let mut lines = String::new();
    for (net, name) in TAKEN.iter().enumerate() {
        let _ = writeln!(lines, "link add {name} type veth peer name w{net}");
        let _ = writeln!(lines, "link set w{net} up");
        let _ = writeln!(lines, "link set {name} up");
    }
    lines += &extras.lay();
    for (net, name) in TAKEN.iter().enumerate() {
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
    let extras = extras.interfaces().map(|(_, name)| name);
    let interfaces: Vec<_> = TAKEN.into_iter().chain(extras).collect();
    for name in &interfaces {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").unwrap();
    }
    // The kernel finishes addresses and notices carriers later; the anycast routes are the last of it.
    let finished = TAKEN.len() + interfaces.len() * 2;
    let deadline = Instant::now() + PATIENCE;
    while ip("-6 route show table all type anycast").lines().count() < finished {
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
fn one_table(seed: u64, possible: Option<Extras>) -> u32 {
    let mut dice = Dice(Random::new(seed));
    let mut more = Dice(Random::new(!seed));
    let extras = possible.map(|possible| possible.some(&mut more)).unwrap_or_default();
    lay(extras);
    let twins = twins();
    let inputs = extras.inputs();
    let input = |name: &str| InterfaceId(nix::net::if_::if_nametoindex(name).unwrap());
    let inputs: Vec<_> = inputs.into_iter().map(|name| (name, input(name))).collect();
    let mut followed = Network::new(&twins);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut watch = Watch::start().unwrap();
    take_in(&mut followed, ALL);
    let mut commands = dice.commands();
    if possible.is_some() {
        commands = extras.mix_in(&mut more, commands);
    }
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
            let name = if more.one_in(2) { more.of(&inputs).0 } else { name };
            query.iif = inputs.iter().find(|input| input.0 == name).unwrap().1;
            query.vrf = l3.interface_of(query.iif).and_then(|interface| interface.vrf);
        }
        let answer = kernel.ask(&query);
        if is_not_comparable(followed.fib(), &query, &answer) || is_secret_v6 && query.dst.is_ipv6() {
            continue;
        }
        let decision = l3.decide(&query);
        if !agree(followed.fib(), &decision, &answer) && has_forgotten(followed.fib(), &query, &answer) {
            continue;
        }
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

/// Of a prefix that has routes for certain sources only, the kernel's lookups forget all when the one that came last is
/// deleted, until another comes. It goes on to list them, so nobody can see it (`fib6_purge_rt`). Whether the answer is
/// that of a kernel that has forgotten one such prefix, or all.
fn has_forgotten(fib: &Fib, query: &RouteQuery, answer: &Answer) -> bool {
    let (mut of_sources, mut of_all) = (BTreeSet::new(), BTreeSet::new());
    fib.for_each(|table, prefix, route| {
        if prefix.contains(&query.dst) {
            let set = if route.from.is_some() {
                &mut of_sources
            } else {
                &mut of_all
            };
            set.insert((table, prefix));
        }
    });
    let forgotten: Vec<_> = of_sources.difference(&of_all).copied().collect();
    let mut sets: Vec<&[_]> = forgotten.chunks(1).collect();
    sets.push(&forgotten);
    sets.into_iter().any(|set| {
        let mut fib = fib.clone();
        for &(table, prefix) in set {
            fib.change(table, prefix, Vec::clear);
        }
        agree(&fib, &fib.lookup(query, |_| true), answer)
    })
}

/// A source from which the kernel takes nothing, whatever the route, or an interface that has gone.
fn is_not_comparable(fib: &Fib, query: &RouteQuery, answer: &Answer) -> bool {
    if answer.kind == Err(Errno::ENODEV as i32) {
        return true;
    }
    let Some(src) = query.src else {
        return false;
    };
    let mut back = RouteQuery::output(src);
    (back.src, back.iif, back.vrf) = (Some(query.dst), query.iif, query.vrf);
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
    let (sender, receiver) = std::sync::mpsc::channel();
    in_namespace(move || sender.send(Extras::of_kernel()).unwrap());
    let possible = receiver.recv().unwrap();
    let random = (first..first + tables).map(|seed| (seed, Some(possible)));
    for (seed, possible) in random.chain(ONCE_DIFFERENT.map(|seed| (seed, None))) {
        let sum = std::sync::Arc::clone(&compared);
        in_namespace(move || {
            sum.fetch_add(one_table(seed, possible), std::sync::atomic::Ordering::Relaxed);
        });
    }
    let compared = compared.load(std::sync::atomic::Ordering::Relaxed);
    println!("{compared} questions about {tables} tables with {possible:?}");
    assert!(
        u64::from(compared) > tables * u64::from(QUESTIONS) * 3 / 5,
        "{compared}"
    );
}

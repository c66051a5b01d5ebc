//! Plays one recording on a [`TestDirector`] with the recordings' network.

use std::iter::Peekable;
use std::net::IpAddr;

use ipnet::IpNet;
use lvs_core::l3::{DeviceId, Interface, L3, L3Builder, NeighbourKey, NeighbourState, RouteKind};
use lvs_core::testing::describe;
use lvs_core::testing::director::{Outcome, TestDirector};

use crate::commands;
use crate::scenario::{Scenario, Side, Step, octets};
use crate::stack;

const CONNS_MAX: usize = 16_384;
const DIRECTOR_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// A frame that a recording says came out.
struct Expected {
    side: Side,
    bytes: Vec<u8>,
    volatile: Vec<usize>,
    summary: String,
}

impl Side {
    const fn device(self) -> DeviceId {
        match self {
            Self::Client => DeviceId(0),
            Self::Rs => DeviceId(1),
        }
    }
}

/// Plays `scenario`.
///
/// # Errors
/// The first difference, readable.
pub fn play(scenario: &Scenario) -> Result<(), String> {
    let unsupported = scenario.setup.iter().find(|line| !line.starts_with("ip link set"));
    if let Some(line) = unsupported {
        return Err(format!("setup not understood: {line}"));
    }
    if let Some((name, _)) = scenario.sysctls.iter().find(|(name, _)| !name.contains("icmp")) {
        return Err(format!("sysctl not understood: {name}"));
    }
    let mut director = TestDirector::new(1, CONNS_MAX, network(&scenario.setup));
    for line in scenario.config_in.lines() {
        commands::run(&mut director, line).map_err(|error| format!("config: {line}: {error}"))?;
    }
    let mut clock = Clock::default();
    let mut steps = scenario.steps.iter().peekable();
    while let Some(step) = steps.next() {
        match step {
            Step::Inject {
                iface,
                frame,
                summary,
                t,
            } => {
                clock.reach(&mut director, *t);
                let expected = expectations(&mut steps);
                let bytes = octets(frame);
                let mut outcomes = vec![director.inject(iface.device(), &bytes)];
                outcomes.append(&mut director.take_made());
                compare(&bytes, outcomes, &expected).map_err(|why| format!("inject {summary}\n{why}"))?;
            }
            Step::Exec(command) => {
                if let Some(t) = command.t {
                    clock.reach(&mut director, t);
                }
                let done = commands::run_shell(&mut director, &command.command);
                // What the kernel refused, the director may refuse.
                if command.rc == 0 {
                    done.map_err(|error| format!("exec {}: {error}", command.command))?;
                }
            }
            Step::Listing(command) => {
                if let Some(t) = command.t {
                    clock.reach(&mut director, t);
                }
            }
            Step::Sleep { seconds } => {
                clock.pass(&mut director, *seconds);
                let (expected, made) = (expectations(&mut steps), director.take_made());
                compare(&[], made, &expected).map_err(|why| format!("sleep {seconds}\n{why}"))?;
            }
            Step::Expect { summary, .. } => return Err(format!("came out without a packet going in: {summary}")),
            Step::Note {} => {}
        }
    }
    Ok(())
}

/// The expectations that come next.
fn expectations<'s>(steps: &mut Peekable<impl Iterator<Item = &'s Step>>) -> Vec<Expected> {
    std::iter::from_fn(|| {
        while matches!(steps.peek(), Some(Step::Note {})) {
            steps.next();
        }
        match steps.peek() {
            Some(Step::Expect { .. }) => steps.next().and_then(expectation),
            _ => None,
        }
    })
    .collect()
}

fn expectation(step: &Step) -> Option<Expected> {
    let Step::Expect {
        iface,
        frame,
        summary,
        volatile,
    } = step
    else {
        return None;
    };
    Some(Expected {
        side: *iface,
        bytes: octets(frame),
        volatile: volatile.clone(),
        summary: summary.clone(),
    })
}

/// Brings virtual time to the recording's time stamps.
#[derive(Default)]
struct Clock {
    seconds: f64,
}

impl Clock {
    fn reach(&mut self, director: &mut TestDirector, t: f64) {
        if t > self.seconds {
            director.advance_ms(((t - self.seconds) * 1_000.0) as u32);
            self.seconds = t;
        }
    }

    fn pass(&mut self, director: &mut TestDirector, seconds: f64) {
        let until = self.seconds + seconds;
        self.reach(director, until);
    }
}

/// What a director did with a frame must be what the kernel did, frame by frame.
fn compare(injected: &[u8], mut outcomes: Vec<Outcome>, expected: &[Expected]) -> Result<(), String> {
    let shown = || {
        let lines: Vec<String> = expected
            .iter()
            .map(|one| format!("  kernel: {}", one.summary))
            .collect();
        lines.join("\n")
    };
    if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Punted(_))) {
        return match expected.iter().find(|one| !stack::plausible(injected, &one.bytes)) {
            Some(_) => Err(format!(
                "  lvsd leaves it to the kernel's stack, which does not do this:\n{}",
                shown()
            )),
            None => Ok(()),
        };
    }
    outcomes.retain(|outcome| *outcome != Outcome::Kept);
    if expected.is_empty() {
        outcomes.retain(|outcome| !matches!(outcome, Outcome::Dropped(_)));
    }
    if outcomes.len() != expected.len() {
        let ours: Vec<String> = outcomes
            .iter()
            .map(|one| format!("  lvsd:   {}", in_words(one)))
            .collect();
        return Err(format!("{}\n{}", ours.join("\n"), shown()));
    }
    for (outcome, one) in outcomes.into_iter().zip(expected) {
        match outcome {
            Outcome::Transmitted(device, bytes) => same_frame(device, &bytes, one)?,
            other => return Err(format!("  lvsd:   {}\n{}", in_words(&other), shown())),
        }
    }
    Ok(())
}

fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Transmitted(_, bytes) => describe(bytes),
        Outcome::Dropped(reason) => format!("drops it: {}", reason.name()),
        Outcome::Held(key, _) => format!("waits for {key:?}"),
        Outcome::Punted(_) | Outcome::Kept => format!("{outcome:?}"),
    }
}

fn same_frame(device: DeviceId, bytes: &[u8], expected: &Expected) -> Result<(), String> {
    let mut ours = bytes.to_vec();
    let mut theirs = expected.bytes.clone();
    for &at in &expected.volatile {
        if let (Some(ours), Some(theirs)) = (ours.get_mut(at), theirs.get_mut(at)) {
            *ours = 0;
            *theirs = 0;
        }
    }
    stack::blank_random_fields(&mut ours);
    stack::blank_random_fields(&mut theirs);
    if stack::made_by_director(&theirs) {
        stack::blank_identification(&mut ours);
        stack::blank_identification(&mut theirs);
    }
    if device == expected.side.device() && ours == theirs {
        return Ok(());
    }
    let at = ours
        .iter()
        .zip(&theirs)
        .position(|(ours, theirs)| ours != theirs)
        .unwrap_or(ours.len().min(theirs.len()));
    Err(format!(
        "  kernel: {:?} {}\n  lvsd:   {device:?} {}\n  first difference at octet {at}\n  kernel: {}\n  lvsd:   {}",
        expected.side,
        describe(&theirs),
        describe(&ours),
        hex(&theirs),
        hex(&ours)
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The network that all recordings were made in.
fn network(setup: &[String]) -> L3 {
    let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
    let mut builder = L3Builder::new();
    for (index, name) in ["eth0", "eth1"].into_iter().enumerate() {
        builder.interface(Interface {
            device: DeviceId(index as u8),
            vlan: 0,
            name: name.to_owned(),
            mac: DIRECTOR_MACS[index],
            mtu: mtu(setup, name),
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
    builder
        .address(client, 0, net("10.0.0.100/32"))
        .address(client, 0, net("fd00:a::100/128"));
    builder.route(net("127.0.0.0/8"), RouteKind::Local);
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
        builder.neighbour(NeighbourKey { device, vlan: 0, addr }, NeighbourState::Resolved(mac));
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
    builder.build(1)
}

/// The MTU that the set-up commands give an interface: `ip link set eth1 mtu 1300`.
fn mtu(setup: &[String], interface: &str) -> u16 {
    let words: Vec<&str> = setup
        .iter()
        .flat_map(|line| line.split([' ', ';']))
        .filter(|word| !word.is_empty())
        .collect();
    words
        .windows(3)
        .find(|window| window[0] == interface && window[1] == "mtu")
        .and_then(|window| window[2].parse().ok())
        .unwrap_or(1_500)
}

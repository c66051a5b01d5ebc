//! The memory of a worker, stored in each layout that this version reads: a release goes on with the connections of the
//! one before.
//!
//! A stored arena is text: its length, a line for each 64 bytes that are not zero, and the connections that are in it.
//! When the layout has changed, [`the_present_layout_is_stored`] stores the new one and fails once. Its file is committed
//! and never changed again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use lvs_core::arena::LAYOUT_VERSION;
use lvs_core::former::{FormerWorker, LAYOUTS, Plan, Spreading, Survey};
use lvs_core::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::persistence::{ClientMask, Persistence};
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::testing::director::TestDirector;
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{tcp4, tcp6};

const CONNS_MAX: usize = 12;
const LINE: usize = 64;

fn configure(desired: &mut DesiredServices) {
    for (vip, server, local, port) in [
        ("192.0.2.100", "198.51.100.11", None, 80),
        ("192.0.2.100", "198.51.100.11", Some("198.51.100.200"), 81),
        ("2001:db8:a::100", "2001:db8:b::11", Some("2001:db8:b::200"), 81),
    ] {
        let key = ServiceKey::Address {
            protocol: ServiceProtocol::Tcp,
            addr: vip.parse().unwrap(),
            port,
        };
        let mut spec = ServiceSpec::new(key, SchedulerKind::Rr);
        if port == 80 {
            spec.persistence = Some(Persistence {
                timeout_sec: 300,
                mask: ClientMask::Ipv4("255.255.255.0".parse().unwrap()),
            });
        }
        desired.add_service(spec).unwrap();
        if let Some(local) = local {
            desired.set_local_addresses(&key, vec![local.parse().unwrap()]).unwrap();
        }
        let server = ServerSpec::new(server.parse().unwrap(), 8_080, ForwardingMode::Nat, 1);
        desired.add_server(&key, server).unwrap();
    }
}

fn director() -> TestDirector {
    TestDirector::new(1, CONNS_MAX, network().build(1))
}

/// With connections in several states and a template, of both families.
fn busy_director() -> TestDirector {
    let mut director = director();
    director.change(configure);
    for port in [40_000, 40_001] {
        for virt_port in [80, 81] {
            let ends = format!("192.0.2.2:{port} > 192.0.2.100:{virt_port}");
            director.inject(WAN, &tcp4(&ends).syn().build()).transmitted();
            director.advance_ms(1);
        }
    }
    let ends = "[2001:db8:a::2]:40000 > [2001:db8:a::100]:81";
    director.inject(WAN, &tcp6(ends).syn().build()).transmitted();
    let nat = "198.51.100.11:8080 > 192.0.2.2:40000";
    let reply = tcp4(nat).syn().ack().dst_mac(director_mac(LAN)).build();
    director.inject(LAN, &reply).transmitted();
    let ends = "192.0.2.2:40000 > 192.0.2.100:80";
    director.inject(WAN, &tcp4(ends).ack().build()).transmitted();
    director.inject(WAN, &tcp4(ends).fin().ack().build()).transmitted();
    director
}

fn listed(director: &TestDirector) -> Vec<String> {
    let mut listed: Vec<String> = director
        .conns()
        .iter()
        .map(|conn| {
            let ends = (conn.client, conn.virt, conn.local, conn.real);
            let (protocol, mode, state) = (conn.protocol, conn.mode, conn.state_name());
            format!("conn {protocol} {ends:?} {mode:?} {:#x} {state}", conn.flags.bits())
        })
        .collect();
    listed.sort();
    listed
}

fn path(layout: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/layouts/layout-{layout}.txt"))
}

fn to_text(director: &TestDirector) -> String {
    let memory = &director.memory()[0];
    let mut text = format!("length {}\n", memory.len());
    for (line, bytes) in memory.chunks(LINE).enumerate() {
        if bytes.iter().any(|byte| *byte != 0) {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let _ = writeln!(text, "{:05x} {digits}", line * LINE);
        }
    }
    for conn in listed(director) {
        let _ = writeln!(text, "{conn}");
    }
    text
}

/// The memory, and what is in it.
fn of_text(text: &str) -> (Vec<u8>, Vec<String>) {
    let (mut memory, mut conns) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match line.split_once(' ').unwrap() {
            ("length", length) => memory.resize(length.parse().unwrap(), 0),
            ("conn", _) => conns.push(line.to_owned()),
            (place, digits) => {
                let place = usize::from_str_radix(place, 16).unwrap();
                for (at, digits) in digits.as_bytes().chunks(2).enumerate() {
                    let digits = std::str::from_utf8(digits).unwrap();
                    memory[place + at] = u8::from_str_radix(digits, 16).unwrap();
                }
            }
        }
    }
    (memory, conns)
}

fn stored(layout: u32) -> (Vec<u8>, Vec<String>) {
    of_text(&fs::read_to_string(path(layout)).unwrap())
}

#[test]
fn connections_of_every_layout_go_on() {
    for layout in LAYOUTS {
        let (memory, expected) = stored(layout);
        assert!(expected.len() > 5, "layout {layout}");
        for (workers, conns_max) in [(1, CONNS_MAX), (3, 100)] {
            let mut director = director();
            let (recovery, without_space) = director.restart_from(
                (layout, std::slice::from_ref(&memory)),
                (workers, conns_max),
                None,
                configure,
            );
            let seen = (recovery.kept, recovery.torn, recovery.refused, without_space);
            assert_eq!(seen, (expected.len(), 0, 0, 0), "layout {layout}");
            assert_eq!(listed(&director), expected, "layout {layout}");
        }
    }
}

/// A worker that was of another layout than its stored memory says would be read wrongly by the release after it.
#[test]
fn the_present_layout_is_stored() {
    let director = busy_director();
    let text = to_text(&director);
    if !path(LAYOUT_VERSION).exists() {
        fs::write(path(LAYOUT_VERSION), &text).unwrap();
        panic!("{} was made: commit it", path(LAYOUT_VERSION).display());
    }
    let (stored, _) = stored(LAYOUT_VERSION);
    let (present, _) = of_text(&text);
    assert_eq!(
        (present.len(), &present[..LINE]),
        (stored.len(), &stored[..LINE]),
        "the layout has changed: raise LAYOUT_VERSION, and keep the reader of the one before (src/core/former.rs)"
    );
}

#[test]
fn a_flipped_bit_costs_its_connection_or_is_seen_to_be_damage() {
    let (memory, expected) = stored(LAYOUT_VERSION);
    let mut reader = director();
    reader.change(configure);
    let settings = reader.settings(0);
    let snapshot = reader.workers[0].snapshot();
    let spreading = Spreading::new(snapshot, &settings, None);
    let mut seen: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut refused = 0;
    for bit in 0..memory.len() * 8 {
        let mut flipped = memory.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let former = [FormerWorker::read(LAYOUT_VERSION, &flipped, &settings)];
        let Some(worker) = &former[0] else {
            refused += 1;
            continue;
        };
        let surveys = [Survey::of(worker, &spreading, reader.now())];
        let plan = Plan::new(&former, &surveys, std::slice::from_ref(&settings));
        *seen.entry((plan.conns, plan.torn)).or_default() += 1;
        assert!(plan.torn <= 1, "bit {bit}");
    }
    let all = expected.len();
    let outcomes: Vec<_> = seen.keys().copied().collect();
    // A slot that was free may seem to hold a torn record; one bit of a commit word may be all of it.
    for (conns, torn) in outcomes {
        assert!(
            conns == all || conns == all - 1,
            "{conns} of {all}, {torn} torn: {seen:?}"
        );
    }
    // Length, version, owner, sizes.
    assert!((500..3_000).contains(&refused), "{refused}");
}

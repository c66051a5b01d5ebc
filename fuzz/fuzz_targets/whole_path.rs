//! Frames, time and other directors' messages in any order, through a whole director in virtual time.
//!
//! An input is four bytes of settings, then records: a byte that says what it is, its length in two bytes, least first, and
//! its bytes. `cargo xtask fuzz-seeds` writes recordings of the kernel in that form.
//! Holds: nothing panics, every frame that is sent is complete, and every connection is counted by one real server.

#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lvs_core::conn_record::ConnRecord;
use lvs_core::frame::vec::VecFrame;
use lvs_core::ipvs::client_address::ClientAddress;
use lvs_core::ipvs::conn::ConnFlags;
use lvs_core::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::ipvs::sync::policy::{SyncAccept, SyncMode, SyncPolicy};
use lvs_core::ipvs::sync::{SyncRoles, message};
use lvs_core::ipvs::sysctl::Sysctls;
use lvs_core::l3::{L3, L3Builder, NeighbourKey, NeighbourState};
use lvs_core::limits::BURST_MAX;
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::mutate::add_services;
use lvs_core::testing::network::{LAN, WAN, neighbour_mac, network};

/// Small, so that the table can be full.
const CONNS_MAX: usize = 64;
/// An Ethernet and the shortest IP header.
const FRAME_BYTES_MIN: usize = 34;
/// Services of the recordings.
const SERVICES: [(u16, ServiceProtocol); 8] = [
    (80, ServiceProtocol::Tcp),
    (81, ServiceProtocol::Tcp),
    (82, ServiceProtocol::Tcp),
    (21, ServiceProtocol::Tcp),
    (53, ServiceProtocol::Udp),
    (54, ServiceProtocol::Udp),
    (80, ServiceProtocol::Sctp),
    (90, ServiceProtocol::Sctp),
];
/// What a byte of the settings turns on, bit by bit.
const SYSCTLS: [(&str, &str); 8] = [
    ("expire_nodest_conn", "1"),
    ("expire_quiescent_template", "1"),
    ("sloppy_tcp", "1"),
    ("sloppy_sctp", "1"),
    ("drop_entry", "2"),
    ("secure_tcp", "2"),
    ("conn_reuse_mode", "0"),
    ("pmtu_disc", "0"),
];

/// The network of the core's tests, and beside it the one that recordings were made in.
static L3: LazyLock<L3> = LazyLock::new(|| {
    let mut builder = network();
    for (device, net) in [
        (WAN, "10.0.0.1/24"),
        (WAN, "fd00:a::1/64"),
        (LAN, "10.1.0.1/24"),
        (LAN, "fd00:b::1/64"),
    ] {
        builder.connected(device, 0, net.parse().expect("a prefix"));
    }
    for vip in ["10.0.0.100/32", "fd00:a::100/128"] {
        builder.address(WAN, 0, vip.parse().expect("a prefix"));
    }
    for number in 2..20 {
        neighbour(&mut builder, number);
    }
    builder.build(1)
});

fn neighbour(builder: &mut L3Builder, number: u8) {
    for (device, prefix) in [(WAN, "10.0.0."), (WAN, "fd00:a::"), (LAN, "10.1.0."), (LAN, "fd00:b::")] {
        let addr = ip(&format!("{prefix}{number}"));
        let state = NeighbourState::Resolved(neighbour_mac(device, number));
        builder.neighbour(NeighbourKey::of(device, 0, addr), state);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Services of the recordings: mode and scheduler are the input's, and so are the options that go with them.
fn add_recorded_services(desired: &mut DesiredServices, [mode, scheduler, options, _]: [u8; 4]) {
    let is_full_nat = mode % 4 == 3;
    let forwarding = match mode % 4 {
        1 => ForwardingMode::Tunnel,
        2 => ForwardingMode::DirectRouting,
        _ => ForwardingMode::Nat,
    };
    let scheduler = SchedulerKind::ALL[usize::from(scheduler) % SchedulerKind::ALL.len()];
    for (port, protocol) in SERVICES {
        for (addr, servers) in [("10.0.0.100", "10.1.0."), ("fd00:a::100", "fd00:b::")] {
            let addr = ip(addr);
            let key = ServiceKey::Address { protocol, addr, port };
            let mut service = ServiceSpec::new(key, scheduler);
            service.one_packet = protocol == ServiceProtocol::Udp && options & 1 != 0;
            desired.add_service(service).expect("a new service");
            if is_full_nat {
                let pool = vec![ip(&format!("{servers}200"))];
                desired.set_local_addresses(&key, pool).expect("a pool of the family");
                service.client_address = ClientAddress::ALL[usize::from(options >> 4) % ClientAddress::ALL.len()];
                // Not every protocol can carry every form.
                let _ = desired.edit_service(service);
            }
            for number in 11..14 {
                let server = ServerSpec::new(ip(&format!("{servers}{number}")), port, forwarding, 1);
                desired.add_server(&key, server).expect("a new server");
            }
        }
    }
}

fn director(settings: [u8; 4]) -> TestDirector {
    let workers = if settings[2] & 2 == 0 { 1 } else { 3 };
    let mut director = TestDirector::new(workers, CONNS_MAX, L3.clone());
    director.change(|desired| {
        add_services(desired);
        add_recorded_services(desired, settings);
    });
    let mut sysctls = Sysctls::default();
    for (bit, (name, value)) in SYSCTLS.into_iter().enumerate() {
        if settings[3] & 1 << bit != 0 {
            sysctls.set(name, value).expect("a setting");
        }
    }
    director.set_sysctls(sysctls);
    let is_synced = settings[2] & 4 != 0;
    director.set_sync(SyncRoles {
        master: is_synced,
        backup: is_synced,
    });
    let bit = |bit: u8| settings[2] & bit != 0;
    director.set_sync_policy(SyncPolicy {
        mode: if bit(16) { SyncMode::Every } else { SyncMode::Kernel },
        accept: if bit(8) {
            SyncAccept::Configured
        } else {
            SyncAccept::Kernel
        },
        is_authenticated: bit(32),
        table_percent: 75,
    });
    director
}

/// Takes a record off an input.
fn next_record<'input>(input: &mut &'input [u8]) -> Option<(u8, &'input [u8])> {
    let ([kind, low, high], rest) = input.split_first_chunk()?;
    let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (bytes, rest) = rest.split_at(len);
    *input = rest;
    Some((*kind, bytes))
}

fn assert_complete(outcomes: impl IntoIterator<Item = Outcome>) {
    for outcome in outcomes {
        if let Outcome::Transmitted(device, bytes) = outcome {
            assert!(device == WAN || device == LAN, "sent to device {device:?}");
            assert!(
                bytes.len() >= FRAME_BYTES_MIN,
                "a frame of {} bytes was sent",
                bytes.len()
            );
        }
    }
}

fn play(director: &mut TestDirector, kind: u8, bytes: &[u8], burst: &mut Vec<VecFrame>) {
    let worker = usize::from(kind >> 4) % director.workers.len();
    let outcomes = match kind & 7 {
        // A frame that comes with the next one.
        2 if burst.len() < BURST_MAX - 1 => {
            burst.push(VecFrame::new(bytes));
            return;
        }
        3 => {
            let ms = bytes.first_chunk().map_or(1, |ms| u16::from_le_bytes(*ms));
            director.advance_ms(u32::from(ms) % 2_000);
            Vec::new()
        }
        4 => {
            let mut conns = Vec::new();
            let _ = message::read(bytes, 0, |entry| conns.extend(entry));
            director.import_synced(&conns);
            Vec::new()
        }
        5 => {
            // A frame that is no reply of a real server goes out as the kernel made it.
            let _ = director.from_host(WAN, bytes);
            Vec::new()
        }
        6 => vec![director.give_up(LAN, bytes)],
        device => {
            burst.push(VecFrame::new(bytes));
            let device = if device == 1 { LAN } else { WAN };
            director.burst(worker, device, &mut std::mem::take(burst))
        }
    };
    assert_complete(outcomes);
    assert_complete(director.take_generated());
}

/// ActiveConn and InActConn of all real servers are the connections of the tables that have one: templates are counted
/// elsewhere, and another director's connection may have no real server here.
fn assert_counts_agree(director: &TestDirector) {
    let servers = director.counters.iter().flat_map(|worker| worker.servers.iter());
    let counted: u64 = servers
        .map(|server| u64::from(server.active.get()) + u64::from(server.inactive.get()))
        .sum();
    let is_counted =
        |conn: &ConnRecord| !conn.flags.contains(ConnFlags::TEMPLATE) && conn.real_server != RealServerId::UNBOUND;
    let held = director.conns().into_iter().filter(is_counted).count();
    assert_eq!(
        counted, held as u64,
        "real servers count other connections than the tables hold"
    );
}

fuzz_target!(|input: &[u8]| {
    let Some((settings, mut records)) = input.split_first_chunk() else {
        return;
    };
    let mut director = director(*settings);
    let mut burst = Vec::new();
    while let Some((kind, bytes)) = next_record(&mut records) {
        play(&mut director, kind, bytes, &mut burst);
    }
    let _ = director.take_synced();
    assert_counts_agree(&director);
});

//! A process that works on a connection table is ended after each single store, and another one goes on with what it
//! left: every connection is as before the operation or as after it, and none is lost.
//!
//! The operation runs in a child, instruction by instruction, on memory that the parent shares; whenever the memory
//! has changed, the parent recovers a table from a copy of it. The recovery itself is ended in the same way.
#![allow(unsafe_code, reason = "a child")]

use std::collections::BTreeMap;

use lvs_core::address::{Addr4, Endpoint, FlowKey};
use lvs_core::ipvs::conn::table::{ConnTable, Expiry};
use lvs_core::ipvs::conn::{Conn, ConnFlags, ConnIndex};
use lvs_core::tick::Tick;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::shared_memory::Shared;

const CAPACITY: usize = 12;
const SECRET: [u64; 4] = [1, 2, 3, 4];
const NOW: Tick = Tick(70_000);

fn end(host: u8, port: u16) -> Endpoint<Addr4> {
    Endpoint::new(Addr4([192, 0, 2, host]), port)
}

/// Connection `n`. Those with the same `n % 10` have the same outbound key.
fn conn(n: u8) -> Conn<Addr4> {
    Conn {
        protocol: 6,
        flags: ConnFlags::OUTBOUND_INDEXED,
        timeout_ms: 60_000 + 1_000 * u32::from(n),
        ..Conn::between(
            end(1, 1_000 + u16::from(n % 10)),
            end(100 + n / 10, 80),
            end(20, 80),
            end(1, 1_000 + u16::from(n % 10)),
        )
    }
}

fn template() -> Conn<Addr4> {
    Conn {
        protocol: 106,
        flags: ConnFlags::TEMPLATE,
        timeout_ms: 90_000,
        ..Conn::between(end(1, 0), end(100, 80), end(20, 80), end(1, 0))
    }
}

/// Everything about the connections of a table that its users can see, by name.
type View = BTreeMap<String, String>;

fn view(table: &ConnTable<Addr4>) -> View {
    let mut view = View::new();
    let inbound = |index: ConnIndex| table.conn(index).inbound_key();
    table.scan(0, usize::MAX, |index, (conn, cold)| {
        let key = conn.inbound_key();
        let is_retired = conn.flags.contains(ConnFlags::RETIRED);
        assert!(
            is_retired || table.lookup(&key).map(|(found, _)| found) == Some(index),
            "{key:?}"
        );
        let template = conn
            .flags
            .contains(ConnFlags::CONTROLLED)
            .then(|| inbound(ConnIndex(cold.control)));
        let flags = conn.flags & (ConnFlags::TEMPLATE | ConnFlags::OUTBOUND_INDEXED);
        view.insert(format!("connection {key:?}"), format!("{:?} {flags:?}", conn.real()));
        view.insert(format!("timeout of {key:?}"), conn.timeout_ms.to_string());
        view.insert(format!("last packet of {key:?}"), format!("{:?}", conn.last_seen));
        view.insert(format!("template of {key:?}"), format!("{template:?}"));
        view.insert(format!("controlled by {key:?}"), format!("{}", cold.controlled));
        if conn.flags.contains(ConnFlags::OUTBOUND_INDEXED) {
            let outbound = conn.outbound_key();
            let newest = table
                .lookup(&outbound)
                .map(|(index, direction)| (inbound(index), direction));
            view.insert(format!("replies {outbound:?}"), format!("{newest:?}"));
        }
    });
    view
}

/// No slot is lost, no key is left behind, every timer fires.
fn assert_sound(mut table: ConnTable<Addr4>) {
    let free = CAPACITY - table.len();
    for n in 0..free as u8 {
        let client = end(200 + n, 1);
        let fresh = Conn {
            protocol: 6,
            flags: ConnFlags::OUTBOUND_INDEXED,
            timeout_ms: 60_000,
            ..Conn::between(client, end(100, 80), end(20, 80), client)
        };
        table.insert(fresh, NOW).expect("a free slot");
    }
    assert!(table.insert(conn(99), NOW).is_err(), "the table is full");
    let later = NOW.plus_ms(1_000_000);
    for _ in 0..3 {
        // A template goes when what it controls has gone.
        table.expire(later, 1 << 20, |conn| match conn.cold.controlled {
            0 => Expiry::Remove,
            _ => Expiry::Rearm { ms: 0 },
        });
    }
    table.expire(later.plus_ms(1_000), 1 << 20, |_| Expiry::Remove);
    assert_eq!(table.len(), 0, "all timers fire");
    let key = FlowKey {
        src: end(20, 80),
        dst: end(1, 1_000),
        protocol: 6,
    };
    assert_eq!(table.lookup(&key), None);
}

fn recover(memory: &Shared) -> ConnTable<Addr4> {
    let (table, recovery) =
        ConnTable::recover(&mut memory.arena(), CAPACITY, SECRET, NOW, |_| true).expect("a table of this size");
    assert_eq!((recovery.kept, recovery.torn, recovery.refused), (table.len(), 0, 0));
    table
}

/// Runs `operation` in a child and calls `stopped` whenever it has changed `memory`. Returns how often.
fn stop_after_each_store(memory: &Shared, operation: impl FnOnce(), mut stopped: impl FnMut()) -> usize {
    // SAFETY: the other threads of this process are gone in the child, whatever they held. The child works on `memory`
    // and allocates; glibc makes malloc usable again in a child. It prints nothing, and it is killed, so no destructor runs.
    let child = match unsafe { fork() }.expect("a child") {
        ForkResult::Child => {
            let _ = ptrace::traceme().and_then(|()| raise(Signal::SIGSTOP));
            operation();
            loop {
                let _ = raise(Signal::SIGSTOP);
            }
        }
        ForkResult::Parent { child } => child,
    };
    let stop = |child: Pid| match waitpid(child, None).expect("a child") {
        WaitStatus::Stopped(_, signal) => signal,
        other => panic!("{other:?}"),
    };
    assert_eq!(stop(child), Signal::SIGSTOP);
    // A parent that fails leaves no child behind.
    ptrace::setoptions(child, ptrace::Options::PTRACE_O_EXITKILL).expect("it stands still");
    let (mut before, mut stores) = (memory.bytes(), 0);
    loop {
        ptrace::step(child, None).expect("it stands still");
        match stop(child) {
            Signal::SIGTRAP => {}
            Signal::SIGSTOP => break,
            other => panic!("{other}"),
        }
        let now = memory.bytes();
        if now != before {
            before = now;
            stores += 1;
            stopped();
        }
    }
    ptrace::kill(child).expect("it stands still");
    waitpid(child, None).expect("a child");
    stores
}

/// A table of its own for each try, in memory to share.
struct Case {
    memory: Shared,
    table: ConnTable<Addr4>,
}

impl Case {
    /// Connections 0, 10 and 20 have one outbound key, 20 is the newest; 1 and 11 another; the template controls 0
    /// and 1; one slot is free again.
    fn new() -> Self {
        let memory = Shared::new(ConnTable::<Addr4>::bytes_needed(CAPACITY));
        let mut table = ConnTable::new(&mut memory.arena(), CAPACITY, SECRET).unwrap();
        let template = table.insert(template(), Tick(60_000)).unwrap();
        for n in [5, 0, 10, 20, 1, 11, 2] {
            table.insert(conn(n), Tick(60_000 + u32::from(n))).unwrap();
        }
        table.remove(index_of(&table, 5));
        for n in [0, 1] {
            let index = index_of(&table, n);
            table.control(index, template);
        }
        Self { memory, table }
    }
}

fn index_of(table: &ConnTable<Addr4>, n: u8) -> ConnIndex {
    table.lookup(&conn(n).inbound_key()).expect("it is in the table").0
}

/// Every part of the recovered table is as in one of the two.
fn assert_between(recovered: &View, before: &View, after: &View, what: &str) {
    for name in before.keys().chain(after.keys()).chain(recovered.keys()) {
        let now = recovered.get(name);
        assert!(
            now == before.get(name) || now == after.get(name),
            "{what}: {name} is {now:?}, was {:?}, becomes {:?}",
            before.get(name),
            after.get(name)
        );
    }
}

fn check(what: &str, operation: impl Fn(&mut ConnTable<Addr4>)) {
    let mut case = Case::new();
    let before = view(&recover(&case.memory.copy()));
    operation(&mut case.table);
    let after = view(&recover(&case.memory.copy()));
    let Case { memory, mut table } = Case::new();
    let stores = stop_after_each_store(
        &memory,
        || operation(&mut table),
        || {
            let copy = memory.copy();
            let recovered = recover(&copy);
            assert_between(&view(&recovered), &before, &after, what);
            assert_sound(recovered);
        },
    );
    assert!(stores > 0 || before == after, "{what} stores nothing");
    println!("{what}: stopped after each of {stores} stores");
}

#[test]
fn an_operation_that_is_ended_at_any_store_is_not_begun_or_done() {
    check("insertion", |table| {
        let _ = table.insert(conn(3), NOW);
    });
    check("insertion of an outbound key that others have", |table| {
        let _ = table.insert(conn(30), NOW);
    });
    check("refused insertion", |table| {
        let _ = table.insert(conn(20), NOW);
    });
    for n in [2, 20, 10, 0, 11, 1] {
        check(&format!("removal of {n}"), |table| table.remove(index_of(table, n)));
    }
    for n in [0, 10, 1] {
        check(&format!("{n} becomes the newest"), |table| {
            table.make_newest(index_of(table, n))
        });
    }
    check("a longer timeout", |table| {
        table.set_timeout(index_of(table, 2), 900_000, NOW)
    });
    check("a shorter timeout", |table| {
        table.set_timeout(index_of(table, 2), 1_000, NOW)
    });
    let of_template = |table: &ConnTable<Addr4>| table.lookup(&template().inbound_key()).unwrap().0;
    check("control", |table| {
        let (index, template) = (index_of(table, 2), of_template(table));
        table.control(index, template);
    });
    check("expiry", |table| {
        table.expire(Tick(120_064), 1 << 20, |_| Expiry::Remove);
    });
}

#[test]
fn a_template_that_is_retired_at_any_store_loses_nothing_but_itself() {
    let Case { memory, mut table } = Case::new();
    let template = table.lookup(&template().inbound_key()).unwrap().0;
    stop_after_each_store(
        &memory,
        || table.retire(template),
        || {
            let copy = memory.copy();
            let recovered = recover(&copy);
            for n in [0, 10, 20, 1, 11, 2] {
                index_of(&recovered, n);
            }
            assert_sound(recovered);
        },
    );
}

#[test]
fn a_recovery_that_is_ended_at_any_store_is_recovered_from() {
    let Case { memory, .. } = Case::new();
    let expected = view(&recover(&memory.copy()));
    let mut arena = memory.arena();
    let stores = stop_after_each_store(
        &memory,
        || drop(ConnTable::<Addr4>::recover(&mut arena, CAPACITY, SECRET, NOW, |_| true)),
        || {
            let copy = memory.copy();
            let recovered = recover(&copy);
            assert_eq!(view(&recovered), expected);
            assert_sound(recovered);
        },
    );
    assert!(stores > 20, "{stores} stores");
}

#[test]
fn a_flipped_bit_costs_at_most_its_connection() {
    let Case { memory, .. } = Case::new();
    let expected = view(&recover(&memory.copy()));
    let original = memory.bytes();
    for bit in 0..original.len() * 8 {
        let mut bytes = original.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let copy = memory.copy();
        copy.write(&bytes);
        let Ok((mut table, recovery)) = ConnTable::<Addr4>::recover(&mut copy.arena(), CAPACITY, SECRET, NOW, |_| true)
        else {
            // What says that this is a table, and of what size.
            continue;
        };
        assert!(
            recovery.torn <= 1 && recovery.kept + recovery.torn >= 7,
            "bit {bit}: {recovery:?}"
        );
        let seen = view(&table);
        let lost = |name: &&String| name.starts_with("connection") && !seen.contains_key(*name);
        assert!(expected.keys().filter(lost).count() <= 1, "bit {bit}");
        let mut long = Vec::new();
        table.scan(0, usize::MAX, |index, (conn, _)| {
            long.extend((conn.timeout_ms > 100_000).then_some(index))
        });
        // A bit of the timeout; nobody waits for it here.
        long.iter().for_each(|&index| table.set_timeout(index, 100_000, NOW));
        assert_sound(table);
    }
}

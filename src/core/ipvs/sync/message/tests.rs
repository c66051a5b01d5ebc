//! Messages against what a kernel sent, and against arbitrary bytes.

use proptest::prelude::*;

use super::super::assembly::{Assembly, FLUSH_EVERY_MS, FLUSH_MS};
use super::super::policy::SyncMode;
use super::*;
use crate::ipvs::conn::ConnFlags;

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

fn end(text: &str, port: u16) -> SyncedEnd {
    (text.parse().unwrap(), port)
}

fn conn() -> SyncConn {
    SyncConn {
        protocol: 6,
        flags: 0,
        state: 1,
        client: end("10.0.0.2", 40_000),
        virt: end("10.0.0.100", 80),
        real: end("10.1.0.11", 8_080),
        local: None,
        fwmark: 0,
        timeout_sec: 900,
        shifts: None,
    }
}

fn all(message: &[u8], sync_id: u8) -> (Vec<Result<SyncConn, Skip>>, Result<(), Fault>) {
    let mut entries = Vec::new();
    let end = read(message, sync_id, |entry| entries.push(entry));
    (entries, end)
}

fn written(conns: &[SyncConn], version: u32) -> Vec<u8> {
    let mut assembly = Assembly::new(7, 1_472);
    for conn in conns {
        assert_eq!(assembly.add(conn, version, 0), None);
    }
    assembly.due(SyncMode::Kernel, FLUSH_MS).unwrap()
}

/// What a kernel sent for this connection: recording sync_master.
const ESTABLISHED: &str =
    "0007002c01010000 00060024 00000000 0001 9c40 0050 1f90 00000000 00000384 0a000002 0a000064 0a01000b";

#[test]
fn a_connection_is_written_as_the_kernel_writes_it_and_read_back() {
    assert_eq!(written(&[conn()], 1), bytes(ESTABLISHED));
    assert_eq!(all(&bytes(ESTABLISHED), 7), (vec![Ok(conn())], Ok(())));
}

#[test]
fn messages_of_other_ids_are_ignored_unless_all_are_wanted() {
    assert_eq!(all(&bytes(ESTABLISHED), 8), (vec![], Err(Fault::OtherSyncId)));
    assert_eq!(all(&bytes(ESTABLISHED), 0).1, Ok(()));
}

#[test]
fn ipv6_and_mark_templates_are_written_as_the_kernel_writes_them() {
    let v6 = SyncConn {
        client: end("fd00:a::2", 40_000),
        virt: end("fd00:a::100", 80),
        real: end("fd00:b::11", 8_080),
        ..conn()
    };
    let template = SyncConn {
        protocol: 0,
        flags: 3 | u32::from(ConnFlags::NO_OUTPUT | ConnFlags::INACTIVE | ConnFlags::TEMPLATE),
        state: 0,
        client: end("10.0.0.2", 0),
        virt: end("0.0.0.66", 0),
        real: end("10.1.0.12", 0),
        fwmark: 66,
        timeout_sec: 100,
        ..conn()
    };
    let kernel = bytes(
        "0007007402010000 0106004800000000 0001 9c40 0050 1f90 00000000 00000384
         fd00000a000000000000000000000002 fd00000a000000000000000000000100 fd00000b000000000000000000000011
         00000024 00001183 0000 0000 0000 0000 00000042 00000064 0a000002 00000042 0a01000c",
    );
    assert_eq!(written(&[v6, template], 1), kernel);
    assert_eq!(all(&kernel, 7), (vec![Ok(v6), Ok(template)], Ok(())));
}

#[test]
fn version_0_says_ipv4_without_marks_and_timeouts() {
    let dr = SyncConn {
        flags: 3 | u32::from(ConnFlags::NO_OUTPUT),
        client: end("10.0.0.3", 40_001),
        virt: end("10.0.0.100", 81),
        real: end("10.1.0.12", 81),
        ..conn()
    };
    // Recording sync_master_v0, without its template.
    let kernel = bytes(
        "02070034 0006 9c40 0050 1f90 0a000002 0a000064 0a01000b 0000 0001
                  0006 9c41 0051 0051 0a000003 0a000064 0a01000c 0083 0001",
    );
    assert_eq!(written(&[conn(), dr], 0), kernel);
    let without_timeout = |conn| Ok(SyncConn { timeout_sec: 0, ..conn });
    assert_eq!(
        all(&kernel, 7),
        (vec![without_timeout(conn()), without_timeout(dr)], Ok(()))
    );
}

#[test]
fn version_0_keeps_silent_about_what_it_cannot_say() {
    let mut assembly = Assembly::new(7, 1_472);
    let v6 = SyncConn {
        client: end("fd00:a::2", 40_000),
        ..conn()
    };
    let full_nat = SyncConn {
        local: Some(end("10.1.0.200", 5_000)),
        ..conn()
    };
    for silent in [v6, full_nat] {
        assert_eq!(assembly.add(&silent, 0, 0), None);
    }
    assert_eq!(assembly.due(SyncMode::Kernel, FLUSH_MS), None);
}

#[test]
fn a_full_message_leaves_and_the_next_one_begins() {
    let mut assembly = Assembly::new(9, 200);
    for second in 0..5 {
        assert_eq!(assembly.add(&conn(), 1, second), None);
    }
    let full = assembly.add(&conn(), 1, 5).unwrap();
    assert_eq!((full.len(), full[4], all(&full, 9).0.len()), (188, 5, 5));
    assert_eq!(assembly.due(SyncMode::Kernel, 5 + FLUSH_MS - 1), None);
    assert_eq!(assembly.due(SyncMode::Kernel, 5 + FLUSH_MS).unwrap().len(), 44);
    assert_eq!(assembly.due(SyncMode::Kernel, u64::MAX), None);
}

#[test]
fn a_message_of_every_connection_waits_for_milliseconds_only() {
    let mut assembly = Assembly::new(9, 200);
    assert_eq!(assembly.add(&conn(), 1, 5), None);
    assert_eq!(assembly.due(SyncMode::Every, 5 + FLUSH_EVERY_MS - 1), None);
    assert_eq!(assembly.due(SyncMode::Every, 5 + FLUSH_EVERY_MS).unwrap().len(), 44);
}

#[test]
fn messages_become_shorter_from_the_next_entry_on() {
    let mut assembly = Assembly::new(9, 200);
    for _ in 0..3 {
        assert_eq!(assembly.add(&conn(), 1, 0), None);
    }
    assembly.set_max_len(100);
    assert_eq!(assembly.add(&conn(), 1, 0).map(|message| message.len()), Some(116));
    assert_eq!(assembly.add(&conn(), 1, 0), None);
    assert_eq!(assembly.add(&conn(), 1, 0).map(|message| message.len()), Some(80));
}

#[test]
fn the_count_of_a_message_never_wraps_and_a_change_of_version_ends_it() {
    let mut assembly = Assembly::new(1, u16::MAX);
    let finished: Vec<_> = (0..=255).filter_map(|_| assembly.add(&conn(), 1, 0)).collect();
    assert_eq!((finished.len(), finished[0][4]), (1, 255));
    let other_version = assembly.add(&conn(), 0, 0).unwrap();
    assert_eq!(all(&other_version, 1).0.len(), 1);
}

/// A kernel cannot forward such a connection, so the option is one that a receiver must know.
#[test]
fn the_local_address_of_fullnat_travels_as_an_option_that_others_must_understand() {
    let full_nat = SyncConn {
        local: Some(end("10.1.0.200", 5_000)),
        ..conn()
    };
    let message = written(&[full_nat, conn()], 1);
    assert_eq!(all(&message, 7), (vec![Ok(full_nat), Ok(conn())], Ok(())));
    let kind = message[8 + 36];
    assert!(kind & OPTION_MAY_IGNORE == 0 && !(1..=3).contains(&kind));
}

#[test]
fn an_option_that_may_be_ignored_is_and_one_that_may_not_disqualifies_its_entry() {
    let with_option = |option: &str| {
        let entry = "00060028 00000000 0001 9c40 0050 1f90 00000000 00000384 0a000002 0a000064 0a01000b";
        bytes(&format!("0007003001010000 {entry} {option}"))
    };
    assert_eq!(all(&with_option("7f020000"), 7), (vec![Ok(conn())], Ok(())));
    assert_eq!(all(&with_option("3f020000"), 7), (vec![Err(Skip::Option)], Ok(())));
    assert_eq!(all(&with_option("02020000"), 7), (vec![Err(Skip::Engine)], Ok(())));
    assert_eq!(all(&with_option("03020000"), 7), (vec![Ok(conn())], Ok(())));
    for wrong in ["00000000", "3f030000", "01020000", "01010000"] {
        assert_eq!(all(&with_option(wrong), 7), (vec![], Err(Fault::Option)), "{wrong}");
    }
}

#[test]
fn what_a_backup_does_not_keep_is_taken_off_the_flags() {
    let mut message = bytes(ESTABLISHED);
    message[12..16]
        .copy_from_slice(&u32::from(ConnFlags::SYNCED | ConnFlags::INACTIVE | ConnFlags::REPLIES_ONLY).to_be_bytes());
    let kept = SyncConn {
        flags: u32::from(ConnFlags::INACTIVE),
        ..conn()
    };
    assert_eq!(all(&message, 7).0, [Ok(kept)]);
    message[14] |= 0x20;
    assert_eq!(all(&message, 7).0, [Err(Skip::OnePacket)]);
}

fn any_end(is_ipv6: bool) -> impl Strategy<Value = SyncedEnd> {
    (any::<u128>(), any::<u16>()).prop_map(move |(bits, port)| {
        let addr = if is_ipv6 {
            IpAddr::from(bits.to_be_bytes())
        } else {
            IpAddr::from((bits as u32).to_be_bytes())
        };
        (addr, port)
    })
}

fn any_shifts() -> impl Strategy<Value = Option<[SequenceShift; 2]>> {
    let shift = (any::<u32>(), any::<i32>(), any::<i32>()).prop_map(|(from, delta, previous_delta)| SequenceShift {
        from,
        delta,
        previous_delta,
    });
    prop::option::of((shift.clone(), shift).prop_map(|(inbound, outbound)| [inbound, outbound]))
}

fn any_conn() -> impl Strategy<Value = SyncConn> {
    any::<bool>().prop_flat_map(|is_ipv6| {
        let ends = [any_end(is_ipv6), any_end(is_ipv6), any_end(is_ipv6)];
        let rest = (0..11_u16, 0..4_u32, any::<bool>(), any::<u32>(), any::<u32>());
        (ends, prop::option::of(any_end(is_ipv6)), any_shifts(), rest).prop_map(
            |([client, virt, real], local, shifts, (state, method, inactive, fwmark, timeout_sec))| SyncConn {
                protocol: 6,
                flags: method
                    | if inactive { u32::from(ConnFlags::INACTIVE) } else { 0 }
                    | shifts.map_or(0, |_| u32::from(ConnFlags::INBOUND_SHIFTED)),
                state,
                client,
                virt,
                real,
                local,
                fwmark,
                timeout_sec,
                shifts,
            },
        )
    })
}

proptest! {
    #![proptest_config(crate::testing::properties())]

    #[test]
    fn what_is_written_is_read_back(conns in prop::collection::vec(any_conn(), 1..12)) {
        let read_back: Vec<SyncConn> = all(&written(&conns, 1), 7).0.into_iter().map(Result::unwrap).collect();
        prop_assert_eq!(&read_back, &conns);
        let sayable: Vec<SyncConn> = conns.into_iter().filter(message_v0::can_say).collect();
        if !sayable.is_empty() {
            let read_back = all(&written(&sayable, 0), 7).0.into_iter().map(Result::unwrap);
            let expected: Vec<_> = sayable.iter().map(|conn| SyncConn { fwmark: 0, timeout_sec: 0, ..*conn }).collect();
            prop_assert_eq!(read_back.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(mut message in prop::collection::vec(any::<u8>(), 0..400), fix in any::<bool>()) {
        if fix && message.len() >= 8 {
            let size = (message.len() as u16).to_be_bytes();
            message[2..4].copy_from_slice(&size);
            message[0] = 0;
            message[5..8].copy_from_slice(&[1, 0, 0]);
        }
        let _ = all(&message, 0);
    }

    #[test]
    fn a_changed_octet_changes_entries_but_never_panics(
        conns in prop::collection::vec(any_conn(), 1..6), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut message = written(&conns, 1);
        let at = at.index(message.len());
        message[at] = byte;
        prop_assert!(all(&message, 0).0.len() <= 255);
    }
}

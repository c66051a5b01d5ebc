//! The transition tables compared with two independent sources: the kernel's table as text, and what a real kernel
//! showed in `-Lnc` after sequences of packets.

use super::*;

fn state_named(name: &str) -> TcpState {
    let short = ["NO", "ES", "SS", "SR", "FW", "TW", "CL", "CW", "LA", "LI", "SA"];
    let position = short.iter().position(|&candidate| candidate == name).unwrap();
    TcpState::ALL[position]
}

/// Direction, whether replies were never seen, flags of the event, next states by present state, and the
/// exceptions under secure_tcp as (present, next).
type Row = (
    Direction,
    bool,
    u8,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const ROWS: &[Row] = &[
    (
        Direction::Inbound,
        false,
        FLAG_SYN,
        "SR ES ES SR SR SR SR SR SR SR SR",
        &[("SA", "SA")],
    ),
    (
        Direction::Inbound,
        false,
        FLAG_FIN,
        "CL CW SS TW TW TW CL CW LA LI TW",
        &[("SA", "SA")],
    ),
    (
        Direction::Inbound,
        false,
        FLAG_ACK,
        "ES ES SS ES FW TW CL CW CL LI ES",
        &[("SR", "SR"), ("SA", "SA")],
    ),
    (
        Direction::Inbound,
        false,
        FLAG_RST,
        "CL CL CL SR CL CL CL CL LA LI SR",
        &[("SA", "CL")],
    ),
    (
        Direction::Outbound,
        false,
        FLAG_SYN,
        "SS ES SS SR SS SS SS SS SS LI SR",
        &[("SR", "SA"), ("SA", "SA")],
    ),
    (
        Direction::Outbound,
        false,
        FLAG_FIN,
        "TW FW SS TW FW TW CL TW LA LI TW",
        &[],
    ),
    (
        Direction::Outbound,
        false,
        FLAG_ACK,
        "ES ES SS ES FW TW CL CW LA ES ES",
        &[],
    ),
    (
        Direction::Outbound,
        false,
        FLAG_RST,
        "CL CL SS CL CL TW CL CL CL CL CL",
        &[],
    ),
    (
        Direction::Inbound,
        true,
        FLAG_SYN,
        "SR ES ES SR SR SR SR SR SR SR SR",
        &[
            ("NO", "SA"),
            ("FW", "SA"),
            ("TW", "SA"),
            ("CL", "SA"),
            ("CW", "SA"),
            ("LA", "SA"),
            ("LI", "SA"),
            ("SA", "SA"),
        ],
    ),
    (
        Direction::Inbound,
        true,
        FLAG_FIN,
        "CL FW SS TW FW TW CL CW LA LI TW",
        &[],
    ),
    (
        Direction::Inbound,
        true,
        FLAG_ACK,
        "ES ES SS ES FW TW CL CW CL LI ES",
        &[],
    ),
    (
        Direction::Inbound,
        true,
        FLAG_RST,
        "CL CL CL SR CL CL CL CL LA LI CL",
        &[],
    ),
];

#[test]
fn every_transition_is_the_kernels() {
    for &(direction, no_output, flags, row, exceptions) in ROWS {
        for (present, expected) in TcpState::ALL.into_iter().zip(row.split(' ').map(state_named)) {
            assert_eq!(
                next(present, direction, no_output, flags),
                expected,
                "{direction:?} {flags:#x} {present:?}"
            );
            let exception = exceptions.iter().find(|(name, _)| state_named(name) == present);
            let secure = exception.map_or(expected, |(_, name)| state_named(name));
            let found = next_secure(present, direction, no_output, flags);
            assert_eq!(found, secure, "secure {direction:?} {flags:#x} {present:?}");
        }
    }
}

#[test]
fn replies_are_judged_alike_whether_or_not_they_were_expected() {
    for state in TcpState::ALL {
        for flags in 0..=u8::MAX {
            let seen = next(state, Direction::Outbound, false, flags);
            assert_eq!(seen, next(state, Direction::Outbound, true, flags));
        }
    }
}

#[test]
fn reset_counts_before_syn_before_fin_before_ack_and_none_of_them_closes() {
    let inbound = |state, flags| next(state, Direction::Inbound, false, flags);
    for state in TcpState::ALL {
        for others in 0..=u8::MAX {
            let rst = inbound(state, FLAG_RST);
            assert_eq!(inbound(state, others | FLAG_RST), rst);
            let syn = inbound(state, FLAG_SYN);
            assert_eq!(inbound(state, (others | FLAG_SYN) & !FLAG_RST), syn);
            let fin = inbound(state, FLAG_FIN);
            assert_eq!(inbound(state, (others | FLAG_FIN) & !(FLAG_RST | FLAG_SYN)), fin);
            let nothing = others & !(FLAG_RST | FLAG_SYN | FLAG_FIN | FLAG_ACK);
            assert_eq!(inbound(state, nothing), TcpState::Close);
        }
    }
}

#[test]
fn only_a_syn_without_rst_begins_a_connection() {
    assert!(begins_connection(FLAG_SYN));
    assert!(begins_connection(FLAG_SYN | FLAG_ACK) && begins_connection(FLAG_SYN | FLAG_FIN));
    assert!(!begins_connection(FLAG_SYN | FLAG_RST) && !begins_connection(FLAG_ACK) && !begins_connection(0));
}

/// `cS`: client SYN, `rSA`: real server SYN+ACK, and so on.
fn walk(sequence: &str, no_output: bool) -> TcpState {
    sequence.split(' ').fold(TcpState::None, |state, packet| {
        let (direction, flags) = match packet.split_at(1) {
            ("c", flags) => (Direction::Inbound, flags),
            ("r", flags) => (Direction::Outbound, flags),
            other => panic!("{other:?}"),
        };
        let bits = flags.chars().map(|flag| match flag {
            'S' => FLAG_SYN,
            'F' => FLAG_FIN,
            'A' => FLAG_ACK,
            'R' => FLAG_RST,
            'P' => 0x08,
            other => panic!("{other}"),
        });
        next(state, direction, no_output, bits.fold(0, |all, bit| all | bit))
    })
}

fn assert_observed(events: &[&str], table: &[(&str, &str)], no_output: bool) {
    for (reached_by, row) in table {
        for (event, expected) in events.iter().zip(row.split(' ')) {
            assert_eq!(
                walk(&format!("{reached_by} {event}"), no_output).name(),
                expected,
                "{reached_by}, then {event}"
            );
        }
    }
}

/// A real 6.1 kernel, NAT (recording tcp_state_table).
#[test]
fn nat_sequences_lead_where_a_kernel_was_seen_to_go() {
    let events = ["cS", "cFA", "cA", "cRA", "rSA", "rFA", "rA", "rRA", "rS"];
    let syn = "SYN_RECV TIME_WAIT ESTABLISHED SYN_RECV SYN_RECV TIME_WAIT ESTABLISHED CLOSE SYN_RECV";
    let open = "ESTABLISHED CLOSE_WAIT ESTABLISHED CLOSE ESTABLISHED FIN_WAIT ESTABLISHED CLOSE ESTABLISHED";
    let fin_wait = "SYN_RECV TIME_WAIT FIN_WAIT CLOSE SYN_SENT FIN_WAIT FIN_WAIT CLOSE SYN_SENT";
    let close_wait = "SYN_RECV CLOSE_WAIT CLOSE_WAIT CLOSE SYN_SENT TIME_WAIT CLOSE_WAIT CLOSE SYN_SENT";
    let time_wait = "SYN_RECV TIME_WAIT TIME_WAIT CLOSE SYN_SENT TIME_WAIT TIME_WAIT TIME_WAIT SYN_SENT";
    let closed = "SYN_RECV CLOSE CLOSE CLOSE SYN_SENT CLOSE CLOSE CLOSE SYN_SENT";
    let table = [
        ("cS", syn),
        ("cS rSA", syn),
        ("cS rSA cA", open),
        ("cS rSA cA rA", open),
        ("cS rSA cA rFA", fin_wait),
        ("cS rSA cA cFA", close_wait),
        ("cS rSA cA cFA rA", close_wait),
        ("cS rSA cA cFA rFA", time_wait),
        ("cS rSA cA rFA cFA", time_wait),
        ("cS rSA cA cR", closed),
        ("cS rRA", closed),
        ("cS rSA cA cFA rFA cA", time_wait),
    ];
    assert_observed(&events, &table, false);
}

/// A real 6.1 kernel, DR: only client packets.
#[test]
fn dr_sequences_lead_where_a_kernel_was_seen_to_go() {
    let events = ["cS", "cFA", "cA", "cRA", "cPA"];
    let table = [
        ("cS", "SYN_RECV TIME_WAIT ESTABLISHED SYN_RECV ESTABLISHED"),
        ("cS cA", "ESTABLISHED FIN_WAIT ESTABLISHED CLOSE ESTABLISHED"),
        ("cS cA cA", "ESTABLISHED FIN_WAIT ESTABLISHED CLOSE ESTABLISHED"),
        ("cS cA cFA", "SYN_RECV FIN_WAIT FIN_WAIT CLOSE FIN_WAIT"),
        ("cS cA cFA cA", "SYN_RECV FIN_WAIT FIN_WAIT CLOSE FIN_WAIT"),
        ("cS cA cRA", "SYN_RECV CLOSE CLOSE CLOSE CLOSE"),
        ("cS cFA", "SYN_RECV TIME_WAIT TIME_WAIT CLOSE TIME_WAIT"),
        ("cS cRA", "SYN_RECV TIME_WAIT ESTABLISHED SYN_RECV ESTABLISHED"),
    ];
    assert_observed(&events, &table, true);
}

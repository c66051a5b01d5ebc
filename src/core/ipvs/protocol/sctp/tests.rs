//! State tables against the kernel's, and whole associations.

use super::*;

#[test]
fn numbers_follow_the_kernel() {
    for (number, state) in SctpState::ALL.into_iter().enumerate() {
        assert_eq!(state as usize, number);
        assert_eq!(SctpState::from_u8(number as u8), Some(state));
    }
    assert_eq!(SctpState::from_u8(14), None);
}

/// Direction of each chunk (c client, r real server), chunk type, and the states they lead through.
fn walk(no_output: bool, chunks: &[(char, u8)]) -> Vec<&'static str> {
    let mut state = SctpState::None;
    let mut names = vec![];
    for &(side, chunk) in chunks {
        let direction = if side == 'c' {
            Direction::Inbound
        } else {
            Direction::Outbound
        };
        state = next(state, direction, no_output, SctpEvent::of_chunk(chunk));
        names.push(state.name());
    }
    names
}

/// A real 6.1 kernel (recording sctp_nat).
#[test]
fn an_association_opens_and_closes_through_nat_as_a_kernel_was_seen_to_do_it() {
    let opening = [('c', 1), ('r', 2), ('c', 10), ('r', 11)];
    assert_eq!(walk(false, &opening), ["INIT1", "C-SENT", "C-REPLIED", "ESTABLISHED"]);
    let closing = [('c', 0), ('r', 0), ('c', 7), ('r', 8), ('c', 14)];
    let states = walk(false, &[&opening[..], &closing[..]].concat());
    assert_eq!(
        states[4..],
        ["ESTABLISHED", "ESTABLISHED", "S-RECEIVED", "S-ACK-SENT", "CLOSED"]
    );
}

#[test]
fn with_only_the_client_in_sight_the_cookie_echo_opens_it() {
    let chunks = [('c', 1), ('c', 10), ('c', 0), ('c', 7), ('c', 14)];
    assert_eq!(
        walk(true, &chunks),
        ["INIT1", "ESTABLISHED", "ESTABLISHED", "S-RECEIVED", "CLOSED"]
    );
}

#[test]
fn an_abort_closes_whatever_the_state() {
    for state in SctpState::ALL {
        for (direction, no_output) in [
            (Direction::Inbound, false),
            (Direction::Inbound, true),
            (Direction::Outbound, false),
        ] {
            let after = next(state, direction, no_output, SctpEvent::of_chunk(6));
            assert!(matches!(after, CL | RJ), "{state:?} {direction:?}: {after:?}");
        }
    }
}

#[test]
fn data_opens_an_unknown_association_and_disturbs_none() {
    for state in SctpState::ALL.into_iter().skip(1) {
        let inbound = next(state, Direction::Inbound, false, SctpEvent::Data);
        let outbound = next(state, Direction::Outbound, false, SctpEvent::of_chunk(255));
        assert_eq!((inbound, outbound), (state, state));
    }
    assert_eq!(next(SctpState::None, Direction::Inbound, false, SctpEvent::Data), ES);
}

/// The kernel's tables (ip_vs_proto_sctp.c `sctp_states`), written a second time from another source: a row for each
/// event, a word for each present state.
const TABLES: &str = "
INPUT
d    ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
i    I1 IN IN CS CR CW CO CE ES SS SR SA IN IN
ia   CW CW CW CS CR CO CO CE ES SS SR SA RJ CL
ce   CR IN IN CR CR CW CO CE ES SS SR SA RJ CL
ca   ES I1 IN CS CR CW CO ES ES SS SR SA RJ CL
s    SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
sa   CL IN IN CS CR CW CO CE ES CL SR CL RJ CL
sc   CL CL CL CS CR CW CO CE ES SS SR CL RJ CL
err  CL I1 IN CS CR CW CO CL ES SS SR SA RJ CL
ab   CL CL CL CL CL RJ CL CL CL CL CL CL CL CL
OUTPUT
d    ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
i    CW CW CW CW CW CW CW CW ES CW CW CW CW CW
ia   CS CS CS CS CR CW CO CE ES SS SR SA RJ CL
ce   CE CE CE CE CE CE CE CE ES SS SR SA RJ CL
ca   ES ES ES ES ES ES ES ES ES SS SR SA RJ CL
s    SS SS SS SS SS SS SS SS SS SS SR SA RJ CL
sa   SA SA SA SA SA CW CO CE ES SA SA SA RJ CL
sc   CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
err  CL CL CL CL CL CW CO CE ES SS SR SA RJ CL
ab   CL RJ CL CL CL CL CL CL CL CL CL CL CL CL
INPUT-ONLY
d    ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL
i    I1 IN IN IN IN IN CO CE ES SS SR SA IN IN
ia   CE CE CE CE CE CE CO CE ES SS SR SA RJ CL
ce   ES ES ES ES ES ES CO CE ES SS SR SA RJ CL
ca   ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL
s    SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
sa   CL IN IN CS CR CW CO CE CL CL SR CL RJ CL
sc   CL CL CL CL CL CW CO CE ES SS CL CL RJ CL
err  CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
ab   CL CL CL CL CL RJ CL CL CL CL CL CL CL CL
";

/// States in the tables' columns, the name in a cell and the idle timeout in seconds of each.
const COLUMNS: [(&str, u32); 14] = [
    ("NO", 2),
    ("I1", 4),
    ("IN", 61),
    ("CS", 61),
    ("CR", 61),
    ("CW", 61),
    ("CO", 61),
    ("CE", 61),
    ("ES", 900),
    ("SS", 61),
    ("SR", 61),
    ("SA", 61),
    ("RJ", 4),
    ("CL", 61),
];

/// Types of the chunks that mean an event, in the rows' order.
const ROWS: [(&str, &[u8]); 10] = [
    ("d", &[0, 3, 4, 5, 12, 13, 15, 64, 128, 192, 193, 255]),
    ("i", &[1]),
    ("ia", &[2]),
    ("ce", &[10]),
    ("ca", &[11]),
    ("s", &[7]),
    ("sa", &[8]),
    ("sc", &[14]),
    ("err", &[9]),
    ("ab", &[6]),
];

#[test]
fn every_transition_and_timeout_is_the_kernels() {
    let mut lines = TABLES.lines().filter(|line| !line.is_empty());
    let mut compared = 0;
    for (title, direction, no_output) in [
        ("INPUT", Direction::Inbound, false),
        ("OUTPUT", Direction::Outbound, false),
        ("INPUT-ONLY", Direction::Inbound, true),
    ] {
        assert_eq!(lines.next(), Some(title));
        for (event, chunks) in ROWS {
            let words: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
            assert_eq!((words[0], words.len()), (event, 15), "{title}");
            for (present, after) in words[1..].iter().enumerate() {
                let state = SctpState::from_u8(present as u8).unwrap();
                for chunk in chunks {
                    let next = next(state, direction, no_output, SctpEvent::of_chunk(*chunk));
                    assert_eq!(COLUMNS[next as usize].0, *after, "{title} {event} in {state:?}");
                    compared += 1;
                }
                // A reply leads to the same state whether or not one has passed before.
                if direction == Direction::Outbound {
                    let unseen = next(state, direction, true, SctpEvent::of_chunk(chunks[0]));
                    assert_eq!(COLUMNS[unseen as usize].0, *after);
                }
            }
        }
    }
    assert_eq!((lines.next(), compared), (None, 3 * 14 * (9 + 12)));
    for (state, (_, timeout_sec)) in SctpState::ALL.into_iter().zip(COLUMNS) {
        assert_eq!(state.default_timeout_sec(), timeout_sec, "{state:?}");
        assert_eq!(is_active(state), state == SctpState::Established);
    }
}

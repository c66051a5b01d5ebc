//! The TCP states of a connection as a director infers them from the flags that pass.
//!
//! Looser than RFC 9293: sequence numbers do not count, and in DR and TUN only the client's packets pass.
//! Follows Linux ip_vs_proto_tcp.c `tcp_states[]`, `tcp_states_dos[]`, `set_tcp_state()`.

use super::states::{Tables, states};
use crate::ipvs::conn::Direction;

states! {
    /// A state. Its number is the kernel's, and sync messages carry it.
    pub enum TcpState {
        /// Nothing seen.
        None = "NONE",
        /// Open.
        Established = "ESTABLISHED",
        /// The real server sent a SYN.
        SynSent = "SYN_SENT",
        /// The client sent a SYN.
        SynRecv = "SYN_RECV",
        /// The real server closes. In DR and TUN, where replies do not pass: the client closes.
        FinWait = "FIN_WAIT",
        /// Both closed.
        TimeWait = "TIME_WAIT",
        /// Reset.
        Close = "CLOSE",
        /// The client closes.
        CloseWait = "CLOSE_WAIT",
        /// The tables do not use it, but sync messages may carry it.
        LastAck = "LAST_ACK",
        /// The tables do not use it, but sync messages may carry it.
        Listen = "LISTEN",
        /// `secure_tcp`: a SYN that the real server answered.
        SynAck = "SYNACK",
    }
}

use TcpState::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI, None as NO,
    SynAck as SA, SynRecv as SR, SynSent as SS, TimeWait as TW,
};

impl TcpState {
    /// The kernel's idle timeout in seconds.
    pub const fn default_timeout_sec(self) -> u32 {
        match self {
            NO => 2,
            ES => 15 * 60,
            SS | FW | TW | LI | SA => 2 * 60,
            SR | CW => 60,
            CL => 10,
            LA => 30,
        }
    }
}

/// Whether a connection in this state is counted as `ActiveConn` (`tcp_state_active_table`).
#[inline]
pub const fn is_active(state: TcpState) -> bool {
    matches!(state, ES | SS | SR | SA)
}

/// FIN, of the flags byte of a TCP header (RFC 9293 3.1).
pub const FLAG_FIN: u8 = 0x01;
/// SYN.
pub const FLAG_SYN: u8 = 0x02;
/// RST.
pub const FLAG_RST: u8 = 0x04;
/// ACK.
pub const FLAG_ACK: u8 = 0x10;

/// Whether a packet with these flags may begin a connection: SYN without RST, whatever else is set.
#[inline]
pub const fn begins_connection(tcp_flags: u8) -> bool {
    tcp_flags & (FLAG_SYN | FLAG_RST) == FLAG_SYN
}

/// Next states, one row an event (SYN, FIN, ACK, RST), one column a present state.
type TcpTransitions = [[TcpState; 11]; 4];

/// Present:             NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
const IN: TcpTransitions = [
    /* syn */ [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    /* fin */ [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    /* rst */ [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
];

const OUT: TcpTransitions = [
    /* syn */ [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
    /* fin */ [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    /* rst */ [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
];

/// Only the client's packets pass.
const IN_ONLY: TcpTransitions = [
    /* syn */ [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    /* fin */ [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    /* rst */ [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

const SECURE_IN: TcpTransitions = [
    /* syn */ [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA],
    /* fin */ [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA],
    /* ack */ [ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA],
    /* rst */ [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

const SECURE_OUT: TcpTransitions = [
    /* syn */ [SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA],
    /* fin */ [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    /* rst */ [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
];

const SECURE_IN_ONLY: TcpTransitions = [
    /* syn */ [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA],
    /* fin */ [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    /* rst */ [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

const TABLES: Tables<'static, TcpTransitions> = Tables {
    inbound: &IN,
    inbound_only: &IN_ONLY,
    outbound: &OUT,
};

/// Under `secure_tcp`.
const SECURE_TABLES: Tables<'static, TcpTransitions> = Tables {
    inbound: &SECURE_IN,
    inbound_only: &SECURE_IN_ONLY,
    outbound: &SECURE_OUT,
};

/// The state after a packet with `tcp_flags` in `direction`.
///
/// `no_output`: no packet of the real server has passed (DR, TUN). The caller clears it at the first one.
#[inline]
pub const fn next(state: TcpState, direction: Direction, no_output: bool, tcp_flags: u8) -> TcpState {
    next_state(TABLES.of(direction, no_output), state, tcp_flags)
}

/// The same under `secure_tcp`, which accepts a handshake only if the real server took part in it.
#[inline]
pub const fn next_secure(state: TcpState, direction: Direction, no_output: bool, tcp_flags: u8) -> TcpState {
    next_state(SECURE_TABLES.of(direction, no_output), state, tcp_flags)
}

/// RST counts before SYN, SYN before FIN, FIN before ACK; a packet with none of them closes.
#[inline]
const fn next_state(transitions: &TcpTransitions, state: TcpState, tcp_flags: u8) -> TcpState {
    let event = if tcp_flags & FLAG_RST != 0 {
        3
    } else if tcp_flags & FLAG_SYN != 0 {
        0
    } else if tcp_flags & FLAG_FIN != 0 {
        1
    } else if tcp_flags & FLAG_ACK != 0 {
        2
    } else {
        return CL;
    };
    transitions[event][state as usize]
}

#[cfg(test)]
mod tests;

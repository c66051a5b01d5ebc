//! The SCTP states of an association as a director infers them from the chunks that pass.
//!
//! In DR and TUN only the client's packets pass. Follows Linux ip_vs_proto_sctp.c `sctp_states[]`, `sctp_events[]`,
//! `sctp_timeouts[]`, `set_sctp_state()`; chunks: RFC 9260 3.2.

use super::states::{Tables, states};
use crate::ipvs::conn::Direction;

states! {
    /// A state. Its number is the kernel's, and sync messages carry it.
    pub enum SctpState {
        /// Nothing seen.
        None = "NONE",
        /// The client's first INIT.
        Init1 = "INIT1",
        /// INIT again.
        Init = "INIT",
        /// The real server sent INIT ACK.
        CookieSent = "C-SENT",
        /// The client answered with COOKIE ECHO.
        CookieReplied = "C-REPLIED",
        /// The real server sent INIT, or the client INIT ACK.
        CookieWait = "C-WAIT",
        /// The client sent INIT ACK to a waiting server.
        Cookie = "COOKIE",
        /// The real server sent COOKIE ECHO.
        CookieEchoed = "C-ECHOED",
        /// Open.
        Established = "ESTABLISHED",
        /// The real server sent SHUTDOWN.
        ShutdownSent = "S-SENT",
        /// The client sent SHUTDOWN.
        ShutdownReceived = "S-RECEIVED",
        /// The real server sent SHUTDOWN ACK.
        ShutdownAckSent = "S-ACK-SENT",
        /// The real server aborted the opening.
        Rejected = "REJECTED",
        /// Closed.
        Closed = "CLOSED",
    }
}

impl SctpState {
    /// The kernel's idle timeout in seconds.
    pub const fn default_timeout_sec(self) -> u32 {
        match self {
            Self::None => 2,
            Self::Init1 | Self::Rejected => 4,
            Self::Established => 15 * 60,
            _ => 61,
        }
    }
}

/// What a packet means for the state: its first chunk, or the ABORT that follows a COOKIE ECHO or COOKIE ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SctpEvent {
    /// DATA, SACK, HEARTBEAT and everything unknown.
    Data = 0,
    /// INIT.
    Init = 1,
    /// INIT ACK.
    InitAck = 2,
    /// COOKIE ECHO.
    CookieEcho = 3,
    /// COOKIE ACK.
    CookieAck = 4,
    /// SHUTDOWN.
    Shutdown = 5,
    /// SHUTDOWN ACK.
    ShutdownAck = 6,
    /// SHUTDOWN COMPLETE.
    ShutdownComplete = 7,
    /// ERROR.
    Error = 8,
    /// ABORT.
    Abort = 9,
}

impl SctpEvent {
    /// From a chunk's type (RFC 9260 3.2).
    #[inline]
    pub const fn of_chunk(chunk_type: u8) -> Self {
        match chunk_type {
            1 => Self::Init,
            2 => Self::InitAck,
            6 => Self::Abort,
            7 => Self::Shutdown,
            8 => Self::ShutdownAck,
            9 => Self::Error,
            10 => Self::CookieEcho,
            11 => Self::CookieAck,
            14 => Self::ShutdownComplete,
            _ => Self::Data,
        }
    }
}

/// Whether a connection in this state is counted as `ActiveConn`.
#[inline]
pub const fn is_active(state: SctpState) -> bool {
    matches!(state, SctpState::Established)
}

use SctpState::{
    Closed as CL, Cookie as CO, CookieEchoed as CE, CookieReplied as CR, CookieSent as CS, CookieWait as CW,
    Established as ES, Init as IN, Init1 as I1, Rejected as RJ, ShutdownAckSent as SA, ShutdownReceived as SR,
    ShutdownSent as SS,
};

/// Next states, one row an [`SctpEvent`], one column a present state.
type SctpTransitions = [[SctpState; 14]; 10];

/// Present:  NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
const INBOUND: SctpTransitions = [
    /* d   */ [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* i   */ [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN],
    /* ia  */ [CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ce  */ [CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ca  */ [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL],
    /* s   */ [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
    /* sa  */ [CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL],
    /* sc  */ [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL],
    /* err */ [CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL],
    /* ab  */ [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
];

const OUTBOUND: SctpTransitions = [
    /* d   */ [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* i   */ [CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW],
    /* ia  */ [CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ce  */ [CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL],
    /* ca  */ [ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL],
    /* s   */ [SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL],
    /* sa  */ [SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL],
    /* sc  */ [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* err */ [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ab  */ [CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL],
];

/// Only the client's packets pass.
const INBOUND_ONLY: SctpTransitions = [
    /* d   */ [ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* i   */ [I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN],
    /* ia  */ [CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ce  */ [ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ca  */ [ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL],
    /* s   */ [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
    /* sa  */ [CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL],
    /* sc  */ [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL],
    /* err */ [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ab  */ [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
];

const TABLES: Tables<'static, SctpTransitions> = Tables {
    inbound: &INBOUND,
    inbound_only: &INBOUND_ONLY,
    outbound: &OUTBOUND,
};

/// The state after a packet with this event in `direction`.
///
/// `no_output`: no packet of the real server has passed (DR, TUN). The caller clears it at the first one.
#[inline]
pub const fn next(state: SctpState, direction: Direction, no_output: bool, event: SctpEvent) -> SctpState {
    TABLES.of(direction, no_output)[event as usize][state as usize]
}

#[cfg(test)]
mod tests;

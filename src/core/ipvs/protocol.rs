//! Protocol states and their timeouts, which the path's tracking uses.
//!
//! Defaults and names are the kernel's: Linux ip_vs_proto_tcp.c, ip_vs_proto_udp.c, ip_vs_proto_sctp.c.

pub mod sctp;
mod states;
pub mod tcp;
pub mod udp;

use thiserror::Error;

use crate::limits::TIMEOUT_CONFIGURED_MAX_SEC;
use sctp::SctpState;
use tcp::TcpState;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ESP: u8 = 50;
const AH: u8 = 51;

/// Timeout of a connection whose protocol has no states here, in seconds.
const OTHER_SEC: u32 = 300;

/// Why a timeout cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TimeoutError {
    /// Above [`TIMEOUT_CONFIGURED_MAX_SEC`].
    #[error("timeout of {sec} s is too long: give at most {TIMEOUT_CONFIGURED_MAX_SEC} s, or 0 to leave it unchanged")]
    TooLong {
        /// Which one: `tcp_sec`, `tcp_fin_sec` or `udp_sec`.
        name: &'static str,
        /// What was asked for.
        sec: u32,
    },
}

/// Idle timeouts of connections in seconds, by protocol state; each at most [`TIMEOUT_CONFIGURED_MAX_SEC`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// By [`TcpState`].
    tcp_sec: [u32; TcpState::ALL.len()],
    /// UDP has one state.
    udp_sec: u32,
    /// By [`SctpState`].
    sctp_sec: [u32; SctpState::ALL.len()],
}

impl Default for Timeouts {
    /// The kernel's: ESTABLISHED 15 minutes, FIN_WAIT 2 minutes, UDP 5 minutes.
    fn default() -> Self {
        Self {
            tcp_sec: TcpState::ALL.map(TcpState::default_timeout_sec),
            udp_sec: udp::DEFAULT_TIMEOUT_SEC,
            sctp_sec: SctpState::ALL.map(SctpState::default_timeout_sec),
        }
    }
}

impl Timeouts {
    /// `ipvsadm --set tcp tcpfin udp`: the timeouts of ESTABLISHED, of FIN_WAIT and of UDP in seconds;
    /// 0 leaves one as it is. On an error nothing is changed.
    pub fn set(&mut self, tcp_sec: u32, tcp_fin_sec: u32, udp_sec: u32) -> Result<(), TimeoutError> {
        let named = [("tcp_sec", tcp_sec), ("tcp_fin_sec", tcp_fin_sec), ("udp_sec", udp_sec)];
        if let Some((name, sec)) = named.into_iter().find(|(_, sec)| *sec > TIMEOUT_CONFIGURED_MAX_SEC) {
            return Err(TimeoutError::TooLong { name, sec });
        }
        let replace = |timeout: &mut u32, sec: u32| {
            if sec > 0 {
                *timeout = sec;
            }
        };
        replace(&mut self.tcp_sec[TcpState::Established as usize], tcp_sec);
        replace(&mut self.tcp_sec[TcpState::FinWait as usize], tcp_fin_sec);
        replace(&mut self.udp_sec, udp_sec);
        Ok(())
    }

    /// The three that [`Self::set`] sets, in its order, in seconds: what `ipvsadm -L --timeout` shows.
    pub const fn shown(&self) -> (u32, u32, u32) {
        let [_, established, _, _, fin_wait, ..] = self.tcp_sec;
        (established, fin_wait, self.udp_sec)
    }
}

/// Idle timeout of a connection in seconds.
#[inline]
pub fn timeout_sec(timeouts: &Timeouts, protocol: u8, state: u8) -> u32 {
    match protocol {
        TCP => *timeouts.tcp_sec.get(usize::from(state)).unwrap_or(&timeouts.tcp_sec[0]),
        UDP => timeouts.udp_sec,
        SCTP => *timeouts
            .sctp_sec
            .get(usize::from(state))
            .unwrap_or(&timeouts.sctp_sec[0]),
        _ => OTHER_SEC,
    }
}

/// The same in milliseconds: 32 bits hold [`TIMEOUT_CONFIGURED_MAX_SEC`].
#[inline]
pub fn timeout_ms(timeouts: &Timeouts, protocol: u8, state: u8) -> u32 {
    timeout_sec(timeouts, protocol, state).min(TIMEOUT_CONFIGURED_MAX_SEC) * 1_000
}

/// How many states a protocol has, 0 for one without connections. AH and ESP have one, because other directors may sync
/// them.
pub const fn states_count(protocol: u8) -> u16 {
    match protocol {
        TCP => TcpState::ALL.len() as u16,
        SCTP => SctpState::ALL.len() as u16,
        UDP | AH | ESP => 1,
        _ => 0,
    }
}

/// The state's name as `ipvsadm -Lnc` prints it; `ERR!` for a state that the protocol does not have,
/// `NONE` for a protocol without states.
pub fn state_name(protocol: u8, state: u8) -> &'static str {
    match protocol {
        TCP => TcpState::from_u8(state).map_or("ERR!", TcpState::name),
        UDP if state == udp::NORMAL => udp::NAME,
        SCTP => SctpState::from_u8(state).map_or("ERR!", SctpState::name),
        UDP => "ERR!",
        _ => "NONE",
    }
}

/// Whether a connection in this state is counted as `ActiveConn`; UDP never is.
#[inline]
pub fn is_active(protocol: u8, state: u8) -> bool {
    match protocol {
        TCP => TcpState::from_u8(state).is_some_and(tcp::is_active),
        SCTP => SctpState::from_u8(state).is_some_and(sctp::is_active),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_changes_established_fin_wait_and_udp_only_and_0_keeps() {
        let mut timeouts = Timeouts::default();
        assert_eq!(timeouts.shown(), (900, 120, 300));
        timeouts.set(0, 33, 0).unwrap();
        assert_eq!(timeouts.shown(), (900, 33, 300));
        timeouts.set(1_000, 0, 7).unwrap();
        assert_eq!(timeouts.shown(), (1_000, 33, 7));
        for state in TcpState::ALL {
            if ![TcpState::Established, TcpState::FinWait].contains(&state) {
                assert_eq!(timeout_sec(&timeouts, TCP, state as u8), state.default_timeout_sec());
            }
        }
    }

    #[test]
    fn a_timeout_beyond_the_clock_is_refused_and_changes_nothing() {
        let mut timeouts = Timeouts::default();
        let error = timeouts.set(60, 60, TIMEOUT_CONFIGURED_MAX_SEC + 1).unwrap_err();
        assert!(error.to_string().contains("at most 2678400 s"), "{error}");
        assert_eq!(timeouts, Timeouts::default());
        timeouts.set(TIMEOUT_CONFIGURED_MAX_SEC, 0, 0).unwrap();
        assert_eq!(timeout_ms(&timeouts, TCP, TcpState::Established as u8), 2_678_400_000);
    }

    #[test]
    fn states_have_the_names_that_lnc_prints() {
        assert_eq!(state_name(TCP, 3), "SYN_RECV");
        assert_eq!(state_name(TCP, 11), "ERR!");
        assert_eq!(state_name(UDP, 0), "UDP");
        assert_eq!(state_name(SCTP, 12), "REJECTED");
        assert_eq!(state_name(0, 0), "NONE");
    }

    #[test]
    fn only_opening_and_open_tcp_and_open_sctp_are_active() {
        let active = |protocol: u8| {
            (0..=20)
                .filter(|&state| is_active(protocol, state))
                .collect::<Vec<u8>>()
        };
        assert_eq!(active(TCP), [1, 2, 3, 10]);
        assert_eq!(active(UDP), []);
        assert_eq!(active(SCTP), [8]);
    }
}

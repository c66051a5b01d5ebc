//! The SCTP states of an association and their timeouts.
//!
//! Follows Linux ip_vs_proto_sctp.c `sctp_timeouts[]`, `sctp_state_name_table[]`.

/// A state; the numbers are the kernel's and travel in its sync messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SctpState {
    /// Nothing seen.
    None = 0,
    /// The client's first INIT.
    Init1 = 1,
    /// INIT again.
    Init = 2,
    /// The real server sent INIT ACK.
    CookieSent = 3,
    /// The client answered with COOKIE ECHO.
    CookieReplied = 4,
    /// The real server sent INIT, or the client INIT ACK.
    CookieWait = 5,
    /// The client sent INIT ACK to a waiting server.
    Cookie = 6,
    /// The real server sent COOKIE ECHO.
    CookieEchoed = 7,
    /// Open.
    Established = 8,
    /// The real server sent SHUTDOWN.
    ShutdownSent = 9,
    /// The client sent SHUTDOWN.
    ShutdownReceived = 10,
    /// The real server sent SHUTDOWN ACK.
    ShutdownAckSent = 11,
    /// The real server aborted the opening.
    Rejected = 12,
    /// Closed.
    Closed = 13,
}

impl SctpState {
    /// Every state by its number.
    pub const ALL: [Self; 14] = [
        Self::None,
        Self::Init1,
        Self::Init,
        Self::CookieSent,
        Self::CookieReplied,
        Self::CookieWait,
        Self::Cookie,
        Self::CookieEchoed,
        Self::Established,
        Self::ShutdownSent,
        Self::ShutdownReceived,
        Self::ShutdownAckSent,
        Self::Rejected,
        Self::Closed,
    ];

    /// The state of that number.
    #[inline]
    pub const fn from_u8(number: u8) -> Option<Self> {
        if (number as usize) < Self::ALL.len() {
            Some(Self::ALL[number as usize])
        } else {
            None
        }
    }

    /// As `ipvsadm -Lnc` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Init1 => "INIT1",
            Self::Init => "INIT",
            Self::CookieSent => "C-SENT",
            Self::CookieReplied => "C-REPLIED",
            Self::CookieWait => "C-WAIT",
            Self::Cookie => "COOKIE",
            Self::CookieEchoed => "C-ECHOED",
            Self::Established => "ESTABLISHED",
            Self::ShutdownSent => "S-SENT",
            Self::ShutdownReceived => "S-RECEIVED",
            Self::ShutdownAckSent => "S-ACK-SENT",
            Self::Rejected => "REJECTED",
            Self::Closed => "CLOSED",
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_kernel() {
        for (number, state) in SctpState::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, number);
            assert_eq!(SctpState::from_u8(number as u8), Some(state));
        }
        assert_eq!(SctpState::from_u8(14), None);
    }
}

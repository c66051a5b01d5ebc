//! The flag bits of a connection, in the numbers that the kernel uses where it has the same flag.
//!
//! Ref: Linux include/uapi/linux/ip_vs.h `IP_VS_CONN_F_*`.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Flags of a [`super::Conn`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct ConnFlags(u16);

bitflags! {
    impl ConnFlags: u16 {
        /// The client's FIN has passed: [`super::ColdConn::client_end`] is the number behind it.
        const CLIENT_ENDED = 0x0002;
        /// Packets from the real server go to a newer connection with the same outbound key
        /// ([`super::ColdConn::shadowed`]).
        const SHADOWED = 0x0004;
        /// The director waits for the real server's answer, to measure how long it takes.
        const TIMED = 0x0008;
        /// A template of the table controls this connection.
        const CONTROLLED = 0x0010;
        /// The sync daemon created it, not a packet (`IP_VS_CONN_F_SYNC`).
        const SYNCED = 0x0020;
        /// A copy of a synced FULLNAT connection, on the worker of its local port; another worker owns the client.
        /// The copy serves replies, is not bound to its real server and not listed.
        const REPLIES_ONLY = 0x0040;
        /// No reply has been seen (`IP_VS_CONN_F_NOOUTPUT`).
        const NO_OUTPUT = 0x0080;
        /// Counted in InActConn, not in ActiveConn (`IP_VS_CONN_F_INACTIVE`).
        const INACTIVE = 0x0100;
        /// Outbound sequence numbers are shifted (`IP_VS_CONN_F_OUT_SEQ`).
        const OUTBOUND_SHIFTED = 0x0200;
        /// Inbound sequence numbers are shifted (`IP_VS_CONN_F_IN_SEQ`).
        const INBOUND_SHIFTED = 0x0400;
        /// The client's port is not known yet (`IP_VS_CONN_F_NO_CPORT`).
        const NO_CLIENT_PORT = 0x0800;
        /// A persistence template, not a connection (`IP_VS_CONN_F_TEMPLATE`).
        const TEMPLATE = 0x1000;
        /// One-packet scheduling (`IP_VS_CONN_F_ONE_PACKET`).
        const ONE_PACKET = 0x2000;
        /// The table indexes the reply's key too: NAT and FULLNAT.
        const OUTBOUND_INDEXED = 0x4000;
        /// A template that no longer decides, but still controls connections.
        const RETIRED = 0x8000;
        /// Sequence numbers of either direction are shifted.
        const SHIFTED = Self::INBOUND_SHIFTED.bits() | Self::OUTBOUND_SHIFTED.bits();
    }
}

impl From<ConnFlags> for u32 {
    /// As a sync message carries them.
    fn from(flags: ConnFlags) -> Self {
        Self::from(flags.bits())
    }
}

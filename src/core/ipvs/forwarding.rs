//! How a packet reaches its real server.

/// The forwarding method of a real server or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ForwardingMode {
    /// `-m`: destination rewritten, the reply comes back through the director.
    Nat = 0,
    /// Source and destination rewritten: NAT of a service that has a local-address pool.
    FullNat = 1,
    /// `-i`: encapsulated towards the real server, which answers directly.
    Tunnel = 2,
    /// `-g`: only the MAC changes.
    DirectRouting = 3,
    /// The real server is the director itself.
    Local = 4,
    /// Past all real servers, on to the client's destination.
    Bypass = 5,
}

impl ForwardingMode {
    /// From the byte that a [`crate::ipvs::conn::Conn`] stores. An unknown value means `Nat`.
    #[inline]
    pub const fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::FullNat,
            2 => Self::Tunnel,
            3 => Self::DirectRouting,
            4 => Self::Local,
            5 => Self::Bypass,
            _ => Self::Nat,
        }
    }

    /// The word `ipvsadm -L` prints (`Masq Route Tunnel Local Bypass`); FULLNAT prints `FullNat`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "Masq",
            Self::FullNat => "FullNat",
            Self::Tunnel => "Tunnel",
            Self::DirectRouting => "Route",
            Self::Local => "Local",
            Self::Bypass => "Bypass",
        }
    }

    /// Whether packets go to no real server, whatever its address is.
    #[inline]
    pub const fn is_serverless(self) -> bool {
        matches!(self, Self::Local | Self::Bypass)
    }

    /// Whether replies pass through the director, so that they are looked up and rewritten.
    #[inline]
    pub const fn sees_replies(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }
}

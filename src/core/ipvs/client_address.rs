//! How a real server behind FULLNAT learns who its client is, and which part of that a connection has done.
//!
//! A service says which [`ClientAddress`] its real servers read. Each connection has a [`ClientAddressState`], one byte
//! in its first cache line. It is 0 when nothing is left to do, and an established packet tests only that.
//!
//! Ref: Alibaba's and DPVS's toa and uoa kernel modules; the PROXY protocol specification (HAProxy).

use zerocopy::{FromBytes, Immutable, KnownLayout};

/// What carries the client's address to a FULLNAT real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ClientAddress {
    /// Nothing: the server sees the local address only.
    #[default]
    None = 0,
    /// TCP option 254 (IPv4) or 253 (IPv6), until the server has answered.
    Toa = 1,
    /// The PROXY protocol's text header as the first bytes of the TCP stream.
    ProxyV1 = 2,
    /// The PROXY protocol's binary header as the first bytes of the TCP stream.
    ProxyV2 = 3,
    /// The first UDP datagrams carry IPv4 option 31; in IPv6 they carry an extension header of protocol 248.
    Uoa = 4,
}

impl ClientAddress {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Toa, Self::ProxyV1, Self::ProxyV2, Self::Uoa];

    /// `none`, `toa`, `proxy-v1`, `proxy-v2`, `uoa`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Toa => "toa",
            Self::ProxyV1 => "proxy-v1",
            Self::ProxyV2 => "proxy-v2",
            Self::Uoa => "uoa",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|carrier| carrier.name() == name)
    }

    /// The IP protocol of the packets that carry it; `None` for nothing.
    pub const fn protocol(self) -> Option<u8> {
        match self {
            Self::None => None,
            Self::Toa | Self::ProxyV1 | Self::ProxyV2 => Some(crate::wire::tcp::PROTOCOL),
            Self::Uoa => Some(crate::wire::udp::PROTOCOL),
        }
    }
}

/// What the packets of one connection still have to carry or change; [`Self::OVER`] for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct ClientAddressState(u8);

impl ClientAddressState {
    /// Nothing is left.
    pub const OVER: Self = Self(0);
    /// PROXY: the header has been sent.
    pub const SENT: u8 = 0x08;
    /// PROXY: data has been sent after the header.
    pub const FOLLOWED: u8 = 0x10;
    /// PROXY: the real server has the whole header.
    pub const RECEIVED: u8 = 0x20;
    /// The MSS that SYN segments announce is limited.
    pub const LIMITS_MSS: u8 = 0x40;
    /// The client's SYN has to get the initial sequence number that the director chose.
    pub const OWN_ISN: u8 = 0x80;

    const CARRIER: u8 = 0x07;
    /// UOA counts in the bits that PROXY uses as flags.
    const COUNT_ONE: u8 = 0x08;
    const COUNT: u8 = 0x38;

    /// At the first packet of a connection.
    pub const fn begin(carrier: ClientAddress, limits_mss: bool) -> Self {
        let limits = if limits_mss { Self::LIMITS_MSS } else { 0 };
        Self(carrier as u8 | limits)
    }

    /// Of a connection of another director, which has put a PROXY header in front of the client's stream.
    pub const fn proxy_received() -> Self {
        Self(ClientAddress::ProxyV2 as u8 | Self::SENT | Self::FOLLOWED | Self::RECEIVED)
    }

    /// Whether packets still have something to carry or to change.
    #[inline(always)]
    pub const fn is_pending(self) -> bool {
        self.0 != 0
    }

    /// What carries the address; [`ClientAddress::None`] when the server has it or does not get it.
    pub const fn carrier(self) -> ClientAddress {
        match self.0 & Self::CARRIER {
            1 => ClientAddress::Toa,
            2 => ClientAddress::ProxyV1,
            3 => ClientAddress::ProxyV2,
            4 => ClientAddress::Uoa,
            _ => ClientAddress::None,
        }
    }

    /// Whether the client's SYN still has to get an initial sequence number of the director's. It is asked once.
    pub const fn take_own_isn(&mut self) -> bool {
        let takes = self.has(Self::OWN_ISN);
        self.0 &= !Self::OWN_ISN;
        takes
    }

    /// Whether all of these bits are set.
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }

    /// Sets these bits.
    pub const fn note(&mut self, bits: u8) {
        self.0 |= bits;
    }

    /// The connection begins anew with the same carrier.
    pub const fn restart(&mut self) {
        self.0 &= Self::CARRIER | Self::LIMITS_MSS;
    }

    /// The server has the address.
    pub const fn delivered(&mut self) {
        self.0 &= Self::LIMITS_MSS;
    }

    /// The handshake is over: no SYN segment follows.
    pub const fn mss_known(&mut self) {
        self.0 &= !Self::LIMITS_MSS;
    }

    /// Counts a datagram that carried the address. Returns how many have.
    pub const fn count(&mut self) -> u8 {
        self.0 += Self::COUNT_ONE;
        (self.0 & Self::COUNT) / Self::COUNT_ONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_carriers() {
        for carrier in ClientAddress::ALL {
            assert_eq!(ClientAddress::parse(carrier.name()), Some(carrier));
            assert_eq!(ClientAddressState::begin(carrier, true).carrier(), carrier);
        }
        assert_eq!(ClientAddress::parse("proxy"), None);
    }

    #[test]
    fn an_introduction_is_over_when_the_address_is_told_and_the_mss_known() {
        let mut client_address = ClientAddressState::begin(ClientAddress::ProxyV2, true);
        client_address.note(ClientAddressState::SENT | ClientAddressState::FOLLOWED);
        assert!(client_address.has(ClientAddressState::SENT) && !client_address.has(ClientAddressState::RECEIVED));
        client_address.restart();
        assert_eq!(client_address, ClientAddressState::begin(ClientAddress::ProxyV2, true));
        client_address.delivered();
        assert!(client_address.is_pending());
        client_address.mss_known();
        assert_eq!(client_address, ClientAddressState::OVER);
    }

    #[test]
    fn datagrams_are_counted_beside_the_carrier() {
        let mut client_address = ClientAddressState::begin(ClientAddress::Uoa, false);
        assert_eq!(
            [client_address.count(), client_address.count(), client_address.count()],
            [1, 2, 3]
        );
        assert_eq!(client_address.carrier(), ClientAddress::Uoa);
    }
}

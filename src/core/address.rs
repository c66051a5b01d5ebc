//! Addresses of both families behind one trait, so that table, path and rewrite are written once.
//!
//! Addresses are bytes in network order; ports are in host order everywhere except in `wire/`.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressFamily {
    /// RFC 791.
    #[default]
    Ipv4,
    /// RFC 8200.
    Ipv6,
}

impl AddressFamily {
    /// The family of `address`.
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

/// Bytes of one family's address, in network order.
pub trait Address:
    Copy
    + Eq
    + Ord
    + Hash
    + Debug
    + Default
    + FromBytes
    + IntoBytes
    + Immutable
    + KnownLayout
    + Unaligned
    + Send
    + Sync
    + 'static
{
    /// Which family this is.
    const FAMILY: AddressFamily;
    /// Bytes of an address: 4 or 16.
    const LEN: usize;

    /// The standard library's form.
    fn to_ip(self) -> IpAddr;

    /// From the standard library's form; `None` when the family differs.
    fn from_ip(ip: IpAddr) -> Option<Self>;

    /// Two words that hold the whole address; the second is 0 for IPv4. For hashing and comparing.
    fn words(&self) -> (u64, u64);

    /// The kernel's fold for hashing schedulers: the address as a host-order word,
    /// for IPv6 the XOR of its four words (`ip_vs_sh.c` `ip_vs_sh_hashkey`).
    fn fold(&self) -> u32;
}

/// An IPv4 address.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct Addr4(pub [u8; 4]);

/// An IPv6 address.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct Addr6(pub [u8; 16]);

impl Address for Addr4 {
    const FAMILY: AddressFamily = AddressFamily::Ipv4;
    const LEN: usize = 4;

    #[inline]
    fn to_ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self.0))
    }

    #[inline]
    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(v4) => Some(Self(v4.octets())),
            IpAddr::V6(_) => None,
        }
    }

    #[inline]
    fn words(&self) -> (u64, u64) {
        (u64::from(u32::from_ne_bytes(self.0)), 0)
    }

    #[inline]
    fn fold(&self) -> u32 {
        u32::from_be_bytes(self.0)
    }
}

impl Address for Addr6 {
    const FAMILY: AddressFamily = AddressFamily::Ipv6;
    const LEN: usize = 16;

    #[inline]
    fn to_ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.0))
    }

    #[inline]
    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V6(v6) => Some(Self(v6.octets())),
            IpAddr::V4(_) => None,
        }
    }

    #[inline]
    fn words(&self) -> (u64, u64) {
        let whole = u128::from_ne_bytes(self.0);
        (whole as u64, (whole >> 64) as u64)
    }

    #[inline]
    fn fold(&self) -> u32 {
        let whole = u128::from_be_bytes(self.0);
        (whole as u32) ^ ((whole >> 32) as u32) ^ ((whole >> 64) as u32) ^ ((whole >> 96) as u32)
    }
}

impl Debug for Addr4 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.to_ip())
    }
}

impl Debug for Addr6 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.to_ip())
    }
}

/// One end of a flow or connection: address and L4 port (host order).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Endpoint<A: Address> {
    /// Bytes of the address.
    pub addr: A,
    /// L4 port in host order; 0 where the protocol has none.
    pub port: u16,
}

impl<A: Address> Endpoint<A> {
    /// An end at `addr`:`port`.
    #[inline]
    pub const fn new(addr: A, port: u16) -> Self {
        Self { addr, port }
    }

    /// 0 when both are the same end. It does not branch, because whole keys are compared with it.
    #[inline(always)]
    pub fn difference(&self, other: &Self) -> u64 {
        let (low, high) = self.addr.words();
        let (other_low, other_high) = other.addr.words();
        (low ^ other_low) | (high ^ other_high) | u64::from(self.port ^ other.port)
    }
}

/// The 5-tuple of a packet as it stands on the wire; the direction does not swap its ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey<A: Address> {
    /// Where the packet comes from.
    pub src: Endpoint<A>,
    /// Where it goes.
    pub dst: Endpoint<A>,
    /// IP protocol number.
    pub protocol: u8,
}

impl<A: Address> FlowKey<A> {
    /// The flow of the answers.
    #[inline]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            protocol: self.protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_folds_to_the_xor_of_its_words() {
        let addr = Addr6::from_ip("2001:db8::1".parse().unwrap()).unwrap();
        assert_eq!(addr.fold(), 0x2001_0db8 ^ 1);
    }

    #[test]
    fn endpoints_are_packed_so_that_a_conn_fits_its_lines() {
        assert_eq!(size_of::<Endpoint<Addr4>>(), 6);
        assert_eq!(size_of::<Endpoint<Addr6>>(), 18);
    }
}

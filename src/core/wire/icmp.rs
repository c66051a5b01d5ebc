//! The ICMP and ICMPv6 header (RFC 792, RFC 4443).

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IP protocol number of ICMP.
pub const PROTOCOL_V4: u8 = 1;
/// IP protocol number of ICMPv6.
pub const PROTOCOL_V6: u8 = 58;

/// ICMP destination unreachable.
pub const V4_UNREACHABLE: u8 = 3;
/// ICMP source quench.
pub const V4_SOURCE_QUENCH: u8 = 4;
/// ICMP redirect.
pub const V4_REDIRECT: u8 = 5;
/// ICMP echo request.
pub const V4_ECHO_REQUEST: u8 = 8;
/// ICMP time exceeded.
pub const V4_TIME_EXCEEDED: u8 = 11;
/// ICMP parameter problem.
pub const V4_PARAMETER_PROBLEM: u8 = 12;
/// Highest ICMP type of RFC 1122. The kernel treats higher ones as errors (`NR_ICMP_TYPES`).
pub const V4_TYPE_MAX: u8 = 18;

/// ICMP code: network unreachable.
pub const V4_CODE_NET: u8 = 0;
/// ICMP code: host unreachable.
pub const V4_CODE_HOST: u8 = 1;
/// ICMP code: port unreachable.
pub const V4_CODE_PORT: u8 = 3;
/// ICMP code: fragmentation needed and DF set.
pub const V4_CODE_FRAGMENTATION_NEEDED: u8 = 4;
/// ICMP code: communication administratively prohibited (RFC 1812 5.2.7.1).
pub const V4_CODE_PROHIBITED: u8 = 13;

/// ICMP and ICMPv6 code of time exceeded: fragment reassembly time exceeded.
pub const CODE_REASSEMBLY: u8 = 1;

/// ICMPv6 destination unreachable.
pub const V6_UNREACHABLE: u8 = 1;
/// ICMPv6 packet too big.
pub const V6_PACKET_TOO_BIG: u8 = 2;
/// ICMPv6 time exceeded.
pub const V6_TIME_EXCEEDED: u8 = 3;
/// ICMPv6 parameter problem.
pub const V6_PARAMETER_PROBLEM: u8 = 4;
/// ICMPv6 echo request.
pub const V6_ECHO_REQUEST: u8 = 128;
/// ICMPv6 redirect (RFC 4861).
pub const V6_REDIRECT: u8 = 137;

/// ICMPv6 code: no route to destination.
pub const V6_CODE_NO_ROUTE: u8 = 0;
/// ICMPv6 code: communication administratively prohibited.
pub const V6_CODE_PROHIBITED: u8 = 1;
/// ICMPv6 code: address unreachable.
pub const V6_CODE_ADDRESS: u8 = 3;
/// ICMPv6 code: port unreachable.
pub const V6_CODE_PORT: u8 = 4;

/// The first eight bytes of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcmpHeader {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Internet checksum of the message; for ICMPv6 with pseudo header.
    pub checksum: U16,
    /// Depends on the type: identifier and sequence number, MTU, zero.
    pub rest: U32,
}

impl IcmpHeader {
    /// Bytes of the header.
    pub const LEN: usize = 8;

    /// A header whose checksum is still to be filled in.
    pub const fn new(kind: u8, code: u8, rest: u32) -> Self {
        Self {
            kind,
            code,
            checksum: U16::ZERO,
            rest: U32::new(rest),
        }
    }
}

/// Whether an ICMP message of this type quotes a packet (RFC 1122 3.2.2).
#[inline]
pub const fn is_v4_error(kind: u8) -> bool {
    matches!(
        kind,
        V4_UNREACHABLE | V4_SOURCE_QUENCH | V4_REDIRECT | V4_TIME_EXCEEDED | V4_PARAMETER_PROBLEM
    )
}

/// Whether an ICMPv6 message of this type is an error (RFC 4443 2.1: the high bit is 0).
#[inline]
pub const fn is_v6_error(kind: u8) -> bool {
    kind < 128
}

const _: () = assert!(size_of::<IcmpHeader>() == IcmpHeader::LEN);

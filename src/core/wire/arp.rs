//! ARP for IPv4 over Ethernet (RFC 826). Only looked at, never answered: ARP belongs to the kernel.

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::address::Addr4;

/// Who has this address?
pub const OPERATION_REQUEST: u16 = 1;
/// I have it.
pub const OPERATION_REPLY: u16 = 2;

/// A whole ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ArpPacket {
    /// 1 for Ethernet.
    pub hardware: U16,
    /// 0x0800 for IPv4.
    pub protocol: U16,
    /// Bytes of a MAC address: 6.
    pub hardware_len: u8,
    /// Bytes of an IPv4 address: 4.
    pub protocol_len: u8,
    /// Request or reply.
    pub operation: U16,
    /// MAC of the sender.
    pub sender_mac: [u8; 6],
    /// Address of the sender.
    pub sender: Addr4,
    /// MAC of the target; zero in a request.
    pub target_mac: [u8; 6],
    /// Address of the target.
    pub target: Addr4,
}

impl ArpPacket {
    /// Bytes of the packet.
    pub const LEN: usize = 28;
}

const _: () = assert!(size_of::<ArpPacket>() == ArpPacket::LEN);

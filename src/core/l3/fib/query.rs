//! What routing is asked about a packet.
//!
//! In:  what a packet shows before it is routed, and the interface that it came by.
//! Ref:  Linux include/net/flow.h `flowi_common`.

use std::net::IpAddr;

use super::Selectors;
use crate::l3::InterfaceId;

/// The VRF of the interface that a packet came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vrf {
    /// The VRF's own interface.
    pub interface: InterfaceId,
    /// Its table.
    pub table: u32,
}

/// A question to the kernel's routing, its `flowi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteQuery {
    /// Where to.
    pub dst: IpAddr,
    /// From where; `None` while the route decides it.
    pub src: Option<IpAddr>,
    /// The packet's firewall mark.
    pub mark: u32,
    /// The interface that received it; [`InterfaceId::LOOPBACK`] for what the director itself sends.
    pub iif: InterfaceId,
    /// The VRF of that interface.
    pub vrf: Option<Vrf>,
    /// TOS or traffic class, without the ECN bits.
    pub tos: u8,
    /// Protocol number; 0 where the kernel does not look.
    pub protocol: u8,
    /// Source and destination port; 0 where the kernel does not look.
    pub ports: (u16, u16),
}

impl RouteQuery {
    /// About a packet that the director itself sends, as IPVS does to real servers.
    pub const fn output(dst: IpAddr) -> Self {
        Self {
            dst,
            src: None,
            mark: 0,
            iif: InterfaceId::LOOPBACK,
            vrf: None,
            tos: 0,
            protocol: 0,
            ports: (0, 0),
        }
    }

    /// The same from a source address.
    #[must_use]
    pub const fn from(mut self, src: IpAddr) -> Self {
        self.src = Some(src);
        self
    }

    /// Without what `selectors` do not look at: questions with the same answer become equal.
    #[must_use]
    pub fn normalised(self, selectors: Selectors) -> Self {
        let plain = Self::output(self.dst);
        Self {
            dst: self.dst,
            src: self.src.filter(|_| selectors.src),
            mark: if selectors.mark { self.mark } else { 0 },
            iif: if selectors.iif { self.iif } else { plain.iif },
            vrf: self.vrf.filter(|_| selectors.iif),
            tos: if selectors.tos { self.tos } else { 0 },
            protocol: if selectors.ports { self.protocol } else { 0 },
            ports: if selectors.ports { self.ports } else { (0, 0) },
        }
    }

    /// 31 bits that are the same for all packets of a flow.
    pub(super) fn hash(&self) -> u32 {
        const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
        let fold = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => u64::from(addr.to_bits()),
            IpAddr::V6(addr) => (addr.to_bits() >> 64) as u64 ^ (addr.to_bits() as u64).rotate_left(32),
        };
        let words = [
            fold(self.dst),
            self.src.map_or(0, fold),
            u64::from(self.ports.0) << 16 | u64::from(self.ports.1),
        ];
        let mixed = words
            .iter()
            .fold(0_u64, |mixed, word| (mixed ^ word).wrapping_mul(MIX).rotate_left(29));
        (mixed.wrapping_mul(MIX) >> 33) as u32
    }
}

//! The neighbours that frames wait for, by short names.
//!
//! In:  a neighbour that the kernel has not resolved. Out: the [`WaitId`] that a verdict carries, and the way back.

use std::net::{IpAddr, Ipv4Addr};

use crate::l3::{DeviceId, NeighbourKey};
use crate::verdict::WaitId;

/// The neighbours that frames were last held for. One call of the path cannot name as many as there are places.
#[derive(Debug)]
pub(crate) struct PendingNeighbours {
    keys: [NeighbourKey; 256],
    next: u8,
}

impl PendingNeighbours {
    pub(crate) const fn new() -> Self {
        let nobody = NeighbourKey::of(DeviceId(0), 0, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Self {
            keys: [nobody; 256],
            next: 0,
        }
    }

    /// A name for `key`; the same as last time when it is the same neighbour again.
    pub(crate) fn name(&mut self, key: NeighbourKey) -> WaitId {
        let last = self.next.wrapping_sub(1);
        if self.key(WaitId(last)) == key {
            return WaitId(last);
        }
        let name = self.next;
        self.keys[usize::from(name)] = key;
        self.next = name.wrapping_add(1);
        WaitId(name)
    }

    /// The neighbour of that name.
    pub(crate) const fn key(&self, name: WaitId) -> NeighbourKey {
        self.keys[name.0 as usize]
    }
}

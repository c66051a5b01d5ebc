//! What the mirror remembers of neighbours.
//!
//! In:  events and listings of the kernel's entries. Out: whether a packet could notice a difference.
//! Ref:  Linux include/net/neighbour.h (NUD_VALID).

use std::collections::HashMap;
use std::net::IpAddr;

use lvs_core::l3::NeighbourState;

use super::records::{NeighbourRecord, Reported};

/// A neighbour as packets see it, and whether the kernel has lately confirmed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Neighbour {
    state: NeighbourState,
    idle: bool,
}

/// Neighbours of all interfaces, by kernel interface index and address.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours {
    entries: HashMap<(u32, IpAddr), Neighbour>,
}

impl Neighbours {
    /// Takes an event; whether a packet could notice.
    ///
    /// A neighbour that failed stays failed while the kernel asks again: its packets are refused as before,
    /// rather than held at every new attempt.
    pub(super) fn apply(&mut self, record: NeighbourRecord) -> bool {
        let key = (record.ifindex, record.addr);
        let before = self.entries.get(&key).map(|known| known.state);
        let after = match record.reported {
            Reported::Valid { mac, idle } => Some(Neighbour {
                state: NeighbourState::Resolved(mac),
                idle,
            }),
            Reported::Failed => Some(Neighbour {
                state: NeighbourState::Failed,
                idle: true,
            }),
            Reported::Pending if before == Some(NeighbourState::Failed) => Some(Neighbour {
                state: NeighbourState::Failed,
                idle: false,
            }),
            Reported::Pending | Reported::Gone => None,
        };
        match after {
            Some(neighbour) => drop(self.entries.insert(key, neighbour)),
            None => drop(self.entries.remove(&key)),
        }
        before != after.map(|neighbour| neighbour.state)
    }

    /// Takes a whole listing; whether a packet could notice.
    pub(super) fn replace(&mut self, listed: Vec<NeighbourRecord>) -> bool {
        let before = std::mem::take(&mut self.entries);
        // Those that failed and are being asked for again are still to be known as failed.
        let failed = before.iter().filter(|(_, known)| known.state == NeighbourState::Failed);
        self.entries.extend(failed.map(|(&key, &known)| (key, known)));
        let mut present = Vec::with_capacity(listed.len());
        for record in listed {
            self.apply(record);
            present.push((record.ifindex, record.addr));
        }
        let present: std::collections::HashSet<_> = present.into_iter().collect();
        self.entries.retain(|key, _| present.contains(key));
        let states = |entries: &HashMap<_, Neighbour>| -> HashMap<(u32, IpAddr), NeighbourState> {
            entries.iter().map(|(&key, known)| (key, known.state)).collect()
        };
        states(&before) != states(&self.entries)
    }

    /// Those the kernel should be asked for: stale or failed.
    pub(super) fn idle(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        self.entries.iter().filter(|(_, known)| known.idle).map(|(&key, _)| key)
    }

    /// All of them as packets see them, in a fixed order.
    pub(super) fn sorted(&self) -> Vec<(u32, IpAddr, NeighbourState)> {
        let entries = self.entries.iter();
        let mut sorted: Vec<_> = entries
            .map(|(&(ifindex, addr), known)| (ifindex, addr, known.state))
            .collect();
        sorted.sort_unstable_by_key(|&(ifindex, addr, _)| (ifindex, addr));
        sorted
    }
}

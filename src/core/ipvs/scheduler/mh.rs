//! mh: the client's address decides, by a Maglev table that moves few clients when servers come and go.
//!
//! The table is filled by the last weight above 0 of each server, so that quiescing a server does not change it. It
//! also depends on the order of the servers: two directors agree if they were given the servers in the same order, or
//! with the option `mh-canonical`. Other options: `mh-fallback`, `mh-port`. Follows Linux ip_vs_mh.c; Maglev (NSDI
//! 2016) 3.4.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::{Loads, Pick, Scheduler, SchedulerFlags, SchedulerTable, TableInputs};
use crate::address::{Addr4, Addr6, Address};
use crate::ipvs::real_server::RealServer;

/// `IP_VS_MH_TAB_SIZE` with the default `CONFIG_IP_VS_MH_TAB_INDEX=12`: a prime.
const SLOTS_COUNT: u32 = 4_093;
/// `IP_VS_MH_TAB_BITS`: weights are cut to so many bits.
const WEIGHT_BITS: u32 = 6;
/// Keys of the two hashes, each for both halves of the SipHash key.
const KEY1: u64 = 2_654_435_761;
const KEY2: u64 = 2_654_446_892;

pub(super) struct MaglevHashing;

impl Scheduler for MaglevHashing {
    const FLAG_NAMES: &'static [&'static str] = &["mh-fallback", "mh-port", "mh-canonical"];

    fn table(inputs: &TableInputs<'_>) -> SchedulerTable {
        let mut places: Vec<Permutation> = permutations(inputs).collect();
        if inputs.flags.contains(SchedulerFlags::CANONICAL) {
            places.sort_by_key(|place| {
                let server = &inputs.servers[usize::from(place.index)];
                (server.addr, server.port)
            });
        }
        if places.is_empty() {
            return SchedulerTable::Buckets([].into());
        }
        let mut slots = vec![None; SLOTS_COUNT as usize];
        let mut free = SLOTS_COUNT;
        'filled: loop {
            for place in &mut places {
                for _turn in 0..place.turns {
                    place.take_free_slot(&mut slots);
                    free -= 1;
                    if free == 0 {
                        break 'filled;
                    }
                }
            }
        }
        SchedulerTable::Buckets(slots.into_iter().flatten().collect())
    }

    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let SchedulerTable::Buckets(slots) = &ask.service.table else {
            return None;
        };
        let flags = ask.service.scheduler_flags;
        let value = ask.flow.client_hash(flags);
        let slot = hash(value, KEY1) % SLOTS_COUNT;
        let (index, takes) = ask.bucket(slots, slot as usize)?;
        if takes {
            return Some(index);
        }
        if !flags.contains(SchedulerFlags::FALLBACK) || ask.takers().next().is_none() {
            return None;
        }
        let walk = (0..SLOTS_COUNT).map(|offset| (offset + slot) % SLOTS_COUNT);
        walk.map(|offset| hash(value.wrapping_add(offset), KEY1) % SLOTS_COUNT)
            .filter_map(|at| ask.bucket(slots, at as usize))
            .find(|&(_, takes)| takes)
            .map(|(index, _)| index)
    }
}

/// The order in which one server asks for slots.
struct Permutation {
    index: u16,
    /// Slots it takes in each round.
    turns: u32,
    next: u32,
    skip: u32,
}

impl Permutation {
    fn take_free_slot(&mut self, slots: &mut [Option<u16>]) {
        while slots[self.next as usize].is_some() {
            self.next = (self.next + self.skip) % SLOTS_COUNT;
        }
        slots[self.next as usize] = Some(self.index);
    }
}

/// One for each server that ever had a weight above 0, in the order of the servers.
fn permutations<'inputs>(inputs: &'inputs TableInputs<'_>) -> impl Iterator<Item = Permutation> + 'inputs {
    let weights = || inputs.last_weights.iter().copied().filter(|&weight| weight > 0);
    let divisor = weights().reduce(gcd).unwrap_or(1);
    let heaviest = weights().max().unwrap_or(0) / divisor;
    let shift = (u32::BITS - heaviest.leading_zeros()).saturating_sub(WEIGHT_BITS);
    let weighed = inputs.servers.iter().zip(inputs.last_weights).enumerate();
    weighed
        .filter(|&(_, (_, &weight))| weight > 0)
        .map(move |(index, (server, &weight))| Permutation {
            index: index as u16,
            turns: ((weight / divisor) >> shift).max(1),
            next: hash(server_value(server), KEY1) % SLOTS_COUNT,
            skip: hash(server_value(server), KEY2) % (SLOTS_COUNT - 1) + 1,
        })
}

fn server_value(server: &RealServer) -> u32 {
    let fold = match server.addr {
        std::net::IpAddr::V4(v4) => Addr4(v4.octets()).fold(),
        std::net::IpAddr::V6(v6) => Addr6(v6.octets()).fold(),
    };
    fold.wrapping_add(u32::from(server.port))
}

/// Linux `hsiphash()` of one word on a 64-bit machine: SipHash-1-3, truncated.
#[inline]
fn hash(value: u32, key: u64) -> u32 {
    let mut hasher = SipHasher13::new_with_keys(key, key);
    hasher.write(&value.to_le_bytes());
    hasher.finish() as u32
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the kernel's functions.
    #[test]
    fn hash_is_the_kernels_hsiphash() {
        assert_eq!(hash(0, KEY1), 0x1d5a_77c2);
        assert_eq!(hash(0, KEY2), 0xf882_433f);
        let slot = |addr: u32| hash(addr, KEY1) % SLOTS_COUNT;
        let client6 = Addr6::from_ip("2001:db8::1".parse().unwrap()).unwrap();
        assert_eq!(
            [slot(0xC0A8_0001), slot(0x0A00_0001), slot(0xCB00_7107)],
            [1278, 3711, 1705]
        );
        assert_eq!(slot(client6.fold()), 3457);
    }

    #[test]
    fn servers_begin_and_skip_where_the_kernels_do() {
        let place = |last: u32| {
            let value = 0x0A00_0000 + last + 80;
            (
                hash(value, KEY1) % SLOTS_COUNT,
                hash(value, KEY2) % (SLOTS_COUNT - 1) + 1,
            )
        };
        assert_eq!(
            [place(3), place(2), place(1)],
            [(1631, 3453), (1231, 3544), (3167, 700)]
        );
    }
}

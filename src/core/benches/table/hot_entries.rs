//! The other layout of the contest: all that an established packet of IPv4 needs in 16 bytes of the bucket itself, so that
//! it touches one line. A model: it finds and updates connections and can do nothing else.
//!
//! 16 bytes hold a client's end but no second one, so services and servers are numbers, which a dictionary of all ends
//! gives. Buckets have four entries, and are half full at most, because there is no other bucket.

use std::collections::HashMap;
use std::hint::black_box;

use lvs_core::address::{Addr4, Endpoint, FlowKey};
use lvs_core::ipvs::conn::Conn;
use lvs_core::limits::BURST_MAX;
use lvs_core::prefetch::prefetch_write;

use super::Memory;

const PLACES: usize = 4;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
struct Entry {
    client: u32,
    client_port: u16,
    /// Number of the packet's other end: of a service, or of a server (of FULLNAT: with the local address).
    end: u16,
    /// Number of the end that it is sent to.
    other_end: u16,
    local_port: u16,
    /// In units of the timer wheel; the state above.
    last_seen: u32,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket([Entry; PLACES]);

/// Numbers of ends: an open table that is never more than half full.
struct Dictionary {
    places: Vec<(u64, u16)>,
}

fn word(end: Endpoint<Addr4>) -> u64 {
    u64::from(u32::from_le_bytes(end.addr.0)) | u64::from(end.port) << 32
}

fn mix(word: u64) -> u64 {
    let product = u128::from(word ^ 0x243F_6A88_85A3_08D3) * u128::from(0x9E37_79B9_7F4A_7C15u64);
    product as u64 ^ (product >> 64) as u64
}

impl Dictionary {
    fn of(ends: &HashMap<u64, u16>) -> Self {
        let mut places = vec![(0, 0); (ends.len() * 2).next_power_of_two()];
        let mask = places.len() - 1;
        for (&word, &number) in ends {
            let mut at = mix(word) as usize & mask;
            while places[at].0 != 0 {
                at = (at + 1) & mask;
            }
            places[at] = (word, number);
        }
        Self { places }
    }

    #[inline(always)]
    fn number(&self, end: Endpoint<Addr4>) -> u16 {
        let (word, mask) = (word(end), self.places.len() - 1);
        let mut at = mix(word) as usize & mask;
        while self.places[at].0 != word {
            at = (at + 1) & mask;
        }
        self.places[at].1
    }
}

/// See the module. NAT: the client's end is in the key of both directions.
pub(super) struct HotEntries<'m> {
    buckets: &'m mut [Bucket],
    dictionary: Dictionary,
}

/// What the packet of a NAT connection looks for: its client's end, and the number of the other one.
#[inline(always)]
fn parts(dictionary: &Dictionary, key: &FlowKey<Addr4>, is_reply: bool) -> Entry {
    let (client, other) = if is_reply {
        (key.dst, key.src)
    } else {
        (key.src, key.dst)
    };
    Entry {
        client: u32::from_le_bytes(client.addr.0),
        client_port: client.port,
        end: dictionary.number(other),
        ..Entry::default()
    }
}

impl<'m> HotEntries<'m> {
    /// With all of `conns`. Returns it and how many found no place.
    pub(super) fn new(memory: &'m mut Memory, conns: &[Conn<Addr4>]) -> (Self, usize) {
        let mut ends = HashMap::new();
        for end in conns.iter().flat_map(|conn| [conn.virt(), conn.real()]) {
            let number = ends.len() as u16;
            ends.entry(word(end)).or_insert(number);
        }
        let dictionary = Dictionary::of(&ends);
        let buckets = memory.slice_of::<Bucket>(Self::buckets_for(conns.len()), Bucket([Entry::default(); PLACES]));
        let table = Self { buckets, dictionary };
        let mut homeless = 0;
        for conn in conns {
            for (key, is_reply) in [(conn.inbound_key(), false), (conn.outbound_key(), true)] {
                let entry = parts(&table.dictionary, &key, is_reply);
                let home = table.home(&entry);
                match table.buckets[home]
                    .0
                    .iter_mut()
                    .find(|entry| **entry == Entry::default())
                {
                    Some(free) => *free = entry,
                    None => homeless += 1,
                }
            }
        }
        (table, homeless)
    }

    pub(super) const fn buckets_for(conns: usize) -> usize {
        (conns * 2 / (PLACES / 2)).next_power_of_two()
    }

    pub(super) const fn bytes_for(conns: usize) -> usize {
        Self::buckets_for(conns) * size_of::<Bucket>()
    }

    #[inline(always)]
    fn home(&self, entry: &Entry) -> usize {
        let word = u64::from(entry.client) | u64::from(entry.client_port) << 32 | u64::from(entry.end) << 48;
        mix(word) as usize & (self.buckets.len() - 1)
    }

    /// As the path does it: all buckets are fetched, then each packet's entry is read and written.
    pub(super) fn look_up(&mut self, keys: &[(FlowKey<Addr4>, bool)], now: u32) -> usize {
        let mut found = 0;
        let mut wanted = [(0, Entry::default()); BURST_MAX];
        for burst in keys.chunks(BURST_MAX) {
            for (place, (key, is_reply)) in wanted.iter_mut().zip(burst) {
                let entry = parts(&self.dictionary, key, *is_reply);
                let home = self.home(&entry);
                prefetch_write(&self.buckets[home]);
                *place = (home, entry);
            }
            for (home, entry) in &wanted[..burst.len()] {
                let key = (entry.client, entry.client_port, entry.end);
                for held in &mut self.buckets[*home].0 {
                    if (held.client, held.client_port, held.end) == key {
                        black_box((held.other_end, held.local_port));
                        held.last_seen = now;
                        found += 1;
                        break;
                    }
                }
            }
        }
        found
    }
}

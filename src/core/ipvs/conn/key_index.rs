//! From a hash to the few connections that may have it, in one cache line, rarely two.
//!
//! ```text
//! bucket, 64 B  | tag 0..7: 8 x 16 bits | value 0..7: 8 x 32 bits | displaced mask | overflow count |
//! ```
//!
//! A hash names a home bucket (its high half) and a tag (its low 16 bits with bit 0 set, because 0 marks a free place).
//! **Displacement:** when home is full, the entry goes to its one other bucket and home counts it as overflow.
//! A lookup reads the other bucket only when that count is not 0. Bucket and tag determine the other bucket, and the
//! function is its own inverse (`other(other(b)) = b`), so an entry can move without its key. When both buckets are
//! full, one of their 16 entries frees a place by moving to its own other bucket. When none can, the insertion fails.
//! So no operation reads more than 18 buckets. An insertion fails only if these 18 are full, and [`buckets_for`] makes
//! full buckets rare.

use crate::arena::{Arena, ArenaError, ArenaSlice, FormerArena, slice_bytes};
use crate::prefetch::prefetch_read;
use crate::tag_match;
use zerocopy::FromBytes;

const PLACES: usize = 8;
/// Entries in a bucket, on average, when the table is full.
const ENTRIES_MEAN: usize = 5;

#[derive(Clone, Copy, FromBytes)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    tags: [u16; PLACES],
    values: [u32; PLACES],
    /// Bit n: the entry at place n is displaced; its home is another bucket.
    displaced: u32,
    /// Entries whose home is this bucket but that lie in their other bucket.
    overflow: u32,
    unused: [u32; 2],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Self = Self {
        tags: [FREE; PLACES],
        values: [0; PLACES],
        displaced: 0,
        overflow: 0,
        unused: [0; 2],
    };

    /// Where the tag is `tag`: bit `n` for place `n`.
    #[inline(always)]
    fn places_of(&self, tag: u16) -> u32 {
        tag_match::equal(&self.tags, tag)
    }

    #[inline(always)]
    fn value(&self, places: u32) -> u32 {
        self.values[first_of(places)]
    }

    /// Puts an entry at the first free place; `false` when there is none.
    fn put(&mut self, entry: IndexEntry, displaced: bool) -> bool {
        let free = self.places_of(FREE);
        if free == 0 {
            return false;
        }
        let place = first_of(free);
        self.tags[place] = entry.tag;
        self.values[place] = entry.value;
        self.displaced |= u32::from(displaced) << place;
        true
    }

    /// Takes the entry at `place` out. Returns it, and whether it was displaced.
    fn take(&mut self, place: usize) -> (IndexEntry, bool) {
        let place = place % PLACES;
        let entry = IndexEntry {
            tag: self.tags[place],
            value: self.values[place],
        };
        let displaced = self.displaced >> place & 1 == 1;
        self.tags[place] = FREE;
        self.displaced &= !(1 << place);
        (entry, displaced)
    }

    /// The place of `entry`. Its tag finds it; the loop handles the rare neighbour with the same tag.
    #[inline(always)]
    fn place_of_entry(&self, entry: IndexEntry) -> Option<usize> {
        let mut places = self.places_of(entry.tag);
        while places != 0 {
            let place = first_of(places);
            if self.values[place] == entry.value {
                return Some(place);
            }
            places &= places - 1;
        }
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct IndexEntry {
    tag: u16,
    value: u32,
}

const FREE: u16 = 0;

/// Buckets for `entries` entries: one for every five (15 % of them are full then, as measured), and a few more, because
/// small tables deviate more. Their number is even, so that no entry's other bucket is its home.
const fn buckets_for(entries: usize) -> usize {
    (entries.div_ceil(ENTRIES_MEAN) + 8).next_multiple_of(2)
}

/// See the module.
pub(super) struct KeyIndex {
    buckets: ArenaSlice<Bucket>,
    /// Length of `buckets`; below 2³¹.
    count: u32,
}

impl KeyIndex {
    pub(super) const fn bytes_needed(entries: usize) -> usize {
        slice_bytes::<Bucket>(buckets_for(entries))
    }

    pub(super) fn carve(arena: &mut Arena, entries: usize) -> Result<Self, ArenaError> {
        let buckets = arena.carve::<Bucket>(buckets_for(entries))?;
        Ok(Self {
            count: buckets.len() as u32,
            buckets,
        })
    }

    /// Carves the index of an earlier process, which nobody reads.
    pub(super) fn pass_by(arena: &mut FormerArena<'_>, entries: usize) -> Option<()> {
        arena.carve::<Bucket>(buckets_for(entries)).map(drop)
    }

    /// Takes everything out.
    pub(super) fn clear(&mut self) {
        self.buckets.fill(Bucket::EMPTY);
    }

    /// The high half of the hash, scaled to the number of buckets (Lemire's multiply-shift).
    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * u64::from(self.count)) >> 32) as usize
    }

    /// The only other bucket for entries with `tag` in `bucket`: their sum is an odd number that the tag
    /// chooses, modulo the even number of buckets; so the two always differ.
    #[inline(always)]
    fn other(&self, bucket: usize, tag: u16) -> usize {
        let spread = u32::from(tag).wrapping_mul(0x9E37_79B1);
        let sum = ((u64::from(spread) * u64::from(self.count)) >> 32) as usize | 1;
        if sum >= bucket {
            sum - bucket
        } else {
            sum + self.count as usize - bucket
        }
    }

    #[inline(always)]
    fn bucket(&self, hash: u64) -> &Bucket {
        self.buckets.at(self.home(hash))
    }

    /// Fetches the home bucket of `hash`.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch_read(self.bucket(hash));
    }

    /// The first value that may have `hash`; the connection itself is not read. When home has none but some of its
    /// entries are displaced, it fetches the other bucket for [`Self::find`].
    #[inline(always)]
    pub(super) fn candidate(&self, hash: u64) -> Option<u32> {
        let bucket = self.bucket(hash);
        let places = bucket.places_of(tag_of(hash));
        if places != 0 {
            return Some(bucket.value(places));
        }
        if bucket.overflow != 0 {
            prefetch_read(self.buckets.at(self.other(self.home(hash), tag_of(hash))));
        }
        None
    }

    /// The value of `hash` that `is_it` accepts.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = tag_of(hash);
        let home = self.home(hash);
        let bucket = self.buckets.at(home);
        let found = Self::find_in(bucket, tag, &is_it);
        if found.is_some() || bucket.overflow == 0 {
            return found;
        }
        Self::find_in(self.buckets.at(self.other(home, tag)), tag, &is_it)
    }

    #[inline(always)]
    fn find_in(bucket: &Bucket, tag: u16, is_it: &impl Fn(u32) -> bool) -> Option<u32> {
        let mut places = bucket.places_of(tag);
        while places != 0 {
            let value = bucket.value(places);
            if is_it(value) {
                return Some(value);
            }
            places &= places - 1;
        }
        None
    }

    /// Adds `value` under `hash`. Without space it changes nothing and returns `false`.
    #[must_use]
    pub(super) fn insert(&mut self, hash: u64, value: u32) -> bool {
        let entry = IndexEntry {
            tag: tag_of(hash),
            value,
        };
        let home = self.home(hash);
        let other = self.other(home, entry.tag);
        if self.buckets.at_mut(home).put(entry, false) {
            return true;
        }
        let stored = self.buckets.at_mut(other).put(entry, true)
            || (self.make_room(other) && self.buckets.at_mut(other).put(entry, true));
        if stored {
            self.buckets.at_mut(home).overflow += 1;
            return true;
        }
        self.make_room(home) && self.buckets.at_mut(home).put(entry, false)
    }

    /// Moves one entry of the full `bucket` to its other bucket, if any of the eight finds a free place there.
    #[cold]
    fn make_room(&mut self, bucket: usize) -> bool {
        for place in 0..PLACES {
            let target = self.other(bucket, self.buckets.at(bucket).tags[place]);
            if self.buckets.at(target).places_of(FREE) == 0 {
                continue;
            }
            let (entry, was_displaced) = self.buckets.at_mut(bucket).take(place);
            let target = self.buckets.at_mut(target);
            target.put(entry, !was_displaced);
            if was_displaced {
                target.overflow -= 1;
            } else {
                self.buckets.at_mut(bucket).overflow += 1;
            }
            return true;
        }
        false
    }

    /// Takes `value` out, which was inserted under `hash`; `false` when it is not there.
    pub(super) fn remove(&mut self, hash: u64, value: u32) -> bool {
        let entry = IndexEntry {
            tag: tag_of(hash),
            value,
        };
        let home = self.home(hash);
        if let Some(place) = self.buckets.at(home).place_of_entry(entry) {
            self.buckets.at_mut(home).take(place);
            return true;
        }
        let other = self.other(home, entry.tag);
        let Some(place) = self.buckets.at(other).place_of_entry(entry) else {
            return false;
        };
        self.buckets.at_mut(other).take(place);
        self.buckets.at_mut(home).overflow -= 1;
        true
    }

    /// How many entries there are, and how many of them are displaced. Reads everything.
    #[cfg(test)]
    pub(super) fn count_entries(&self) -> (usize, usize) {
        let entries = self
            .buckets
            .iter()
            .map(|bucket| PLACES - bucket.places_of(FREE).count_ones() as usize);
        let displaced: usize = self
            .buckets
            .iter()
            .map(|bucket| bucket.displaced.count_ones() as usize)
            .sum();
        let overflow: usize = self.buckets.iter().map(|bucket| bucket.overflow as usize).sum();
        assert_eq!(displaced, overflow, "every displaced entry is counted at its home");
        (entries.sum(), displaced)
    }
}

/// The first place in a result of [`Bucket::places_of`] that is not 0.
#[inline(always)]
const fn first_of(places: u32) -> usize {
    places.trailing_zeros() as usize % PLACES
}

#[inline(always)]
const fn tag_of(hash: u64) -> u16 {
    hash as u16 | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn index(entries: usize) -> KeyIndex {
        let mut arena = Arena::in_memory(crate::arena::HEADER_BYTES + KeyIndex::bytes_needed(entries));
        KeyIndex::carve(&mut arena, entries).unwrap()
    }

    #[test]
    fn the_other_bucket_of_the_other_bucket_is_home() {
        for entries in [1, 10, 1_000, 12_345] {
            let index = index(entries);
            for bucket in 0..index.count as usize {
                for tag in (1..=u16::MAX).step_by(97) {
                    let other = index.other(bucket, tag);
                    assert!(other < index.count as usize && other != bucket);
                    assert_eq!(index.other(other, tag), bucket);
                }
            }
        }
    }

    #[test]
    fn entries_of_one_home_overflow_to_their_other_buckets_and_come_back_out() {
        let mut index = index(1_000);
        // One home bucket, different tags.
        let hashes: Vec<u64> = (1..=40).map(|tag| 0x8000_0000_0000_0000 | tag).collect();
        for (value, &hash) in (0..).zip(&hashes) {
            assert!(index.insert(hash, value));
        }
        assert_eq!(index.count_entries(), (40, 32));
        for (value, &hash) in (0..).zip(&hashes) {
            assert_eq!(index.find(hash, |found| found == value), Some(value));
        }
        for (value, &hash) in (0..).zip(&hashes) {
            assert!(index.remove(hash, value) && !index.remove(hash, value));
            assert_eq!(index.find(hash, |found| found == value), None);
        }
        assert_eq!(index.count_entries(), (0, 0));
    }

    #[test]
    fn one_hash_over_and_over_is_refused_after_both_buckets_and_changes_nothing() {
        let mut index = index(1_000);
        let hash = 0x1234_5678_0000_0042;
        assert!((0..16).all(|value| index.insert(hash, value)));
        assert!(!index.insert(hash, 16));
        assert_eq!(index.count_entries(), (16, 8));
        assert!((0..16).all(|value| index.find(hash, |found| found == value) == Some(value)));
        assert!(index.remove(hash, 3) && index.insert(hash, 16));
    }

    #[test]
    fn full_index_has_space_and_displaces_few() {
        let mut random = Random::new(3);
        for power in [3, 6, 10, 12, 14, 16, 18, 19] {
            let entries = 1 << power;
            let mut index = index(entries);
            assert!(
                (0..entries as u32).all(|value| index.insert(random.next_u64(), value)),
                "2^{power}"
            );
            let (stored, displaced) = index.count_entries();
            assert_eq!(stored, entries);
            assert!(displaced * 25 < entries || entries < 64, "{displaced} of {entries}");
            // An insertion fails if the entry's two buckets and all 16 others are full at once: probability below
            // 10⁻¹².
            let full = index
                .buckets
                .iter()
                .filter(|bucket| bucket.places_of(FREE) == 0)
                .count();
            assert!(
                full * 5 < index.buckets.len(),
                "{full} of {} buckets are full",
                index.buckets.len()
            );
        }
    }
}

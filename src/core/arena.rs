//! Unsafe module 1: one relocatable region of memory that holds all connection state of a worker.
//!
//! The region is carved front to back into typed slices, always in the same order, so that a later process
//! that maps the same memory (at any address) carves the same slices and finds the same state:
//!
//! ```text
//! | header 64 B: magic, layout version, length, fingerprint | slice | slice | ... | left over |
//! ```
//!
//! In:  zeroed memory, or the memory of an earlier arena. Out: [`ArenaSlice`]s, 64-byte aligned, disjoint; copies of
//!      what a [`FormerArena`] holds.
//! Never: stores an address of the process in the region; grows; frees what it did not allocate.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::mem::needs_drop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use zerocopy::FromBytes;

/// Every slice begins on a cache line.
pub const SLICE_ALIGN: usize = 64;

/// Bytes of the header in front of the first slice.
pub const HEADER_BYTES: usize = size_of::<ArenaHeader>();

/// Changes whenever any structure in an arena changes. Who changes it keeps the reader of the layout before
/// (`crate::former`).
pub const LAYOUT_VERSION: u32 = 3;
const MAGIC: u64 = u64::from_le_bytes(*b"lvsarena");
/// Alignment of memory that the arena allocates itself: a page, or a large page if it needs that many bytes.
const PAGE: usize = 4096;
const LARGE_PAGE: usize = 2 << 20;

/// Why an arena cannot hold what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArenaError {
    /// The slices asked for need more memory than the arena has.
    #[error("the arena has {left} bytes left and {needed} are needed: map more memory or configure fewer connections")]
    OutOfMemory {
        /// Bytes asked for.
        needed: usize,
        /// Bytes left.
        left: usize,
    },
    /// A slice of nothing, or more connections than an index can count.
    #[error("{0} elements cannot be carved: configure between 1 and 1,073,741,824")]
    CountOutOfRange(usize),
    /// The caller wants new state, but the memory still holds the state of an earlier process.
    #[error("the arena holds the state of an earlier process: attach to it, or wipe it first")]
    NotEmpty,
    /// The caller wants the state of an earlier process, but there is none or it has another layout.
    #[error("the arena holds no state of the same layout: wipe it and start with no connections")]
    OtherLayout,
}

#[derive(Clone, Copy, FromBytes)]
#[repr(C, align(64))]
struct ArenaHeader {
    magic: u64,
    layout_version: u32,
    reserved: u32,
    len: u64,
    /// Computed from the element size and the count of every slice, in order.
    fingerprint: u64,
    unused: [u64; 4],
}

/// The memory itself. If the arena allocated it, it is freed with the last slice.
struct Region {
    start: NonNull<u8>,
    len: usize,
    owned: Option<Layout>,
}

// SAFETY: a Region is only an address range; what it holds is reached through ArenaSlices, which own
// disjoint parts, and through Arena, which touches only the header and what is not carved yet.
unsafe impl Send for Region {}
// SAFETY: as above; a shared Region gives nothing out for writing.
unsafe impl Sync for Region {}

impl Region {
    /// At least `len` bytes of zeroes, page-aligned.
    fn allocate(len: usize) -> Self {
        let len = len.max(HEADER_BYTES + SLICE_ALIGN).next_multiple_of(PAGE);
        let align = if len >= LARGE_PAGE { LARGE_PAGE } else { PAGE };
        let layout = Layout::from_size_align(len, align).unwrap_or(Layout::new::<ArenaHeader>());
        // SAFETY: the layout is not of size 0.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Self {
            start,
            len: layout.size(),
            owned: Some(layout),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(layout) = self.owned {
            // SAFETY: `owned` is the layout `start` was allocated with in `in_memory`, and as the last Arc
            // goes, no slice of it is left.
            unsafe { dealloc(self.start.as_ptr(), layout) }
        }
    }
}

/// See the module.
pub struct Arena {
    region: Arc<Region>,
    carved: usize,
    fingerprint: u64,
    recovered: bool,
}

impl Arena {
    /// An arena of at least `len` bytes of plain zeroed memory (tests, `--no-huge`), page-aligned.
    /// Without such memory it ends the process. It is called at start only.
    pub fn in_memory(len: usize) -> Self {
        Self::over(Region::allocate(len))
    }

    /// A copy of what an earlier arena left in memory whose length is a multiple of a page (4,096 bytes); an empty arena
    /// if `bytes` are none.
    pub fn copied_from(bytes: &[u8]) -> Self {
        let region = Region::allocate(bytes.len());
        // SAFETY: the region is at least as long as `bytes`, and nobody refers to it yet.
        unsafe {
            region
                .start
                .copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len())
        }
        Self::over(region)
    }

    /// An arena over memory mapped by the caller, fresh or left behind by an earlier process.
    ///
    /// # Safety
    /// `start..start+len` must be readable and writable, aligned to 64 bytes, at least [`HEADER_BYTES`]
    /// long, initialised (mappings are), used by nobody else, and must stay mapped as long as the arena
    /// or any of its slices lives. It must be all zero or have been an arena.
    pub unsafe fn from_raw(start: NonNull<u8>, len: usize) -> Self {
        debug_assert!((start.as_ptr() as usize).is_multiple_of(SLICE_ALIGN) && len >= HEADER_BYTES);
        Self::over(Region {
            start,
            len,
            owned: None,
        })
    }

    fn over(region: Region) -> Self {
        let mut arena = Self {
            region: Arc::new(region),
            carved: HEADER_BYTES,
            fingerprint: 0,
            recovered: false,
        };
        let len = arena.region.len as u64;
        let ArenaHeader {
            magic,
            layout_version,
            len: earlier_len,
            ..
        } = *arena.header();
        arena.recovered = magic == MAGIC && layout_version == LAYOUT_VERSION && earlier_len == len;
        if !arena.recovered {
            // The memory is empty or has another layout: begin anew.
            arena.format(magic != 0);
        }
        arena
    }

    /// Whether the memory holds the state of an earlier arena of this version and length.
    pub const fn is_recovered(&self) -> bool {
        self.recovered
    }

    /// Whether this arena has carved exactly the slices of the earlier one. Ask when everything is carved.
    pub fn has_earlier_layout(&mut self) -> bool {
        let fingerprint = self.fingerprint;
        self.recovered && self.header().fingerprint == fingerprint
    }

    /// Forgets all earlier state.
    ///
    /// # Errors
    /// [`ArenaError::NotEmpty`] once something has been carved.
    pub fn wipe(&mut self) -> Result<(), ArenaError> {
        if self.carved != HEADER_BYTES {
            return Err(ArenaError::NotEmpty);
        }
        self.format(true);
        self.recovered = false;
        Ok(())
    }

    /// Carves the next `count` elements. In a new arena they are all zero; in a recovered one they are
    /// as the earlier process left them.
    ///
    /// # Errors
    /// [`ArenaError::OutOfMemory`], or [`ArenaError::CountOutOfRange`] when `count` is 0.
    pub fn carve<T: FromBytes + 'static>(&mut self, count: usize) -> Result<ArenaSlice<T>, ArenaError> {
        const { assert!(align_of::<T>() <= SLICE_ALIGN && size_of::<T>() > 0 && !needs_drop::<T>()) };
        if count == 0 || count > 1 << 30 {
            return Err(ArenaError::CountOutOfRange(count));
        }
        let needed = slice_bytes::<T>(count);
        let left = self.region.len - self.carved;
        if needed > left {
            return Err(ArenaError::OutOfMemory { needed, left });
        }
        // SAFETY: `carved + needed` lies within the region, as just checked.
        let start = unsafe { self.region.start.add(self.carved) }.cast::<T>();
        self.carved += needed;
        self.fingerprint = fold(self.fingerprint ^ size_of::<T>() as u64, count as u64);
        if !self.recovered {
            self.header().fingerprint = self.fingerprint;
        }
        Ok(ArenaSlice {
            start,
            last: count - 1,
            _region: Arc::clone(&self.region),
            _elements: PhantomData,
        })
    }

    fn header(&mut self) -> &mut ArenaHeader {
        // SAFETY: the region begins with space for an ArenaHeader, 64-byte aligned and initialised; slices begin
        // after it, and `&mut self` makes this the only reference.
        unsafe { self.region.start.cast::<ArenaHeader>().as_mut() }
    }

    fn format(&mut self, zero: bool) {
        if zero {
            // SAFETY: nothing has been carved, so nobody else refers to any byte of the region.
            unsafe { self.region.start.write_bytes(0, self.region.len) }
        }
        let len = self.region.len as u64;
        *self.header() = ArenaHeader {
            magic: MAGIC,
            layout_version: LAYOUT_VERSION,
            reserved: 0,
            len,
            fingerprint: 0,
            unused: [0; 4],
        };
    }

    /// What lies in it.
    #[cfg(any(test, feature = "testing"))]
    pub fn bytes(&self) -> Vec<u8> {
        // SAFETY: the region is readable and initialised for its length; a test calls this while no slice is being
        // written.
        unsafe { std::slice::from_raw_parts(self.region.start.as_ptr(), self.region.len) }.to_vec()
    }

    /// What a restarted process would map: the same bytes at another address.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn twin_at_another_address(&self) -> Self {
        // SAFETY: all of the region, initialised; a test calls this while no slice is being written.
        Self::copied_from(unsafe { std::slice::from_raw_parts(self.region.start.as_ptr(), self.region.len) })
    }
}

/// The memory of an earlier arena, which is only read: of any layout and size, in a process that has arenas of its own.
///
/// It is carved as the arena was, and [`Self::is_whole`] says whether that was right.
pub struct FormerArena<'m> {
    bytes: &'m [u8],
    carved: usize,
    fingerprint: u64,
    earlier_fingerprint: u64,
}

impl<'m> FormerArena<'m> {
    /// Over memory that may be longer than the arena was. `None` when it was no arena of this layout version.
    pub fn of(bytes: &'m [u8], layout_version: u32) -> Option<Self> {
        let (header, _) = ArenaHeader::read_from_prefix(bytes).ok()?;
        let len = usize::try_from(header.len).ok()?;
        let is_arena = header.magic == MAGIC && header.layout_version == layout_version;
        Some(Self {
            bytes: bytes.get(..len).filter(|_| is_arena)?,
            carved: HEADER_BYTES,
            fingerprint: 0,
            earlier_fingerprint: header.fingerprint,
        })
    }

    /// The next `count` elements; `None` when the memory ends before.
    pub fn carve<T: FromBytes + Copy>(&mut self, count: usize) -> Option<FormerSlice<'m, T>> {
        let bytes = self
            .bytes
            .get(self.carved..)?
            .get(..size_of::<T>().checked_mul(count)?)?;
        self.carved += slice_bytes::<T>(count);
        self.fingerprint = fold(self.fingerprint ^ size_of::<T>() as u64, count as u64);
        Some(FormerSlice {
            bytes,
            elements: PhantomData,
        })
    }

    /// Whether exactly the slices of the arena have been carved. Ask when everything is carved.
    pub const fn is_whole(&self) -> bool {
        self.fingerprint == self.earlier_fingerprint
    }
}

/// A part of a [`FormerArena`].
pub struct FormerSlice<'m, T> {
    bytes: &'m [u8],
    elements: PhantomData<T>,
}

impl<T: FromBytes + Copy> FormerSlice<'_, T> {
    /// A copy of the element at `index`; `None` beyond the end.
    #[inline]
    pub fn get(&self, index: usize) -> Option<T> {
        let bytes = self.bytes.get(size_of::<T>().checked_mul(index)?..)?;
        T::read_from_prefix(bytes).ok().map(|(element, _)| element)
    }

    /// How many elements there are.
    pub const fn len(&self) -> usize {
        self.bytes.len() / size_of::<T>()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Bytes of an arena that `count` elements occupy.
pub const fn slice_bytes<T>(count: usize) -> usize {
    (size_of::<T>() * count).next_multiple_of(SLICE_ALIGN)
}

const fn fold(left: u64, right: u64) -> u64 {
    let product = (left ^ 0x9E37_79B9_7F4A_7C15) as u128 * (right ^ 0xD1B5_4A32_D192_ED03) as u128;
    product as u64 ^ (product >> 64) as u64
}

/// A part of an arena that its owner alone can reach. It holds at least one element.
pub struct ArenaSlice<T> {
    start: NonNull<T>,
    /// Index of the last element. Every access is clamped to it.
    last: usize,
    _region: Arc<Region>,
    _elements: PhantomData<T>,
}

// SAFETY: an ArenaSlice owns its elements as a Box<[T]> does: disjoint from every other slice by carving.
unsafe impl<T: Send> Send for ArenaSlice<T> {}
// SAFETY: as above; a shared slice gives out only `&T`.
unsafe impl<T: Sync> Sync for ArenaSlice<T> {}

impl<T> ArenaSlice<T> {
    /// The element at `index`; beyond the end, the last one. Cannot panic, and does not branch.
    #[inline(always)]
    pub fn at(&self, index: usize) -> &T {
        // SAFETY: clamped to the last element, and `carve` makes no slice without one.
        unsafe { self.start.add(index.min(self.last)).as_ref() }
    }

    /// The element at `index`; `None` beyond the end.
    #[inline(always)]
    pub fn get(&self, index: usize) -> Option<&T> {
        // SAFETY: not beyond the last element, and `carve` makes no slice without one.
        (index <= self.last).then(|| unsafe { self.start.add(index).as_ref() })
    }

    /// The element at `index`, writable; beyond the end, the last one. Cannot panic, and does not branch.
    #[inline(always)]
    pub fn at_mut(&mut self, index: usize) -> &mut T {
        // SAFETY: as in `at`; `&mut self` makes it the only reference.
        unsafe { self.start.add(index.min(self.last)).as_mut() }
    }
}

impl<T: fmt::Debug> fmt::Debug for ArenaSlice<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

impl<T> Deref for ArenaSlice<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the elements from `start` to the last are ours, aligned, and valid whatever their bytes
        // (`FromBytes`).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.last + 1) }
    }
}

impl<T> DerefMut for ArenaSlice<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.last + 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_aligned_zeroed_and_disjoint() {
        let mut arena = Arena::in_memory(4096);
        let mut first = arena.carve::<u16>(3).unwrap();
        let mut second = arena.carve::<u64>(2).unwrap();
        assert!(first.iter().all(|&x| x == 0) && second.iter().all(|&x| x == 0));
        first.fill(0xffff);
        second.fill(7);
        assert_eq!((&first[..], &second[..]), (&[0xffff; 3][..], &[7; 2][..]));
        assert_eq!(first.as_ptr() as usize % SLICE_ALIGN, 0);
        assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, SLICE_ALIGN);
    }

    #[test]
    fn an_index_beyond_the_end_is_the_last_element() {
        let mut slice = Arena::in_memory(4096).carve::<u32>(3).unwrap();
        *slice.at_mut(usize::MAX) = 9;
        assert_eq!((*slice.at(2), *slice.at(3), *slice.at(1)), (9, 9, 0));
        assert_eq!((slice.get(2), slice.get(3)), (Some(&9), None));
    }

    #[test]
    fn carving_ends_with_the_memory() {
        let mut arena = Arena::in_memory(4096);
        let left = 4096 - HEADER_BYTES;
        assert_eq!(arena.carve::<u8>(0).err(), Some(ArenaError::CountOutOfRange(0)));
        assert_eq!(
            arena.carve::<u8>(4096).err(),
            Some(ArenaError::OutOfMemory { needed: 4096, left })
        );
        assert!(arena.carve::<u8>(left).is_ok());
        assert_eq!(
            arena.carve::<u8>(1).err(),
            Some(ArenaError::OutOfMemory { needed: 64, left: 0 })
        );
    }

    #[test]
    fn a_slice_outlives_its_arena() {
        let mut slice = Arena::in_memory(4096).carve::<u64>(10).unwrap();
        slice[9] = 1;
        assert_eq!(slice.iter().sum::<u64>(), 1);
    }

    #[test]
    fn the_same_memory_at_another_address_is_recovered_and_checked_by_its_layout() {
        let mut arena = Arena::in_memory(4096);
        arena.carve::<u32>(5).unwrap()[4] = 44;
        assert!(!arena.is_recovered() && !arena.has_earlier_layout());

        let mut twin = arena.twin_at_another_address();
        assert!(twin.is_recovered());
        assert_eq!(twin.carve::<u32>(5).unwrap()[4], 44);
        assert!(twin.has_earlier_layout());
        assert_eq!(twin.wipe(), Err(ArenaError::NotEmpty));

        let mut other = arena.twin_at_another_address();
        other.carve::<u32>(6).unwrap();
        assert!(!other.has_earlier_layout());

        let mut wiped = arena.twin_at_another_address();
        wiped.wipe().unwrap();
        assert!(!wiped.is_recovered());
        assert_eq!(wiped.carve::<u32>(5).unwrap()[4], 0);
    }

    #[test]
    fn a_former_arena_is_read_by_who_carves_it_as_it_was() {
        let mut arena = Arena::in_memory(4096);
        arena.carve::<u32>(5).unwrap()[4] = 44;
        arena.carve::<u64>(3).unwrap()[2] = 77;
        let bytes = arena.bytes();
        let mut former = FormerArena::of(&bytes, LAYOUT_VERSION).unwrap();
        let first = former.carve::<u32>(5).unwrap();
        assert!(!former.is_whole());
        let second = former.carve::<u64>(3).unwrap();
        assert!(former.is_whole());
        assert_eq!((first.get(4), first.get(5), first.len()), (Some(44), None, 5));
        assert_eq!((second.get(2), second.get(usize::MAX)), (Some(77), None));
        assert!(former.carve::<u8>(4096).is_none() && former.carve::<u64>(usize::MAX).is_none());
        assert!(FormerArena::of(&bytes, LAYOUT_VERSION + 1).is_none());
        assert!(FormerArena::of(&bytes[..4095], LAYOUT_VERSION).is_none() && FormerArena::of(&[], 3).is_none());
    }

    #[test]
    fn memory_handed_in_is_used_and_not_freed() {
        #[repr(align(64))]
        struct Mapping([u8; 256]);
        let mut mapping = Mapping([0; 256]);
        // SAFETY: aligned, zeroed, ours alone, and it outlives the arena.
        let mut arena = unsafe { Arena::from_raw(NonNull::from(&mut mapping).cast(), 256) };
        arena.carve::<u8>(1).unwrap()[0] = 0x5a;
        drop(arena);
        assert_eq!(mapping.0[HEADER_BYTES], 0x5a);
    }
}

//! What an ELF file says about itself: its machine, its loader, its libraries, and whether Go's runtime is in it.
//!
//! In:  an open file. Out: an [`Image`], or `None` for what is no ELF file. It reads 32-bit and 64-bit files of either byte
//! order, and only the headers and tables it needs. Never: trusts a length or an offset of the file.
//! Ref: elf(5); Go's debug/buildinfo, which finds the same marks.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The longest table that is read: program headers, section headers, the dynamic section, names.
const TABLE_MAX_BYTES: u64 = 1 << 20;
/// How far Go's mark may be from the beginning of the writable data.
const GO_MARK_WITHIN_BYTES: u64 = 1 << 20;
/// Go writes this before its version, aligned to 16 bytes.
const GO_MARK: &[u8] = b"\xff Go buildinf:";
const GO_NOTE: &[u8] = b"Go\0\0";
const GO_SECTIONS: [&[u8]; 3] = [b".note.go.buildid", b".go.buildinfo", b".gopclntab"];

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const PT_NOTE: u64 = 4;
const PF_W: u64 = 2;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;

/// `EM_*` of this machine.
#[cfg(target_arch = "x86_64")]
pub(super) const OWN_MACHINE: u64 = 62;
/// `EM_*` of this machine.
#[cfg(target_arch = "aarch64")]
pub(super) const OWN_MACHINE: u64 = 183;
/// `EM_*` of this machine's 32-bit programs.
#[cfg(target_arch = "x86_64")]
pub(super) const COMPANION_MACHINE: u64 = 3;
/// `EM_*` of this machine's 32-bit programs.
#[cfg(target_arch = "aarch64")]
pub(super) const COMPANION_MACHINE: u64 = 40;

/// What matters of an ELF file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    /// `EM_*`.
    pub(super) machine: u64,
    pub(super) is_64_bit: bool,
    pub(super) is_little_endian: bool,
    /// The path of the dynamic loader.
    pub(super) loader: Option<Vec<u8>>,
    /// The names of the libraries that it asks for.
    pub(super) needed: Vec<Vec<u8>>,
    /// Go's runtime is in it, which makes system calls itself.
    pub(super) is_go: bool,
}

struct Segment {
    kind: u64,
    flags: u64,
    offset: u64,
    address: u64,
    size: u64,
}

struct Reader<'file> {
    file: &'file File,
    is_64_bit: bool,
    is_little_endian: bool,
}

impl Reader<'_> {
    fn bytes(&self, offset: u64, len: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len.min(TABLE_MAX_BYTES)).ok()?];
        let mut filled = 0;
        while let Some(free) = bytes.get_mut(filled..).filter(|free| !free.is_empty()) {
            let at = offset.checked_add(filled as u64)?;
            match self.file.read_at(free, at) {
                Ok(0) | Err(_) => break,
                Ok(count) => filled += count,
            }
        }
        bytes.truncate(filled);
        Some(bytes)
    }

    /// The number of `len` bytes at `offset` of `bytes`.
    fn number(&self, bytes: &[u8], offset: usize, len: usize) -> Option<u64> {
        let bytes = bytes.get(offset..offset.checked_add(len)?)?;
        let join = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.is_little_endian {
            bytes.iter().rev().fold(0, join)
        } else {
            bytes.iter().fold(0, join)
        })
    }

    /// A field whose place and width depend on the class: 32-bit, 64-bit.
    fn field(&self, bytes: &[u8], narrow: (usize, usize), wide: (usize, usize)) -> Option<u64> {
        let (offset, len) = if self.is_64_bit { wide } else { narrow };
        self.number(bytes, offset, len)
    }

    fn segments(&self, header: &[u8]) -> Option<Vec<Segment>> {
        let start = self.field(header, (28, 4), (32, 8))?;
        let size = self.field(header, (42, 2), (54, 2))?;
        let count = self.field(header, (44, 2), (56, 2))?;
        let table = self.bytes(start, size.checked_mul(count)?)?;
        let entries = table.chunks_exact(usize::try_from(size).ok().filter(|size| *size > 0)?);
        Some(entries.filter_map(|entry| self.segment(entry)).collect())
    }

    fn segment(&self, entry: &[u8]) -> Option<Segment> {
        Some(Segment {
            kind: self.number(entry, 0, 4)?,
            flags: self.field(entry, (24, 4), (4, 4))?,
            offset: self.field(entry, (4, 4), (8, 8))?,
            address: self.field(entry, (8, 4), (16, 8))?,
            size: self.field(entry, (16, 4), (32, 8))?,
        })
    }

    fn needed(&self, segments: &[Segment]) -> Option<Vec<Vec<u8>>> {
        let dynamic = segments.iter().find(|segment| segment.kind == PT_DYNAMIC)?;
        let table = self.bytes(dynamic.offset, dynamic.size)?;
        let width = if self.is_64_bit { 8 } else { 4 };
        let entries: Vec<(u64, u64)> = table
            .chunks_exact(2 * width)
            .filter_map(|entry| Some((self.number(entry, 0, width)?, self.number(entry, width, width)?)))
            .take_while(|(tag, _)| *tag != DT_NULL)
            .collect();
        let value = |wanted| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
        let address = value(DT_STRTAB)?;
        let holder = segments.iter().find(|segment| {
            segment.kind == PT_LOAD && address.checked_sub(segment.address).is_some_and(|at| at < segment.size)
        })?;
        let names = self.bytes(
            holder.offset.checked_add(address - holder.address)?,
            value(DT_STRSZ).unwrap_or(TABLE_MAX_BYTES),
        )?;
        let needed = entries.iter().filter(|(tag, _)| *tag == DT_NEEDED);
        Some(needed.filter_map(|(_, at)| text_at(&names, *at)).collect())
    }

    fn is_go(&self, header: &[u8], segments: &[Segment]) -> bool {
        let note = |segment: &Segment| {
            let bytes = self.bytes(segment.offset, segment.size).unwrap_or_default();
            bytes.windows(GO_NOTE.len()).step_by(4).any(|word| word == GO_NOTE)
        };
        let mark = |segment: &Segment| {
            let bytes = self.bytes(segment.offset, segment.size.min(GO_MARK_WITHIN_BYTES));
            let bytes = bytes.unwrap_or_default();
            bytes.windows(GO_MARK.len()).any(|word| word == GO_MARK)
        };
        let of_kind = |kind| segments.iter().filter(move |segment| segment.kind == kind);
        of_kind(PT_NOTE).any(note)
            || self.has_go_section(header).unwrap_or(false)
            || of_kind(PT_LOAD).filter(|segment| segment.flags & PF_W != 0).any(mark)
    }

    fn has_go_section(&self, header: &[u8]) -> Option<bool> {
        let start = self.field(header, (32, 4), (40, 8))?;
        let size = self.field(header, (46, 2), (58, 2))?;
        let count = self.field(header, (48, 2), (60, 2))?;
        let names_index = self.field(header, (50, 2), (62, 2))?;
        let table = self.bytes(start, size.checked_mul(count)?)?;
        let sections: Vec<&[u8]> = table
            .chunks_exact(usize::try_from(size).ok().filter(|size| *size > 0)?)
            .collect();
        let names = sections.get(usize::try_from(names_index).ok()?)?;
        let names = self.bytes(
            self.field(names, (16, 4), (24, 8))?,
            self.field(names, (20, 4), (32, 8))?,
        )?;
        let is_go = |section: &&[u8]| {
            let name = self.number(section, 0, 4).and_then(|at| text_at(&names, at));
            name.is_some_and(|name| GO_SECTIONS.contains(&name.as_slice()))
        };
        Some(sections.iter().any(is_go))
    }
}

fn text_at(bytes: &[u8], offset: u64) -> Option<Vec<u8>> {
    let rest = bytes.get(usize::try_from(offset).ok()?..)?;
    rest.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
}

impl Image {
    /// Reads an ELF file.
    pub(super) fn read(file: &File) -> Option<Self> {
        let mut reader = Reader {
            file,
            is_64_bit: true,
            is_little_endian: true,
        };
        let header = reader.bytes(0, 64)?;
        let [0x7f, b'E', b'L', b'F', class, order, ..] = *header.as_slice() else {
            return None;
        };
        reader.is_64_bit = class == 2;
        reader.is_little_endian = order == 1;
        let segments = reader.segments(&header).unwrap_or_default();
        let loader = segments.iter().find(|segment| segment.kind == PT_INTERP);
        let loader = loader.and_then(|segment| text_at(&reader.bytes(segment.offset, segment.size)?, 0));
        Some(Self {
            machine: reader.number(&header, 18, 2)?,
            is_64_bit: reader.is_64_bit,
            is_little_endian: reader.is_little_endian,
            loader,
            needed: reader.needed(&segments).unwrap_or_default(),
            is_go: reader.is_go(&header, &segments),
        })
    }
}

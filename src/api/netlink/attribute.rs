//! Netlink attributes: reading without trust, writing without holes.
//!
//! In:  a request's bytes behind its headers. Out: attributes up to the first malformed one, like
//! `nla_for_each_attr()`. Never: reads beyond the slice, whatever lengths it names.

/// Header of an attribute.
const HEADER_BYTES: usize = 4;
/// Without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const KIND_MASK: u16 = 0x3fff;

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'bytes> {
    /// Its number, flags removed.
    pub kind: u16,
    /// What it holds.
    pub payload: &'bytes [u8],
}

impl<'bytes> Attribute<'bytes> {
    /// A number of one byte.
    pub fn u8(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// A native number.
    pub fn u16(&self) -> Option<u16> {
        self.payload.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
    }

    /// A number in network order.
    pub fn be16(&self) -> Option<u16> {
        self.payload.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// A native number.
    pub fn u32(&self) -> Option<u32> {
        self.payload.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
    }

    /// A native number.
    pub fn u64(&self) -> Option<u64> {
        self.payload.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
    }

    /// Text up to its NUL or its end, of at most `len_max` bytes; `None` when there is not even a NUL.
    pub fn text(&self, len_max: usize) -> Option<String> {
        if self.payload.is_empty() {
            return None;
        }
        let text = self.payload.split(|byte| *byte == 0).next().unwrap_or_default();
        (text.len() <= len_max).then(|| String::from_utf8_lossy(text).into_owned())
    }

    /// What it nests.
    pub const fn nested(&self) -> Attributes<'bytes> {
        Attributes { rest: self.payload }
    }
}

/// Attributes in a row.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'bytes> {
    rest: &'bytes [u8],
}

impl<'bytes> Attributes<'bytes> {
    /// Those in `bytes`.
    pub const fn new(bytes: &'bytes [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The last attribute of this number. `nla_parse()` keeps the last one too.
    pub fn find(self, kind: u16) -> Option<Attribute<'bytes>> {
        self.filter(|attribute| attribute.kind == kind).last()
    }
}

impl<'bytes> Iterator for Attributes<'bytes> {
    type Item = Attribute<'bytes>;

    fn next(&mut self) -> Option<Attribute<'bytes>> {
        let [l0, l1, k0, k1] = *self.rest.first_chunk::<HEADER_BYTES>()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let payload = self.rest.get(HEADER_BYTES..len)?;
        self.rest = self.rest.get(aligned(len)..).unwrap_or_default();
        Some(Attribute {
            kind: u16::from_ne_bytes([k0, k1]) & KIND_MASK,
            payload,
        })
    }
}

/// The next multiple of 4.
pub(super) const fn aligned(len: usize) -> usize {
    (len + 3) & !3
}

/// Bytes of a message under construction.
#[derive(Clone, Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Continues what is there already, a multiple of 4 bytes.
    pub(super) const fn after(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    pub(super) fn put(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        // Payloads here are names, addresses and numbers: always far below 64 KiB.
        let len = u16::try_from(HEADER_BYTES + payload.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.bytes.resize(aligned(self.bytes.len()), 0);
        self
    }

    pub(super) fn put_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &[value])
    }

    pub(super) fn put_u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    pub(super) fn put_be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    pub(super) fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    pub(super) fn put_u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Text with its NUL.
    pub(super) fn put_text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut payload = text.as_bytes().to_vec();
        payload.push(0);
        self.put(kind, &payload)
    }

    pub(super) fn put_nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        self.put(kind, &inner.bytes)
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

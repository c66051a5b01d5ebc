//! Shapes that the core's `worker_state` will bring.

/// Where a dump of connections goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpCursor {
    /// In the IPv4 table, from this slot.
    V4(u32),
}

/// A connection as listings show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnRecord {
    /// IP protocol number.
    pub protocol: u8,
}

//! Answers of any length in datagrams of bounded size, made when somebody asks for the next one.

use super::message::done;

/// Bytes of one datagram of a dump at most: half of what libnl reads at once.
pub const DATAGRAM_MAX_BYTES: usize = 8192;

/// Datagrams of a dump: rows, then the end, then nothing.
pub struct Dump<Rows: Iterator<Item = Vec<u8>>> {
    rows: Rows,
    /// A row that no longer fitted.
    waiting: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
}

impl<Rows: Iterator<Item = Vec<u8>>> Dump<Rows> {
    /// A dump of `rows`, each a message of less than [`DATAGRAM_MAX_BYTES`].
    pub fn new(rows: Rows, sequence: u32, port_id: u32) -> Self {
        Self {
            rows,
            waiting: None,
            end: Some(done(sequence, port_id)),
        }
    }
}

impl<Rows: Iterator<Item = Vec<u8>>> Iterator for Dump<Rows> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut datagram = self.waiting.take().unwrap_or_default();
        for row in self.rows.by_ref() {
            if datagram.len() + row.len() > DATAGRAM_MAX_BYTES && !datagram.is_empty() {
                self.waiting = Some(row);
                return Some(datagram);
            }
            datagram.extend_from_slice(&row);
        }
        if datagram.is_empty() {
            self.end.take()
        } else {
            Some(datagram)
        }
    }
}

//! The hash by which NICs spread flows over their receive queues, computed in software.
//!
//! In:  the ends of a packet's flow. Out: the worker to which a NIC with our key and table brings it.
//! The path asks for the owner of a flow that arrived at another worker, and for local ports whose replies arrive at
//! the worker that chose them.
//! Ref: Microsoft, "RSS Hashing Functions" (Toeplitz); DPDK `rte_thash.h` `rte_softrss`.

use crate::address::{Address, Endpoint};
use crate::verdict::WorkerId;

/// Bytes of a key: enough for two IPv6 addresses, two ports and the 32 bits of the window behind them.
pub const KEY_LEN: usize = 40;
/// The longest input: two IPv6 addresses and two ports.
const INPUT_LEN_MAX: usize = 36;
/// Different entries of the redirection table. A NIC with a longer table repeats them, so that NICs with different
/// tables agree.
pub const TABLE_LEN: u16 = 128;

/// One key, with the hash of every value of every half byte of the input.
#[derive(Clone, Debug)]
pub struct RssHash {
    key: [u8; KEY_LEN],
    halves: Box<[[u32; 16]; 2 * INPUT_LEN_MAX]>,
}

impl RssHash {
    /// The hash of this key.
    pub fn new(key: [u8; KEY_LEN]) -> Self {
        let mut halves = Box::new([[0; 16]; 2 * INPUT_LEN_MAX]);
        for (place, hashes) in halves.iter_mut().enumerate() {
            for (value, hash) in hashes.iter_mut().enumerate() {
                *hash = (0..4)
                    .filter(|bit| value >> (3 - bit) & 1 == 1)
                    .fold(0, |hash, bit| hash ^ window(&key, 4 * place + bit));
            }
        }
        Self { key, halves }
    }

    /// The bytes of the key, for the NIC.
    pub const fn key(&self) -> &[u8; KEY_LEN] {
        &self.key
    }

    /// The hash of a TCP or UDP packet, as the NIC computes it: addresses, then ports.
    #[inline]
    pub fn hash<A: Address>(&self, src: Endpoint<A>, dst: Endpoint<A>) -> u32 {
        let bytes = |part: &[u8], from: usize| {
            let places = self.halves.get(2 * from..).unwrap_or_default();
            places
                .chunks_exact(2)
                .zip(part)
                .fold(0, |hash, (pair, byte)| hash ^ of_byte(pair, *byte))
        };
        bytes(src.addr.as_bytes(), 0)
            ^ bytes(dst.addr.as_bytes(), A::LEN)
            ^ bytes(&src.port.to_be_bytes(), 2 * A::LEN)
            ^ bytes(&dst.port.to_be_bytes(), 2 * A::LEN + 2)
    }

    /// The worker whose queue gets packets from `src` to `dst`, if `workers_count` workers have one queue each.
    #[inline]
    pub fn worker<A: Address>(&self, src: Endpoint<A>, dst: Endpoint<A>, workers_count: u8) -> WorkerId {
        WorkerId(queue_of_entry(self.hash(src, dst) as u16, u16::from(workers_count)) as u8)
    }
}

/// The queue in an entry of the redirection table, whatever the table's length; the low bits of a hash are the
/// number of its entry.
#[inline]
pub const fn queue_of_entry(entry: u16, queues_count: u16) -> u16 {
    match (entry % TABLE_LEN).checked_rem(queues_count) {
        Some(queue) => queue,
        None => 0,
    }
}

#[inline]
fn of_byte(pair: &[[u32; 16]], byte: u8) -> u32 {
    match pair {
        [high, low] => high[usize::from(byte >> 4)] ^ low[usize::from(byte & 15)],
        _ => 0,
    }
}

/// The 32 bits of the key from `bit` on.
fn window(key: &[u8; KEY_LEN], bit: usize) -> u32 {
    let whole = key
        .iter()
        .skip(bit / 8)
        .take(5)
        .fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    (whole >> (8 - bit % 8)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Addr4, Addr6};

    /// The key and the packets of Microsoft's "Verifying the RSS Hash Calculation".
    const KEY: [u8; KEY_LEN] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    fn end<A: Address>(addr: &str, port: u16) -> Endpoint<A> {
        Endpoint::new(A::from_ip(addr.parse().unwrap()).unwrap(), port)
    }

    /// Source, its port, destination, its port, hash.
    fn assert_hashes<A: Address>(packets: &[(&str, u16, &str, u16, u32)]) {
        let rss = RssHash::new(KEY);
        for (src, src_port, dst, dst_port, hash) in packets {
            assert_eq!(rss.hash(end::<A>(src, *src_port), end(dst, *dst_port)), *hash, "{src}");
        }
    }

    #[test]
    fn ipv4_packets_hash_as_published() {
        assert_hashes::<Addr4>(&[
            ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x51cc_c178),
            ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xc626_b0ea),
            ("24.19.198.95", 12898, "12.22.207.184", 38024, 0x5c2b_394a),
            ("38.27.205.30", 48228, "209.142.163.6", 2217, 0xafc7_327f),
            ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x10e8_28a2),
        ]);
    }

    #[test]
    fn ipv6_packets_hash_as_published() {
        assert_hashes::<Addr6>(&[
            ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x4020_7d3d),
            ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0xdde5_1bbf),
            (
                "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
                44251,
                "fe80::200:f8ff:fe21:67cf",
                38024,
                0x02d1_feef,
            ),
        ]);
    }

    #[test]
    fn every_length_of_a_redirection_table_leads_to_the_same_queue() {
        for queues_count in 1..=64 {
            for hash in (0..100_000_u32).map(|number| number.wrapping_mul(0x9E37_79B1)) {
                let queue = queue_of_entry(hash as u16, queues_count);
                assert!(queue < queues_count);
                for table_len in [128_u32, 256, 512, 1024, 2048] {
                    assert_eq!(queue_of_entry((hash & (table_len - 1)) as u16, queues_count), queue);
                }
            }
        }
        assert_eq!(queue_of_entry(77, 0), 0);
    }
}

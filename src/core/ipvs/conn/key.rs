//! Keyed hash of a packet's 5-tuple, 64 bits.
//!
//! Folded multiplication (the construction of wyhash and foldhash): each half of the key is masked with a
//! word of a 256-bit secret, the masked halves are multiplied to 128 bits, and the two halves of the product
//! are XORed. Every bit of the key meets every bit of the secret before anything of it reaches the bucket
//! number or the tag. Without the secret nobody can compute either, so nobody can choose addresses and ports that
//! meet in one bucket. An attacker can only guess a masked word that makes a product zero, with 2⁻⁶⁴ a guess.
//! It is not a cryptographic PRF and need not be, because nobody outside sees hashes or collisions.
//! If an attack succeeded all the same, two full buckets would refuse one new connection; lookups would not slow down.

use crate::address::{Address, AddressFamily, FlowKey};

/// Digits of π, as in wyhash: an all-zero secret (tests) still spreads.
const PI: [u64; 4] = [
    0x243F_6A88_85A3_08D3,
    0x1319_8A2E_0370_7344,
    0xA409_3822_299F_31D0,
    0x082E_FA98_EC4E_6C89,
];

/// The keyed hash.
#[derive(Clone, Copy)]
pub(super) struct KeyHash([u64; 4]);

impl KeyHash {
    /// The hash function of `secret`.
    pub(super) fn new(secret: [u64; 4]) -> Self {
        Self(std::array::from_fn(|word| secret[word] ^ PI[word]))
    }

    /// The hash of `key`: evenly spread in its high and in its low bits.
    #[inline(always)]
    pub(super) fn hash<A: Address>(&self, key: &FlowKey<A>) -> u64 {
        let [k0, k1, k2, k3] = self.0;
        let ports = u64::from(key.src.port) | u64::from(key.dst.port) << 16 | u64::from(key.protocol) << 32;
        let (src_low, src_high) = key.src.addr.words();
        let (dst_low, dst_high) = key.dst.addr.words();
        match A::FAMILY {
            AddressFamily::Ipv4 => {
                let product = fold((src_low | dst_low << 32) ^ k0, ports ^ k1);
                fold(product ^ k2, k3)
            }
            AddressFamily::Ipv6 => {
                let src = fold(src_low ^ k0, src_high ^ k1);
                let dst = fold(dst_low ^ k2, dst_high ^ k3);
                let product = fold(src ^ ports ^ k2, dst ^ k1);
                fold(product ^ k0, k3)
            }
        }
    }
}

#[inline(always)]
const fn fold(left: u64, right: u64) -> u64 {
    let product = left as u128 * right as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Addr4, Addr6, Endpoint};
    use crate::random::Random;

    fn key4(client: u32, port: u16) -> FlowKey<Addr4> {
        let src = Endpoint::new(Addr4(client.to_be_bytes()), port);
        FlowKey {
            src,
            dst: Endpoint::new(Addr4([192, 0, 2, 1]), 80),
            protocol: 6,
        }
    }

    fn key6(host: u128, port: u16) -> FlowKey<Addr6> {
        let prefix = 0x2001_0db8u128 << 96;
        let src = Endpoint::new(Addr6((prefix | host).to_be_bytes()), port);
        FlowKey {
            src,
            dst: Endpoint::new(Addr6((prefix | 1).to_be_bytes()), 80),
            protocol: 6,
        }
    }

    /// Chi-squared of the hashes over 1,024 cells by `cell`, per degree of freedom: about 1 when random.
    fn unevenness(hashes: &[u64], cell: impl Fn(u64) -> u64) -> f64 {
        let mut counts = [0f64; 1024];
        hashes
            .iter()
            .for_each(|&hash| counts[(cell(hash) & 1023) as usize] += 1.0);
        let mean = hashes.len() as f64 / 1024.0;
        counts.iter().map(|count| (count - mean).powi(2) / mean).sum::<f64>() / 1023.0
    }

    fn assert_even(hashes: &[u64], what: &str) {
        for (part, shift) in [
            ("bucket bits", 54),
            ("tag bits", 0),
            ("tag high bits", 6),
            ("middle", 32),
        ] {
            let chi = unevenness(hashes, |hash| hash >> shift);
            // Standard deviation of this is sqrt(2/1023) = 0.044.
            assert!(
                (0.75..1.25).contains(&chi),
                "{what}: {part} of {} hashes: {chi}",
                hashes.len()
            );
        }
    }

    #[test]
    fn sequential_clients_and_ports_spread_like_random_ones() {
        let mut random = Random::new(1);
        for round in 0..8 {
            let secret = if round == 0 {
                [0; 4]
            } else {
                std::array::from_fn(|_| random.next_u64())
            };
            let hash = KeyHash::new(secret);
            let by_client: Vec<_> = (0..40_000).map(|n| hash.hash(&key4(0x0a00_0000 + n, 1024))).collect();
            assert_even(&by_client, "IPv4 clients");
            let by_port: Vec<_> = (0..=u16::MAX).map(|port| hash.hash(&key4(0x0a00_0001, port))).collect();
            assert_even(&by_port, "IPv4 ports");
            let by_network: Vec<_> = (0..40_000).map(|n| hash.hash(&key4(n << 8, 1024))).collect();
            assert_even(&by_network, "IPv4 networks");
            let by_host: Vec<_> = (0..40_000).map(|n| hash.hash(&key6(n, 1024))).collect();
            assert_even(&by_host, "IPv6 hosts");
            let by_prefix: Vec<_> = (0..40_000).map(|n| hash.hash(&key6(n << 64, 1024))).collect();
            assert_even(&by_prefix, "IPv6 networks");
            let by_port: Vec<_> = (0..=u16::MAX).map(|port| hash.hash(&key6(1, port))).collect();
            assert_even(&by_port, "IPv6 ports");
        }
    }

    /// Flips every bit of the key and counts how often each bit of the hash flips with it.
    fn assert_avalanche<A: Address>(keys: &[FlowKey<A>], flip: impl Fn(&mut FlowKey<A>, usize), bits: usize) {
        let hash = KeyHash::new([11, 22, 33, 44]);
        for bit in 0..bits {
            let mut flips = [0u32; 64];
            for key in keys {
                let mut other = *key;
                flip(&mut other, bit);
                let difference = hash.hash(key) ^ hash.hash(&other);
                (0..64).for_each(|out| flips[out] += (difference >> out & 1) as u32);
            }
            let half = keys.len() as u32 / 2;
            let (least, most) = (half * 8 / 10, half * 12 / 10);
            assert!(
                flips.iter().all(|&n| n > least && n < most),
                "key bit {bit}: {flips:?} of {}",
                keys.len()
            );
        }
    }

    #[test]
    fn each_bit_of_the_key_flips_each_bit_of_the_hash_half_of_the_time() {
        let keys: Vec<_> = (0..2_000).map(|n| key4(0x0a00_0000 + n, 40_000 + n as u16)).collect();
        assert_avalanche(
            &keys,
            |key, bit| match bit {
                0..32 => key.src.addr.0[bit / 8] ^= 1 << (bit % 8),
                32..64 => key.dst.addr.0[bit / 8 - 4] ^= 1 << (bit % 8),
                64..80 => key.src.port ^= 1 << (bit - 64),
                80..96 => key.dst.port ^= 1 << (bit - 80),
                _ => key.protocol ^= 1 << (bit - 96),
            },
            104,
        );
        let keys: Vec<_> = (0..2_000).map(|n| key6(n, 40_000 + n as u16)).collect();
        assert_avalanche(
            &keys,
            |key, bit| match bit {
                0..128 => key.src.addr.0[bit / 8] ^= 1 << (bit % 8),
                128..256 => key.dst.addr.0[bit / 8 - 16] ^= 1 << (bit % 8),
                256..272 => key.src.port ^= 1 << (bit - 256),
                272..288 => key.dst.port ^= 1 << (bit - 272),
                _ => key.protocol ^= 1 << (bit - 288),
            },
            296,
        );
    }

    #[test]
    fn another_secret_or_the_reverse_direction_is_another_hash() {
        let key = key4(0x0a00_0001, 1024);
        let reverse = FlowKey {
            src: key.dst,
            dst: key.src,
            ..key
        };
        let hash = KeyHash::new([1, 2, 3, 4]);
        assert_ne!(hash.hash(&key), hash.hash(&reverse));
        for word in 0..4 {
            let mut secret = [1, 2, 3, 4];
            secret[word] ^= 1 << 40;
            assert_ne!(hash.hash(&key), KeyHash::new(secret).hash(&key), "secret word {word}");
        }
    }
}

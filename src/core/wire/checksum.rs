//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are one's complement sums of 16-bit words, as numbers in host order. `0` and `0xffff` are both zero;
//! a sum of anything but zeros comes out as `0xffff`, and a checksum field, its complement, as `0`.

use zerocopy::network_endian::U16;

use crate::address::Address;

/// What data with a right checksum in it sum up to.
pub const VALID: u16 = 0xffff;

/// The sum of `bytes` as big-endian words; an odd last byte is padded with zero.
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    // Summed in the machine's byte order and swapped once at the end (RFC 1071 2 B).
    let total: u64 = words
        .iter()
        .chain([&last])
        .map(|&word| u64::from(u32::from_ne_bytes(word)))
        .sum();
    u16::from_be(fold(total))
}

/// Folds the carries of a sum of words back in.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The sum of two sums.
#[inline]
pub const fn add(one: u16, other: u16) -> u16 {
    let (sum, carry) = one.overflowing_add(other);
    sum + carry as u16
}

/// The checksum field `field` after the data changed by `delta`, the sum of the complements of the old words
/// and of the new ones (RFC 1624 eqn. 3: HC' = ~(~HC + ~m + m')). A field that was wrong stays wrong by as much.
#[inline]
pub const fn update(field: u16, delta: u16) -> u16 {
    !add(!field, delta)
}

/// [`update`] of a field where it lies.
#[inline(always)]
pub fn update_in(field: &mut U16, delta: u16) {
    // The sum is the same in any byte order (RFC 1071 2 B): the delta is swapped once, not the field twice.
    let swapped = update(u16::from_ne_bytes(field.to_bytes()), delta.to_be());
    *field = U16::from_bytes(swapped.to_ne_bytes());
}

/// The delta of the reverse of a change whose delta is `delta`.
#[inline]
pub const fn complement(delta: u16) -> u16 {
    // Adding 0 or 0xffff changes no field except 0xffff, and a field that is the result of a sum is never 0xffff.
    !delta
}

/// The sum of the pseudo header of TCP, UDP and ICMPv6 (RFC 9293 3.1, RFC 8200 8.1); `len` is the upper
/// layer's length in bytes.
pub fn pseudo_header<A: Address>(src: A, dst: A, protocol: u8, len: u16) -> u16 {
    let addresses = add(sum(src.as_bytes()), sum(dst.as_bytes()));
    add(addresses, add(u16::from(protocol), len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// The definition, word by word.
    fn sum_slowly(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn the_sum_is_that_of_the_definition_at_every_length() {
        let mut random = Random::new(1);
        for len in 0..300 {
            let bytes: Vec<u8> = (0..len).map(|_| random.next_u32() as u8).collect();
            assert_eq!(sum(&bytes), sum_slowly(&bytes), "{len} bytes");
        }
        assert_eq!(sum(&[0xff; 65_535]), sum_slowly(&[0xff; 65_535]));
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_does_not_come_out_as_minus_zero() {
        assert_eq!(update(0xdd2f, add(!0x5555, 0x3285)), 0x0000);
    }

    #[test]
    fn a_field_where_it_lies_changes_like_its_number() {
        let mut random = Random::new(2);
        for _ in 0..100_000 {
            let (number, delta) = (random.next_u32() as u16, random.next_u32() as u16);
            let mut field = U16::new(number);
            update_in(&mut field, delta);
            assert_eq!(field.get(), update(number, delta), "{number:#x} {delta:#x}");
        }
    }

    #[test]
    fn folding_loses_no_carry() {
        for total in [
            0,
            1,
            0xffff,
            0x1_0000,
            0x1_fffe,
            0xffff_ffff,
            0x1_0000_0000,
            u64::MAX,
            u64::MAX - 1,
            0xffff_0001_ffff,
        ] {
            let expected = if total == 0 {
                0
            } else {
                ((total - 1) % 0xffff + 1) as u16
            };
            assert_eq!(fold(total), expected, "{total:#x}");
        }
    }

    #[test]
    fn the_complement_of_a_delta_undoes_it_for_every_field() {
        for delta in [0u16, 1, 0x1234, 0xfffe, 0xffff] {
            for field in 0..0xffff {
                assert_eq!(
                    update(update(field, delta), complement(delta)),
                    field,
                    "{delta:#x} {field:#x}"
                );
            }
        }
    }
}

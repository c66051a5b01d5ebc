//! The hop-by-hop options of an IPv6 packet (RFC 8200 4.2, 4.3), judged as the kernel's stack does.
//!
//! In:  an IPv6 packet. Out: whether it goes on, is discarded, or is answered with an ICMPv6 parameter problem.
//! Never: looks at destination options, nor at hop-by-hop options that do not follow the fixed header: routers skip both.
//! Ref:  RFC 2675, RFC 2711, RFC 4727; Linux net/ipv6/exthdrs.c `ip6_parse_tlv`.

use zerocopy::FromBytes;

use crate::wire::ipv6::{ExtensionHeader, Ipv6Header, NEXT_HOP_BY_HOP};

const PAD1: u8 = 0;
const PADN: u8 = 1;
const ROUTER_ALERT: u8 = 5;
/// A security label (RFC 5570), of which nothing is configured here.
const CALIPSO: u8 = 7;
/// In situ OAM (RFC 9486), which the kernel ignores unless it is enabled.
const IOAM: u8 = 49;
const JUMBO: u8 = 194;

/// Padding aligns to eight bytes, so more than seven between two options is none.
const PADDING_MAX: usize = 7;
/// Options besides padding (kernel: `max_hbh_opts_number`).
const OPTIONS_MAX: usize = 8;

/// ICMPv6 code of a parameter problem: a field has a wrong value.
pub const CODE_FIELD: u8 = 0;
/// ICMPv6 code of a parameter problem: an option is not known.
pub const CODE_OPTION: u8 = 2;

/// What is to be done with a packet because of its hop-by-hop options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopByHop {
    /// Nothing.
    Pass,
    /// It is dropped silently.
    Discard,
    /// It is dropped, and its sender gets an ICMP error.
    ParameterProblem {
        /// ICMPv6 code.
        code: u8,
        /// The byte of the packet that is wrong.
        pointer: u32,
    },
}

/// See the module.
pub fn judge(packet: &[u8]) -> HopByHop {
    let Ok((ip, rest)) = Ipv6Header::ref_from_prefix(packet) else {
        return HopByHop::Discard;
    };
    if ip.next_header != NEXT_HOP_BY_HOP {
        return HopByHop::Pass;
    }
    let options = ExtensionHeader::ref_from_prefix(rest)
        .ok()
        .and_then(|(header, _)| rest.get(size_of::<ExtensionHeader>()..header.options_len()));
    match options {
        Some(options) => judge_options(ip, options).err().unwrap_or(HopByHop::Pass),
        None => HopByHop::Discard,
    }
}

fn judge_options(ip: &Ipv6Header, mut left: &[u8]) -> Result<(), HopByHop> {
    const FIRST: usize = Ipv6Header::LEN + size_of::<ExtensionHeader>();
    let all = left.len();
    let (mut padding, mut count) = (0, 0);
    while let Some(&kind) = left.first() {
        let at = FIRST + all - left.len();
        let len = match kind {
            PAD1 => 1,
            _ => usize::from(*left.get(1).ok_or(HopByHop::Discard)?) + 2,
        };
        let (option, behind) = left.split_at_checked(len).ok_or(HopByHop::Discard)?;
        if matches!(kind, PAD1 | PADN) {
            padding += len;
            // RFC 4942 2.1.9.5: padding is no hidden channel.
            if padding > PADDING_MAX || option.iter().skip(2).any(|&byte| byte != 0) {
                return Err(HopByHop::Discard);
            }
        } else {
            count += 1;
            if count > OPTIONS_MAX {
                return Err(HopByHop::Discard);
            }
            judge_option(ip, option, at)?;
            padding = 0;
        }
        left = behind;
    }
    Ok(())
}

/// An option that begins at `at` of the packet.
fn judge_option(ip: &Ipv6Header, option: &[u8], at: usize) -> Result<(), HopByHop> {
    const DISCARD: Result<(), HopByHop> = Err(HopByHop::Discard);
    let problem = |code, at: usize| {
        Err(HopByHop::ParameterProblem {
            code,
            pointer: at as u32,
        })
    };
    match option.first() {
        Some(&ROUTER_ALERT) if option.len() != 4 => DISCARD,
        Some(&IOAM) if !at.is_multiple_of(4) => DISCARD,
        Some(&(ROUTER_ALERT | IOAM)) => Ok(()),
        Some(&CALIPSO) => DISCARD,
        Some(&JUMBO) => {
            let length = option.get(2..).and_then(<[u8]>::first_chunk).copied();
            match length
                .map(u32::from_be_bytes)
                .filter(|_| option.len() == 6 && at % 4 == 2)
            {
                None => DISCARD,
                Some(length) if length <= u32::from(u16::MAX) => problem(CODE_FIELD, at + 2),
                Some(_) if ip.payload_len.get() != 0 => problem(CODE_FIELD, at),
                Some(_) => DISCARD,
            }
        }
        // The two highest bits say what a host does that does not know the option.
        Some(kind) => match kind >> 6 {
            0 => Ok(()),
            1 => DISCARD,
            3 if ip.dst.0[0] == 0xff => DISCARD,
            _ => problem(CODE_OPTION, at),
        },
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hex, tcp6};

    fn judged(next_header: u8, dst: &str, header: &str) -> HopByHop {
        let frame = tcp6(&format!("[2001:db8::1]:1 > [{dst}]:2")).build();
        let mut packet = frame[14..54].to_vec();
        packet[6] = next_header;
        packet.extend(hex(header));
        judge(&packet)
    }

    #[test]
    fn unknown_hop_by_hop_options_are_obeyed_by_their_highest_bits() {
        use HopByHop::{Discard, ParameterProblem, Pass};
        const HOST: &str = "2001:db8::2";
        let problem = |code, pointer| ParameterProblem { code, pointer };
        let cases = [
            (0, HOST, "06 00 3e 04 00000000", Pass),
            (0, HOST, "06 00 7e 04 00000000", Discard),
            (0, HOST, "06 00 be 04 00000000", problem(2, 42)),
            (0, HOST, "06 00 fe 04 00000000", problem(2, 42)),
            (0, "ff02::1", "06 00 fe 04 00000000", Discard),
            (0, "ff02::1", "06 00 be 04 00000000", problem(2, 42)),
            (0, HOST, "06 00 01 02 0000 be 00", problem(2, 46)),
            (0, HOST, "06 00 3e 00 7e 00 be 00", Discard),
            (60, HOST, "06 00 fe 04 00000000", Pass),
        ];
        for (next_header, dst, header, expected) in cases {
            assert_eq!(judged(next_header, dst, header), expected, "{next_header} {header}");
        }
    }

    #[test]
    fn known_options_and_padding_must_have_their_form() {
        use HopByHop::{Discard, ParameterProblem, Pass};
        let problem = |pointer| ParameterProblem { code: 0, pointer };
        let cases = [
            ("06 00 00 00 00 00 00 00", Pass),
            ("06 00 01 04 00 00 00 00", Pass),
            ("06 00 01 04 00 00 01 00", Discard),
            ("06 01 01 0c 00000000 00000000 00000000", Discard),
            ("06 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00", Discard),
            ("06 00 05 02 0000 01 00", Pass),
            ("06 00 05 04 0000 0000", Discard),
            ("06 00 c2 04 00000010", problem(44)),
            ("06 00 c2 04 00010010", problem(42)),
            ("06 00 01 00 c2 04 00010010", Discard),
            ("06 01 07 08 00000001 00000000 0000 0000", Discard),
            ("06 00 31 04 00000000", Discard),
            ("06 00 01 00 31 02 0000", Pass),
            ("06 00 3e 06 00000000", Discard),
            ("06 00 3e 03 000000 3e", Discard),
            ("06 02 3e003e003e003e003e003e003e003e00 0104 00000000", Pass),
            ("06 02 3e003e003e003e003e003e003e003e00 3e00 0102 0000", Discard),
            ("06 01 00 00 00 00 00 00", Discard),
        ];
        for (header, expected) in cases {
            assert_eq!(judged(0, "2001:db8::2", header), expected, "{header}");
        }
    }
}

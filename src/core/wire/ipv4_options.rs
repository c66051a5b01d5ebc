//! IPv4 options (RFC 791 3.1), read and filled in as the kernel's stack does.
//!
//! In:  an IPv4 header with its options. Out: where in it the options are that somebody asks for later, or which byte is
//!      wrong ([`Ipv4Options::read`]); record route and timestamp filled in; the options that an answer repeats
//!      ([`Ipv4Options::echo`]).
//! Never: writes the header's checksum.
//! Ref:  RFC 781, RFC 1122 3.2.1.8, RFC 1812 5.2.4; Linux net/ipv4/ip_options.c `__ip_options_compile`, `__ip_options_echo`.

use crate::address::Addr4;
use crate::wire::ipv4::Ipv4Header;

/// The end of the options.
pub const END: u8 = 0;
/// One byte without meaning.
pub const NOOP: u8 = 1;
/// Options from this bit on are copied into every fragment (RFC 791 3.1).
pub const COPIED: u8 = 0x80;
/// Bytes of the longest options.
pub const LEN_MAX: usize = 40;

const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const LOOSE_SOURCE_ROUTE: u8 = 131;
/// A security label (the kernel's `IPOPT_CIPSO`), of which nothing is configured here.
const CIPSO: u8 = 134;
const STRICT_SOURCE_ROUTE: u8 = 137;
const ROUTER_ALERT: u8 = 148;

/// How the timestamp option is filled in: its low four bits.
const TIMES_ONLY: u8 = 0;
/// See [`TIMES_ONLY`].
const TIMES_AND_ADDRESSES: u8 = 1;
/// See [`TIMES_ONLY`]. Only the hosts that the sender names write their times.
const TIMES_OF_HOSTS: u8 = 3;

/// What options are filled in with.
pub struct Filling<'a> {
    /// The address that record route gets. A router writes it when it hands the packet on.
    pub address: Addr4,
    /// The address that goes with a time. A router writes it when the packet comes in, and leaves it (`ip_forward_options`).
    pub time_address: Addr4,
    /// Milliseconds since midnight UTC.
    pub time_ms: u32,
    /// Whether an address is that of another host: neither the director's own nor one of many.
    pub is_other_host: &'a dyn Fn(Addr4) -> bool,
}

/// What options an IPv4 header has. Offsets are from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv4Options {
    record_route: Option<usize>,
    /// A slot of it has been filled in.
    route_recorded: bool,
    timestamp: Option<usize>,
    time_recorded: bool,
    address_recorded: bool,
    /// The sender wants to choose the route.
    pub has_source_route: bool,
    cipso: Option<usize>,
    /// The byte that is wrong: what an ICMP parameter problem points to. Options behind it have not been read.
    pub wrong: Option<u8>,
}

/// The options of an answer, padded to whole words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoedOptions {
    bytes: [u8; LEN_MAX],
    len: usize,
}

impl EchoedOptions {
    /// No options.
    pub const NONE: Self = Self {
        bytes: [0; LEN_MAX],
        len: 0,
    };

    /// Their bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Adds an option and returns its place; `None` when it does not fit.
    fn push(&mut self, option: &[u8]) -> Option<&mut [u8]> {
        let place = self.bytes.get_mut(self.len..)?.get_mut(..option.len())?;
        place.copy_from_slice(option);
        self.len += option.len();
        Some(place)
    }
}

/// The byte at `at`; 0 where there is none.
fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// Where the pointer of an option points: the pointer counts from 1.
fn pointer_of(option: &[u8]) -> usize {
    usize::from(byte(option, 2))
}

fn put(option: &mut [u8], at: usize, word: [u8; 4]) {
    if let Some(place) = option.get_mut(at..at + 4) {
        place.copy_from_slice(&word);
    }
}

fn address_at(option: &[u8], at: usize) -> Addr4 {
    let word = option.get(at..).and_then(<[u8]>::first_chunk);
    Addr4(word.copied().unwrap_or_default())
}

fn move_pointer(option: &mut [u8], by: u8) {
    if let Some(pointer) = option.get_mut(2) {
        *pointer = pointer.wrapping_add(by);
    }
}

impl Ipv4Options {
    /// Reads the options of `header` and fills in record route and timestamp. An option that is wrong ends the reading;
    /// what stands before it is filled in all the same.
    pub fn read(header: &mut [u8], filling: &Filling<'_>) -> Self {
        let mut found = Self::default();
        let mut at = Ipv4Header::LEN;
        while at < header.len() {
            let left = header.get_mut(at..).unwrap_or_default();
            match byte(left, 0) {
                END => {
                    left.fill(END);
                    break;
                }
                NOOP => {
                    at += 1;
                    continue;
                }
                _ => {}
            }
            let len = usize::from(byte(left, 1));
            let Some(option) = left.get_mut(..len).filter(|option| option.len() >= 2) else {
                found.wrong = u8::try_from(at).ok();
                break;
            };
            if let Err(offset) = found.take(at, option, filling) {
                found.wrong = u8::try_from(at + offset).ok();
                break;
            }
            at += len;
        }
        found
    }

    /// Whether anything has been filled in.
    pub const fn is_filled(&self) -> bool {
        self.route_recorded || self.time_recorded
    }

    /// Reads one option; the offset in it of what is wrong.
    fn take(&mut self, at: usize, option: &mut [u8], filling: &Filling<'_>) -> Result<(), usize> {
        match byte(option, 0) {
            RECORD_ROUTE => {
                check_slots(option, self.record_route, 4)?;
                self.record_route(option, filling)?;
                self.record_route = Some(at);
            }
            TIMESTAMP => {
                check_slots(option, self.timestamp, 5)?;
                self.time(option, filling)?;
                self.timestamp = Some(at);
            }
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => {
                // RFC 1812 5.2.4.1: the order of what is wrong is the kernel's.
                check_slots(option, None, 4)?;
                if self.has_source_route {
                    return Err(0);
                }
                self.has_source_route = true;
            }
            ROUTER_ALERT if option.len() < 4 => return Err(1),
            CIPSO => {
                self.cipso = Some(at);
                // Without a configured domain of interpretation none is known.
                return Err(if option.len() < 8 { 1 } else { 2 });
            }
            _ => {}
        }
        Ok(())
    }

    fn record_route(&mut self, option: &mut [u8], filling: &Filling<'_>) -> Result<(), usize> {
        let pointer = pointer_of(option);
        if pointer > option.len() {
            return Ok(());
        }
        if pointer + 3 > option.len() {
            return Err(2);
        }
        put(option, pointer - 1, filling.address.0);
        move_pointer(option, 4);
        self.route_recorded = true;
        Ok(())
    }

    fn time(&mut self, option: &mut [u8], filling: &Filling<'_>) -> Result<(), usize> {
        let (pointer, kind) = (pointer_of(option), byte(option, 3));
        if pointer > option.len() {
            return overflow(option, kind);
        }
        let needed = match kind & 0xf {
            TIMES_AND_ADDRESSES | TIMES_OF_HOSTS => 7,
            _ => 3,
        };
        if pointer + needed > option.len() {
            return Err(2);
        }
        let time = filling.time_ms.to_be_bytes();
        match kind & 0xf {
            TIMES_ONLY => {
                put(option, pointer - 1, time);
                self.time_recorded = true;
                move_pointer(option, 4);
            }
            TIMES_AND_ADDRESSES => {
                put(option, pointer - 1, filling.time_address.0);
                put(option, pointer + 3, time);
                (self.time_recorded, self.address_recorded) = (true, true);
                move_pointer(option, 8);
            }
            TIMES_OF_HOSTS => {
                if (filling.is_other_host)(address_at(option, pointer - 1)) {
                    return Ok(());
                }
                put(option, pointer + 3, time);
                self.time_recorded = true;
                move_pointer(option, 8);
            }
            _ => {}
        }
        Ok(())
    }

    /// The options that an answer from `filling.address` to the packet of `header` repeats, filled in by the answer's
    /// sender. Source routes are left out: packets with one are not answered. `None` when no answer is possible,
    /// because a slot is too short.
    pub fn echo(&self, header: &[u8], filling: &Filling<'_>) -> Option<EchoedOptions> {
        let mut echoed = EchoedOptions::NONE;
        if let Some(option) = self.record_route.map(|at| option_at(header, at)) {
            self.echo_route(echoed.push(option)?, filling)?;
        }
        if let Some(option) = self.timestamp.map(|at| option_at(header, at)) {
            self.echo_time(echoed.push(option)?, filling)?;
        }
        if let Some(at) = self.cipso {
            echoed.push(option_at(header, at))?;
        }
        echoed.len = echoed.len.next_multiple_of(4);
        Some(echoed)
    }

    fn echo_route(&self, option: &mut [u8], filling: &Filling<'_>) -> Option<()> {
        let pointer = pointer_of(option);
        if self.route_recorded && pointer <= option.len() {
            if pointer + 3 > option.len() {
                return None;
            }
            put(option, pointer - 1, filling.address.0);
            move_pointer(option, 4);
        }
        Some(())
    }

    fn echo_time(&self, option: &mut [u8], filling: &Filling<'_>) -> Option<()> {
        let mut pointer = pointer_of(option);
        if pointer > option.len() {
            return Some(());
        }
        if self.address_recorded {
            if pointer + 3 > option.len() {
                return None;
            }
            put(option, pointer - 1, filling.time_address.0);
            pointer += 4;
        }
        if self.time_recorded {
            if pointer + 3 > option.len() {
                return None;
            }
            let time = filling.time_ms.to_be_bytes();
            if byte(option, 3) & 0xf != TIMES_OF_HOSTS {
                put(option, pointer - 1, time);
                pointer += 4;
            } else if pointer + 7 <= option.len() && !(filling.is_other_host)(address_at(option, pointer - 1)) {
                put(option, pointer + 3, time);
                pointer += 8;
            }
        }
        if let Some(field) = option.get_mut(2) {
            *field = pointer as u8;
        }
        Some(())
    }
}

/// What record route, timestamp and source routes have in common: one of a kind, a length that holds the pointer, and a
/// pointer that does not point in front of the slots.
fn check_slots(option: &[u8], earlier: Option<usize>, first: usize) -> Result<(), usize> {
    if earlier.is_some() {
        return Err(0);
    }
    if option.len() < first - 1 {
        return Err(1);
    }
    if pointer_of(option) < first {
        return Err(2);
    }
    Ok(())
}

/// No slot is left: the hosts that find none are counted in four bits.
fn overflow(option: &mut [u8], kind: u8) -> Result<(), usize> {
    if kind & 0xf == TIMES_OF_HOSTS {
        return Ok(());
    }
    if kind >> 4 == 15 {
        return Err(3);
    }
    if let Some(field) = option.get_mut(3) {
        *field = kind + 0x10;
    }
    Ok(())
}

/// The option at `at` of `header`, which has been found well-formed.
fn option_at(header: &[u8], at: usize) -> &[u8] {
    let len = usize::from(byte(header, at + 1));
    header.get(at..at + len).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;

    const OWN: Addr4 = Addr4([10, 0, 0, 100]);
    const HOST: Addr4 = Addr4([198, 51, 100, 1]);

    fn filling(is_other_host: &dyn Fn(Addr4) -> bool) -> Filling<'_> {
        Filling {
            address: OWN,
            time_address: OWN,
            time_ms: 0x0102_0304,
            is_other_host,
        }
    }

    /// The options after reading, and what was found.
    fn read(options: &str) -> (Vec<u8>, Ipv4Options) {
        let mut header = vec![0; Ipv4Header::LEN];
        header.extend(hex(options));
        let found = Ipv4Options::read(&mut header, &filling(&|addr| addr == HOST));
        (header.split_off(Ipv4Header::LEN), found)
    }

    fn echoed(options: &str) -> Option<Vec<u8>> {
        let (options, found) = read(options);
        let mut header = vec![0; Ipv4Header::LEN];
        header.extend(options);
        let echoed = found.echo(&header, &filling(&|addr| addr == HOST))?;
        Some(echoed.bytes().to_vec())
    }

    #[test]
    fn the_next_free_slot_is_filled_and_the_pointer_moves_behind_it() {
        let cases = [
            ("07 0b 04 00000000 00000000 00", "07 0b 08 0a000064 00000000 00"),
            ("07 07 08 c6336401 01", "07 07 08 c6336401 01"),
            ("44 08 05 00 00000000", "44 08 09 00 01020304"),
            ("44 0c 05 01 00000000 00000000", "44 0c 0d 01 0a000064 01020304"),
            ("44 0c 05 03 0a000064 00000000", "44 0c 0d 03 0a000064 01020304"),
            ("44 0c 05 03 c6336401 00000000", "44 0c 05 03 c6336401 00000000"),
            ("44 08 05 07 00000000", "44 08 05 07 00000000"),
            ("44 08 09 20 01020304", "44 08 09 30 01020304"),
            ("44 0c 0d 03 01020304 00000000", "44 0c 0d 03 01020304 00000000"),
            ("01 00 ff ff", "01 00 00 00"),
            ("5e 04 12 34", "5e 04 12 34"),
            ("94 04 00 01", "94 04 00 01"),
        ];
        for (before, after) in cases {
            let (options, found) = read(before);
            assert_eq!((options, found.wrong), (hex(after), None), "{before}");
        }
    }

    #[test]
    fn what_is_wrong_is_pointed_to() {
        let cases = [
            ("07 06 04 000000 0000", 22),
            ("07 02 01 01", 21),
            ("07 07 02 00000000 00", 22),
            ("07 08 06 0000000000", 22),
            ("07 07 04 00000000 07 07 04 00000000 0000", 27),
            ("44 07 05 00 000000 00", 22),
            ("44 03 05 00", 21),
            ("44 08 04 00 00000000", 22),
            ("44 0a 05 01 000000000000 0000", 22),
            ("44 08 09 f0 01020304", 23),
            ("44 08 05 00 00000000 44 08 05 00 00000000", 28),
            ("83 02 01 01", 21),
            ("83 07 03 0a01000f 00", 22),
            ("83 03 04 89 03 04 0000", 23),
            ("86 06 00000001 0000", 21),
            ("86 08 00000001 0000", 22),
            ("94 03 00 00", 21),
            ("5e 01 00 00", 20),
            ("5e 05 00 00", 20),
            ("01 01 01 07", 23),
        ];
        for (options, pointer) in cases {
            assert_eq!(read(options).1.wrong, Some(pointer), "{options}");
        }
    }

    #[test]
    fn an_answer_repeats_record_route_and_timestamp_and_adds_its_own_entries() {
        let cases = [
            ("5e 04 12 34", Some("")),
            ("07 0b 04 00000000 00000000 00", Some("07 0b 0c 0a000064 0a000064 00")),
            ("07 08 04 0000000000", None),
            ("07 07 04 00000000 01", Some("07 07 08 0a000064 00")),
            (
                "44 0c 05 00 00000000 00000000 07 07 04 00000000 00",
                Some("07 07 08 0a000064 44 0c 0d 00 01020304 01020304 00"),
            ),
            (
                "44 0c 05 00 00000000 00000000 5e 01 00 00",
                Some("44 0c 0d 00 01020304 01020304"),
            ),
        ];
        for (options, expected) in cases {
            assert_eq!(echoed(options), expected.map(hex), "{options}");
        }
    }
}

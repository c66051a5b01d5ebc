//! Capture files in the classic pcap format (draft-ietf-opsawg-pcap), Ethernet only; bytes in, bytes out.

use thiserror::Error;

/// Timestamps in microseconds.
const MAGIC_MICRO: u32 = 0xa1b2_c3d4;
/// Timestamps in nanoseconds.
const MAGIC_NANO: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
/// What tcpdump writes.
const SNAPLEN: u32 = 262_144;

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PcapError {
    /// It does not begin with a known magic number.
    #[error("not a pcap file (the magic number is {0:#010x}; pcapng must be converted first)")]
    Magic(u32),
    /// Not Ethernet.
    #[error("link type {0} is not Ethernet (1)")]
    LinkType(u32),
    /// The file ends within a header or frame.
    #[error("the file ends in the middle of record {record}")]
    Truncated {
        /// Frames read before.
        record: usize,
    },
}

/// A frame of a capture file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedFrame {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Bytes captured.
    pub bytes: Vec<u8>,
    /// Bytes the frame had on the wire; more than `bytes` when it was cut.
    pub wire_len: u32,
}

impl CapturedFrame {
    /// A whole frame, captured at time 0.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self {
            time_ns: 0,
            wire_len: bytes.len() as u32,
            bytes,
        }
    }
}

/// Frames in the order of the file.
pub type Capture = Vec<CapturedFrame>;

/// Reads a capture file of either byte order and resolution.
pub fn read_pcap(file: &[u8]) -> Result<Capture, PcapError> {
    let cut = |record: usize| PcapError::Truncated { record };
    let (header, mut rest) = file.split_at_checked(FILE_HEADER_LEN).ok_or(cut(0))?;
    let (is_swapped, unit_ns) = match word(header, 0, false) {
        MAGIC_MICRO => (false, 1_000),
        MAGIC_NANO => (false, 1),
        magic => match magic.swap_bytes() {
            MAGIC_MICRO => (true, 1_000),
            MAGIC_NANO => (true, 1),
            _ => return Err(PcapError::Magic(magic)),
        },
    };
    // The upper bits describe an FCS.
    let linktype = word(header, 20, is_swapped) & 0xffff;
    if linktype != LINKTYPE_ETHERNET {
        return Err(PcapError::LinkType(linktype));
    }
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (header, behind) = rest.split_at_checked(RECORD_HEADER_LEN).ok_or(cut(frames.len()))?;
        let len = word(header, 8, is_swapped) as usize;
        let (bytes, behind) = behind.split_at_checked(len).ok_or(cut(frames.len()))?;
        let (seconds, fraction) = (word(header, 0, is_swapped), word(header, 4, is_swapped));
        frames.push(CapturedFrame {
            time_ns: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit_ns,
            bytes: bytes.to_vec(),
            wire_len: word(header, 12, is_swapped),
        });
        rest = behind;
    }
    Ok(frames)
}

/// A capture file with these frames: little-endian, nanoseconds.
pub fn write_pcap(frames: &[CapturedFrame]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut put = |words: &[u32]| file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    // Version 2.4, time zone and accuracy 0.
    put(&[MAGIC_NANO, 4 << 16 | 2, 0, 0, SNAPLEN, LINKTYPE_ETHERNET]);
    for frame in frames {
        let (seconds, fraction) = (frame.time_ns / 1_000_000_000, frame.time_ns % 1_000_000_000);
        let header = [
            seconds as u32,
            fraction as u32,
            frame.bytes.len() as u32,
            frame.wire_len,
        ];
        file.extend(header.iter().flat_map(|word| word.to_le_bytes()));
        file.extend_from_slice(&frame.bytes);
    }
    file
}

fn word(header: &[u8], offset: usize, is_swapped: bool) -> u32 {
    let bytes = header
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .unwrap_or_default();
    if is_swapped {
        u32::from_be_bytes(bytes)
    } else {
        u32::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;

    fn capture() -> Capture {
        vec![
            CapturedFrame {
                time_ns: 1_700_000_000_123_456_789,
                bytes: b"one frame".to_vec(),
                wire_len: 9,
            },
            CapturedFrame {
                time_ns: 0,
                bytes: Vec::new(),
                wire_len: 60,
            },
        ]
    }

    #[test]
    fn what_was_written_is_read_back() {
        assert_eq!(read_pcap(&write_pcap(&capture())), Ok(capture()));
    }

    #[test]
    fn a_big_endian_file_with_microseconds_is_read() {
        let file = hex("a1b2c3d4 0002 0004 00000000 00000000 00040000 00000001
                        00000002 00000003 00000002 0000003c abcd");
        let frame = CapturedFrame {
            time_ns: 2_000_003_000,
            bytes: vec![0xab, 0xcd],
            wire_len: 60,
        };
        assert_eq!(read_pcap(&file), Ok(vec![frame]));
    }

    #[test]
    fn a_file_cut_anywhere_inside_a_record_is_refused() {
        let file = write_pcap(&capture());
        for len in 0..file.len() {
            let is_at_boundary = [24, 24 + 16 + 9].contains(&len);
            assert_eq!(read_pcap(&file[..len]).is_ok(), is_at_boundary, "{len} bytes");
        }
    }

    #[test]
    fn other_formats_and_links_are_named() {
        assert_eq!(read_pcap(&[0x0a; 24]), Err(PcapError::Magic(0x0a0a_0a0a)));
        let mut file = write_pcap(&capture());
        file[20] = 113;
        assert_eq!(read_pcap(&file), Err(PcapError::LinkType(113)));
    }
}

//! Any bytes as a frame: the parser finds headers that lie within the frame, or names a reason to drop it.
//!
//! The tests' own readers of frames, which judge what the path sends, get the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lvs_core::path::parse::{Parsed, parse};
use lvs_core::testing::{checksum_faults, describe};

fuzz_target!(|frame: &[u8]| {
    if let Ok(Parsed::Ip(headers, _)) = parse(frame) {
        let (l3, l4, end) = (headers.l3_offset, headers.l4_offset, headers.packet_end);
        assert!(
            l3 < l4 && l4 <= end && usize::from(end) <= frame.len(),
            "{headers:?} of {} bytes",
            frame.len()
        );
    }
    let _ = describe(frame);
    let _ = checksum_faults(frame);
});

//! Signed sync messages: who has the key of `[sync] key_file` writes them, and nobody else.
//!
//! In:  a message in the kernel's form. Out: the same between a header and a signature, and back.
//!
//! ```text
//! 0        4        8                 16                     -32           end
//! | 0 0 0 0| 0 2 0 0| sequence number | message as a kernel's | HMAC-SHA256 |
//! ```
//!
//! Version 2 and a size of 0, which no message has, let a kernel and an lvsd without a key pass over it. The signature
//! (RFC 2104, FIPS 180-4) also covers where the datagram comes from and goes to, so that it means nothing elsewhere.
//! Without a key messages are the kernel's, byte by byte.

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

/// What distinguishes a signed message from a kernel's: reserved, sync id, size, count, version and spare of its header.
const HEADER: [u8; 8] = [0, 0, 0, 0, 0, 2, 0, 0];
const SEQUENCE_LEN: usize = 8;
const SIGNATURE_LEN: usize = 32;
/// Bytes that a signature adds to a message.
pub const OVERHEAD: u16 = (HEADER.len() + SEQUENCE_LEN + SIGNATURE_LEN) as u16;

/// Shortest key, in bytes: that of 16 random bytes in hexadecimal digits.
const KEY_LEN_MIN: usize = 32;
/// Longest key, in bytes.
const KEY_LEN_MAX: usize = 4_096;
/// Bits of a file's mode that let others than its owner read or change it.
const MODE_OF_OTHERS: u32 = 0o077;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum SyncKeyError {
    /// The system refused.
    #[error("sync.key_file {path}: {source}; make one: umask 077; openssl rand -hex 32 >{path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory or a device.
    #[error("sync.key_file {path} is no file; make one: umask 077; openssl rand -hex 32 >{path}")]
    NotAFile {
        /// As configured.
        path: PathBuf,
    },
    /// Others could know or replace the key.
    #[error("sync.key_file {path} has mode {mode:04o}, so others than its owner have the key; chmod 0600 {path}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Too short to be safe, or not meant as a key.
    #[error(
        "sync.key_file {path} has {len} bytes: give {KEY_LEN_MIN} to {KEY_LEN_MAX}, like openssl rand -hex 32 >{path}"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its bytes, without white space at the end; of a longer file one more than are allowed.
        len: usize,
    },
}

/// Why a datagram is not taken as a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageRefusal {
    /// It comes from a director that is not among the peers.
    OtherPeer,
    /// There is a key, and nobody signed it.
    Unsigned,
    /// It is signed, and there is no key.
    Signed,
    /// It is signed by another key, for another place, or was changed.
    Signature,
    /// It came before, or is too old to know.
    Replayed,
    /// It is the first of its sender, and its number is far from this machine's clock.
    Stale,
}

impl MessageRefusal {
    /// The name of its counter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OtherPeer => "other_peer",
            Self::Unsigned => "message_unsigned",
            Self::Signed => "message_signed",
            Self::Signature => "message_signature",
            Self::Replayed => "message_replayed",
            Self::Stale => "message_stale",
        }
    }
}

/// Where a message comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageEnds {
    /// The sender's address.
    pub source: IpAddr,
    /// Multicast group of the daemon.
    pub group: IpAddr,
    /// UDP port that it is sent to.
    pub port: u16,
}

/// The key of messages, in the form in which it signs.
#[derive(Clone)]
pub struct SyncKey(Hmac<Sha256>);

impl PartialEq for SyncKey {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.clone().finalize() == other.0.clone().finalize()
    }
}

impl std::fmt::Debug for SyncKey {
    /// Without the key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SyncKey")
    }
}

impl SyncKey {
    /// The key in the file at `path`: all its bytes but white space at the end.
    ///
    /// # Errors
    /// A file that is missing, too short or too long, or that others than its owner may read or change.
    pub fn read(path: &Path) -> Result<Self, SyncKeyError> {
        let unreadable = |source| SyncKeyError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let path = path.to_owned();
        if !metadata.is_file() {
            return Err(SyncKeyError::NotAFile { path });
        }
        let mode = Permissions::mode(&metadata.permissions()) & 0o7777;
        if mode & MODE_OF_OTHERS != 0 {
            return Err(SyncKeyError::Mode { path, mode });
        }
        let mut bytes = Vec::new();
        // One byte more shows that there are more.
        let limited = file.take(KEY_LEN_MAX as u64 + 1).read_to_end(&mut bytes);
        limited.map_err(|source| SyncKeyError::Unreadable {
            path: path.clone(),
            source,
        })?;
        let key = bytes.trim_ascii_end();
        let len = if bytes.len() > KEY_LEN_MAX {
            bytes.len()
        } else {
            key.len()
        };
        match Self::new(key) {
            Some(key) if (KEY_LEN_MIN..=KEY_LEN_MAX).contains(&len) => Ok(key),
            _ => Err(SyncKeyError::Length { path, len }),
        }
    }

    fn new(key: &[u8]) -> Option<Self> {
        Hmac::new_from_slice(key).ok().map(Self)
    }

    /// The datagram of `message` with this number.
    pub fn sign(&self, ends: &MessageEnds, sequence: u64, message: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(message.len() + usize::from(OVERHEAD));
        datagram.extend_from_slice(&HEADER);
        datagram.extend_from_slice(&sequence.to_be_bytes());
        datagram.extend_from_slice(message);
        let signature = self.over(ends, &datagram).finalize().into_bytes();
        datagram.extend_from_slice(&signature);
        datagram
    }

    /// Number and message of a signed datagram.
    ///
    /// # Errors
    /// Nobody signed it, or not with this key for these ends.
    pub fn verify<'d>(&self, ends: &MessageEnds, datagram: &'d [u8]) -> Result<(u64, &'d [u8]), MessageRefusal> {
        let (signed, signature) = datagram
            .split_last_chunk::<SIGNATURE_LEN>()
            .ok_or(MessageRefusal::Unsigned)?;
        let rest = signed.strip_prefix(&HEADER).ok_or(MessageRefusal::Unsigned)?;
        let (sequence, message) = rest.split_first_chunk().ok_or(MessageRefusal::Unsigned)?;
        // In constant time.
        let checked = self.over(ends, signed).verify_slice(signature);
        checked.map_err(|_| MessageRefusal::Signature)?;
        Ok((u64::from_be_bytes(*sequence), message))
    }

    fn over(&self, ends: &MessageEnds, signed: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for addr in [ends.source, ends.group] {
            mac.update(&in_16_bytes(addr));
        }
        mac.update(&ends.port.to_be_bytes());
        mac.update(signed);
        mac
    }
}

fn in_16_bytes(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Whether a datagram is in the form of signed messages, whoever signed it.
pub fn is_signed(datagram: &[u8]) -> bool {
    datagram.starts_with(&HEADER) && datagram.len() >= usize::from(OVERHEAD)
}

#[cfg(test)]
mod tests {
    use lvs_core::ipvs::sync::message;
    use proptest::prelude::*;

    use super::*;

    fn ends() -> MessageEnds {
        MessageEnds {
            source: "192.0.2.2".parse().unwrap(),
            group: "224.0.0.81".parse().unwrap(),
            port: 8_848,
        }
    }

    fn key(byte: u8) -> SyncKey {
        SyncKey::new(&[byte; 32]).unwrap()
    }

    /// RFC 4231, test cases 1, 2, 3, 6 and 7.
    #[test]
    fn signatures_are_those_of_the_rfc() {
        let long: &[u8] = b"Test Using Larger Than Block-Size Key - Hash Key First";
        let longer: &[u8] = b"This is a test using a larger than block-size key and a larger than block-size data. \
            The key needs to be hashed before being used by the HMAC algorithm.";
        let cases: [(&[u8], &[u8], &str); 5] = [
            (
                &[0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 20],
                &[0xdd; 50],
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            ),
            (
                &[0xaa; 131],
                long,
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                &[0xaa; 131],
                longer,
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ];
        for (key, data, expected) in cases {
            let SyncKey(mut mac) = SyncKey::new(key).unwrap();
            mac.update(data);
            let shown: String = mac
                .finalize()
                .into_bytes()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn a_kernels_message_is_inside_and_a_kernel_passes_over_the_whole() {
        let inside = b"\0\x07\0\x08\0\x01\0\0";
        let datagram = key(1).sign(&ends(), 5, inside);
        assert_eq!(datagram.len(), inside.len() + usize::from(OVERHEAD));
        assert_eq!(&datagram[16..24], inside);
        assert_eq!(key(1).verify(&ends(), &datagram), Ok((5, &inside[..])));
        let outcome = message::read(&datagram, 0, |_| panic!("there is no entry"));
        assert_eq!(outcome, Err(message::Fault::Size));
    }

    proptest! {
        #[test]
        fn what_one_signs_the_other_reads_and_any_change_is_seen(
            message in proptest::collection::vec(any::<u8>(), 0..200), sequence: u64, at: prop::sample::Index, flip in 1..=255u8,
        ) {
            let mut datagram = key(7).sign(&ends(), sequence, &message);
            prop_assert!(is_signed(&datagram));
            prop_assert_eq!(key(7).verify(&ends(), &datagram), Ok((sequence, &message[..])));
            prop_assert_eq!(key(8).verify(&ends(), &datagram), Err(MessageRefusal::Signature));
            for other in [
                MessageEnds { source: "192.0.2.3".parse().unwrap(), ..ends() },
                MessageEnds { group: "224.0.0.82".parse().unwrap(), ..ends() },
                MessageEnds { port: 8_849, ..ends() },
            ] {
                prop_assert_eq!(key(7).verify(&other, &datagram), Err(MessageRefusal::Signature));
            }
            prop_assert!(key(7).verify(&ends(), &datagram[..datagram.len() - 1]).is_err());
            let at = at.index(datagram.len());
            datagram[at] ^= flip;
            prop_assert!(key(7).verify(&ends(), &datagram).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_signed_by_nobody(datagram in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(key(7).verify(&ends(), &datagram).is_err());
        }
    }

    #[test]
    fn a_key_file_that_is_wrong_is_named_with_its_cure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sync.key");
        let write = |text: &[u8], mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        };
        let refusal = |path: &Path| SyncKey::read(path).unwrap_err().to_string();
        let shown = path.display().to_string();
        assert_eq!(
            refusal(&path),
            format!(
                "sync.key_file {shown}: No such file or directory (os error 2); \
                 make one: umask 077; openssl rand -hex 32 >{shown}"
            )
        );
        assert!(refusal(folder.path()).contains("is no file"));
        write(&[b'a'; 64], 0o640);
        assert_eq!(
            refusal(&path),
            format!("sync.key_file {shown} has mode 0640, so others than its owner have the key; chmod 0600 {shown}")
        );
        for (text, len) in [
            (&[b'a'; 31][..], 31),
            (b"a\n\n\n", 1),
            (&[b'\n'; 5_000], 4_097),
            (b"", 0),
        ] {
            write(text, 0o600);
            assert!(
                refusal(&path).contains(&format!("has {len} bytes: give 32 to 4096")),
                "{}",
                refusal(&path)
            );
        }
        write(b"0123456789abcdef0123456789abcdef\n", 0o400);
        let read = SyncKey::read(&path).unwrap();
        let typed = SyncKey::new(b"0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(read.sign(&ends(), 1, b"x"), typed.sign(&ends(), 1, b"x"));
        assert_eq!(format!("{read:?}"), "SyncKey");
        assert!(read == typed && read != key(7));
    }
}

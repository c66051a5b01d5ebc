//! What the memory in a state directory is: lines of text, the keys that it was made with, a checksum.
//!
//! ```text
//! lvsd-connections 1
//! boot 6b1c…            a later boot finds no memory of an earlier one, but may find a copied file
//! workers 2             and whatever else its layout depends on, a name and a value each
//! files a               which of two sets of workers' files it means
//! secret 3f…            hexadecimal
//! rss-key a0…
//! crc32 1a2b3c4d        of all lines before
//! ```
//!
//! In:  the text, or what this process is like. Out: the other one, or what differs.

use std::fmt::Write as _;

use lvs_core::rss::KEY_LEN;

/// The first line: what the file is, and the version of its format.
const TITLE: &str = "lvsd-connections 1";
const SECRET: &str = "secret";
const RSS_KEY: &str = "rss-key";
const CHECKSUM: &str = "crc32";
const FILES: &str = "files";

/// Workers' files have two sets of names, so that those of an earlier process stay whole until a later one, which needs
/// other files, has said that its own are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSet {
    /// `worker-0` …
    A,
    /// `worker-0b` …
    B,
}

impl FileSet {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// What the names of its files end with.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::A => "",
            Self::B => "b",
        }
    }
}

/// What the layout of the memory, and its meaning, depend on: names without blanks, and values of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(Vec<(String, String)>);

impl Shape {
    /// Of names and values.
    pub fn new<const COUNT: usize>(lines: [(&str, String); COUNT]) -> Self {
        Self(lines.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// The value of a name.
    pub fn value(&self, name: &str) -> Option<&str> {
        let line = self.0.iter().find(|(other, _)| other == name)?;
        Some(&line.1)
    }

    /// In what `self` differs from the earlier one, in order.
    fn differences(&self, earlier: &Self) -> impl Iterator<Item = String> {
        let of_line = |(name, value): &(String, String)| match earlier.value(name) {
            None => Some(format!("it is of another version, which did not know \"{name}\"")),
            Some(before) if before != value => Some(format!("{name} was {before} and is {value}")),
            Some(_) => None,
        };
        let is_of_later = self.0.len() < earlier.0.len();
        let of_later = is_of_later.then(|| "it is of another version".to_owned());
        self.0.iter().filter_map(of_line).chain(of_later)
    }
}

/// Random keys that must stay the same as long as the connections do.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    /// Of the connection hash, of owners and of local ports.
    pub connections: [u64; 4],
    /// Of the hash by which devices distribute flows.
    pub rss_key: [u8; KEY_LEN],
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secrets")
    }
}

/// The header of an earlier process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What its memory depends on.
    pub shape: Shape,
    /// Its keys.
    pub secrets: Secrets,
    /// Its workers' files.
    pub files: FileSet,
}

impl Header {
    /// Why the memory cannot be used as it is by a process of `shape`: whatever differs.
    pub fn differences(&self, shape: &Shape) -> Vec<String> {
        shape.differences(&self.shape).collect()
    }

    pub(super) fn text(shape: &Shape, secrets: &Secrets, files: FileSet) -> String {
        let mut text = format!("{TITLE}\n");
        for (name, value) in &shape.0 {
            let _ = writeln!(text, "{name} {value}");
        }
        let _ = writeln!(text, "{FILES} {}", files.name());
        let connections = secrets.connections.iter().flat_map(|word| word.to_be_bytes());
        let _ = writeln!(text, "{SECRET} {}", hexadecimal(connections));
        let _ = writeln!(text, "{RSS_KEY} {}", hexadecimal(secrets.rss_key));
        let _ = writeln!(text, "{CHECKSUM} {:08x}", crc32fast::hash(text.as_bytes()));
        text
    }

    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        const DAMAGED: &str = "its header is damaged";
        let body_len = text.trim_end_matches('\n').rfind('\n').ok_or(DAMAGED)? + 1;
        let (body, last) = text.split_at_checked(body_len).ok_or(DAMAGED)?;
        if last != format!("{CHECKSUM} {:08x}\n", crc32fast::hash(body.as_bytes())) {
            return Err(DAMAGED);
        }
        let mut lines = body.lines();
        if lines.next() != Some(TITLE) {
            return Err("it is of another version");
        }
        let mut values: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(' '))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let files = take(&mut values, FILES);
        let files = FileSet::ALL
            .into_iter()
            .find(|set| files.as_deref() == Some(set.name()));
        let rss_key = take(&mut values, RSS_KEY).and_then(|key| bytes(&key));
        let secret = take(&mut values, SECRET).and_then(|secret| bytes::<32>(&secret));
        let (Some(rss_key), Some(secret), Some(files)) = (rss_key, secret, files) else {
            return Err("it is of another version");
        };
        Ok(Self {
            shape: Shape(values),
            secrets: Secrets {
                connections: words(&secret),
                rss_key,
            },
            files,
        })
    }
}

/// 32 bytes as four words.
pub fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_be_bytes(*chunk);
    }
    words
}

fn take(values: &mut Vec<(String, String)>, name: &str) -> Option<String> {
    let place = values.iter().position(|(other, _)| other == name)?;
    Some(values.remove(place).1)
}

fn hexadecimal(bytes: impl IntoIterator<Item = u8>) -> String {
    bytes.into_iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes<const COUNT: usize>(text: &str) -> Option<[u8; COUNT]> {
    let pairs: Option<Vec<u8>> = text
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    pairs?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(workers: &str) -> Shape {
        Shape::new([("boot", "6b1c".to_owned()), ("workers", workers.to_owned())])
    }

    fn secrets() -> Secrets {
        Secrets {
            connections: [1, u64::MAX, 3, 4],
            rss_key: [0xa5; KEY_LEN],
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for files in FileSet::ALL {
            let header = Header::parse(&Header::text(&shape("2"), &secrets(), files)).unwrap();
            assert_eq!((header.secrets, header.files), (secrets(), files));
        }
        let header = Header::parse(&Header::text(&shape("2"), &secrets(), FileSet::A)).unwrap();
        assert_eq!(header.shape.value("workers"), Some("2"));
        assert_eq!(header.differences(&shape("2")), [""; 0]);
        let other = Shape::new([("boot", "77aa".to_owned()), ("workers", "4".to_owned())]);
        assert_eq!(
            header.differences(&other),
            ["boot was 6b1c and is 77aa", "workers was 2 and is 4"]
        );
        let of_later = Shape::new([("boot", "6b1c".to_owned()), ("colours", "3".to_owned())]);
        assert_eq!(
            header.differences(&of_later),
            ["it is of another version, which did not know \"colours\""]
        );
        let of_earlier = Shape::new([("boot", "6b1c".to_owned())]);
        assert_eq!(header.differences(&of_earlier), ["it is of another version"]);
    }

    #[test]
    fn no_flipped_bit_and_no_shorter_text_is_believed() {
        let text = Header::text(&shape("2"), &secrets(), FileSet::B);
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(flipped) = String::from_utf8(flipped) {
                assert!(Header::parse(&flipped).is_err(), "{flipped}");
            }
        }
        for len in 0..text.len() {
            assert!(Header::parse(&text[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn another_format_is_told_from_damage() {
        let body = "lvsd-connections 2\n";
        let text = format!("{body}{CHECKSUM} {:08x}\n", crc32fast::hash(body.as_bytes()));
        assert_eq!(Header::parse(&text), Err("it is of another version"));
        assert_eq!(Header::parse("nonsense"), Err("its header is damaged"));
    }
}

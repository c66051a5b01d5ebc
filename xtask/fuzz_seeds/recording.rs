//! Makes inputs of fuzzing from a recording of the kernel: its rules, its frames and its pauses.
//!
//! In:  the JSON of a recording. Out: plain data. What the tests compare it with is theirs.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

/// Where a frame came in or went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Clients,
    Servers,
}

/// What happened.
pub enum Event {
    /// The kernel received a frame.
    Injected(Side, Vec<u8>),
    /// The kernel sent a frame.
    Expected(Side, Vec<u8>),
    /// Nothing, for so many milliseconds.
    Pause(u16),
}

pub struct Recording {
    pub name: String,
    /// Lines of `ipvsadm-save`.
    pub rules: Vec<String>,
    pub events: Vec<Event>,
}

fn invalid(path: &Path, what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn event(step: &Value) -> Option<Event> {
    let frame = || bytes(step["frame"].as_str()?);
    let side = if step["iface"] == "rs" {
        Side::Servers
    } else {
        Side::Clients
    };
    match step["op"].as_str()? {
        "inject" => Some(Event::Injected(side, frame()?)),
        "expect" => Some(Event::Expected(side, frame()?)),
        "sleep" => Some(Event::Pause((step["seconds"].as_f64()? * 1_000.0) as u16)),
        _ => None,
    }
}

impl Recording {
    /// All of them, by name.
    pub fn all(folder: &Path) -> io::Result<Vec<Self>> {
        let mut recordings = Vec::new();
        for folder in ["recordings", "own"].map(|name| folder.join(name)) {
            for entry in fs::read_dir(&folder).map_err(|error| invalid(&folder, error))? {
                recordings.push(Self::read(&entry?.path())?);
            }
        }
        recordings.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(recordings)
    }

    fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let value: Value = serde_json::from_str(&text).map_err(|error| invalid(path, error))?;
        let text = |key: &str| value[key].as_str().ok_or_else(|| invalid(path, format!("no {key}")));
        let steps = value["steps"].as_array().ok_or_else(|| invalid(path, "no steps"))?;
        Ok(Self {
            name: text("name")?.to_owned(),
            rules: text("config")?.lines().map(str::to_owned).collect(),
            events: steps.iter().filter_map(event).collect(),
        })
    }

    /// All that came in or went out.
    pub fn frames(&self) -> impl Iterator<Item = (Side, &[u8])> {
        self.events.iter().filter_map(|event| match event {
            Event::Injected(side, frame) | Event::Expected(side, frame) => Some((*side, frame.as_slice())),
            Event::Pause(_) => None,
        })
    }

    /// The forwarding mode of most of its real servers, as the target `whole_path` counts: masquerading 0, tunnel 1,
    /// direct routing 2.
    pub fn mode(&self) -> u8 {
        let count = |option: &str| {
            let with = |rule: &&String| rule.starts_with("-a ") && rule.split(' ').any(|word| word == option);
            self.rules.iter().filter(with).count()
        };
        let counts = [(count("-m"), 0), (count("-i"), 1), (count("-g"), 2)];
        counts
            .into_iter()
            .max_by_key(|(count, mode)| (*count, 2 - mode))
            .map_or(0, |(_, mode)| mode)
    }
}

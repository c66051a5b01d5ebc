//! Makes the first inputs of fuzzing: recordings of the kernel, the bad input that tests play, and the configuration's
//! reference.
//!
//! In:  `tests/kernel-goldens/`, `tests/daemon/bad-input.toml`, `conf/`. Out: a folder of files for each target in
//! `fuzz/fuzz_targets/`, in the form that the target's header describes.

mod netlink;
mod recording;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use recording::{Recording, Side};

/// Sync messages go to this UDP port.
const SYNC_PORT: u16 = 8_848;
/// Kinds of records of the target `whole_path`.
const FRAME_FROM_CLIENTS: u8 = 0;
const FRAME_FROM_SERVERS: u8 = 1;
const PAUSE: u8 = 3;
const SYNC_MESSAGE: u8 = 4;
/// Longer inputs make fuzzing slow without reaching more.
const INPUT_BYTES_MAX: usize = 4_096;
/// Bodies of the target `api_body` by method and last part of the path, with their number there.
const BODIES: [(&str, &str, u8); 9] = [
    ("POST", "/services", 0),
    ("PUT", "/services/*", 1),
    ("PATCH", "/services/*", 2),
    ("POST", "/servers", 3),
    ("PUT", "/servers/*", 4),
    ("PATCH", "/servers/*", 5),
    ("POST", "/sync-daemons", 6),
    ("PUT", "/timeouts", 7),
    ("PUT", "/local-addresses", 8),
];
/// Bodies that no bad input has.
const MORE_BODIES: [(u8, &str); 6] = [
    (8, r#"{"addresses": ["198.51.100.200", "198.51.100.201"]}"#),
    (9, r#"{"expire_nodest_conn": 1, "sync_threshold": "3 50"}"#),
    (
        10,
        r#"[{"mark": 66, "protocol": "tcp", "destination": "192.0.2.0/24", "destination_ports": "80-443"}]"#,
    ),
    (
        11,
        r#"{"services": [{"service": "tcp:192.0.2.100:80", "scheduler": "wrr",
            "servers": [{"server": "198.51.100.1:80", "mode": "nat", "weight": 3}]}]}"#,
    ),
    (12, "udp:[2001:db8::10]:53"),
    (12, "fwm6:66"),
];

/// The folder of one target.
struct Target {
    folder: PathBuf,
}

impl Target {
    fn new(folder: &Path, name: &str) -> io::Result<Self> {
        let folder = folder.join(name);
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    fn add(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::write(self.folder.join(name), bytes)
    }
}

/// Writes the seeds of all targets into `folder`.
pub fn write(root: &Path, folder: &Path) -> io::Result<()> {
    let recordings = Recording::all(&root.join("tests/kernel-goldens"))?;
    frames(&recordings, &Target::new(folder, "frame_parser")?)?;
    whole_path(&recordings, &Target::new(folder, "whole_path")?)?;
    sync_messages(&recordings, &Target::new(folder, "sync_message")?)?;
    netlink::write(&recordings, &Target::new(folder, "netlink")?)?;
    config(root, &Target::new(folder, "config")?)?;
    bodies(root, &Target::new(folder, "api_body")?)
}

fn frames(recordings: &[Recording], target: &Target) -> io::Result<()> {
    for recording in recordings {
        for (number, (_, frame)) in recording.frames().enumerate() {
            target.add(&format!("{}-{number}", recording.name), frame)?;
        }
    }
    Ok(())
}

fn record(input: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    input.push(kind);
    input.extend_from_slice(&len.to_le_bytes());
    input.extend_from_slice(bytes.get(..usize::from(len)).unwrap_or(bytes));
}

/// Each recording once, in the mode that most of its real servers have.
fn whole_path(recordings: &[Recording], target: &Target) -> io::Result<()> {
    for recording in recordings {
        // Mode, scheduler rr, one worker with sync, no setting of the kernel's.
        let mut input = vec![recording.mode(), 0, 4, 0];
        for event in &recording.events {
            match event {
                recording::Event::Injected(side, frame) => match sync_payload(frame) {
                    Some(message) => record(&mut input, SYNC_MESSAGE, message),
                    None if *side == Side::Servers => record(&mut input, FRAME_FROM_SERVERS, frame),
                    None => record(&mut input, FRAME_FROM_CLIENTS, frame),
                },
                recording::Event::Pause(ms) => record(&mut input, PAUSE, &ms.to_le_bytes()),
                recording::Event::Expected(..) => {}
            }
            if input.len() > INPUT_BYTES_MAX {
                break;
            }
        }
        target.add(&recording.name, &input)?;
    }
    Ok(())
}

/// The message in a frame to the port of sync messages; IPv4 without options, as recordings have it.
fn sync_payload(frame: &[u8]) -> Option<&[u8]> {
    let udp = frame.get(34..)?;
    let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    let len = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    let is_udp4 = frame.get(12..15) == Some(&[8, 0, 0x45]) && frame.get(23) == Some(&17);
    (is_udp4 && port == SYNC_PORT).then(|| udp.get(8..len))?
}

fn sync_messages(recordings: &[Recording], target: &Target) -> io::Result<()> {
    for recording in recordings {
        for (number, (_, frame)) in recording.frames().enumerate() {
            if let Some(message) = sync_payload(frame) {
                target.add(&format!("{}-{number}", recording.name), &[&[0], message].concat())?;
            }
        }
    }
    Ok(())
}

fn config(root: &Path, target: &Target) -> io::Result<()> {
    for name in ["lvsd.toml", "lvsd.reference.toml"] {
        let text = fs::read_to_string(root.join("conf").join(name))?;
        target.add(name, text.as_bytes())?;
        // The reference with the keys that it shows as remarks, one chapter at a time. All at once would contradict
        // each other.
        let keys = text.lines().map(|line| {
            line.strip_prefix('#')
                .filter(|key| !key.starts_with(' '))
                .unwrap_or(line)
        });
        let keys: Vec<&str> = keys.filter(|line| !line.starts_with('#')).collect();
        for (number, chapter) in keys.join("\n").split("\n[").enumerate() {
            let opening = if number == 0 { "" } else { "[" };
            target.add(&format!("{name}-{number}"), format!("{opening}{chapter}\n").as_bytes())?;
        }
    }
    Ok(())
}

/// Whether `path` ends in `pattern`, in which `*` stands for one part.
fn ends_in(path: &str, pattern: &str) -> bool {
    match pattern.strip_suffix("/*") {
        Some(folder) => path
            .rsplit_once('/')
            .is_some_and(|(before, _)| before.ends_with(folder)),
        None => path.ends_with(pattern),
    }
}

fn bodies(root: &Path, target: &Target) -> io::Result<()> {
    let text = fs::read_to_string(root.join("tests/daemon/bad-input.toml"))?;
    let rows: toml::Table = text.parse().map_err(io::Error::other)?;
    let rows = rows.get("row").and_then(toml::Value::as_array).into_iter().flatten();
    for (number, rest) in rows.filter_map(|row| row.get("rest")).enumerate() {
        let text = |key| rest.get(key).and_then(toml::Value::as_str);
        let (Some(request), Some(body)) = (text("request"), text("body")) else {
            continue;
        };
        let (method, path) = request.split_once(' ').unwrap_or_default();
        let found = BODIES
            .iter()
            .find(|(of, pattern, _)| *of == method && ends_in(path, pattern));
        if let Some((.., kind)) = found {
            target.add(&format!("bad-input-{number}"), &[&[*kind], body.as_bytes()].concat())?;
        }
    }
    for (number, (kind, body)) in MORE_BODIES.into_iter().enumerate() {
        target.add(&format!("more-{number}"), &[&[kind], body.as_bytes()].concat())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_gets_seeds() {
        let folder = tempfile::tempdir().unwrap();
        write(crate::root(), folder.path()).unwrap();
        let targets = fs::read_dir(crate::root().join("fuzz/fuzz_targets")).unwrap();
        for target in targets.map(|target| target.unwrap().path()) {
            let name = target.file_stem().unwrap();
            let seeds = fs::read_dir(folder.path().join(name)).unwrap_or_else(|error| panic!("{name:?}: {error}"));
            assert!(seeds.count() > 10, "{name:?} has few seeds");
        }
    }

    #[test]
    fn a_pattern_takes_one_part() {
        assert!(ends_in("/v1/services", "/services"));
        assert!(ends_in("/v1/services/tcp:192.0.2.1:80", "/services/*"));
        assert!(!ends_in("/v1/services/tcp:192.0.2.1:80/servers", "/services/*"));
    }
}

//! `lvsctl capture`: frames with their verdicts, as pcapng or as lines.
//!
//! In:  the daemon's pcapng stream. Out: the same stream in whole blocks, so that an interrupted capture can be read, or one
//! line per frame. At the end stderr gets the number of captured and of lost frames.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use pcap_file::PcapError;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::{Block, PcapNgParser};
use tokio::signal::unix::{SignalKind, signal};

use crate::lvsctl::client::{Client, escape};
use crate::lvsctl::command::capture::Capture;
use crate::lvsctl::run::Failure;

/// Runs the command. SIGINT and SIGTERM end the capture and leave a whole file.
pub async fn run(client: &Client, wanted: &Capture) -> Result<(), Failure> {
    let is_pcapng = wanted.write.is_some();
    if wanted.write.as_deref() == Some(Path::new("-")) && io::stdout().is_terminal() {
        let message = "a capture is no text; name a file, pipe it into tshark -r -, or leave --write out";
        return Err(Failure::Usage(message.to_owned()));
    }
    let mut body = client.send(Method::GET, &query(wanted), None).await?.into_body();
    let mut out: Box<dyn Write> = match &wanted.write {
        Some(path) if path.as_os_str() != "-" => {
            let file = File::create(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
            Box::new(BufWriter::new(file))
        }
        _ => Box::new(io::stdout().lock()),
    };
    let mut interrupted = signal(SignalKind::interrupt()).map_err(Failure::Output)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(Failure::Output)?;
    let mut reader = Reader::default();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = interrupted.recv() => break,
            _ = terminated.recv() => break,
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Failure::Misunderstood(format!("the daemon broke off: {error}")))?;
        reader.take(frame.data_ref().map_or(&[][..], |bytes| bytes));
        reader.write(&mut out, is_pcapng)?;
        out.flush().map_err(Failure::Output)?;
    }
    // Nobody may read stderr any more.
    let _ = writeln!(io::stderr(), "{}", reader.summary());
    Ok(())
}

fn query(wanted: &Capture) -> String {
    let (verdict, reason) = match (wanted.drop.as_deref(), &wanted.verdict) {
        (Some("any"), _) => (Some("drop".to_owned()), None),
        (Some(reason), _) => (Some("drop".to_owned()), Some(reason.to_owned())),
        (None, verdict) => (verdict.clone(), None),
    };
    let direction = (wanted.direction != "both").then(|| wanted.direction.clone());
    let end = |end: Option<lvs_api::EndPattern>| end.map(|end| end.to_string());
    let given = [
        ("client", end(wanted.client)),
        ("vip", end(wanted.vip)),
        ("real", end(wanted.real)),
        ("addr", end(wanted.addr)),
        ("protocol", wanted.protocol.clone()),
        ("device", wanted.device.clone()),
        ("verdict", verdict),
        ("reason", reason),
        ("direction", direction),
    ];
    let mut path = format!(
        "/capture?count={}&bytes={}&seconds={}&snap={}",
        wanted.count, wanted.bytes, wanted.seconds, wanted.snap
    );
    for (name, value) in given {
        if let Some(value) = value {
            path += &format!("&{name}={}", escape(&value));
        }
    }
    path
}

/// Cuts the stream into blocks.
#[derive(Default)]
struct Reader {
    /// Bytes of an incomplete block.
    pending: Vec<u8>,
    parser: Option<PcapNgParser>,
    devices: Vec<String>,
    frames: u64,
    /// By interface.
    lost: BTreeMap<u32, u64>,
}

impl Reader {
    fn take(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Writes whole blocks unchanged, or a line for each frame in them.
    fn write(&mut self, out: &mut dyn Write, is_pcapng: bool) -> Result<(), Failure> {
        let pending = std::mem::take(&mut self.pending);
        let mut left = &pending[..];
        let mut lines = String::new();
        loop {
            let read = match &mut self.parser {
                None => PcapNgParser::new(left).map(|(behind, parser)| {
                    self.parser = Some(parser);
                    (behind, None)
                }),
                Some(parser) => parser.next_block(left).map(|(behind, block)| (behind, Some(block))),
            };
            match read {
                Ok((behind, block)) => {
                    left = behind;
                    if let Some(block) = block {
                        self.look_at(&block, &mut lines);
                    }
                }
                Err(PcapError::IncompleteBuffer) => break,
                Err(error) => return Err(Failure::Misunderstood(error.to_string())),
            }
        }
        let whole = &pending[..pending.len() - left.len()];
        let written = if is_pcapng { whole } else { lines.as_bytes() };
        out.write_all(written).map_err(Failure::Output)?;
        self.pending = left.to_vec();
        Ok(())
    }

    fn look_at(&mut self, block: &Block<'_>, lines: &mut String) {
        match block {
            Block::InterfaceDescription(interface) => {
                let name = interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                self.devices.push(name.unwrap_or_default());
            }
            Block::EnhancedPacket(packet) => {
                self.frames += 1;
                *lines += &self.line(packet);
            }
            Block::InterfaceStatistics(statistics) => {
                for option in &statistics.options {
                    if let InterfaceStatisticsOption::IsbIfDrop(lost) = option {
                        self.lost.insert(statistics.interface_id, *lost);
                    }
                }
            }
            _ => {}
        }
    }

    /// `13:05:59.123456 wan    in   60 received verdict=…`
    fn line(&self, packet: &EnhancedPacketBlock<'_>) -> String {
        let (mut comment, mut direction) = ("", "");
        for option in &packet.options {
            match option {
                EnhancedPacketOption::Comment(text) => comment = text,
                EnhancedPacketOption::Flags(flags) if flags & 3 == 2 => direction = "out",
                EnhancedPacketOption::Flags(_) => direction = "in",
                _ => {}
            }
        }
        let device = self
            .devices
            .get(packet.interface_id as usize)
            .map_or("", String::as_str);
        let time = time_of_day(packet.timestamp);
        format!(
            "{time} {device:<6} {direction:<3} {:>4} {comment}\n",
            packet.original_len
        )
    }

    fn summary(&self) -> String {
        let lost: u64 = self.lost.values().sum();
        format!("{} frames captured, {lost} lost", self.frames)
    }
}

/// UTC, to microseconds.
fn time_of_day(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs() % 86_400;
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!(
        "{hours:02}:{minutes:02}:{:02}.{:06}",
        seconds % 60,
        since_epoch.subsec_micros()
    )
}

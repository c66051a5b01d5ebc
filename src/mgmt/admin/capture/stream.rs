//! A capture under way: what the workers recorded, as pcapng, part by part.
//!
//! In:  full boxes of every worker's tap. Out: bytes for the client, asked for when it took the last; the boxes go back.
//! Never: holds more than one part, however slow the client is; meanwhile workers lose records and count them.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use futures_util::Stream;
use futures_util::stream::try_unfold;
use hyper::body::Bytes;
use lvs_core::limits::DEVICES_MAX;
use lvs_core::single_writer::SingleWriter;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::{Endianness, PcapError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::comment::comment;
use crate::dpdk::clock;
use crate::offline::pcapng_interface;
use crate::worker::capture::{Record, TapEnd};

/// How often the stream looks at the rings. A ring of 1,024 records overflows at 500,000 matching frames a second.
const PERIOD: Duration = Duration::from_millis(2);

/// How many records one part holds, over all workers. A part takes the management core about 500 µs.
const PART_MAX: usize = 256;

/// How often losses are written while there are new ones.
const LOST_PERIOD: Duration = Duration::from_secs(1);

/// See the module. Dropping it ends the workers' taps.
pub(super) struct Capture {
    /// By worker.
    pub(super) ends: Vec<TapEnd>,
    /// By device: its name.
    pub(super) devices: Vec<String>,
    /// The same moment on both clocks.
    pub(super) began: (u64, SystemTime),
    pub(super) hz: u64,
    pub(super) end: Instant,
    pub(super) frames_left: u64,
    pub(super) bytes_left: u64,
    /// How many lost records the client knows of, and when it last heard of one.
    pub(super) lost_reported: (u64, Instant),
    /// The head of the file is written.
    pub(super) has_begun: bool,
    pub(super) has_ended: bool,
    pub(super) _place: OwnedSemaphorePermit,
}

/// The whole file.
pub(super) fn parts(capture: Capture) -> impl Stream<Item = io::Result<Bytes>> + Send {
    try_unfold(capture, next_part)
}

async fn next_part(mut capture: Capture) -> io::Result<Option<(Bytes, Capture)>> {
    if capture.has_ended {
        return Ok(None);
    }
    loop {
        // A capture at full rate must not keep this core from its other work.
        yield_now().await;
        let written = capture.part().map_err(io::Error::other)?;
        if !written.is_empty() {
            return Ok(Some((Bytes::from(written), capture)));
        }
        sleep(PERIOD).await;
    }
}

impl Capture {
    /// What the client gets next; empty when nothing waits.
    fn part(&mut self) -> Result<Vec<u8>, PcapError> {
        let mut writer = PcapNgWriter::with_endianness(Vec::new(), Endianness::Little)?;
        // Each writer begins with the list of interfaces. Only the first writer's list is sent.
        for name in &self.devices {
            writer.write_pcapng_block(pcapng_interface(name))?;
        }
        let head = writer.get_ref().len();
        let is_late = Instant::now() >= self.end;
        let taken = self.take();
        let is_drained = taken.len() < PART_MAX;
        for (worker, record) in taken {
            self.write(&mut writer, worker, &record)?;
            if let Some(end) = self.ends.get_mut(worker) {
                // There is a place for each box that was lent.
                let _ = end.empty.push(record);
            }
        }
        self.has_ended |= is_late && is_drained;
        self.write_lost(&mut writer)?;
        let mut written = writer.into_inner();
        if self.has_begun {
            written.drain(..head);
        }
        self.has_begun = true;
        Ok(written)
    }

    /// Some of what waits, oldest first.
    fn take(&mut self) -> Vec<(usize, Box<Record>)> {
        let mut taken = Vec::new();
        let each = PART_MAX.div_ceil(self.ends.len().max(1));
        for (worker, end) in self.ends.iter_mut().enumerate() {
            let records = std::iter::from_fn(|| end.records.pop().ok());
            taken.extend(records.take(each).map(|record| (worker, record)));
        }
        taken.sort_by_key(|(_, record)| record.cycles);
        taken
    }

    /// One frame, unless it would be one too many.
    fn write(&mut self, writer: &mut PcapNgWriter<Vec<u8>>, worker: usize, record: &Record) -> Result<(), PcapError> {
        let bytes = record.bytes().len() as u64;
        if self.has_ended || self.bytes_left < bytes {
            self.has_ended = true;
            return Ok(());
        }
        self.bytes_left -= bytes;
        self.frames_left -= 1;
        self.has_ended = self.frames_left == 0;
        let comment = comment(record, worker, &self.devices);
        let block = EnhancedPacketBlock {
            interface_id: u32::from(record.device.0).min(self.devices.len().saturating_sub(1) as u32),
            timestamp: self.time_of(record.cycles),
            original_len: record.wire_len,
            data: record.bytes().into(),
            // Bits 0 and 1: 1 inbound, 2 outbound.
            options: vec![
                EnhancedPacketOption::Comment(comment.into()),
                EnhancedPacketOption::Flags(1 + u32::from(record.kind.is_leaving())),
            ],
        };
        writer.write_pcapng_block(block).map(drop)
    }

    /// Writes how many records were lost on each device: at the end, and from time to time while there are new losses.
    fn write_lost(&mut self, writer: &mut PcapNgWriter<Vec<u8>>) -> Result<(), PcapError> {
        let mut lost = [0u64; DEVICES_MAX];
        for end in &self.ends {
            for (sum, of_worker) in lost.iter_mut().zip(end.lost.iter()) {
                *sum += of_worker.get();
            }
        }
        let (sum, now) = (lost.iter().sum(), Instant::now());
        let (reported, since) = self.lost_reported;
        if !self.has_ended && (sum == reported || now.duration_since(since) < LOST_PERIOD) {
            return Ok(());
        }
        self.lost_reported = (sum, now);
        let time = self.time_of(clock::cycles()).as_nanos() as u64;
        for (interface_id, lost) in (0..self.devices.len() as u32).zip(lost) {
            writer.write_pcapng_block(InterfaceStatisticsBlock {
                interface_id,
                // The upper half comes first in the file, each half in the file's byte order.
                timestamp: time.rotate_left(32),
                options: vec![InterfaceStatisticsOption::IsbIfDrop(lost)],
            })?;
        }
        Ok(())
    }

    fn time_of(&self, cycles: u64) -> Duration {
        let (zero, then) = self.began;
        let ns = |cycles: u64| Duration::from_nanos((u128::from(cycles) * 1_000_000_000 / u128::from(self.hz)) as u64);
        let then = then.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        match cycles.checked_sub(zero) {
            Some(after) => then + ns(after),
            None => then.saturating_sub(ns(zero - cycles)),
        }
    }
}

//! The taps of `lvsctl capture`: they copy frames with their verdicts into boxes that the management core lends.
//!
//! In:  a burst before the path sees it, its verdicts afterwards, and frames that leave and did not arrive in a burst.
//! Out: [`Record`]s for the management core, by a ring. A worker without a capture pays one comparison per burst.
//! A tap never waits: without an empty box the record is lost and counted. It allocates and frees nothing: empty boxes
//! come back by a second ring, and a tap whose capture has ended goes back as [`super::mailbox::Reply::Tap`].

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lvs_core::capture::{CaptureFilter, FrameEnds};
use lvs_core::conn_record::ConnRecord;
use lvs_core::frame::Frame;
use lvs_core::l3::DeviceId;
use lvs_core::limits::{BURST_MAX, DEVICES_MAX};
use lvs_core::single_writer::SingleWriter;
use lvs_core::verdict::{DropReason, Verdict};

use crate::dpdk::Mbuf;

/// The most bytes that are kept of a frame: more than a packet of 1,500 bytes with all its tags.
pub const SNAP_MAX: usize = 2_048;

/// The most captures at the same time.
pub const CAPTURES_MAX: usize = 4;

/// The most taps of a worker. Taps of ended captures may still be there, because they go back later.
const TAPS_MAX: usize = 2 * CAPTURES_MAX;

/// What happened to a frame when it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It arrived. Its bytes are unchanged.
    Received,
    /// Another worker received it and handed it off. Its bytes are unchanged.
    Handoff,
    /// It leaves.
    Forwarded,
    /// The path generated it: a fragment, an ICMP error, a frame that carries the client's address.
    Generated,
    /// It waited for its neighbour and leaves now.
    Held,
    /// The kernel sends it through a twin.
    FromKernel,
    /// The path let it pass, and then it was dropped: a ring or queue was full, or there was no buffer.
    Lost,
}

impl Kind {
    /// Whether the frame leaves.
    pub const fn is_leaving(self) -> bool {
        !matches!(self, Self::Received | Self::Handoff)
    }
}

/// A frame and its verdict.
#[derive(Debug)]
pub struct Record {
    /// The time stamp counter when the worker had its burst.
    pub cycles: u64,
    /// The device by which it arrived or leaves.
    pub device: DeviceId,
    /// What happened to it.
    pub kind: Kind,
    /// The path's verdict.
    pub verdict: Verdict,
    /// Its connection after the path has processed it.
    pub conn: Option<ConnRecord>,
    /// Its addresses and L4 ports.
    pub ends: Option<FrameEnds>,
    /// Its length on the wire in bytes.
    pub wire_len: u32,
    len: u16,
    /// Its index in the burst.
    slot: u8,
    bytes: [u8; SNAP_MAX],
}

impl Record {
    fn empty() -> Box<Self> {
        Box::new(Self {
            cycles: 0,
            device: DeviceId(0),
            kind: Kind::Received,
            verdict: Verdict::Punt,
            conn: None,
            ends: None,
            wire_len: 0,
            len: 0,
            slot: 0,
            bytes: [0; SNAP_MAX],
        })
    }

    /// The bytes that the record holds.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn copy(&mut self, frame: &[u8], snap: usize) {
        let len = frame.len().min(snap).min(SNAP_MAX);
        if let (Some(to), Some(from)) = (self.bytes.get_mut(..len), frame.get(..len)) {
            to.copy_from_slice(from);
        }
        self.wire_len = frame.len() as u32;
        self.len = len as u16;
        self.ends = FrameEnds::of(frame);
    }
}

/// What a tap records.
#[derive(Clone, Copy, Debug)]
pub struct TapSettings {
    /// Which frames match.
    pub filter: CaptureFilter,
    /// Whether to record frames that arrive.
    pub arriving: bool,
    /// Whether to record frames that leave.
    pub leaving: bool,
    /// Bytes kept of each frame.
    pub snap: usize,
    /// The tap records nothing from this value of the time stamp counter on.
    pub end_cycles: u64,
}

/// A frame that leaves without having arrived in the current burst, or that is dropped on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Departure<'a> {
    device: DeviceId,
    kind: Kind,
    verdict: Verdict,
    frame: &'a [u8],
}

impl<'a> Departure<'a> {
    /// `frame` leaves by `device`, unless `verdict` names another one.
    #[inline]
    pub const fn new(device: DeviceId, kind: Kind, verdict: Verdict, frame: &'a [u8]) -> Self {
        let device = match verdict {
            Verdict::Transmit(to) => to,
            _ => device,
        };
        Self {
            device,
            kind,
            verdict,
            frame,
        }
    }
}

/// Lost records by device: there was no empty box for them.
pub type Lost = [AtomicU64; DEVICES_MAX];

/// The management core's side of one worker's tap. Dropping it ends the tap.
#[derive(Debug)]
pub struct TapEnd {
    /// Filled boxes.
    pub records: rtrb::Consumer<Box<Record>>,
    /// The way back for boxes that were read.
    pub empty: rtrb::Producer<Box<Record>>,
    /// See [`Lost`].
    pub lost: Arc<Lost>,
}

/// A worker's side of one capture.
#[derive(Debug)]
pub struct Tap {
    settings: TapSettings,
    /// The first `staged` boxes hold frames of the current burst.
    #[expect(clippy::vec_box, reason = "a box moves into the ring, and an empty box replaces it")]
    stage: Vec<Box<Record>>,
    staged: usize,
    empty: rtrb::Consumer<Box<Record>>,
    records: rtrb::Producer<Box<Record>>,
    lost: Arc<Lost>,
}

impl Tap {
    /// A tap whose ring holds `records_max` records, and the management core's side of it.
    pub fn new(settings: TapSettings, records_max: usize) -> (Box<Self>, TapEnd) {
        let (records, filled) = rtrb::RingBuffer::new(records_max);
        let (mut lent, empty) = rtrb::RingBuffer::new(records_max);
        while lent.push(Record::empty()).is_ok() {}
        let lost: Arc<Lost> = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let tap = Self {
            settings,
            stage: (0..BURST_MAX).map(|_| Record::empty()).collect(),
            staged: 0,
            empty,
            records,
            lost: Arc::clone(&lost),
        };
        let end = TapEnd {
            records: filled,
            empty: lent,
            lost,
        };
        (Box::new(tap), end)
    }

    /// Whether its capture is over, so that it has to go back.
    fn has_ended(&self) -> bool {
        self.records.is_abandoned()
    }

    fn is_off(&self, cycles: u64) -> bool {
        self.has_ended() || cycles >= self.settings.end_cycles
    }

    fn stage(&mut self, cycles: u64, device: DeviceId, kind: Kind, frames: &[Mbuf]) {
        self.staged = 0;
        if self.is_off(cycles) {
            return;
        }
        for (slot, (frame, record)) in frames.iter().zip(&mut self.stage).enumerate() {
            record.copy(frame.bytes(), self.settings.snap);
            record.cycles = cycles;
            record.device = device;
            record.kind = kind;
            record.slot = slot as u8;
            self.staged += 1;
        }
    }

    /// Sends the staged records that match, with their verdicts.
    fn settle(&mut self, frames: &[Mbuf], verdicts: &[Verdict], conn_of: impl Fn(&FrameEnds) -> Option<ConnRecord>) {
        for index in 0..std::mem::take(&mut self.staged) {
            let Some(record) = self.stage.get_mut(index) else { break };
            let slot = usize::from(record.slot);
            let (Some(frame), Some(&verdict)) = (frames.get(slot), verdicts.get(slot)) else {
                continue;
            };
            let leaves = match verdict {
                Verdict::Transmit(to) if self.settings.leaving => Some(to),
                _ => None,
            };
            let filter = &self.settings.filter;
            let arrives = self.settings.arriving && filter.admits(record.device, verdict);
            if !arrives && leaves.is_none_or(|to| !filter.admits(to, verdict)) {
                continue;
            }
            record.verdict = verdict;
            record.conn = record.ends.as_ref().and_then(&conn_of);
            let (cycles, conn) = (record.cycles, record.conn);
            if arrives {
                self.send(index);
            }
            if let Some(to) = leaves {
                let departure = Departure::new(to, Kind::Forwarded, verdict, frame.bytes());
                self.record(index, cycles, departure, conn);
            }
        }
    }

    /// Records a frame as it leaves, in the box at this index of the stage.
    fn record(&mut self, index: usize, cycles: u64, departure: Departure<'_>, conn: Option<ConnRecord>) {
        let Some(record) = self.stage.get_mut(index) else {
            return;
        };
        record.copy(departure.frame, self.settings.snap);
        record.cycles = cycles;
        record.device = departure.device;
        record.kind = departure.kind;
        record.verdict = departure.verdict;
        record.conn = conn;
        self.send(index);
    }

    /// Sends the record at this index if it matches the filter, and puts an empty box in its place.
    fn send(&mut self, index: usize) {
        let Some(record) = self.stage.get_mut(index) else {
            return;
        };
        let filter = &self.settings.filter;
        if !filter.admits(record.device, record.verdict) || !filter.matches(record.ends.as_ref(), record.conn.as_ref())
        {
            return;
        }
        let Ok(empty) = self.empty.pop() else {
            if let Some(lost) = self.lost.get(usize::from(record.device.0)) {
                lost.add(1);
            }
            return;
        };
        let filled = std::mem::replace(record, empty);
        if let Err(rtrb::PushError::Full(filled)) = self.records.push(filled) {
            // The ring has a slot for each lent box. If it were full all the same, this box would be used again.
            *record = filled;
        }
    }
}

/// All taps of a worker.
#[derive(Debug)]
pub struct Taps {
    #[expect(
        clippy::vec_box,
        reason = "a tap goes back in the box in which it came, because a worker frees nothing"
    )]
    taps: Vec<Box<Tap>>,
}

impl Taps {
    /// No taps.
    pub fn new() -> Self {
        Self {
            taps: Vec::with_capacity(TAPS_MAX),
        }
    }

    /// Whether nothing is captured.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.taps.is_empty()
    }

    /// Adds a tap. One too many goes back.
    ///
    /// # Errors
    /// Returns the tap when the worker has as many taps as it may have.
    pub fn add(&mut self, tap: Box<Tap>) -> Result<(), Box<Tap>> {
        if self.taps.len() == self.taps.capacity() {
            return Err(tap);
        }
        self.taps.push(tap);
        Ok(())
    }

    /// Takes out a tap whose capture is over.
    pub fn take_ended(&mut self) -> Option<Box<Tap>> {
        let index = self.taps.iter().position(|tap| tap.has_ended())?;
        Some(self.taps.swap_remove(index))
    }

    /// Copies a burst before the path may rewrite it.
    #[cold]
    pub fn stage(&mut self, cycles: u64, device: DeviceId, kind: Kind, frames: &[Mbuf]) {
        for tap in &mut self.taps {
            tap.stage(cycles, device, kind, frames);
        }
    }

    /// Records the verdicts on the staged burst.
    #[cold]
    pub fn settle(
        &mut self,
        frames: &[Mbuf],
        verdicts: &[Verdict],
        conn_of: impl Fn(&FrameEnds) -> Option<ConnRecord>,
    ) {
        for tap in &mut self.taps {
            tap.settle(frames, verdicts, &conn_of);
        }
    }

    /// Records a frame that leaves and did not arrive in the current burst.
    #[cold]
    pub fn record(
        &mut self,
        cycles: u64,
        departure: Departure<'_>,
        conn_of: impl Fn(&FrameEnds) -> Option<ConnRecord>,
    ) {
        for tap in &mut self.taps {
            if tap.settings.leaving && !tap.is_off(cycles) {
                let conn = FrameEnds::of(departure.frame).as_ref().and_then(&conn_of);
                tap.record(0, cycles, departure, conn);
            }
        }
    }

    /// Records a frame that was dropped after the path had sent it to `device` or to its twin. The record has no
    /// connection: only the path knows it, and the path has finished with the frame.
    #[cold]
    pub fn record_lost(&mut self, cycles: u64, device: DeviceId, reason: DropReason, frame: &[u8]) {
        let departure = Departure::new(device, Kind::Lost, Verdict::Drop(reason), frame);
        self.record(cycles, departure, |_| None);
    }
}

impl Default for Taps {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(filter: CaptureFilter, records_max: usize) -> (Box<Tap>, TapEnd) {
        let settings = TapSettings {
            filter,
            arriving: true,
            leaving: true,
            snap: SNAP_MAX,
            end_cycles: 100,
        };
        Tap::new(settings, records_max)
    }

    fn leave(taps: &mut Taps, cycles: u64, frame: &[u8]) {
        let verdict = Verdict::Transmit(DeviceId(3));
        let departure = Departure::new(DeviceId(0), Kind::Generated, verdict, frame);
        taps.record(cycles, departure, |_| None);
    }

    #[test]
    fn a_record_without_a_box_is_lost_and_counted_and_returned_boxes_are_filled_again() {
        let mut taps = Taps::new();
        let (tap, mut end) = tap(CaptureFilter::default(), 4);
        assert!(taps.add(tap).is_ok());
        for number in 0..7 {
            leave(&mut taps, number, &[7; SNAP_MAX + 9]);
        }
        assert_eq!(end.lost[3].get(), 3);
        let first = end.records.pop().unwrap();
        assert_eq!((first.bytes().len(), first.wire_len), (SNAP_MAX, SNAP_MAX as u32 + 9));
        assert_eq!(
            (first.device, first.kind, first.cycles),
            (DeviceId(3), Kind::Generated, 0)
        );
        end.empty.push(first).unwrap();
        leave(&mut taps, 8, &[1, 2]);
        let cycles: Vec<_> = std::iter::from_fn(|| end.records.pop().ok())
            .map(|record| record.cycles)
            .collect();
        assert_eq!((cycles, end.lost[3].get()), (vec![1, 2, 3, 8], 3));
    }

    #[test]
    fn a_tap_records_nothing_after_its_end_and_goes_back_when_nobody_reads_it() {
        let mut taps = Taps::new();
        let (tap, mut end) = tap(CaptureFilter::default(), 4);
        assert!(taps.add(tap).is_ok());
        leave(&mut taps, 100, &[1]);
        assert!(end.records.pop().is_err() && taps.take_ended().is_none());
        drop(end);
        assert!(taps.take_ended().is_some() && taps.is_empty());
    }

    #[test]
    fn a_tap_too_many_goes_back() {
        let mut taps = Taps::new();
        let ends: Vec<_> = (0..=TAPS_MAX)
            .map(|number| {
                let (tap, end) = tap(CaptureFilter::default(), 1);
                assert_eq!(taps.add(tap).is_ok(), number < TAPS_MAX);
                end
            })
            .collect();
        drop(ends);
    }
}

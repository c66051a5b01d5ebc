//! The taps of `lvsctl capture`: copies of frames with what became of them, in boxes that the management core lends.
//!
//! In:  a burst before the path sees it and its verdicts after; frames that leave without having arrived.
//! Out: [`Record`]s for the management core, by a ring. While nothing is captured a worker pays one comparison a burst.
//! Otherwise it copies, and never waits: without an empty box the record is lost and counted. It allocates and frees
//! nothing: boxes come back by a second ring, and a tap whose capture has ended goes back as [`super::mailbox::Reply::Tap`].

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

/// Bytes kept of a frame at most: a packet of 1,500 bytes with all its tags, and more.
pub const SNAP_MAX: usize = 2_048;

/// Captures at once.
pub const CAPTURES_MAX: usize = 4;

/// Taps of a worker: those of captures that ended, but were not given back yet, may still be there.
const TAPS_MAX: usize = 2 * CAPTURES_MAX;

/// What a frame was when it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has arrived; its bytes are as they were.
    Received,
    /// Another worker had received it and handed it over; its bytes are as they were.
    Handoff,
    /// It leaves.
    Forwarded,
    /// The path made it: a piece, an ICMP error, a frame that tells the client's address.
    Generated,
    /// It had waited for its neighbour.
    Held,
    /// The kernel sends it through a twin.
    FromKernel,
    /// It was to go on, and a full ring or queue behind the path, or the lack of a buffer, dropped it.
    Lost,
}

impl Kind {
    /// Whether it leaves.
    pub const fn is_leaving(self) -> bool {
        !matches!(self, Self::Received | Self::Handoff)
    }
}

/// A frame and what became of it.
#[derive(Debug)]
pub struct Record {
    /// Time stamp counter when its burst was in hand.
    pub cycles: u64,
    /// Where it arrived, or leaves.
    pub device: DeviceId,
    /// What it is.
    pub kind: Kind,
    /// What the path decided.
    pub verdict: Verdict,
    /// Its connection, once the path had seen it.
    pub conn: Option<ConnRecord>,
    /// Its ends on the wire.
    pub ends: Option<FrameEnds>,
    /// Bytes that it has on the wire.
    pub wire_len: u32,
    len: u16,
    /// Its place in the burst.
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

    /// The bytes that were kept.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn copy(&mut self, frame: &[u8], snap: usize) {
        let len = frame.len().min(snap).min(SNAP_MAX);
        if let (Some(room), Some(kept)) = (self.bytes.get_mut(..len), frame.get(..len)) {
            room.copy_from_slice(kept);
        }
        self.wire_len = frame.len() as u32;
        self.len = len as u16;
        self.ends = FrameEnds::of(frame);
    }
}

/// What is recorded.
#[derive(Clone, Copy, Debug)]
pub struct TapSettings {
    /// Which frames.
    pub filter: CaptureFilter,
    /// Those that arrive.
    pub arriving: bool,
    /// Those that leave.
    pub leaving: bool,
    /// Bytes kept of each.
    pub snap: usize,
    /// Nothing from this value of the time stamp counter on.
    pub end_cycles: u64,
}

/// Records that did not fit, by device.
pub type Lost = [AtomicU64; DEVICES_MAX];

/// The management core's ends of one worker's tap. Dropping them ends the tap.
#[derive(Debug)]
pub struct TapEnd {
    /// Filled boxes.
    pub records: rtrb::Consumer<Box<Record>>,
    /// For boxes that were read.
    pub empty: rtrb::Producer<Box<Record>>,
    /// See [`Lost`].
    pub lost: Arc<Lost>,
}

/// A worker's end of one capture.
#[derive(Debug)]
pub struct Tap {
    settings: TapSettings,
    /// Frames of the burst in hand, the first `staged` of them.
    #[expect(
        clippy::vec_box,
        reason = "a box goes into the ring as it is, and an empty one takes its place"
    )]
    stage: Vec<Box<Record>>,
    staged: usize,
    empty: rtrb::Consumer<Box<Record>>,
    records: rtrb::Producer<Box<Record>>,
    lost: Arc<Lost>,
}

impl Tap {
    /// A tap with room for so many records, and the management core's end of it.
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

    /// Whether its capture is over and it wants to go back.
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

    /// What became of what is staged.
    fn settle(&mut self, frames: &[Mbuf], verdicts: &[Verdict], conn_of: impl Fn(&FrameEnds) -> Option<ConnRecord>) {
        for place in 0..std::mem::take(&mut self.staged) {
            let Some(record) = self.stage.get_mut(place) else { break };
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
                self.give(place);
            }
            if let Some(to) = leaves {
                self.leaves(place, cycles, to, Kind::Forwarded, verdict, frame.bytes(), conn);
            }
        }
    }

    /// Records a frame as it leaves, by the box in this place of the stage.
    #[expect(clippy::too_many_arguments, reason = "all that is known of a frame, in one place")]
    fn leaves(
        &mut self,
        place: usize,
        cycles: u64,
        to: DeviceId,
        kind: Kind,
        verdict: Verdict,
        frame: &[u8],
        conn: Option<ConnRecord>,
    ) {
        let Some(record) = self.stage.get_mut(place) else {
            return;
        };
        record.copy(frame, self.settings.snap);
        record.cycles = cycles;
        record.device = to;
        record.kind = kind;
        record.verdict = verdict;
        record.conn = conn;
        self.give(place);
    }

    /// Sends what lies in this place, if it is wanted, and puts an empty box there.
    fn give(&mut self, place: usize) {
        let Some(record) = self.stage.get_mut(place) else {
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
            // There is a place for each box that was lent; should one be missing, this box is used again.
            *record = filled;
        }
    }
}

/// All taps of a worker.
#[derive(Debug)]
pub struct Taps {
    #[expect(
        clippy::vec_box,
        reason = "a tap goes back in the box that it came in: a worker frees nothing"
    )]
    taps: Vec<Box<Tap>>,
}

impl Taps {
    /// None.
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

    /// Adds a tap; too many go back.
    ///
    /// # Errors
    /// The tap itself when there are as many as there may be.
    pub fn add(&mut self, tap: Box<Tap>) -> Result<(), Box<Tap>> {
        if self.taps.len() == self.taps.capacity() {
            return Err(tap);
        }
        self.taps.push(tap);
        Ok(())
    }

    /// A tap whose capture is over.
    pub fn take_ended(&mut self) -> Option<Box<Tap>> {
        let place = self.taps.iter().position(|tap| tap.has_ended())?;
        Some(self.taps.swap_remove(place))
    }

    /// Keeps what the path may rewrite.
    #[cold]
    pub fn stage(&mut self, cycles: u64, device: DeviceId, kind: Kind, frames: &[Mbuf]) {
        for tap in &mut self.taps {
            tap.stage(cycles, device, kind, frames);
        }
    }

    /// Records what became of it.
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

    /// Records a frame that leaves `device` without having arrived, or that `verdict` keeps from it.
    #[cold]
    pub fn leaves(
        &mut self,
        cycles: u64,
        device: DeviceId,
        kind: Kind,
        verdict: Verdict,
        frame: &[u8],
        conn_of: impl Fn(&FrameEnds) -> Option<ConnRecord>,
    ) {
        let device = match verdict {
            Verdict::Transmit(to) => to,
            _ => device,
        };
        for tap in &mut self.taps {
            if tap.settings.leaving && !tap.is_off(cycles) {
                let conn = FrameEnds::of(frame).as_ref().and_then(&conn_of);
                tap.leaves(0, cycles, device, kind, verdict, frame, conn);
            }
        }
    }

    /// Records a frame that was to go on, out of `device` or to its twin, and is dropped. Its connection is the
    /// path's to know, which is done with it.
    #[cold]
    pub fn loses(&mut self, cycles: u64, device: DeviceId, reason: DropReason, frame: &[u8]) {
        self.leaves(cycles, device, Kind::Lost, Verdict::Drop(reason), frame, |_| None);
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
        let to = Verdict::Transmit(DeviceId(3));
        taps.leaves(cycles, DeviceId(0), Kind::Generated, to, frame, |_| None);
    }

    #[test]
    fn what_does_not_fit_is_lost_and_counted_and_boxes_that_come_back_are_filled_again() {
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
    fn a_tap_records_nothing_behind_its_time_and_goes_back_when_nobody_reads_it() {
        let mut taps = Taps::new();
        let (tap, mut end) = tap(CaptureFilter::default(), 4);
        assert!(taps.add(tap).is_ok());
        leave(&mut taps, 100, &[1]);
        assert!(end.records.pop().is_err() && taps.take_ended().is_none());
        drop(end);
        assert!(taps.take_ended().is_some() && taps.is_empty());
    }

    #[test]
    fn more_taps_than_there_may_be_go_back() {
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

//! A master's part in bulk sync: walks over the connections of all workers for backups that lack them.
//!
//! In:  asks of backups; what workers sent. Out: requests to one worker after the other, as many connections a second as
//! `bulk_rate` allows and only while nothing waits for the sockets; what an offer says.
//! One walk at a time: an ask names the walk that it needs, so asks that come again, or were recorded, begin none that has
//! begun. Whoever asks without end gets a walk a minute.

use std::sync::Arc;

use lvs_api::{SyncBulk, SyncBulkState};
use lvs_core::conn_record::DumpCursor;
use lvs_core::ipvs::sync::notice::{Ask, Offer};
use lvs_core::limits::SYNC_BULK_STEP_SLOTS;
use lvs_core::single_writer::SingleWriter;

use crate::mgmt::worker_handle::WorkerHandle;
use crate::worker::mailbox::CopyConns;

/// The most connections that a worker is asked for at a time.
const SLICE_MAX: u16 = 512;
/// How often an offer is sent, in milliseconds.
const OFFER_PERIOD_MS: u64 = 1_000;
/// Walks that may follow each other at once.
const WALKS_AT_ONCE: u32 = 4;
/// After this time one more may, in milliseconds.
const WALK_PERIOD_MS: u64 = 60_000;

/// What has happened to the walk in a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It begins: backups must know before they hear of connections.
    Begun,
    /// Workers have sent all that there is.
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct Bulk {
    instance: u64,
    /// By port: messages with entries that were made.
    sent: Vec<u64>,
    begun: u32,
    ended: u32,
    /// Of the walk under way, or else of the last one.
    copied: u32,
    total: u32,
    is_asked: bool,
    walk: Option<Walk>,
    allowance: Allowance,
    /// In all walks.
    connections: u64,
    tickets: u64,
    offered_ms: Option<u64>,
}

/// Where a walk is.
#[derive(Debug)]
struct Walk {
    worker: usize,
    at: DumpCursor,
    /// The request that is not answered yet.
    ticket: Option<u64>,
    /// Thousandths of connections that may be sent by now.
    earned: u64,
    earned_ms: u64,
}

impl Walk {
    const fn new(now_ms: u64) -> Self {
        Self {
            worker: 0,
            at: DumpCursor::V4(0),
            ticket: None,
            earned: 0,
            earned_ms: now_ms,
        }
    }

    fn earn(&mut self, rate: u32, now_ms: u64) {
        let more = now_ms.saturating_sub(self.earned_ms).saturating_mul(rate.into());
        self.earned = self.earned.saturating_add(more).min(u64::from(SLICE_MAX) * 1_000);
        self.earned_ms = now_ms;
    }
}

/// Whether another walk may begin.
#[derive(Debug)]
struct Allowance {
    left: u32,
    refilled_ms: u64,
}

impl Allowance {
    fn take(&mut self, now_ms: u64) -> bool {
        let periods = now_ms.saturating_sub(self.refilled_ms) / WALK_PERIOD_MS;
        self.refilled_ms += periods * WALK_PERIOD_MS;
        self.left = WALKS_AT_ONCE.min(self.left.saturating_add(u32::try_from(periods).unwrap_or(u32::MAX)));
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

impl Bulk {
    /// Of a daemon with so many ports that starts now; `instance` is a number that no earlier run had.
    pub fn new(ports: usize, instance: u64, now_ms: u64) -> Self {
        Self {
            instance,
            sent: vec![0; ports],
            begun: 0,
            ended: 0,
            copied: 0,
            total: 0,
            is_asked: false,
            walk: None,
            allowance: Allowance {
                left: WALKS_AT_ONCE,
                refilled_ms: now_ms,
            },
            connections: 0,
            tickets: 0,
            offered_ms: None,
        }
    }

    /// Counts a message with entries of this port.
    pub fn count_message(&mut self, port: usize) {
        if let Some(sent) = self.sent.get_mut(port) {
            *sent += 1;
        }
    }

    /// A backup lacks connections.
    pub const fn ask(&mut self, ask: Ask) {
        if ask.instance == self.instance && ask.walk > self.begun {
            self.is_asked = true;
        }
    }

    /// Ends the walk, whose backups do not hear of its end.
    pub fn cancel(&mut self) {
        self.walk = None;
        self.is_asked = false;
    }

    /// Goes on with the walk, or begins one that was asked for: at most `rate` connections a second, and none while the
    /// sockets have no space.
    pub fn advance(
        &mut self,
        workers: &[Arc<dyn WorkerHandle>],
        rate: u32,
        has_space: bool,
        now_ms: u64,
    ) -> Option<Event> {
        let Some(walk) = &mut self.walk else {
            return self.begin(workers, now_ms);
        };
        walk.earn(rate, now_ms);
        let copied = workers.get(walk.worker).and_then(|worker| worker.copied_conns());
        if let Some(copied) = copied.filter(|copied| walk.ticket == Some(copied.ticket)) {
            walk.ticket = None;
            walk.earned = walk.earned.saturating_sub(u64::from(copied.slice.copied) * 1_000);
            self.copied = self.copied.saturating_add(copied.slice.copied);
            self.connections += u64::from(copied.slice.copied);
            match copied.slice.next {
                Some(next) => walk.at = next,
                None => (walk.worker, walk.at) = (walk.worker + 1, DumpCursor::V4(0)),
            }
        }
        let Some(worker) = workers.get(walk.worker) else {
            self.walk = None;
            self.ended = self.begun;
            return Some(Event::Ended);
        };
        let conns_max = (walk.earned / 1_000) as u16;
        if walk.ticket.is_none() && has_space && usize::from(conns_max) >= SYNC_BULK_STEP_SLOTS {
            self.tickets += 1;
            let request = CopyConns {
                from: walk.at,
                conns_max,
                ticket: self.tickets,
            };
            walk.ticket = worker.copy_conns(request).then_some(request.ticket);
        }
        None
    }

    fn begin(&mut self, workers: &[Arc<dyn WorkerHandle>], now_ms: u64) -> Option<Event> {
        if !self.is_asked || !self.allowance.take(now_ms) {
            return None;
        }
        let total = workers.iter().map(|worker| {
            let counters = worker.counters();
            counters.conns_ipv4.get() + counters.conns_ipv6.get()
        });
        self.total = u32::try_from(total.sum::<u64>()).unwrap_or(u32::MAX);
        self.copied = 0;
        self.is_asked = false;
        self.begun = self.begun.wrapping_add(1);
        self.walk = Some(Walk::new(now_ms));
        Some(Event::Begun)
    }

    /// Whether an offer is due; every port gets it then.
    pub fn is_offer_due(&mut self, event: Option<Event>, now_ms: u64) -> bool {
        let is_due = event.is_some()
            || self
                .offered_ms
                .is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= OFFER_PERIOD_MS);
        if is_due {
            self.offered_ms = Some(now_ms);
        }
        is_due
    }

    /// What a port's offer says.
    pub fn offer(&self, port: usize) -> Offer {
        Offer {
            instance: self.instance,
            sent: self.sent.get(port).copied().unwrap_or_default(),
            begun: self.begun,
            ended: self.ended,
            copied: self.copied,
            total: self.total,
        }
    }

    /// As the API shows it.
    pub fn status(&self) -> SyncBulk {
        let state = if self.walk.is_some() {
            SyncBulkState::Running
        } else if self.is_asked {
            SyncBulkState::Waiting
        } else if self.ended > 0 {
            SyncBulkState::Complete
        } else {
            SyncBulkState::None
        };
        SyncBulk {
            state,
            runs: self.ended.into(),
            connections: self.connections,
            progress_percent: percent(state, self.copied, self.total),
        }
    }
}

/// Without bulk sync.
pub(super) const fn off() -> SyncBulk {
    SyncBulk {
        state: SyncBulkState::Off,
        runs: 0,
        connections: 0,
        progress_percent: 0,
    }
}

/// How far a walk is.
pub(super) fn percent(state: SyncBulkState, copied: u32, total: u32) -> u8 {
    match state {
        SyncBulkState::Running => (u64::from(copied) * 100 / u64::from(total.max(1))).min(99) as u8,
        SyncBulkState::Complete => 100,
        SyncBulkState::Off | SyncBulkState::None | SyncBulkState::Waiting => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use lvs_core::ipvs::sync::SyncConn;

    use super::*;
    use crate::mgmt::fake_worker::FakeWorker;
    use crate::mgmt::sync::tests::conn;

    fn workers(tables: &[u16]) -> (Vec<Arc<FakeWorker>>, Vec<Arc<dyn WorkerHandle>>) {
        let fakes: Vec<_> = tables
            .iter()
            .enumerate()
            .map(|(number, &count)| {
                let worker = FakeWorker::new();
                let of = |port| SyncConn {
                    fwmark: number as u32,
                    ..conn(port)
                };
                worker.table.lock().unwrap().extend((0..count).map(of));
                worker.counters.conns_ipv4.set(count.into());
                worker
            })
            .collect();
        let handles = fakes.iter().map(|fake| Arc::clone(fake) as _).collect();
        (fakes, handles)
    }

    fn ask(bulk: &mut Bulk) {
        let (instance, walk) = (bulk.instance, bulk.begun + 1);
        bulk.ask(Ask { instance, walk });
    }

    #[test]
    fn a_walk_tells_all_of_every_worker_at_the_configured_rate_and_says_when_it_is_over() {
        let (_, handles) = workers(&[1_000, 0, 500]);
        let mut bulk = Bulk::new(1, 9, 0);
        assert_eq!(bulk.advance(&handles, 100_000, true, 0), None, "nobody asked");
        ask(&mut bulk);
        assert_eq!(bulk.advance(&handles, 100_000, true, 0), Some(Event::Begun));
        assert_eq!(bulk.offer(0).total, 1_500);
        let (mut heard, mut ended_ms) = (Vec::new(), 0);
        for now_ms in 1..100 {
            let event = bulk.advance(&handles, 100_000, true, now_ms);
            let before = heard.len();
            for worker in &handles {
                heard.extend(std::iter::from_fn(|| worker.next_synced()));
            }
            assert!(
                heard.len() - before <= 200,
                "100 a millisecond, and what was earned while it waited"
            );
            if event == Some(Event::Ended) {
                ended_ms = now_ms;
                break;
            }
            assert_eq!(bulk.status().state, SyncBulkState::Running);
        }
        assert!((14..=40).contains(&ended_ms), "{ended_ms}");
        assert_eq!(heard.len(), 1_500);
        let expected: Vec<_> = [(0, 1_000), (2, 500)]
            .into_iter()
            .flat_map(|(number, count)| (0..count).map(move |port| (number, port)))
            .collect();
        let seen: Vec<_> = heard.iter().map(|conn| (conn.fwmark, conn.client.1)).collect();
        assert_eq!(seen, expected);
        let SyncBulk {
            state,
            runs,
            connections,
            progress_percent,
        } = bulk.status();
        assert_eq!(
            (state, runs, connections, progress_percent),
            (SyncBulkState::Complete, 1, 1_500, 100)
        );
    }

    #[test]
    fn without_room_in_the_sockets_or_the_mailbox_a_walk_waits() {
        let (fakes, handles) = workers(&[100]);
        let mut bulk = Bulk::new(1, 9, 0);
        ask(&mut bulk);
        assert_eq!(bulk.advance(&handles, 1_000_000, true, 0), Some(Event::Begun));
        fakes[0].mailbox_full.store(true, Ordering::Relaxed);
        assert_eq!(bulk.advance(&handles, 1_000_000, true, 1), None);
        fakes[0].mailbox_full.store(false, Ordering::Relaxed);
        assert_eq!(bulk.advance(&handles, 1_000_000, false, 2), None);
        assert!(handles[0].next_synced().is_none());
        assert_eq!(bulk.advance(&handles, 1_000_000, true, 3), None);
        assert_eq!(bulk.advance(&handles, 1_000_000, true, 4), Some(Event::Ended));
        assert_eq!(bulk.status().connections, 100);
    }

    #[test]
    fn an_ask_for_a_walk_that_has_begun_or_of_another_run_begins_none() {
        let (_, handles) = workers(&[0]);
        let mut bulk = Bulk::new(1, 9, 0);
        bulk.ask(Ask { instance: 8, walk: 1 });
        assert_eq!(bulk.advance(&handles, 1_000, true, 0), None);
        let first = Ask { instance: 9, walk: 1 };
        bulk.ask(first);
        assert_eq!(bulk.advance(&handles, 1_000, true, 0), Some(Event::Begun));
        bulk.ask(first);
        assert!(!bulk.is_asked);
    }

    #[test]
    fn who_asks_without_end_gets_four_walks_and_then_one_a_minute() {
        let (_, handles) = workers(&[]);
        let mut bulk = Bulk::new(1, 9, 0);
        for now_ms in 0..3 * WALK_PERIOD_MS {
            ask(&mut bulk);
            let _ = bulk.advance(&handles, 1_000, true, now_ms);
        }
        assert_eq!(bulk.begun, 6);
        assert_eq!(bulk.status().state, SyncBulkState::Waiting);
        let mut rested = Allowance {
            left: 0,
            refilled_ms: 0,
        };
        assert!(rested.take(u64::MAX) && rested.left == WALKS_AT_ONCE - 1);
    }

    #[test]
    fn an_answer_to_the_request_of_an_earlier_walk_is_not_this_ones() {
        let (_, handles) = workers(&[600]);
        let mut bulk = Bulk::new(1, 9, 0);
        ask(&mut bulk);
        assert_eq!(bulk.advance(&handles, 1_000_000, true, 0), Some(Event::Begun));
        assert_eq!(bulk.advance(&handles, 1_000_000, true, 1), None);
        bulk.cancel();
        ask(&mut bulk);
        assert_eq!(bulk.advance(&handles, 1_000_000, true, 2), Some(Event::Begun));
        assert_eq!(bulk.advance(&handles, 1_000_000, false, 3), None);
        assert_eq!((bulk.copied, bulk.connections), (0, 0));
    }

    #[test]
    fn an_offer_leaves_every_second_and_when_a_walk_begins_or_ends() {
        let mut bulk = Bulk::new(1, 9, 0);
        assert!(bulk.is_offer_due(None, 0) && !bulk.is_offer_due(None, 999));
        assert!(bulk.is_offer_due(Some(Event::Begun), 999) && !bulk.is_offer_due(None, 1_000));
        assert!(bulk.is_offer_due(None, 1_999));
    }
}

//! A backup's part in bulk sync: what it has heard of each master, and whether it lacks connections.
//!
//! In:  messages with entries, and offers. Out: asks. An offer counts the messages that were made for a port, so whoever
//! heard fewer lacks some, be it for a partition, a full buffer or because it started later; then it needs a walk that
//! begins after that, and is complete when the master says that this is over and nothing was lost since.
//! An offer comes every second, so an ask that got lost is repeated without a timer here.

use std::net::IpAddr;

use lvs_api::{SyncBulk, SyncBulkState};
use lvs_core::ipvs::sync::notice::{Ask, Offer};

use super::bulk::percent;

/// Masters that are remembered on a port. The one that was silent longest is forgotten for a new one.
const MASTERS_MAX: usize = 16;
/// A master that made no offer for this time is forgotten, in milliseconds.
const FORGOTTEN_MS: u64 = 60_000;
/// Least time between two asks, in milliseconds: the ports of one master need the same walk.
const ASK_PERIOD_MS: u64 = 100;

/// One master on one port.
#[derive(Debug)]
struct Master {
    source: IpAddr,
    sync_id: u8,
    /// The last one.
    offer: Offer,
    /// Messages with entries, as its offers count them.
    heard: u64,
    /// The walk after which nothing is lacking; 0 when nothing is.
    needs: u32,
    offered_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Heard {
    /// By port.
    ports: Vec<Vec<Master>>,
    asked_ms: Option<u64>,
    runs: u64,
    connections: u64,
}

/// What follows from an offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consequence {
    /// Messages that did not arrive.
    pub lost: u64,
    /// What to send to the master.
    pub ask: Option<Ask>,
}

impl Heard {
    /// A message with entries arrived.
    pub fn message(&mut self, port: usize, source: IpAddr, sync_id: u8) {
        let masters = self.ports.get_mut(port).into_iter().flatten();
        for master in masters.filter(|master| master.source == source && master.sync_id == sync_id) {
            master.heard += 1;
        }
    }

    /// An offer arrived on `port` from `source` for `sync_id`.
    pub fn offer(&mut self, port: usize, (source, sync_id): (IpAddr, u8), offer: Offer, now_ms: u64) -> Consequence {
        if self.ports.len() <= port {
            self.ports.resize_with(port + 1, Vec::new);
        }
        let Some(masters) = self.ports.get_mut(port) else {
            return Consequence::default();
        };
        masters.retain(|master| now_ms.saturating_sub(master.offered_ms) < FORGOTTEN_MS);
        let is_it = |master: &Master| master.source == source && master.sync_id == sync_id;
        let known = masters.iter_mut().find(|master| is_it(master));
        let mut lost = 0;
        let needs = match known {
            Some(master) if master.offer.instance == offer.instance => {
                lost = offer.sent.saturating_sub(master.heard);
                if lost > 0 {
                    master.needs = offer.begun.saturating_add(1);
                } else if master.needs > 0 && offer.ended >= master.needs {
                    master.needs = 0;
                    if port == 0 {
                        self.runs += 1;
                        self.connections += u64::from(offer.copied);
                    }
                }
                (master.heard, master.offer, master.offered_ms) = (offer.sent, offer, now_ms);
                master.needs
            }
            _ => {
                masters.retain(|master| !is_it(master));
                if masters.len() >= MASTERS_MAX {
                    let silent_longest = masters.iter().enumerate().min_by_key(|(_, master)| master.offered_ms);
                    if let Some((index, _)) = silent_longest {
                        masters.swap_remove(index);
                    }
                }
                let needs = offer.begun.saturating_add(1);
                masters.push(Master {
                    source,
                    sync_id,
                    offer,
                    heard: offer.sent,
                    needs,
                    offered_ms: now_ms,
                });
                needs
            }
        };
        let ask = (needs > offer.begun && self.may_ask(now_ms)).then_some(Ask {
            instance: offer.instance,
            walk: needs,
        });
        Consequence { lost, ask }
    }

    fn may_ask(&mut self, now_ms: u64) -> bool {
        let may = self
            .asked_ms
            .is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= ASK_PERIOD_MS);
        if may {
            self.asked_ms = Some(now_ms);
        }
        may
    }

    /// As the API shows it: how the master stands of which most is lacking.
    pub fn status(&self) -> SyncBulk {
        let state = |master: &Master| {
            if master.needs > master.offer.begun {
                SyncBulkState::Waiting
            } else if master.needs > 0 {
                SyncBulkState::Running
            } else {
                SyncBulkState::Complete
            }
        };
        let masters = self.ports.iter().flatten();
        let worst = masters.min_by_key(|master| match state(master) {
            SyncBulkState::Waiting => 0,
            SyncBulkState::Running => 1,
            _ => 2,
        });
        let shown = worst.map_or(SyncBulkState::None, state);
        SyncBulk {
            state: shown,
            runs: self.runs,
            connections: self.connections,
            progress_percent: worst.map_or(0, |master| percent(shown, master.offer.copied, master.offer.total)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    fn offer(sent: u64, begun: u32, ended: u32) -> Offer {
        Offer {
            instance: 5,
            sent,
            begun,
            ended,
            copied: 7,
            total: 14,
        }
    }

    /// What follows from an offer of one master on the first port.
    fn hears(heard: &mut Heard, offer: Offer, now_ms: u64) -> (u64, Option<u32>) {
        let Consequence { lost, ask } = heard.offer(0, (source(1), 9), offer, now_ms);
        assert!(ask.is_none_or(|ask| ask.instance == offer.instance));
        (lost, ask.map(|ask| ask.walk))
    }

    #[test]
    fn a_backup_that_starts_asks_until_a_walk_begins_and_is_complete_at_its_end() {
        let mut heard = Heard::default();
        assert_eq!(heard.status().state, SyncBulkState::None);
        assert_eq!(
            hears(&mut heard, offer(50, 3, 2), 0),
            (0, Some(4)),
            "it heard not all of the third"
        );
        assert_eq!(
            hears(&mut heard, offer(50, 3, 3), 1_000),
            (0, Some(4)),
            "the ask was lost"
        );
        assert_eq!(heard.status().state, SyncBulkState::Waiting);
        assert_eq!(hears(&mut heard, offer(50, 4, 3), 1_100), (0, None));
        assert_eq!(
            (heard.status().state, heard.status().progress_percent),
            (SyncBulkState::Running, 50)
        );
        (0..20).for_each(|_| heard.message(0, source(1), 9));
        assert_eq!(hears(&mut heard, offer(70, 4, 4), 1_200), (0, None));
        let status = heard.status();
        assert_eq!(
            (status.state, status.runs, status.connections),
            (SyncBulkState::Complete, 1, 7)
        );
    }

    #[test]
    fn a_message_that_got_lost_needs_a_walk_that_begins_later() {
        let mut heard = Heard::default();
        assert_eq!(hears(&mut heard, offer(0, 0, 0), 0), (0, Some(1)));
        heard.message(0, source(1), 9);
        heard.message(0, source(2), 9);
        heard.message(0, source(1), 8);
        heard.message(1, source(1), 9);
        assert_eq!(
            hears(&mut heard, offer(3, 1, 1), 1_000),
            (2, Some(2)),
            "two of its walk's messages"
        );
        assert_eq!(hears(&mut heard, offer(3, 2, 2), 2_000), (0, None));
        assert_eq!(heard.status().state, SyncBulkState::Complete);
        assert_eq!(hears(&mut heard, offer(4, 2, 2), 3_000), (1, Some(3)), "of news");
    }

    #[test]
    fn after_a_partition_only_a_master_that_made_messages_meanwhile_is_asked() {
        let mut heard = Heard::default();
        hears(&mut heard, offer(9, 0, 0), 0);
        hears(&mut heard, offer(9, 1, 1), 1_000);
        assert_eq!(hears(&mut heard, offer(9, 1, 1), 31_000), (0, None));
        assert_eq!(hears(&mut heard, offer(10, 1, 1), 61_000), (1, Some(2)));
        assert_eq!(
            hears(&mut heard, offer(10, 1, 1), 200_000),
            (0, Some(2)),
            "it was forgotten"
        );
    }

    #[test]
    fn a_master_that_starts_anew_is_asked_anew() {
        let mut heard = Heard::default();
        hears(&mut heard, offer(9, 1, 1), 0);
        let restarted = Offer {
            instance: 6,
            ..offer(0, 0, 0)
        };
        assert_eq!(hears(&mut heard, restarted, 500), (0, Some(1)));
        assert_eq!(heard.ports[0].len(), 1);
    }

    #[test]
    fn ports_of_one_master_share_an_ask_and_are_complete_each_for_itself() {
        let mut heard = Heard::default();
        let from = (source(1), 9);
        assert!(heard.offer(0, from, offer(0, 0, 0), 0).ask.is_some());
        assert!(heard.offer(3, from, offer(0, 0, 0), 0).ask.is_none());
        assert_eq!(heard.offer(0, from, offer(0, 1, 1), 200), Consequence::default());
        assert_eq!(
            heard.status().state,
            SyncBulkState::Waiting,
            "the other port has not heard of it"
        );
        assert_eq!(heard.offer(3, from, offer(0, 1, 1), 200), Consequence::default());
        assert_eq!(
            (heard.status().state, heard.status().runs),
            (SyncBulkState::Complete, 1)
        );
    }

    #[test]
    fn so_many_masters_are_remembered_and_asked_at_most_ten_times_a_second() {
        let mut heard = Heard::default();
        let mut asks = 0;
        for number in 0..200 {
            let consequence = heard.offer(0, (source(number), 9), offer(0, 0, 0), u64::from(number));
            asks += u32::from(consequence.ask.is_some());
        }
        assert_eq!((heard.ports[0].len(), asks), (MASTERS_MAX, 2));
    }
}

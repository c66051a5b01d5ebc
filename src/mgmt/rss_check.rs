//! Watches whether devices spread flows over their receive queues as their drivers claim.
//!
//! In:  what each worker received of each device, and what it then found to be another worker's. Out: [`RssState`] of each
//! device, a line in the log when it turns out otherwise than claimed.
//! Never: changes who owns a connection: that is computed from packets, so a device that does not spread costs
//! handoffs, and the load is shared all the same. Emulated e1000e and vmxnet3 are such devices.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lvs_api::RssState;
use lvs_core::counters::WorkerCounters;
use lvs_core::l3::DeviceId;
use lvs_core::single_writer::SingleWriter;
use tokio::time::{MissedTickBehavior, interval};

use crate::mgmt::lock::lock;

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(2);

/// Fewer packets than these say nothing.
const PACKETS_MIN: u64 = 1_000;

/// Marks of different flows ([`lvs_core::counters::RssCounters::flows`]) below which a few flows may have met in
/// one queue by chance: of 16 flows over two queues, once in 32,768 times.
const FLOWS_MIN: u32 = 16;

/// If one packet in this many should have come to another worker, that is no chance. The packets that NICs hash without
/// ports (fragments, IPv6 extension headers) are fewer.
const ELSEWHERE_MIN: u64 = 8;

/// What a device claims.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which one.
    pub device: DeviceId,
    /// The operator's name for it.
    pub name: String,
    /// Its receive queues.
    pub rx_queues: u16,
    /// Whether flows belong to the workers to which its RSS brings them.
    pub by_rss: bool,
}

/// See the module.
pub struct RssCheck {
    counters: Arc<[Arc<WorkerCounters>]>,
    devices: Mutex<Vec<Watched>>,
}

struct Watched {
    claim: Claim,
    state: RssState,
    /// When it was last judged.
    before: Seen,
    warned: bool,
}

/// What has been counted of a device.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// By worker.
    rx: Vec<u64>,
    elsewhere: u64,
    rss_hits: u64,
    rss_misses: u64,
    /// Marks of different flows that came elsewhere, lately, at the worker with most of them.
    flows: u32,
}

impl RssCheck {
    /// Watches these devices by what these workers count.
    pub fn new(claims: Vec<Claim>, counters: Arc<[Arc<WorkerCounters>]>) -> Self {
        let watched = |claim: Claim| Watched {
            state: match (claim.rx_queues, claim.by_rss) {
                (0 | 1, _) => RssState::OneQueue,
                (_, true) => RssState::Rss,
                (_, false) => RssState::Own,
            },
            before: Seen::default(),
            warned: false,
            claim,
        };
        Self {
            counters,
            devices: Mutex::new(claims.into_iter().map(watched).collect()),
        }
    }

    /// How a device spreads flows, as far as the packets so far show.
    pub fn of(&self, device: DeviceId) -> RssState {
        let devices = lock(&self.devices);
        let watched = devices.iter().find(|watched| watched.claim.device == device);
        watched.map_or(RssState::OneQueue, |watched| watched.state)
    }

    /// Looks at the packets since the last look that led to a result. Returns the lines for the log.
    fn look(&self) -> Vec<String> {
        let mut devices = lock(&self.devices);
        let watched = devices.iter_mut().filter(|watched| watched.claim.rx_queues > 1);
        watched.filter_map(|watched| watched.look(&self.counters)).collect()
    }

    /// Looks now and then, until dropped.
    pub async fn watch(&self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for warning in self.look() {
                log::warn!("{warning}");
            }
        }
    }
}

impl Watched {
    fn look(&mut self, counters: &[Arc<WorkerCounters>]) -> Option<String> {
        let now = Seen::of(self.claim.device, counters);
        let since = now.since(&self.before);
        if since.rx.iter().sum::<u64>() < PACKETS_MIN {
            return None;
        }
        self.before = now;
        let state = since.judge(self.claim.by_rss)?;
        self.state = state;
        if state.is_as_claimed() || self.warned {
            return None;
        }
        self.warned = true;
        let (name, queues) = (&self.claim.name, self.claim.rx_queues);
        let cost = "its workers hand off what is not theirs, which costs time but no connection";
        Some(match state {
            RssState::None => {
                format!("device \"{name}\" has {queues} receive queues, but all flows come by one of them: {cost}")
            }
            _ => format!("device \"{name}\" claims RSS, but brings flows to other workers than it should: {cost}"),
        })
    }
}

impl Seen {
    fn of(device: DeviceId, counters: &[Arc<WorkerCounters>]) -> Self {
        let mut seen = Self::default();
        for worker in counters {
            seen.rx.push(worker.device(device).rx_packets.get());
            if let Some(rss) = worker.rss.get(usize::from(device.0)) {
                seen.elsewhere += rss.of_others.get();
                seen.rss_hits += rss.rss_hits.get();
                seen.rss_misses += rss.rss_misses.get();
                seen.flows = seen.flows.max(rss.flows.get().count_ones());
            }
        }
        seen
    }

    fn since(&self, before: &Self) -> Self {
        let rx = self.rx.iter().enumerate();
        Self {
            rx: rx
                .map(|(worker, rx)| rx - before.rx.get(worker).unwrap_or(&0))
                .collect(),
            elsewhere: self.elsewhere - before.elsewhere,
            rss_hits: self.rss_hits - before.rss_hits,
            rss_misses: self.rss_misses - before.rss_misses,
            flows: self.flows,
        }
    }

    /// What at least [`PACKETS_MIN`] packets show; `None` when they could be either way.
    fn judge(&self, by_rss: bool) -> Option<RssState> {
        let packets: u64 = self.rx.iter().sum();
        let workers = self.rx.iter().filter(|packets| **packets > 0).count();
        let many_flows = self.flows >= FLOWS_MIN;
        if workers == 1 {
            let not_its_own = many_flows && self.elsewhere >= packets / ELSEWHERE_MIN;
            return not_its_own.then_some(RssState::None);
        }
        if !by_rss {
            return Some(RssState::Own);
        }
        let decided = self.rss_hits + self.rss_misses;
        if many_flows && self.rss_misses >= PACKETS_MIN / ELSEWHERE_MIN && self.rss_misses >= decided / ELSEWHERE_MIN {
            return Some(RssState::Mismatch);
        }
        // Too few to accuse are too few to acquit.
        (decided >= PACKETS_MIN / ELSEWHERE_MIN).then_some(RssState::Rss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC: DeviceId = DeviceId(1);

    fn watch(workers: usize, rx_queues: u16, by_rss: bool) -> RssCheck {
        let claim = Claim {
            device: NIC,
            name: "wan".to_owned(),
            rx_queues,
            by_rss,
        };
        RssCheck::new(
            vec![claim],
            (0..workers).map(|_| Arc::new(WorkerCounters::new(1))).collect(),
        )
    }

    /// Packets of `flows` flows arrive at a worker; of each hundred, so many are another's.
    fn arrive(watch: &RssCheck, worker: usize, packets: u64, flows: u64, mismatched_percent: u64) {
        let counters = &watch.counters[worker];
        counters.device(NIC).rx_packets.add(packets);
        let rss = &counters.rss[usize::from(NIC.0)];
        for packet in 0..packets {
            if packet % 100 < mismatched_percent {
                rss.count_miss(packet % flows);
                rss.rss_misses.add(1);
            } else {
                rss.rss_hits.add(1);
            }
        }
    }

    fn arrive_at_both(watch: &RssCheck, packets: u64, flows: u64, mismatched_percent: u64) {
        for worker in 0..2 {
            arrive(watch, worker, packets, flows, mismatched_percent);
        }
    }

    #[test]
    fn a_device_that_brings_all_flows_by_one_queue_is_reported_once() {
        let watch = watch(4, 4, true);
        assert_eq!(watch.of(NIC), RssState::Rss, "as claimed until seen otherwise");
        arrive(&watch, 0, 999, 500, 75);
        assert_eq!((watch.look(), watch.of(NIC)), (vec![], RssState::Rss), "too few");
        arrive(&watch, 0, 1_000, 500, 75);
        let messages = watch.look();
        assert_eq!(watch.of(NIC), RssState::None);
        assert!(
            messages[0].contains("\"wan\" has 4 receive queues, but all flows come by one"),
            "{messages:?}"
        );
        arrive(&watch, 0, 5_000, 500, 75);
        assert_eq!((watch.look(), watch.of(NIC)), (vec![], RssState::None));
    }

    #[test]
    fn a_device_that_spreads_otherwise_than_it_should_is_reported_and_believed_again_when_it_does() {
        let watch = watch(2, 2, true);
        arrive_at_both(&watch, 1_000, 500, 50);
        let messages = watch.look();
        assert!(messages[0].contains("claims RSS, but"), "{messages:?}");
        assert_eq!(watch.of(NIC), RssState::Mismatch);
        arrive_at_both(&watch, 1_000, 500, 0);
        assert_eq!((watch.look(), watch.of(NIC)), (vec![], RssState::Rss));
    }

    #[test]
    fn one_loud_client_is_no_evidence() {
        let watch = watch(2, 2, true);
        arrive(&watch, 0, 100_000, 1, 100);
        assert_eq!((watch.look(), watch.of(NIC)), (vec![], RssState::Rss));
        arrive(&watch, 1, 100_000, 3, 100);
        assert_eq!((watch.look(), watch.of(NIC)), (vec![], RssState::Rss));
    }

    #[test]
    fn fragments_and_other_packets_hashed_without_ports_are_no_evidence() {
        let watch = watch(2, 2, true);
        arrive_at_both(&watch, 10_000, 500, 5);
        assert_eq!((watch.look(), watch.of(NIC)), (vec![], RssState::Rss));
    }

    #[test]
    fn without_our_rss_what_comes_elsewhere_is_no_fault_unless_all_comes_by_one_queue() {
        let watch = watch(2, 2, false);
        arrive_at_both(&watch, 1_000, 500, 50);
        assert_eq!((watch.look(), watch.of(NIC)), (vec![], RssState::Own));
        arrive(&watch, 1, 1_000, 500, 50);
        assert_eq!((watch.look().len(), watch.of(NIC)), (1, RssState::None));
    }

    #[test]
    fn one_queue_claims_nothing() {
        let watch = watch(2, 1, false);
        arrive(&watch, 0, 10_000, 500, 50);
        assert_eq!((watch.look(), watch.of(NIC)), (vec![], RssState::OneQueue));
    }
}

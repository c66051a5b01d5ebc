//! What one worker knows about the load of real servers at the other workers, and what it measures itself.
//!
//! In:  what each worker publishes in its [`WorkerCounters`]; this worker's own counters and response times.
//! Out: sums over the other workers, at most [`LOADS_BEAT_US`] old where connections begin, and response times
//!      over all workers (wrt), at most [`RESPONSES_MERGE_MS`] old.
//! Never: writes the cache line of another worker; reads lines of other workers for every packet.

use std::sync::Arc;

use crate::counters::{ConnsLoad, WorkerCounters};
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::service::VirtualService;
use crate::ipvs::service_table::ServiceTable;
use crate::ipvs::stats::ESTIMATION_PERIOD_SEC;
use crate::limits::{LOADS_BEAT_US, LOADS_READ_MAX, RESPONSES_MERGE_MS, SERVERS_SAMPLED_PER_PASS_MAX};
use crate::single_writer::SingleWriter;
use crate::tick::Tick;

/// Bytes a second are scaled by 2⁵ and halved, because a sample covers two seconds (Linux ip_vs_est.c).
const TRAFFIC_SHIFT: u32 = 4;
/// Response time of a server in a service of which no server has answered yet.
const RESPONSE_UNKNOWN_US: u32 = 1_000;
/// Each time this period passes without a measure, a response time halves its distance to the best of the service.
const RESPONSE_STALE_MS: u32 = 10_000;
/// How many servers of a service the median response time is taken from.
const MEDIAN_AMONG: usize = 64;

/// What this worker's estimator remembers about one server.
#[derive(Clone, Copy, Debug, Default)]
struct Sampled {
    bytes: u64,
    /// Scaled average.
    traffic: u64,
}

/// The other workers' part of one server's measures, and its response time over all workers.
#[derive(Clone, Copy, Debug, Default)]
struct Merged {
    traffic: u64,
    assigned: u32,
    response_us: u32,
}

/// When the loads of a service's servers were read from the other workers.
#[derive(Clone, Copy, Debug, Default)]
struct Looked {
    /// Beat of the last reading; 0 for none yet.
    conns_beat: u32,
    /// The server with which the next reading begins.
    next: u32,
    /// When response times were merged.
    responses_at: Tick,
    has_responses: bool,
}

/// See the module.
#[derive(Debug)]
pub struct LoadBoard {
    us: u32,
    beat_began_us: u32,
    beat: u32,
    /// By server: sums over the other workers.
    others: Box<[ConnsLoad]>,
    /// By server.
    sampled: Box<[Sampled]>,
    /// By server.
    merged: Box<[Merged]>,
    /// By service.
    looked: Box<[Looked]>,
    sampled_at: Tick,
    /// Which of the measured servers the estimator samples next.
    sampling: Option<u32>,
}

impl LoadBoard {
    /// A board for as many servers and services as there are slots. Allocates.
    pub fn new(servers_max: usize, services_max: usize) -> Self {
        Self {
            us: 0,
            beat_began_us: 0,
            beat: 1,
            others: vec![ConnsLoad::default(); servers_max].into(),
            sampled: vec![Sampled::default(); servers_max].into(),
            merged: vec![Merged::default(); servers_max].into(),
            looked: vec![Looked::default(); services_max].into(),
            sampled_at: Tick(0),
            sampling: None,
        }
    }

    /// Sets the time, in microseconds modulo 2³².
    #[inline]
    pub const fn set_us(&mut self, us: u32) {
        self.us = us;
        if us.wrapping_sub(self.beat_began_us) >= LOADS_BEAT_US {
            self.beat_began_us = us;
            self.beat = self.beat.wrapping_add(1);
        }
    }

    /// The time, in microseconds modulo 2³².
    #[inline]
    pub const fn us(&self) -> u32 {
        self.us
    }

    /// The other workers' connections of a server.
    #[inline]
    pub fn others(&self, id: RealServerId) -> ConnsLoad {
        self.others.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// Bytes a second (scaled) of a server at all workers.
    #[inline]
    pub fn traffic(&self, id: RealServerId) -> u64 {
        let index = id.0 as usize;
        let own = self.sampled.get(index).map_or(0, |sampled| sampled.traffic);
        self.merged.get(index).map_or(0, |merged| merged.traffic) + own
    }

    /// Connections that a server got at other workers since their estimators took their last samples.
    #[inline]
    pub fn assigned_by_others(&self, id: RealServerId) -> u32 {
        self.merged.get(id.0 as usize).map_or(0, |merged| merged.assigned)
    }

    /// Response time of a server in microseconds, at least 1.
    #[inline]
    pub fn response_us(&self, id: RealServerId) -> u32 {
        let merged = self.merged.get(id.0 as usize);
        merged.map_or(RESPONSE_UNKNOWN_US, |merged| merged.response_us).max(1)
    }

    /// Reads the other workers' loads of this service's servers, if that is due. Call it when a connection begins.
    #[inline]
    pub fn look(&mut self, service: &VirtualService, workers: &[Arc<WorkerCounters>], own: usize, now: Tick) {
        let Some(looked) = self.looked.get_mut(service.id.0 as usize) else {
            return;
        };
        if workers.len() > 1 && looked.conns_beat != self.beat {
            looked.conns_beat = self.beat;
            let most = (LOADS_READ_MAX / workers.len()).max(1);
            let from = (looked.next as usize) % service.servers.len().max(1);
            looked.next = (from + most.min(service.servers.len())) as u32;
            self.look_at_conns(service, from, most, workers, own);
        }
        if service.scheduler.is_measured() {
            self.look_at_responses(service, workers, now);
        }
    }

    fn look_at_conns(
        &mut self,
        service: &VirtualService,
        from: usize,
        most: usize,
        workers: &[Arc<WorkerCounters>],
        own: usize,
    ) {
        let round = service
            .servers
            .iter()
            .skip(from)
            .chain(service.servers.iter().take(from));
        for server in round.take(most) {
            let mut sum = ConnsLoad::default();
            for worker in others_of(workers, own) {
                let load = worker.published_conns(server.id);
                sum.active = sum.active.wrapping_add(load.active);
                sum.inactive = sum.inactive.wrapping_add(load.inactive);
                sum.overloaded |= load.overloaded;
            }
            if let Some(others) = self.others.get_mut(server.id.0 as usize) {
                *others = sum;
            }
            if service.scheduler.is_measured()
                && let Some(merged) = self.merged.get_mut(server.id.0 as usize)
            {
                let measured = || others_of(workers, own).map(|worker| worker.measured(server.id));
                let traffic = measured().map(|measured| measured.traffic.get());
                merged.traffic = traffic.fold(0, u64::wrapping_add);
                let assigned = measured().map(|measured| measured.assigned.get());
                merged.assigned = assigned.fold(0, u32::wrapping_add);
            }
        }
    }

    #[inline(never)]
    fn look_at_responses(&mut self, service: &VirtualService, workers: &[Arc<WorkerCounters>], now: Tick) {
        let Some(looked) = self.looked.get_mut(service.id.0 as usize) else {
            return;
        };
        if looked.has_responses && now.since_ms(looked.responses_at) < RESPONSES_MERGE_MS {
            return;
        }
        (looked.has_responses, looked.responses_at) = (true, now);
        let mut responses = Responses::default();
        for (index, server) in service.servers.iter().enumerate() {
            let response = response_of(server.id, workers, now);
            responses.note(index, service.servers.len(), response);
        }
        let median_us = responses.median_us();
        for server in service.servers.iter() {
            let response = response_of(server.id, workers, now);
            if let Some(merged) = self.merged.get_mut(server.id.0 as usize) {
                merged.response_us = response.map_or(median_us, |response| response.faded_us(responses.least_us));
            }
        }
    }

    /// Counts a new connection for a server of a measured service.
    #[inline]
    pub fn assign(own: &WorkerCounters, server: &RealServer) {
        own.measured(server.id).assigned.add(1);
    }

    /// Takes the estimator's samples that are due, a bounded number in each call. Housekeeping calls it.
    pub fn sample(&mut self, services: &ServiceTable, own: &WorkerCounters, now: Tick) {
        let measured = services.measured_servers();
        if self.sampling.is_none() {
            if !now.is_past(self.sampled_at, ESTIMATION_PERIOD_SEC as u32 * 1_000) {
                return;
            }
            self.sampled_at = now;
            self.sampling = Some(0);
        }
        let from = self.sampling.unwrap_or(0) as usize;
        let part = measured.iter().skip(from).take(SERVERS_SAMPLED_PER_PASS_MAX);
        for id in part {
            let Some(sampled) = self.sampled.get_mut(id.0 as usize) else {
                continue;
            };
            let counted = own.server(*id);
            let bytes = counted.in_bytes.get().wrapping_add(counted.out_bytes.get());
            let rate = bytes.wrapping_sub(sampled.bytes) << TRAFFIC_SHIFT;
            let difference = (rate as i64).wrapping_sub(sampled.traffic as i64);
            sampled.traffic = sampled.traffic.wrapping_add_signed(difference >> 2);
            sampled.bytes = bytes;
            let shown = own.measured(*id);
            shown.traffic.set(sampled.traffic);
            shown.assigned.set(0);
        }
        let next = from + SERVERS_SAMPLED_PER_PASS_MAX;
        self.sampling = (next < measured.len()).then_some(next as u32);
    }

    /// A server answered `us` after the request (wrt). The value is smoothed by ⅛; one that is more than twice as slow
    /// replaces the old value at once.
    #[cold]
    pub fn responded(own: &WorkerCounters, id: RealServerId, us: u32, now: Tick) {
        let measured = own.measured(id);
        let (us, old) = (us.max(1), measured.response_us.get());
        let smoothed = if old == 0 || us / 2 > old {
            us
        } else {
            (old - old / 8 + us / 8).max(1)
        };
        measured.response_us.set(smoothed);
        measured.responded_at.set(now.0);
    }
}

/// All workers but this one.
fn others_of(workers: &[Arc<WorkerCounters>], own: usize) -> impl Iterator<Item = &Arc<WorkerCounters>> {
    let others = workers.iter().enumerate().filter(move |(index, _)| *index != own);
    others.map(|(_, worker)| worker)
}

/// A server's response time over all workers.
#[derive(Clone, Copy, Debug)]
struct Response {
    us: u32,
    age_ms: u32,
}

impl Response {
    /// The server has not been measured lately: it may have become faster.
    const fn faded_us(self, least_us: u32) -> u32 {
        let halvings = self.age_ms / RESPONSE_STALE_MS;
        let above = self.us.saturating_sub(least_us);
        let left = if halvings < u32::BITS { above >> halvings } else { 0 };
        self.us - (above - left)
    }
}

/// The mean of what workers measured in the last ten seconds, or without any the last measure of all.
fn response_of(id: RealServerId, workers: &[Arc<WorkerCounters>], now: Tick) -> Option<Response> {
    let (mut sum, mut count) = (0u64, 0u64);
    let mut last: Option<Response> = None;
    for worker in workers {
        let measured = worker.measured(id);
        let us = measured.response_us.get();
        if us == 0 {
            continue;
        }
        let age_ms = now.since_ms(Tick(measured.responded_at.get()));
        if age_ms < RESPONSE_STALE_MS {
            sum += u64::from(us);
            count += 1;
        }
        if last.is_none_or(|last| age_ms < last.age_ms) {
            last = Some(Response { us, age_ms });
        }
    }
    match sum.checked_div(count) {
        Some(mean) => Some(Response {
            us: mean as u32,
            age_ms: 0,
        }),
        None => last,
    }
}

/// The response times of a service's servers.
struct Responses {
    least_us: u32,
    sample: [u32; MEDIAN_AMONG],
    count: usize,
}

impl Default for Responses {
    fn default() -> Self {
        Self {
            least_us: u32::MAX,
            sample: [0; MEDIAN_AMONG],
            count: 0,
        }
    }
}

impl Responses {
    fn note(&mut self, index: usize, servers: usize, response: Option<Response>) {
        let Some(response) = response else { return };
        self.least_us = self.least_us.min(response.us);
        let stride = servers.div_ceil(MEDIAN_AMONG).max(1);
        if index.is_multiple_of(stride)
            && let Some(place) = self.sample.get_mut(self.count)
        {
            *place = response.us;
            self.count += 1;
        }
    }

    fn median_us(&mut self) -> u32 {
        let Some(known) = self.sample.get_mut(..self.count) else {
            return RESPONSE_UNKNOWN_US;
        };
        known.sort_unstable();
        known.get(known.len() / 2).copied().unwrap_or(RESPONSE_UNKNOWN_US)
    }
}

#[cfg(test)]
mod tests;

//! Workers: their counters, their state, and the launch on their cores.
//!
//! In:  the configuration, DPDK's environment, each worker's queues and rings. Out: running workers and their handles.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lvs_core::config::{self, Config};
use lvs_core::counters::WorkerCounters;
use lvs_core::rss::RssHash;
use lvs_core::snapshot::Snapshot;
use lvs_core::verdict::WorkerId;
use lvs_core::worker_state::WorkerSettings;

use super::connections::{self, KeptConnections, Workers};
use super::environment::Environment;
use super::{StartError, random_bytes};
use crate::dpdk::device::Queues;
use crate::dpdk::lcore::{self, LcoreHandle};
use crate::mgmt::mailbox_handle::MailboxHandle;
use crate::mgmt::twin::Twin;
use crate::worker::Worker;
use crate::worker::assignment::{self, Assignment, AssignmentSettings, WorkerResources};
use crate::worker::idle::IdlePolicy;
use crate::worker::mailbox::Mailbox;

/// Empty passes after which a worker sleeps if its policy is `sleep`.
const POLLS_BEFORE_SLEEP: u32 = 64;

/// Silence after which an adaptive worker sleeps. It is longer than the gaps of traffic that is worth polling for, which
/// is 5,000 packets per second and more.
const QUIET_BEFORE_SLEEP_US: u32 = 200;

/// What workers do when nothing arrives.
fn idle_policy(config: &Config) -> IdlePolicy {
    match config.workers.idle {
        config::Idle::Spin => IdlePolicy::Spin,
        config::Idle::Pause => IdlePolicy::Pause,
        config::Idle::Sleep => IdlePolicy::Sleep {
            after_polls: POLLS_BEFORE_SLEEP,
            us: config.workers.idle_sleep_us,
        },
        config::Idle::Adaptive => IdlePolicy::Adaptive {
            quiet_us: QUIET_BEFORE_SLEEP_US,
            sleep_max_us: config.workers.idle_sleep_us,
        },
    }
}

/// What each worker gets of devices, rings and twins.
pub fn assign(
    config: &Config,
    environment: &Environment,
    counters: &Arc<[Arc<WorkerCounters>]>,
    queues: Vec<Queues>,
    twins: &[Twin],
) -> Assignment {
    let settings = AssignmentSettings {
        counters,
        twins: &twins.iter().map(|twin| twin.device).collect::<Vec<_>>(),
        idle: idle_policy(config),
        clock: environment.clock,
        pool: environment.pools.of(environment.nodes.main),
    };
    assignment::assemble(queues, &settings)
}

/// What all workers share at their launch.
pub struct Launch<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// DPDK's environment.
    pub environment: &'a Environment,
    /// By worker.
    pub counters: &'a Arc<[Arc<WorkerCounters>]>,
    /// The first snapshot.
    pub snapshot: &'a Arc<Snapshot>,
    /// The RSS hash that all devices follow, if they do.
    pub rss: Option<&'a RssHash>,
}

/// Creates every worker's state, with the connections of the process before, and launches it on its core.
///
/// # Errors
/// There is no memory for the connection tables, no randomness, or a core cannot be used.
pub fn launch(
    shared: &Launch<'_>,
    kept: &mut KeptConnections,
    workers: Vec<WorkerResources>,
) -> Result<Vec<LcoreHandle>, StartError> {
    let Launch {
        config,
        environment,
        counters,
        snapshot,
        rss,
    } = shared;
    let settings = |number: usize| settings(config, number, kept.secret());
    let made_with = Workers {
        environment,
        settings: (0..workers.len()).map(settings).collect::<Result<_, _>>()?,
        counters,
        snapshot,
        rss: *rss,
    };
    let shape = match made_with.settings.first() {
        Some(settings) => connections::shape(config, kept, settings, rss.is_some()),
        None => return Ok(Vec::new()),
    };
    let states = kept.workers(&made_with, &shape)?;
    let mut handles = Vec::with_capacity(workers.len());
    for (number, (mut resources, mut state)) in workers.into_iter().zip(states).enumerate() {
        let node = environment.nodes.workers.get(number).copied().flatten();
        resources.use_pool(environment.pools.of(node));
        state.set_time_of_day(time_of_day_ms);
        if let Some(rss) = rss {
            state.follow_rss((*rss).clone());
        }
        let mut worker = Worker::new(resources, state);
        handles.push(lcore::launch(&environment.eal, number, move || worker.run())?);
    }
    Ok(handles)
}

fn settings(config: &Config, number: usize, secret: [u64; 4]) -> Result<WorkerSettings, StartError> {
    let count = config.workers.count;
    let seed = random_bytes().map_err(StartError::io("read randomness"))?;
    Ok(WorkerSettings {
        id: WorkerId(number as u8),
        workers_count: count,
        conns4_max: share(config.connections.ipv4_max, count),
        conns6_max: share(config.connections.ipv6_max, count),
        local_port_rest_ms: config.connections.local_port_rest_sec * 1_000,
        secret,
        seed: u64::from_be_bytes(seed),
    })
}

/// Milliseconds since midnight UTC. Only packets with a timestamp option ask; the vDSO answers where the kernel's clock
/// source allows it.
fn time_of_day_ms() -> u32 {
    const DAY_MS: u128 = 86_400_000;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since_epoch.as_millis() % DAY_MS) as u32
}

/// The capacity of one worker; where connections are kept, a part of their layout. A hash assigns clients to owners unevenly, so each worker gets a little more than its part.
pub(super) fn share(capacity: u32, workers: u8) -> usize {
    let part = capacity as usize / usize::from(workers);
    if workers == 1 { part } else { part + part / 8 + 64 }
}

/// The management core's handles of all workers.
pub fn handles(
    environment: &Environment,
    mailboxes: Vec<Arc<Mailbox>>,
    counters: &Arc<[Arc<WorkerCounters>]>,
) -> Vec<Arc<MailboxHandle>> {
    let ends = mailboxes.into_iter().zip(counters.iter()).zip(&environment.worker_cpus);
    ends.map(|((mailbox, counters), cpu)| {
        Arc::new(MailboxHandle::new(
            mailbox,
            Arc::clone(counters),
            Some(u32::from(*cpu)),
            environment.clock.hz(),
        ))
    })
    .collect()
}

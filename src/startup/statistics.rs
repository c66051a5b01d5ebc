//! Where workers count: in memory that outlives the process, with the statistics of an earlier process going on.
//!
//! In:  the state directory, the configuration. Out: each worker's counters, and a director that knows what was counted.
//! Never: refuses to start. Without memory for them, statistics begin anew and a sentence in the log says why.

use std::convert::Infallible;
use std::sync::Arc;

use lvs_core::arena::ArenaSlice;
use lvs_core::config::Config;
use lvs_core::counters::{ServerCounters, WorkerCounters, earlier_servers, servers_bytes};
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::stats::Totals;
use lvs_core::limits::REAL_SERVERS_MAX;
use lvs_core::single_writer::SingleWriter;
use serde::{Deserialize, Serialize};

use super::StartError;
use super::nodes::Nodes;
use super::state_directory::StateDirectory;
use crate::dpdk::memory::{self, Preference};
use crate::mgmt::director::Director;
use crate::mgmt::director::counts::KeptCounts;

/// Bytes of a worker's file.
const COUNTERS_BYTES: usize = servers_bytes(REAL_SERVERS_MAX);

/// The text of the file `counts`.
#[derive(Serialize, Deserialize)]
struct Kept<Counts> {
    /// Whose counters they were taken from.
    run: u64,
    /// How many workers counted.
    workers: usize,
    counts: Counts,
}

/// What an earlier process left.
struct Earlier {
    kept: Kept<KeptCounts>,
    /// By worker; none if one of them is missing or damaged.
    counters: Vec<ArenaSlice<ServerCounters>>,
}

/// One set of counters per worker, on its NUMA node. If there is a state directory they outlive the process, and the
/// director goes on with the statistics of an earlier one.
pub fn resume(
    directory: Option<&Arc<StateDirectory>>,
    config: &Config,
    nodes: &Nodes,
    director: &mut Director,
) -> Arc<[Arc<WorkerCounters>]> {
    if let Some(directory) = directory {
        match keep(directory, config, nodes, director) {
            Ok(counters) => return counters,
            Err(error) => log::warn!("statistics will not outlive lvsd: {error}"),
        }
        if let Err(error) = directory.forget_counts() {
            log::warn!("what is kept of statistics could not be given back: {error}");
        }
    }
    let Ok(counters) = on_nodes(config, nodes, |_| {
        Ok::<_, Infallible>(WorkerCounters::new(REAL_SERVERS_MAX))
    });
    counters
}

fn keep(
    directory: &Arc<StateDirectory>,
    config: &Config,
    nodes: &Nodes,
    director: &mut Director,
) -> Result<Arc<[Arc<WorkerCounters>]>, StartError> {
    let earlier = Earlier::read(directory)?;
    let earlier_run = earlier.as_ref().map(|earlier| earlier.kept.run);
    directory.forget_counters_but(earlier_run)?;
    let run = earlier_run.map_or(1, |run| run.wrapping_add(1));
    let counters = on_nodes(config, nodes, |worker| {
        let file = directory.new_counters(run, worker, COUNTERS_BYTES)?;
        let mut arena = memory::arena_of_file(&file, COUNTERS_BYTES)
            .map_err(StartError::io("map the memory of a worker's statistics"))?;
        Ok::<_, StartError>(WorkerCounters::counting_in(arena.carve(REAL_SERVERS_MAX)?))
    })?;
    if let Some(earlier) = &earlier {
        let same = director.resume_counts(&earlier.kept.counts, |id| earlier.totals(id));
        let overloaded = same.into_iter().filter(|(before, _)| earlier.is_overloaded(*before));
        for (_, now) in overloaded {
            counters.iter().for_each(|worker| worker.server(now).overloaded.set(1));
        }
    }
    let (directory, workers) = (Arc::clone(directory), counters.len());
    director.store_counts_with(Box::new(move |counts| {
        let stored = serde_json::to_vec(&Kept { run, workers, counts })?;
        let written = directory.write_counts(&stored);
        written
            .and_then(|()| directory.forget_counters_but(Some(run)))
            .map_err(std::io::Error::other)
    }));
    Ok(counters)
}

/// Makes each worker's counters with memory of that worker's node.
fn on_nodes<Error>(
    config: &Config,
    nodes: &Nodes,
    make: impl Fn(usize) -> Result<WorkerCounters, Error>,
) -> Result<Arc<[Arc<WorkerCounters>]>, Error> {
    let of_worker = |worker| {
        let _preference = Preference::of(nodes.workers.get(worker).copied().flatten());
        make(worker).map(Arc::new)
    };
    (0..usize::from(config.workers.count)).map(of_worker).collect()
}

impl Earlier {
    /// `None` if nothing is there, or nothing that can be used.
    fn read(directory: &StateDirectory) -> Result<Option<Self>, StartError> {
        let Some(text) = directory.counts()? else {
            return Ok(None);
        };
        let kept: Kept<KeptCounts> = match serde_json::from_slice(&text) {
            Ok(kept) => kept,
            Err(error) => {
                log::warn!("statistics of the lvsd before are lost: its file of them cannot be read: {error}");
                return Ok(None);
            }
        };
        let files = directory.counters(kept.run, COUNTERS_BYTES as u64)?;
        let whole = files.iter().map(|bytes| earlier_servers(bytes, REAL_SERVERS_MAX));
        let mut counters: Vec<_> = whole.flatten().collect();
        if counters.len() != kept.workers {
            log::warn!(
                "statistics of the lvsd before go on from when services last changed: the memory in which its workers counted \
                 is missing, damaged, or of another version"
            );
            counters.clear();
        }
        Ok(Some(Self { kept, counters }))
    }

    /// What was counted of a server by its slot; `None` if nobody knows.
    fn totals(&self, id: RealServerId) -> Option<Totals> {
        let of_workers = self.counters.iter().map(|worker| worker.at(id.0 as usize).totals());
        of_workers.reduce(Totals::plus)
    }

    fn is_overloaded(&self, id: RealServerId) -> bool {
        let mut workers = self.counters.iter();
        workers.any(|worker| worker.at(id.0 as usize).overloaded.get() != 0)
    }
}

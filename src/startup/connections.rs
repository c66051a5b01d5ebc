//! Where the workers' connections lie: in files that outlive the process, with those of an earlier process in them.
//!
//! In:  the configuration, DPDK's environment, what the workers will be like. Out: each worker's state.
//! Side by side, each on its worker's CPU: with a million connections most of a restart's gap is this.
//! Never: starts with connections that some other machine, boot, shape or key belongs to; a sentence in the log says why.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use lvs_core::arena::{ArenaError, LAYOUT_VERSION};
use lvs_core::config::Config;
use lvs_core::counters::WorkerCounters;
use lvs_core::ipvs::conn::table::Recovery;
use lvs_core::rss::KEY_LEN;
use lvs_core::snapshot::Snapshot;
use lvs_core::tick::Tick;
use lvs_core::worker_state::{WorkerSettings, WorkerState};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::environment::Environment;
use super::state_directory::header::{Header, Secrets, Shape, words};
use super::state_directory::{Earlier, Found, StateDirectory, empty};
use super::{StartError, random_bytes};
use crate::dpdk::memory::{self, Preference};

/// What an earlier process left, and where this one leaves its own. The directory is locked as long as this lives.
#[derive(Debug)]
pub struct KeptConnections {
    directory: Option<Arc<StateDirectory>>,
    earlier: Option<Header>,
    secrets: Secrets,
}

/// What the workers are to be made with.
pub struct Workers<'a> {
    /// DPDK's environment.
    pub environment: &'a Environment,
    /// By worker.
    pub settings: Vec<WorkerSettings>,
    /// By worker.
    pub counters: &'a Arc<[Arc<WorkerCounters>]>,
    /// The first snapshot.
    pub snapshot: &'a Arc<Snapshot>,
}

impl KeptConnections {
    /// Opens the directory that the configuration names, if connections are to be kept, and reads what is there. If they
    /// are not to be kept any more, it gives back what is there.
    ///
    /// # Errors
    /// Another lvsd has the directory, or somebody else may have written it, or the system refuses.
    pub fn open(config: &Config, hugepages: bool) -> Result<Self, StartError> {
        let path = &config.connections.state_dir;
        if !config.connections.keep {
            give_back(path);
            return Self::of(None, None);
        }
        let directory = StateDirectory::open(path, hugepages)?;
        if hugepages && directory.memory() == path {
            log::warn!(
                "connections will not outlive lvsd: there are hugepages and no hugetlbfs is mounted; \
                 mount -t hugetlbfs none /dev/hugepages"
            );
            directory.wipe()?;
            return Self::of(None, None);
        }
        let earlier = match directory.earlier()? {
            Earlier::Nothing => None,
            Earlier::Unusable(why) => {
                log_lost(&why);
                None
            }
            Earlier::Header(header) => Some(header),
        };
        Self::of(Some(Arc::new(directory)), earlier)
    }

    fn of(directory: Option<Arc<StateDirectory>>, earlier: Option<Header>) -> Result<Self, StartError> {
        let secrets = match &earlier {
            Some(header) => header.secrets.clone(),
            None => random_secrets().map_err(StartError::io("read randomness"))?,
        };
        Ok(Self {
            directory,
            earlier,
            secrets,
        })
    }

    /// The directory, if connections are kept.
    pub const fn directory(&self) -> Option<&Arc<StateDirectory>> {
        self.directory.as_ref()
    }

    /// The key of the connection hash, of owners and of local ports. It stays the same as long as the connections do.
    pub const fn secret(&self) -> [u64; 4] {
        self.secrets.connections
    }

    /// The key by which devices distribute flows. It stays the same too.
    pub const fn rss_key(&self) -> [u8; KEY_LEN] {
        self.secrets.rss_key
    }

    /// Every worker's state, with the connections of an earlier process if it was of the same boot and `shape`. From now on
    /// connections outlive this process; where that cannot be, the log says why.
    ///
    /// # Errors
    /// There is no memory for the tables.
    pub fn workers(&mut self, workers: &Workers<'_>, shape: &Shape) -> Result<Vec<WorkerState>, StartError> {
        let is_kept = self
            .earlier
            .take()
            .is_some_and(|header| match header.difference(shape) {
                None => true,
                Some(why) => {
                    log_lost(&why);
                    false
                }
            });
        let Some(directory) = &self.directory else {
            return make_all(workers, None);
        };
        if !is_kept {
            directory.wipe()?;
        }
        let began = Instant::now();
        match Files::open(directory, workers, is_kept).and_then(|files| make_all(workers, Some(&files))) {
            Ok(states) if is_kept => {
                log::debug!("connections recovered in {} ms", began.elapsed().as_millis());
                Ok(states)
            }
            Ok(states) => {
                match directory.commit(shape, &self.secrets) {
                    Err(error) => log::warn!("connections will not outlive lvsd: {error}"),
                    Ok(()) => log::info!("connections outlive lvsd, in {}", directory.memory().display()),
                }
                Ok(states)
            }
            Err(StartError::NoSpaceToKeep { path, mb }) => {
                log::warn!(
                    "connections will not outlive lvsd: {} has no {mb} MiB for a worker's; give it more, or lower ipv4_max \
                     and ipv6_max",
                    path.display()
                );
                directory.wipe()?;
                self.directory = None;
                make_all(workers, None)
            }
            Err(error) => Err(error),
        }
    }
}

/// What the memory of the workers depends on.
pub fn shape(config: &Config, kept: &KeptConnections, settings: &WorkerSettings, by_rss: bool) -> Shape {
    let connections = &config.connections;
    let memory = kept
        .directory
        .as_ref()
        .map_or(Path::new(""), |directory| directory.memory());
    Shape::new([
        ("boot", boot_id()),
        ("layout", LAYOUT_VERSION.to_string()),
        ("memory", memory.display().to_string()),
        ("workers", config.workers.count.to_string()),
        ("ipv4_max", connections.ipv4_max.to_string()),
        ("ipv6_max", connections.ipv6_max.to_string()),
        ("resting_ports", (connections.local_port_rest_sec != 0).to_string()),
        ("bytes", WorkerState::arena_bytes(settings).to_string()),
        ("distributor", if by_rss { "rss" } else { "workers" }.to_owned()),
    ])
}

/// The workers' files.
struct Files<'a> {
    directory: &'a StateDirectory,
    /// By worker.
    files: Vec<(File, Found)>,
    /// Whether they should have an earlier process's connections.
    is_kept: bool,
}

impl<'a> Files<'a> {
    fn open(directory: &'a StateDirectory, workers: &Workers<'_>, is_kept: bool) -> Result<Self, StartError> {
        let open = |(number, settings)| directory.worker_file(number, WorkerState::arena_bytes(settings));
        let files = workers
            .settings
            .iter()
            .enumerate()
            .map(open)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            directory,
            files,
            is_kept,
        })
    }
}

/// Makes all workers' states side by side, each on its worker's CPU and with memory of that CPU's node.
fn make_all(workers: &Workers<'_>, files: Option<&Files<'_>>) -> Result<Vec<WorkerState>, StartError> {
    let now = workers.environment.clock.now();
    let made: Vec<Result<(WorkerState, Recovery), StartError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers.settings.len())
            .map(|number| scope.spawn(move || make(workers, number, files, now)))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    let mut all = Recovery::default();
    let mut states = Vec::with_capacity(made.len());
    for made in made {
        let (state, recovery) = made?;
        all.kept += recovery.kept;
        all.torn += recovery.torn;
        all.refused += recovery.refused;
        states.push(state);
    }
    if files.is_some_and(|files| files.is_kept) {
        log::info!("connections of the lvsd before: {} go on", all.kept);
        if all.torn + all.refused > 0 {
            log::warn!(
                "connections of the lvsd before: {} are lost with damaged records, {} because nobody knows their server",
                all.torn,
                all.refused
            );
        }
        states.iter().for_each(WorkerState::publish_recovered);
    }
    Ok(states)
}

fn make(
    workers: &Workers<'_>,
    number: usize,
    files: Option<&Files<'_>>,
    now: Tick,
) -> Result<(WorkerState, Recovery), StartError> {
    let environment = workers.environment;
    run_on(environment.worker_cpus.get(number).copied());
    let node = environment.nodes.workers.get(number).copied().flatten();
    let _preference = Preference::of(node);
    let (Some(settings), Some(own)) = (workers.settings.get(number), workers.counters.get(number)) else {
        return Err(ArenaError::CountOutOfRange(number).into());
    };
    let len = WorkerState::arena_bytes(settings);
    let parts = || {
        let (snapshot, counters) = (Arc::clone(workers.snapshot), Arc::clone(workers.counters));
        (settings.clone(), snapshot, counters, Arc::clone(own))
    };
    let new = |arena: &mut _| {
        let (settings, snapshot, counters, own) = parts();
        WorkerState::new(settings, arena, snapshot, counters, own).map(|state| (state, Recovery::default()))
    };
    let Some((files, (file, found))) = files.and_then(|files| Some((files, files.files.get(number)?))) else {
        return Ok(new(&mut memory::arena(&environment.eal, len, node)?)?);
    };
    let map = || {
        memory::arena_of_file(file, len).map_err(|source| match source.kind() {
            std::io::ErrorKind::StorageFull => StartError::NoSpaceToKeep {
                path: files.directory.memory().to_owned(),
                mb: len.div_ceil(1 << 20),
            },
            _ => StartError::io("map the memory of a worker's connections")(source),
        })
    };
    let mut arena = map()?;
    if *found == Found::Whole && arena.is_recovered() {
        let (settings, snapshot, counters, own) = parts();
        match WorkerState::recover(settings, &mut arena, now, snapshot, counters, own) {
            Ok(recovered) => return Ok(recovered),
            Err(ArenaError::OtherLayout) => {}
            Err(other) => return Err(other.into()),
        }
    }
    if files.is_kept {
        let what = match found {
            Found::Missing => "is missing".to_owned(),
            Found::OfLength(bytes) => format!("had {bytes} bytes"),
            Found::Whole => "is damaged, or belongs to another director or worker".to_owned(),
        };
        log_lost(&format!("the file of worker {number} {what}"));
    }
    if *found == Found::Whole {
        let file_len = file.metadata().map_or(0, |found| found.len());
        empty(file, file_len).map_err(StartError::io("empty the memory of a worker's connections"))?;
        arena = map()?;
    }
    Ok(new(&mut arena)?)
}

/// Gives back what an earlier process kept in the directory, if that can be done.
fn give_back(path: &Path) {
    let removed = StateDirectory::open_existing(path).and_then(|found| match found {
        Some(directory) => directory.remove().map(|()| true),
        None => Ok(false),
    });
    match removed {
        Ok(true) => log::info!(
            "connections are not kept: the memory in {} was given back",
            path.display()
        ),
        Ok(false) => {}
        Err(error) => log::warn!("connections are not kept, but what is there could not be given back: {error}"),
    }
}

fn log_lost(why: &str) {
    log::warn!("connections of the lvsd before are lost: {why}");
}

/// Lets this thread run where the worker will. A failure costs time only.
fn run_on(cpu: Option<u16>) {
    let mut alone = CpuSet::new();
    if cpu.is_some_and(|cpu| alone.set(usize::from(cpu)).is_ok()) {
        let _ = sched_setaffinity(Pid::from_raw(0), &alone);
    }
}

/// It differs from one boot of the machine to the next (random(4)).
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Nobody outside can know them.
fn random_secrets() -> std::io::Result<Secrets> {
    Ok(Secrets {
        connections: words(&random_bytes()?),
        rss_key: random_bytes()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secrets_are_not_constant() {
        let (one, other) = (random_secrets().unwrap(), random_secrets().unwrap());
        assert!(one.connections != other.connections && one.rss_key != other.rss_key);
    }
}

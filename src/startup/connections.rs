//! Where the workers' connections lie: in files that outlive the process, with those of an earlier process in them.
//!
//! In:  the configuration, DPDK's environment, what the workers will be like. Out: each worker's state.
//! Side by side, each on its worker's CPU: with a million connections most of a restart's gap is this.
//! Connections of an earlier process of another shape are re-homed ([`rehoming`]).
//! Never: starts with connections that some other machine, boot or key belongs to; a sentence in the log says why.

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use lvs_api::{RestartStatus, TakenOver};
use lvs_core::arena::{Arena, ArenaError, LAYOUT_VERSION};
use lvs_core::config::Config;
use lvs_core::counters::WorkerCounters;
use lvs_core::former::Plan;
use lvs_core::ipvs::conn::table::Recovery;
use lvs_core::rss::{KEY_LEN, RssHash};
use lvs_core::snapshot::Snapshot;
use lvs_core::tick::Tick;
use lvs_core::worker_state::{WorkerSettings, WorkerState};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

mod rehoming;

use self::rehoming::{FormerFiles, FormerLvsd};
use super::environment::Environment;
use super::state_directory::header::{FileSet, Header, Secrets, Shape, words};
use super::state_directory::{Earlier, Found, StateDirectory, empty};
use super::{Stages, StartError, random_bytes};
use crate::dpdk::memory::{self, Preference};
use crate::mgmt::admin::KeptState;

/// The name of the boot in a [`Shape`], the only thing that has to be the same.
const BOOT: &str = "boot";

/// The name of the length of a worker's memory.
const BYTES: &str = "bytes";

/// What an earlier process left, and where this one leaves its own. The directory is locked as long as this lives.
#[derive(Debug)]
pub struct KeptConnections {
    directory: Option<Arc<StateDirectory>>,
    earlier: Option<Header>,
    secrets: Secrets,
    taken_over: Option<TakenOver>,
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
    /// The RSS hash that all devices follow, if they do.
    pub rss: Option<&'a RssHash>,
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
            taken_over: None,
        })
    }

    /// The directory, if connections are kept.
    pub const fn directory(&self) -> Option<&Arc<StateDirectory>> {
        self.directory.as_ref()
    }

    /// For the API, after a start that took these stages. Call it after [`Self::workers`].
    pub fn for_api(&self, stages: &Stages) -> KeptState {
        let directory = self.directory.clone();
        let status = RestartStatus {
            kept_in: self
                .directory()
                .map(|directory| directory.memory().display().to_string()),
            taken_over: self.taken_over,
            stages: stages.listed(),
        };
        KeptState {
            status: Mutex::new(status),
            give_up: Box::new(move || {
                let given_up = directory.as_ref().map_or(Ok(()), |directory| directory.unlink());
                given_up.map_err(|error| error.to_string())
            }),
        }
    }

    /// The key of the connection hash, of owners and of local ports. It stays the same as long as the connections do.
    pub const fn secret(&self) -> [u64; 4] {
        self.secrets.connections
    }

    /// The key by which devices distribute flows. It stays the same too.
    pub const fn rss_key(&self) -> [u8; KEY_LEN] {
        self.secrets.rss_key
    }

    /// Every worker's state, with the connections of an earlier process if it was of the same boot. If it was of another
    /// `shape`, they are re-homed. From now on connections outlive this process; where that cannot be, the log says why.
    ///
    /// # Errors
    /// There is no memory for the tables, or the files of the earlier process are somebody else's.
    pub fn workers(&mut self, workers: &Workers<'_>, shape: &Shape) -> Result<Vec<WorkerState>, StartError> {
        let made = self.make(workers, shape)?;
        self.taken_over = made.taken_over;
        Ok(made.states)
    }

    fn make(&mut self, workers: &Workers<'_>, shape: &Shape) -> Result<Made, StartError> {
        let earlier = self.earlier.take();
        let Some(directory) = &self.directory else {
            return make_all(workers, None, Before::Nothing);
        };
        let Some(header) = earlier else {
            return self.begin(workers, shape);
        };
        if header.differences(shape).is_empty() {
            // What a re-homing that was ended left.
            if let Err(error) = directory.clear(&[header.files.other()]) {
                log::warn!("memory of connections that nobody needs could not be given back: {error}");
            }
            let began = Instant::now();
            let files = Files::open(directory, workers, header.files)?;
            let made = make_all(workers, Some(&files), Before::Same)?;
            log::debug!("connections recovered in {} ms", began.elapsed().as_millis());
            return Ok(made);
        }
        let is_there = |former: &FormerLvsd| match directory.is_memory(&former.memory) {
            true => Ok(()),
            false => Err(format!(
                "memory was {}, which is not there any more",
                former.memory.display()
            )),
        };
        match FormerLvsd::of(&header, shape).and_then(|former| is_there(&former).map(|()| former)) {
            Ok(former) => {
                let mut why = header.differences(shape);
                // Follows from the others.
                let is_cause = |difference: &String| !difference.starts_with(BYTES);
                if why.iter().any(is_cause) {
                    why.retain(is_cause);
                }
                self.rehome(workers, shape, &former, &why.join(", "))
            }
            Err(why) => {
                log_lost(&why);
                self.begin(workers, shape)
            }
        }
    }

    /// Without connections of an earlier process.
    fn begin(&mut self, workers: &Workers<'_>, shape: &Shape) -> Result<Made, StartError> {
        if let Some(directory) = &self.directory {
            directory.wipe()?;
        }
        match self.make_in_files(workers, FileSet::A, Before::Nothing) {
            Err(StartError::NoSpaceToKeep { path, mb }) => {
                self.keep_no_more(&path, mb)?;
                make_all(workers, None, Before::Nothing)
            }
            Err(error) => Err(error),
            Ok(made) => {
                self.commit(shape, FileSet::A)?;
                Ok(made)
            }
        }
    }

    /// With those of a `former` lvsd whose shape was another. Its files are whole until the header names the new ones.
    fn rehome(
        &mut self,
        workers: &Workers<'_>,
        shape: &Shape,
        former: &FormerLvsd,
        why: &str,
    ) -> Result<Made, StartError> {
        let Some(directory) = &self.directory else {
            return make_all(workers, None, Before::Nothing);
        };
        let began = Instant::now();
        let now = workers.environment.clock.now();
        directory.clear(&[former.files.other()])?;
        let mut files = FormerFiles::open(directory, former)?;
        let with_files = |kept: &Self, files: &FormerFiles<'_>, set| {
            let former_workers = files.workers();
            let plan = rehoming::plan(&former_workers, workers, now);
            let made = match set {
                Some(set) => kept.make_in_files(workers, set, Before::Other(&plan)),
                None => make_all(workers, None, Before::Other(&plan)),
            };
            made.inspect(|_| log_rehomed(&plan, why, began))
        };
        let made = match with_files(self, &files, Some(former.files.other())) {
            Err(StartError::NoSpaceToKeep { path, .. }) => {
                log::info!(
                    "{} has no space for two sets of tables: connections of the lvsd before are copied meanwhile, and \
                     would be lost if lvsd were killed now",
                    path.display()
                );
                files = files.copied();
                directory.wipe()?;
                with_files(self, &files, Some(former.files.other()))
            }
            made => made,
        };
        let made = match made {
            Err(StartError::NoSpaceToKeep { path, mb }) => {
                self.keep_no_more(&path, mb)?;
                return with_files(self, &files, None);
            }
            made => made?,
        };
        self.commit(shape, former.files.other())?;
        drop(files);
        if let Some(directory) = &self.directory {
            directory.clear(&[former.files])?;
        }
        Ok(made)
    }

    fn make_in_files(&self, workers: &Workers<'_>, set: FileSet, before: Before<'_>) -> Result<Made, StartError> {
        match &self.directory {
            Some(directory) => make_all(workers, Some(&Files::open(directory, workers, set)?), before),
            None => make_all(workers, None, before),
        }
    }

    /// From now on connections outlive this process, if the system agrees.
    fn commit(&self, shape: &Shape, files: FileSet) -> Result<(), StartError> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        match directory.commit(shape, &self.secrets, files) {
            Ok(()) => log::info!("connections outlive lvsd, in {}", directory.memory().display()),
            Err(error) => {
                log::warn!("connections will not outlive lvsd: {error}");
                // Those of the lvsd before would come back as they were now.
                directory.forget()?;
            }
        }
        Ok(())
    }

    fn keep_no_more(&mut self, path: &Path, mb: usize) -> Result<(), StartError> {
        log::warn!(
            "connections will not outlive lvsd: {} has no {mb} MiB for a worker's; give it more, or lower ipv4_max \
             and ipv6_max",
            path.display()
        );
        self.directory.take().map_or(Ok(()), |directory| Ok(directory.wipe()?))
    }
}

fn log_rehomed(plan: &Plan<'_, '_>, why: &str, began: Instant) {
    log::info!(
        "connections of the lvsd before were led to other workers or tables in {} ms, because {why}",
        began.elapsed().as_millis()
    );
    if plan.no_space > 0 {
        log::warn!(
            "connections of the lvsd before: {} are lost because the tables have no space for them: those that had been \
             quiet for longest; raise ipv4_max and ipv6_max",
            plan.no_space
        );
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
        (BOOT, boot_id()),
        ("layout", LAYOUT_VERSION.to_string()),
        ("memory", memory.display().to_string()),
        ("workers", config.workers.count.to_string()),
        ("ipv4_max", connections.ipv4_max.to_string()),
        ("ipv6_max", connections.ipv6_max.to_string()),
        ("resting_ports", (connections.local_port_rest_sec != 0).to_string()),
        (BYTES, WorkerState::arena_bytes(settings).to_string()),
        ("distributor", if by_rss { "rss" } else { "workers" }.to_owned()),
    ])
}

/// The workers' files.
struct Files<'a> {
    directory: &'a StateDirectory,
    /// By worker.
    files: Vec<(File, Found)>,
}

/// All workers' states, and what became of the connections of an earlier process.
struct Made {
    states: Vec<WorkerState>,
    taken_over: Option<TakenOver>,
}

/// What the workers go on with.
#[derive(Clone, Copy)]
enum Before<'p> {
    /// Nothing.
    Nothing,
    /// The connections in their files.
    Same,
    /// Connections of an lvsd of another shape.
    Other(&'p Plan<'p, 'p>),
}

impl<'a> Files<'a> {
    fn open(directory: &'a StateDirectory, workers: &Workers<'_>, set: FileSet) -> Result<Self, StartError> {
        let open = |(number, settings)| directory.worker_file(set, number, WorkerState::arena_bytes(settings));
        let files = workers
            .settings
            .iter()
            .enumerate()
            .map(open)
            .collect::<Result<_, _>>()?;
        Ok(Self { directory, files })
    }
}

/// Does something for each worker, side by side, each on its worker's CPU and with memory of that CPU's node.
fn on_all<T: Send>(
    workers: &Workers<'_>,
    what: impl Fn(usize) -> Result<T, StartError> + Sync,
) -> Result<Vec<T>, StartError> {
    let environment = workers.environment;
    let on = |number: usize| {
        run_on(environment.worker_cpus.get(number).copied());
        let _preference = Preference::of(environment.nodes.workers.get(number).copied().flatten());
        what(number)
    };
    std::thread::scope(|scope| {
        let on = &on;
        let threads: Vec<_> = (0..workers.settings.len())
            .map(|number| scope.spawn(move || on(number)))
            .collect();
        threads.into_iter().map(joined).collect()
    })
}

/// Makes all workers' states. Nothing is counted before there is memory for all of them.
fn make_all(workers: &Workers<'_>, files: Option<&Files<'_>>, before: Before<'_>) -> Result<Made, StartError> {
    let now = workers.environment.clock.now();
    let arenas = on_all(workers, |number| Ok(Mutex::new(Some(arena(workers, number, files)?))))?;
    let made = on_all(workers, |number| {
        let arena = arenas.get(number).and_then(|arena| arena.lock().ok()?.take());
        let arena = arena.ok_or(ArenaError::CountOutOfRange(number))?;
        make(workers, (number, arena), (files, before), now)
    })?;
    let mut all = Recovery::default();
    let mut states = Vec::with_capacity(made.len());
    for (state, recovery) in made {
        all += recovery;
        states.push(state);
    }
    let (torn, no_space) = match before {
        Before::Nothing => {
            return Ok(Made {
                states,
                taken_over: None,
            });
        }
        Before::Same => (all.torn, 0),
        Before::Other(plan) => (all.torn + plan.torn, plan.no_space),
    };
    log::info!("connections of the lvsd before: {} go on", all.kept);
    if torn + all.refused > 0 {
        log::warn!(
            "connections of the lvsd before: {torn} are lost with damaged records, {} because nobody knows their server",
            all.refused
        );
    }
    states.iter().for_each(WorkerState::publish_recovered);
    let taken_over = TakenOver {
        connections: all.kept as u64,
        damaged: torn as u64,
        without_server: all.refused as u64,
        without_space: no_space as u64,
    };
    Ok(Made {
        states,
        taken_over: Some(taken_over),
    })
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The memory of a worker: its file's, if there are files.
fn arena(workers: &Workers<'_>, number: usize, files: Option<&Files<'_>>) -> Result<Arena, StartError> {
    let environment = workers.environment;
    let settings = workers
        .settings
        .get(number)
        .ok_or(ArenaError::CountOutOfRange(number))?;
    let len = WorkerState::arena_bytes(settings);
    let Some((files, (file, _))) = files.and_then(|files| Some((files, files.files.get(number)?))) else {
        let node = environment.nodes.workers.get(number).copied().flatten();
        return Ok(memory::arena(&environment.eal, len, node)?);
    };
    memory::arena_of_file(file, len).map_err(|source| match source.kind() {
        std::io::ErrorKind::StorageFull => StartError::NoSpaceToKeep {
            path: files.directory.memory().to_owned(),
            mb: len.div_ceil(1 << 20),
        },
        _ => StartError::io("map the memory of a worker's connections")(source),
    })
}

fn make(
    workers: &Workers<'_>,
    (number, mut arena): (usize, Arena),
    (files, before): (Option<&Files<'_>>, Before<'_>),
    now: Tick,
) -> Result<(WorkerState, Recovery), StartError> {
    let (Some(settings), Some(own)) = (workers.settings.get(number), workers.counters.get(number)) else {
        return Err(ArenaError::CountOutOfRange(number).into());
    };
    let parts = || {
        let (snapshot, counters) = (Arc::clone(workers.snapshot), Arc::clone(workers.counters));
        (settings.clone(), snapshot, counters, Arc::clone(own))
    };
    let (settings, snapshot, counters, own) = parts();
    if let Before::Other(plan) = before {
        return Ok(WorkerState::rehome(
            settings, &mut arena, now, snapshot, counters, own, plan,
        )?);
    }
    let own_file = files.and_then(|files| files.files.get(number));
    if let (Before::Same, Some((file, found))) = (before, own_file) {
        if *found == Found::Whole && arena.is_recovered() {
            match WorkerState::recover(settings, &mut arena, now, snapshot, counters, own) {
                Ok(recovered) => return Ok(recovered),
                Err(ArenaError::OtherLayout) => {}
                Err(other) => return Err(other.into()),
            }
        }
        let what = match found {
            Found::Missing => "is missing".to_owned(),
            Found::OfLength(bytes) => format!("had {bytes} bytes"),
            Found::Whole => "is damaged, or belongs to another director or worker".to_owned(),
        };
        log_lost(&format!("the file of worker {number} {what}"));
        let file_len = file.metadata().map_or(0, |found| found.len());
        empty(file, file_len).map_err(StartError::io("empty the memory of a worker's connections"))?;
        arena = self::arena(workers, number, files)?;
    }
    let (settings, snapshot, counters, own) = parts();
    let state = WorkerState::new(settings, &mut arena, snapshot, counters, own)?;
    Ok((state, Recovery::default()))
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

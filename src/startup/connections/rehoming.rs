//! Connections of an lvsd of another shape: other workers, tables, devices, or another layout.
//!
//! In:  the header and the files of the lvsd before. Out: which of the present workers gets which connection.
//! The files are only read. They are whole until the header names the present ones, so that a start that is ended at any
//! moment is begun again by the next one.

use std::path::PathBuf;

use lvs_core::former::{FormerWorker, LAYOUTS, Plan, Spreading, Survey};
use lvs_core::limits::WORKERS_MAX;
use lvs_core::tick::Tick;
use lvs_core::verdict::WorkerId;
use lvs_core::worker_state::WorkerSettings;

use super::{BOOT, Workers, log_lost, run_on};
use crate::dpdk::memory::MappedFile;
use crate::startup::StartError;
use crate::startup::state_directory::StateDirectory;
use crate::startup::state_directory::header::{FileSet, Header, Shape};
use crate::startup::workers::share;

/// Bytes that are looked at together when memory is copied.
const BLOCK: usize = 4_096;

/// The lvsd before, as its header says.
pub(super) struct FormerLvsd {
    layout: u32,
    /// Where its workers' files lie.
    pub(super) memory: PathBuf,
    pub(super) files: FileSet,
    /// By worker.
    settings: Vec<WorkerSettings>,
}

impl FormerLvsd {
    /// What `header` says, if a process of `shape` can go on with its connections.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn of(header: &Header, shape: &Shape) -> Result<Self, String> {
        let former = &header.shape;
        if former.value(BOOT) != shape.value(BOOT) {
            return Err(header.differences(shape).swap_remove(0));
        }
        let value = |name: &str| {
            let unknown = || format!("it is of another version, which did not know \"{name}\"");
            former.value(name).ok_or_else(unknown)
        };
        let number = |name: &str| {
            let value = value(name)?;
            let no_number = || format!("{name} was {value}, which is no number");
            value.parse::<u32>().map_err(|_| no_number())
        };
        let layout = number("layout")?;
        if !LAYOUTS.contains(&layout) {
            let present = shape.value("layout").unwrap_or_default();
            return Err(format!(
                "layout was {layout} and is {present}, and this version cannot read it"
            ));
        }
        let workers = number("workers")?;
        let count = u8::try_from(workers)
            .ok()
            .filter(|count| (1..=WORKERS_MAX).contains(&usize::from(*count)));
        let count = count.ok_or_else(|| format!("workers was {workers}, which cannot be"))?;
        let (ipv4_max, ipv6_max) = (number("ipv4_max")?, number("ipv6_max")?);
        let rest_ms = u32::from(value("resting_ports")? == "true");
        let settings = |id| WorkerSettings {
            id: WorkerId(id),
            workers_count: count,
            conns4_max: share(ipv4_max, count),
            conns6_max: share(ipv6_max, count),
            local_port_rest_ms: rest_ms,
            secret: header.secrets.connections,
            seed: 0,
        };
        Ok(Self {
            layout,
            memory: PathBuf::from(value("memory")?),
            files: header.files,
            settings: (0..count).map(settings).collect(),
        })
    }
}

/// Its files.
pub(super) struct FormerFiles<'l> {
    lvsd: &'l FormerLvsd,
    /// By worker; `None` where there is nothing to be believed.
    memory: Vec<Option<Memory>>,
}

enum Memory {
    Mapped(MappedFile),
    Copied(Vec<u8>),
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file.bytes(),
            Self::Copied(bytes) => bytes,
        }
    }
}

impl<'l> FormerFiles<'l> {
    /// Opens them. The log says which of them cannot be used.
    ///
    /// # Errors
    /// The directory or a file is not lvsd's any more, or the system refuses.
    pub(super) fn open(directory: &StateDirectory, lvsd: &'l FormerLvsd) -> Result<Self, StartError> {
        let files = directory.former_files(&lvsd.memory, lvsd.files, lvsd.settings.len())?;
        let mut memory = Vec::with_capacity(files.len());
        for (number, file) in files.into_iter().enumerate() {
            let lost = |what: &str| log_lost(&format!("the file of worker {number} {what}"));
            let Some(file) = file else {
                lost("is missing");
                memory.push(None);
                continue;
            };
            let len = file.metadata().map_err(StartError::io("look at connections"))?.len();
            if len == 0 {
                lost("had 0 bytes");
                memory.push(None);
                continue;
            }
            let mapped = MappedFile::of(&file).map_err(StartError::io("map the connections of the lvsd before"))?;
            let is_believed = read(lvsd, number, mapped.bytes()).is_some();
            if !is_believed {
                lost(&format!(
                    "has {len} bytes and is damaged, or belongs to another director or worker"
                ));
            }
            memory.push(is_believed.then_some(Memory::Mapped(mapped)));
        }
        Ok(Self { lvsd, memory })
    }

    /// The same in ordinary memory, without the files. What was never used takes none.
    pub(super) fn copied(self) -> Self {
        let copy = |memory: Memory| {
            let bytes = memory.bytes();
            let mut copy = vec![0; bytes.len()];
            for (to, from) in copy.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK)) {
                if from.iter().any(|byte| *byte != 0) {
                    to.copy_from_slice(from);
                }
            }
            Memory::Copied(copy)
        };
        Self {
            lvsd: self.lvsd,
            memory: self.memory.into_iter().map(|memory| memory.map(copy)).collect(),
        }
    }

    /// Its workers, to be read.
    pub(super) fn workers(&self) -> Vec<Option<FormerWorker<'_>>> {
        let memory = self.memory.iter().enumerate();
        memory
            .map(|(number, memory)| read(self.lvsd, number, memory.as_ref()?.bytes()))
            .collect()
    }
}

fn read<'m>(lvsd: &FormerLvsd, number: usize, bytes: &'m [u8]) -> Option<FormerWorker<'m>> {
    FormerWorker::read(lvsd.layout, bytes, lvsd.settings.get(number)?)
}

/// Looks through all former workers side by side, and decides.
pub(super) fn plan<'p, 'm>(former: &'p [Option<FormerWorker<'m>>], workers: &Workers<'_>, now: Tick) -> Plan<'p, 'm> {
    let Some(one) = workers.settings.first() else {
        return Plan::new(former, &[], &[]);
    };
    let spreading = Spreading::new(workers.snapshot, one, workers.rss);
    let cpus = &workers.environment.worker_cpus;
    let surveys: Vec<Survey> = std::thread::scope(|scope| {
        let threads: Vec<_> = former
            .iter()
            .enumerate()
            .map(|(number, former)| {
                let cpu = cpus.get(number % cpus.len().max(1)).copied();
                scope.spawn(move || {
                    run_on(cpu);
                    let survey = |former| Survey::of(former, &spreading, now);
                    former.as_ref().map_or_else(Survey::default, survey)
                })
            })
            .collect();
        threads.into_iter().map(super::joined).collect()
    });
    Plan::new(former, &surveys, &workers.settings)
}

//! DPDK's environment: memory, cores, drivers. The management core starts it once per process.
//!
//! In:  [`EalSettings`]. This module checks them against the machine where DPDK would only exit or log.
//! Out: [`Eal`], the proof that pools and devices may be created.
//! Memory is anonymous: no file survives the process, and no secondary process may attach.

use std::ffi::{CString, c_char};
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::dpdk::error_text;

/// Whether packet memory comes from hugepages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// From hugepages if enough of them are free, otherwise from ordinary memory with a warning.
    #[default]
    Auto,
    /// From hugepages. Refuse to start when too few are free.
    Require,
    /// From ordinary memory, for labs and tests. Physical NICs need hugepages.
    Never,
}

/// How to configure the environment.
#[derive(Clone, Debug)]
pub struct EalSettings {
    /// Where packet memory comes from.
    pub hugepages: Hugepages,
    /// Memory for buffers and queues in MiB: [`crate::dpdk::PoolSettings::memory_needed_mb`].
    pub memory_mb: u32,
    /// CPUs on which the management core and the threads that it starts may run. Empty means all allowed CPUs.
    pub main_cpus: Vec<u16>,
    /// The CPU of each worker, in the order of worker ids. The same CPU may appear twice (labs).
    pub worker_cpus: Vec<u16>,
    /// Distinguishes directors of one network namespace.
    pub file_prefix: String,
    /// PCI addresses of the NICs to take, `0000:01:00.0`. Empty means that DPDK does not look at the PCI bus.
    pub pci: Vec<String>,
    /// Further arguments, after all others.
    pub extra_args: Vec<String>,
    /// DPDK's log level: 1 (emergency) to 8 (debug). 4 shows errors.
    pub log_level: u8,
}

impl Default for EalSettings {
    fn default() -> Self {
        Self {
            hugepages: Hugepages::Auto,
            memory_mb: 256,
            main_cpus: Vec::new(),
            worker_cpus: vec![0],
            file_prefix: "lvsd".to_owned(),
            pci: Vec::new(),
            extra_args: Vec::new(),
            log_level: 4,
        }
    }
}

/// Why DPDK did not start. Each message names the cause and the cure.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// `Eal::start` was called twice.
    #[error("DPDK was already started in this process; it can be started once a process")]
    AlreadyStarted,
    /// Hugepages are required and too few are free.
    #[error(
        "{needed_mb} MiB of hugepages are needed but {free_mb} MiB are free; reserve them with \
         `echo {pages} > /proc/sys/vm/nr_hugepages`, or set hugepages = \"auto\" or \"never\""
    )]
    HugepagesMissing {
        /// MiB that the settings ask for.
        needed_mb: u32,
        /// MiB free now, in pages of all sizes.
        free_mb: u32,
        /// 2 MiB pages that would do.
        pages: u32,
    },
    /// Another process of this network namespace has the same prefix.
    #[error(
        "another lvsd (DPDK's file prefix \"{0}\") runs in this network namespace; stop it, or start this one in a \
         namespace of its own (ip netns exec)"
    )]
    PrefixInUse(String),
    /// A CPU that does not exist or that this process may not use.
    #[error("CPU {cpu} is not available to this process (available: {available:?}); change the worker CPUs")]
    NoSuchCpu {
        /// The CPU asked for.
        cpu: u16,
        /// The CPUs that this process may use.
        available: Vec<u16>,
    },
    /// More workers than DPDK has lcores.
    #[error("{0} workers are too many: DPDK was built for {max} lcores, one of them for management", max = dpdk_sys::SHIM_LCORES_MAX)]
    TooManyWorkers(usize),
    /// A setting with a NUL in it.
    #[error("DPDK argument {0:?} holds a NUL character")]
    Nul(String),
    /// Any other refusal by DPDK, which logged the details.
    #[error("DPDK did not start: {cause} (arguments: {arguments}); its log lines above say what it tried")]
    Refused {
        /// DPDK's text of its error number.
        cause: String,
        /// The arguments it got.
        arguments: String,
    },
}

/// Proof that DPDK runs in this process. It is not `Clone` and lives as long as the process.
#[derive(Debug)]
pub struct Eal {
    hugepages: bool,
    workers_count: usize,
    // Keeps the prefix, so that a second director with the same prefix notices.
    _claim: UnixListener,
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK. The calling thread becomes the management core and is pinned to `main_cpus`.
    pub fn start(settings: &EalSettings) -> Result<Self, EalError> {
        if settings.worker_cpus.len() >= dpdk_sys::SHIM_LCORES_MAX as usize {
            return Err(EalError::TooManyWorkers(settings.worker_cpus.len()));
        }
        check_cpus(settings)?;
        let hugepages = choose_hugepages(settings)?;
        let claim = claim_prefix(&settings.file_prefix)?;
        let arguments = arguments(settings, hugepages);
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(EalError::AlreadyStarted);
        }
        init(&arguments)?;
        Ok(Self {
            hugepages,
            workers_count: settings.worker_cpus.len(),
            _claim: claim,
        })
    }

    /// Whether packet memory is in hugepages.
    pub fn hugepages(&self) -> bool {
        self.hugepages
    }

    /// How many workers can be launched: [`crate::dpdk::lcore::launch`].
    pub fn workers_count(&self) -> usize {
        self.workers_count
    }

    /// DPDK's own version text.
    pub fn version() -> String {
        // SAFETY: returns a static C string.
        unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rte_version()) }
            .to_string_lossy()
            .into_owned()
    }
}

/// The CPUs on which this thread may run.
pub fn available_cpus() -> Vec<u16> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu) == Ok(true))
        .map(|cpu| cpu as u16)
        .collect()
}

/// MiB of free hugepages of every size.
pub fn free_hugepages_mb() -> u32 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else {
        return 0;
    };
    let free_kb: u64 = sizes
        .flatten()
        .filter_map(|size| {
            let name = size.file_name();
            let page_kb: u64 = name
                .to_str()?
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let free = fs::read_to_string(size.path().join("free_hugepages")).ok()?;
            Some(page_kb * free.trim().parse::<u64>().ok()?)
        })
        .sum();
    u32::try_from(free_kb / 1024).unwrap_or(u32::MAX)
}

/// Checks each CPU by running there for a moment. The affinity of this thread is no answer: it leaves out isolated CPUs
/// (`isolcpus`), which are meant for workers.
fn check_cpus(settings: &EalSettings) -> Result<(), EalError> {
    let this_thread = Pid::from_raw(0);
    let before = sched_getaffinity(this_thread);
    let allowed = |cpu: &u16| {
        let mut alone = CpuSet::new();
        alone.set(usize::from(*cpu)).is_ok() && sched_setaffinity(this_thread, &alone).is_ok()
    };
    let mut wanted = settings.main_cpus.iter().chain(&settings.worker_cpus);
    let refused = wanted.find(|cpu| !allowed(cpu)).map(|&cpu| EalError::NoSuchCpu {
        cpu,
        available: (0..CpuSet::count() as u16).filter(allowed).collect(),
    });
    if let Ok(before) = before {
        // A failure does no harm, because DPDK pins this thread next.
        let _ = sched_setaffinity(this_thread, &before);
    }
    refused.map_or(Ok(()), Err)
}

fn choose_hugepages(settings: &EalSettings) -> Result<bool, EalError> {
    let needed_mb = settings.memory_mb;
    let free_mb = free_hugepages_mb();
    match settings.hugepages {
        Hugepages::Never => Ok(false),
        _ if free_mb >= needed_mb => Ok(true),
        Hugepages::Require => Err(EalError::HugepagesMissing {
            needed_mb,
            free_mb,
            pages: needed_mb.div_ceil(2),
        }),
        Hugepages::Auto => {
            log::warn!(
                "{free_mb} MiB of hugepages free, {needed_mb} MiB needed: running in ordinary memory; \
                 for speed `echo {} > /proc/sys/vm/nr_hugepages` before the start",
                needed_mb.div_ceil(2)
            );
            Ok(false)
        }
    }
}

/// Locks the prefix by an abstract socket. The kernel releases it with the process, and each network namespace has its own
/// names, so two directors of one lab do not collide.
fn claim_prefix(prefix: &str) -> Result<UnixListener, EalError> {
    SocketAddr::from_abstract_name(format!("lvsd/dpdk/{prefix}"))
        .and_then(|address| UnixListener::bind_addr(&address))
        .map_err(|_| EalError::PrefixInUse(prefix.to_owned()))
}

/// The command line for `rte_eal_init`. Lcore 0 is the management core, worker `n` runs on lcore `n + 1`.
fn arguments(settings: &EalSettings, hugepages: bool) -> Vec<String> {
    let main_cpus = if settings.main_cpus.is_empty() {
        available_cpus()
    } else {
        settings.main_cpus.clone()
    };
    let main_set: Vec<_> = main_cpus.iter().map(u16::to_string).collect();
    let mut lcores = format!("0@({})", main_set.join(","));
    for (worker, cpu) in settings.worker_cpus.iter().enumerate() {
        lcores.push_str(&format!(",{}@{cpu}", worker + 1));
    }
    let mut arguments: Vec<String> = ["lvsd", "--no-telemetry", "--main-lcore", "0", "--lcores"]
        .map(str::to_owned)
        .into();
    arguments.push(lcores);
    arguments.extend(["--file-prefix".to_owned(), settings.file_prefix.clone()]);
    arguments.extend(["--log-level".to_owned(), settings.log_level.to_string()]);
    arguments.extend(["-m".to_owned(), settings.memory_mb.to_string()]);
    // Neither mode leaves a file behind. Ordinary memory is DPDK's legacy mode, which refuses --in-memory.
    let memory: &[&str] = if hugepages {
        &["--in-memory"]
    } else {
        &["--no-huge", "--no-shconf"]
    };
    arguments.extend(memory.iter().map(|&flag| flag.to_owned()));
    if settings.pci.is_empty() {
        arguments.push("--no-pci".to_owned());
    }
    for address in &settings.pci {
        arguments.extend(["--allow".to_owned(), address.clone()]);
    }
    arguments.extend(settings.extra_args.iter().cloned());
    arguments
}

fn init(arguments: &[String]) -> Result<(), EalError> {
    let mut argv = Vec::with_capacity(arguments.len() + 1);
    for argument in arguments {
        let text = CString::new(argument.as_str()).map_err(|_| EalError::Nul(argument.clone()))?;
        // Leaked on purpose: DPDK keeps pointers to its program name, and getopt permutes the array.
        argv.push(text.into_raw());
    }
    argv.push(std::ptr::null_mut::<c_char>());
    // SAFETY: argv is a null-terminated array of C strings that live for ever; STARTED lets this run once.
    let used = unsafe { dpdk_sys::rte_eal_init(arguments.len() as i32, argv.as_mut_ptr()) };
    if used < 0 {
        // SAFETY: reads a thread-local.
        let cause = error_text(unsafe { dpdk_sys::shim_errno() });
        return Err(EalError::Refused {
            cause,
            arguments: arguments.join(" "),
        });
    }
    remove_runtime_directory();
    Ok(())
}

/// Removes DPDK's directory for sockets and shared files, which this process does not have. It fails, rightly, when the
/// directory is not empty.
fn remove_runtime_directory() {
    // SAFETY: the EAL runs; returns a static C string.
    let path = unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rte_eal_get_runtime_dir()) };
    let _ = fs::remove_dir(std::ffi::OsStr::from_bytes(path.to_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_cpu_when_the_settings_say_so() {
        let settings = EalSettings {
            worker_cpus: vec![0, 0, 1],
            main_cpus: vec![1],
            ..EalSettings::default()
        };
        let arguments = arguments(&settings, true);
        assert!(arguments.contains(&"0@(1),1@0,2@0,3@1".to_owned()), "{arguments:?}");
        assert!(arguments.contains(&"--no-pci".to_owned()));
        assert!(!arguments.contains(&"--no-huge".to_owned()));
    }

    #[test]
    fn a_worker_may_have_an_isolated_cpu() {
        // On another thread, so that no other test inherits its CPUs.
        let isolated = std::thread::spawn(|| {
            let cpus = available_cpus();
            let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
            let mut not_isolated = CpuSet::new();
            not_isolated.set(usize::from(first)).unwrap();
            sched_setaffinity(Pid::from_raw(0), &not_isolated).unwrap();
            let settings = |worker| EalSettings {
                main_cpus: vec![first],
                worker_cpus: vec![last, worker],
                ..EalSettings::default()
            };
            check_cpus(&settings(last)).unwrap();
            assert_eq!(available_cpus(), [first], "as it was before the check");
            let Err(EalError::NoSuchCpu { cpu, available }) = check_cpus(&settings(1023)) else {
                panic!("CPU 1023 is there");
            };
            assert_eq!(cpu, 1023);
            assert!(cpus.iter().all(|cpu| available.contains(cpu)), "{available:?}");
        });
        isolated.join().unwrap();
    }

    #[test]
    fn only_the_named_nics_are_taken() {
        let settings = EalSettings {
            pci: vec!["0000:01:00.0".to_owned()],
            ..EalSettings::default()
        };
        let arguments = arguments(&settings, false);
        assert!(
            arguments.windows(2).any(|pair| pair == ["--allow", "0000:01:00.0"]),
            "{arguments:?}"
        );
        assert!(!arguments.contains(&"--no-pci".to_owned()));
    }

    #[test]
    fn missing_hugepages_are_reported_with_the_cure() {
        let settings = EalSettings {
            hugepages: Hugepages::Require,
            memory_mb: 4_000_000,
            ..EalSettings::default()
        };
        let error = Eal::start(&settings).unwrap_err().to_string();
        assert!(error.contains("echo 2000000 > /proc/sys/vm/nr_hugepages"), "{error}");
    }

    #[test]
    fn a_cpu_that_is_not_there_is_named() {
        let settings = EalSettings {
            worker_cpus: vec![0, 1023],
            ..EalSettings::default()
        };
        let error = Eal::start(&settings).unwrap_err().to_string();
        assert!(error.contains("CPU 1023"), "{error}");
    }

    #[test]
    fn a_prefix_in_use_is_named() {
        let _first = claim_prefix("in-use-test").unwrap();
        let error = claim_prefix("in-use-test").unwrap_err().to_string();
        assert!(error.contains("\"in-use-test\""), "{error}");
    }
}

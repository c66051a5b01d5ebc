//! Sync daemons at work: the workers' connections out as messages, other directors' messages in to the workers.
//!
//! In:  which daemons should run; connections that workers sync out; datagrams. Out: datagrams; batches for every worker, each of
//! which takes what it owns.
//! Looked after every millisecond by [`SyncDaemons::tend`]; nothing here waits. Every queue is bounded and what does not
//! fit is counted by name. Sockets that cannot be opened (an interface that is not there yet) are tried again.
//! Ref: Linux ip_vs_sync.c `sync_thread_master()`, `sync_thread_backup()`.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lvs_core::ipvs::sync::assembly::Assembly;
use lvs_core::ipvs::sync::daemon::{SyncDaemon, SyncRole};
use lvs_core::ipvs::sync::policy::SyncMode;
use lvs_core::ipvs::sync::{SyncConn, message};
use lvs_core::ipvs::sysctl::Sysctls;

use crate::mgmt::worker_handle::WorkerHandle;

pub mod sockets;

use sockets::{OpenError, Sockets};

/// Connections taken from one worker at a time.
const SYNCED_OUT_PER_PASS_MAX: usize = 8_192;
/// Datagrams received at a time.
const RECEIVED_PER_PASS_MAX: usize = 256;
/// How many connections a worker imports between two bursts.
const BATCH_MAX: usize = 128;
/// How many batches may wait for a worker: half a million connections in 64 MB, as many as a busy master sends in a
/// second.
const BATCHES_WAITING_MAX: usize = 4_096;
/// How often a missing interface is looked for.
const RETRY: Duration = Duration::from_secs(1);

/// What a daemon has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages sent or received.
    pub messages: u64,
    /// Connections in them.
    pub connections: u64,
    /// What was not, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn refuse(&mut self, reason: &'static str, count: u64) {
        *self.refused.entry(reason).or_default() += count;
    }
}

/// One daemon with its sockets.
struct Running {
    daemon: SyncDaemon,
    sockets: Sockets,
    /// By port: of a master.
    assemblies: Vec<Assembly>,
    /// Messages that the sockets did not take yet, each with its port.
    unsent: VecDeque<(usize, Vec<u8>)>,
    tally: Tally,
}

/// See the module.
pub struct SyncDaemons {
    running: Vec<Running>,
    /// By worker: what it has not taken yet.
    waiting: Vec<VecDeque<Arc<[SyncConn]>>>,
    batch: Vec<SyncConn>,
    retry_at: Option<Instant>,
    /// The last failure, which is logged once.
    failure: Option<String>,
    begun: Instant,
}

impl SyncDaemons {
    /// Nothing runs.
    pub fn new() -> Self {
        Self {
            running: Vec::new(),
            waiting: Vec::new(),
            batch: Vec::with_capacity(BATCH_MAX),
            retry_at: None,
            failure: None,
            begun: Instant::now(),
        }
    }

    /// Opens the sockets of a daemon that is not running yet.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is changed.
    pub fn start(&mut self, daemon: &SyncDaemon, sysctls: &Sysctls) -> Result<(), OpenError> {
        // Both daemons use as many ports as the first that runs.
        let ports = match self.running.first() {
            Some(other) => other.sockets.sockets.len() as u16,
            None => sysctls.sync_ports.clamp(1, 64) as u16,
        };
        let sockets = sockets::open(daemon, ports, sysctls.sync_sock_size)?;
        let assembly = |_| Assembly::new(daemon.sync_id, sockets.max_len);
        self.running.push(Running {
            daemon: daemon.clone(),
            assemblies: (0..ports).map(assembly).collect(),
            sockets,
            unsent: VecDeque::new(),
            tally: Tally::default(),
        });
        Ok(())
    }

    /// Stops a daemon; what it had gathered is forgotten, as by the kernel.
    pub fn stop(&mut self, role: SyncRole) {
        self.running.retain(|running| running.daemon.role != role);
    }

    /// Stops the daemons that are not desired and starts those that are, if the machine allows it now.
    pub fn follow(&mut self, desired: &[SyncDaemon], sysctls: &Sysctls, now: Instant) {
        self.running.retain(|running| desired.contains(&running.daemon));
        if desired.len() == self.running.len() || self.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        self.retry_at = None;
        for daemon in desired {
            if self.find(daemon.role).is_some() {
                continue;
            }
            if let Err(error) = self.start(daemon, sysctls) {
                self.retry_at = Some(now + RETRY);
                let failure = error.to_string();
                if self.failure.as_ref() != Some(&failure) {
                    log::warn!("{} sync daemon: {failure}; trying again", daemon.role.name());
                    self.failure = Some(failure);
                }
            }
        }
        if self.retry_at.is_none() {
            self.failure = None;
        }
    }

    fn find(&self, role: SyncRole) -> Option<&Running> {
        self.running.iter().find(|running| running.daemon.role == role)
    }

    /// Bytes of a message at most and what was done; `None` when no daemon of this role runs.
    pub fn status(&self, role: SyncRole) -> Option<(u16, &Tally)> {
        let running = self.find(role)?;
        Some((running.sockets.max_len, &running.tally))
    }

    /// Carries what there is to carry now.
    pub fn tend(&mut self, workers: &[Arc<dyn WorkerHandle>], sysctls: &Sysctls) {
        let now_ms = self.begun.elapsed().as_millis() as u64;
        let role = |role| move |running: &&mut Running| running.daemon.role == role;
        match self.running.iter_mut().find(role(SyncRole::Master)) {
            Some(master) => master.sync_out(workers, sysctls, now_ms),
            // Synced out before the master stopped.
            None => workers
                .iter()
                .for_each(|worker| while worker.next_synced().is_some() {}),
        }
        if let Some(backup) = self.running.iter_mut().find(role(SyncRole::Backup)) {
            self.waiting.resize_with(workers.len(), VecDeque::new);
            backup.receive(&mut self.batch, &mut self.waiting);
        } else {
            self.waiting.clear();
        }
        for (worker, waiting) in workers.iter().zip(&mut self.waiting) {
            while let Some(batch) = waiting.front() {
                if !worker.import_synced(Arc::clone(batch)) {
                    break;
                }
                waiting.pop_front();
            }
        }
    }
}

impl Default for SyncDaemons {
    fn default() -> Self {
        Self::new()
    }
}

impl Running {
    fn sync_out(&mut self, workers: &[Arc<dyn WorkerHandle>], sysctls: &Sysctls, now_ms: u64) {
        for worker in workers {
            for _ in 0..SYNCED_OUT_PER_PASS_MAX {
                let Some(conn) = worker.next_synced() else { break };
                let port = self.port_of(&conn);
                let Some(assembly) = self.assemblies.get_mut(port) else {
                    break;
                };
                let full = assembly.add(&conn, sysctls.sync_version, now_ms);
                self.tally.connections += 1;
                if let Some(message) = full {
                    self.queue(port, message, sysctls);
                }
            }
        }
        for port in 0..self.assemblies.len() {
            if let Some(message) = self
                .assemblies
                .get_mut(port)
                .and_then(|assembly| assembly.due(SyncMode::Kernel, now_ms))
            {
                self.queue(port, message, sysctls);
            }
        }
        self.send();
    }

    /// News of one connection keep their order on one port.
    fn port_of(&self, conn: &SyncConn) -> usize {
        let ports = self.assemblies.len();
        if ports <= 1 {
            return 0;
        }
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        (hasher.hash_one((conn.client, conn.virt)) % ports as u64) as usize
    }

    fn queue(&mut self, port: usize, message: Vec<u8>, sysctls: &Sysctls) {
        if self.unsent.len() < sysctls.sync_qlen_max as usize {
            self.unsent.push_back((port, message));
        } else {
            self.tally.refuse("queue_full", 1);
        }
    }

    fn send(&mut self) {
        while let Some((port, message)) = self.unsent.front() {
            let Some(socket) = self.sockets.sockets.get(*port) else {
                break;
            };
            match socket.send(message) {
                Ok(_) => self.tally.messages += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // The interface is down or has no address. Old news is worth nothing, so the message is dropped.
                Err(_) => self.tally.refuse("send_failed", 1),
            }
            self.unsent.pop_front();
        }
    }

    fn receive(&mut self, batch: &mut Vec<SyncConn>, waiting: &mut [VecDeque<Arc<[SyncConn]>>]) {
        // A longer datagram is cut. Its size field then differs from its length, and it is refused.
        let mut buffer = vec![0; usize::from(self.sockets.max_len)];
        let Self {
            daemon, sockets, tally, ..
        } = self;
        for socket in &sockets.sockets {
            for _ in 0..RECEIVED_PER_PASS_MAX {
                let Ok(len) = socket.recv(&mut buffer) else { break };
                tally.messages += 1;
                let message = buffer.get(..len).unwrap_or_default();
                let outcome = message::read(message, daemon.sync_id, |entry| match entry {
                    Ok(conn) => {
                        tally.connections += 1;
                        batch.push(conn);
                        if batch.len() == BATCH_MAX {
                            hand_out(batch, waiting, tally);
                        }
                    }
                    Err(skip) => tally.refuse(skip.name(), 1),
                });
                if let Err(fault) = outcome {
                    tally.refuse(fault.name(), 1);
                }
            }
        }
        if !batch.is_empty() {
            hand_out(batch, waiting, tally);
        }
    }
}

/// Gives every worker the batch. Each worker imports the connections that it owns.
fn hand_out(batch: &mut Vec<SyncConn>, waiting: &mut [VecDeque<Arc<[SyncConn]>>], tally: &mut Tally) {
    let conns: Arc<[SyncConn]> = batch.as_slice().into();
    for worker in waiting {
        if worker.len() < BATCHES_WAITING_MAX {
            worker.push_back(Arc::clone(&conns));
        } else {
            tally.refuse("worker_behind", conns.len() as u64);
        }
    }
    batch.clear();
}

#[cfg(test)]
mod tests;

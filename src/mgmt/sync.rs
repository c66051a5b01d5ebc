//! Sync daemons at work: the workers' connections out as messages, other directors' messages in to the workers.
//!
//! In:  which daemons should run; connections that workers sync out; datagrams. Out: datagrams; batches for every worker, each of
//! which takes what it owns.
//! Looked after every millisecond by [`SyncDaemons::tend`]; nothing here waits. Every queue is bounded and what does not
//! fit is counted by name. Sockets that cannot be opened (an interface that is not there yet) are tried again.
//! What messages must be like, and who may send them, say the [`settings`]: with a key they are signed ([`auth`], [`replay`]).
//! A backup that lacks connections ([`heard`]) asks for all of them, and the master sends them ([`bulk`]).
//! Ref: Linux ip_vs_sync.c `sync_thread_master()`, `sync_thread_backup()`.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lvs_api::SyncBulk;
use lvs_core::ipvs::sync::assembly::Assembly;
use lvs_core::ipvs::sync::daemon::{SyncDaemon, SyncRole};
use lvs_core::ipvs::sync::notice::Notice;
use lvs_core::ipvs::sync::policy::SyncPolicy;
use lvs_core::ipvs::sync::{SyncConn, message};
use lvs_core::ipvs::sysctl::Sysctls;

use crate::mgmt::worker_handle::WorkerHandle;

pub mod auth;
mod bulk;
mod heard;
mod notices;
mod replay;
pub mod settings;
pub mod sockets;

use auth::MessageEnds;
use bulk::{Bulk, Event};
use heard::Heard;
use notices::Notices;
use replay::{Senders, Sequence};
use settings::SyncSettings;
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
    /// Datagrams that the sockets did not take yet.
    unsent: VecDeque<Unsent>,
    /// Of a master: the walks that backups ask for.
    bulk: Bulk,
    /// Of a backup: what it heard of masters.
    heard: Heard,
    notices: Notices,
    tally: Tally,
}

/// A datagram that waits for a socket.
struct Unsent {
    port: usize,
    datagram: Vec<u8>,
    /// Without entries, so it counts as no message.
    is_notice: bool,
}

/// Batches that a worker has not taken yet.
type Waiting = VecDeque<Arc<[SyncConn]>>;

/// See the module.
pub struct SyncDaemons {
    running: Vec<Running>,
    /// By worker: what it has not taken yet.
    waiting: Vec<Waiting>,
    batch: Vec<SyncConn>,
    settings: SyncSettings,
    sequence: Sequence,
    /// By port: whose messages backups have taken, so that one which follows another takes none of them again.
    senders: Vec<Senders>,
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
            settings: SyncSettings::default(),
            sequence: Sequence::default(),
            senders: Vec::new(),
            retry_at: None,
            failure: None,
            begun: Instant::now(),
        }
    }

    /// Replaces what daemons follow, those that run included. Returns whether workers have to know of it.
    pub fn configure(&mut self, settings: SyncSettings) -> bool {
        let is_policy_new = self.settings.policy != settings.policy;
        for running in &mut self.running {
            let message_max = settings.message_max(running.sockets.max_len);
            for assembly in &mut running.assemblies {
                assembly.set_max_len(message_max);
            }
        }
        if self.settings.key != settings.key {
            // What was signed by another key is not taken anyway.
            self.senders.clear();
        }
        self.settings = settings;
        is_policy_new
    }

    /// What workers follow of the settings.
    pub const fn policy(&self) -> SyncPolicy {
        self.settings.policy
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
        let message_max = self.settings.message_max(sockets.max_len);
        let assembly = |_| Assembly::new(daemon.sync_id, message_max);
        self.running.push(Running {
            daemon: daemon.clone(),
            assemblies: (0..ports).map(assembly).collect(),
            sockets,
            unsent: VecDeque::new(),
            bulk: Bulk::new(usize::from(ports), clock_ns(), self.now_ms()),
            heard: Heard::default(),
            notices: Notices::default(),
            tally: Tally::default(),
        });
        Ok(())
    }

    /// Stops the daemons that are not desired, which forget what they had gathered, as those of the kernel do. Starts those
    /// that are, if the machine allows it now.
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

    /// How bulk sync stands.
    pub fn bulk_status(&self, role: SyncRole) -> SyncBulk {
        let running = self.find(role).filter(|_| self.settings.bulk_rate > 0);
        match (running, role) {
            (None, _) => bulk::off(),
            (Some(running), SyncRole::Master) => running.bulk.status(),
            (Some(running), SyncRole::Backup) => running.heard.status(),
        }
    }

    /// Milliseconds since these daemons began.
    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Carries what there is to carry now.
    pub fn tend(&mut self, workers: &[Arc<dyn WorkerHandle>], sysctls: &Sysctls) {
        let now_ms = self.now_ms();
        let role = |role| move |running: &&mut Running| running.daemon.role == role;
        let mut signing = Signing {
            settings: &self.settings,
            sequence: &mut self.sequence,
        };
        match self.running.iter_mut().find(role(SyncRole::Master)) {
            Some(master) => {
                master.sync_out(workers, sysctls, &mut signing, now_ms);
            }
            // Synced out before the master stopped.
            None => workers
                .iter()
                .for_each(|worker| while worker.next_synced().is_some() {}),
        }
        if let Some(backup) = self.running.iter_mut().find(role(SyncRole::Backup)) {
            self.waiting.resize_with(workers.len(), VecDeque::new);
            self.senders
                .resize_with(self.senders.len().max(backup.ports()), Senders::default);
            backup.receive(
                &mut signing,
                &mut self.senders,
                (&mut self.batch, &mut self.waiting),
                now_ms,
            );
        }
        // Also after the backup stopped: what it took before that is what its director goes on with.
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

/// What makes datagrams of messages.
struct Signing<'a> {
    settings: &'a SyncSettings,
    sequence: &'a mut Sequence,
}

impl Signing<'_> {
    fn datagram(&mut self, ends: &MessageEnds, message: Vec<u8>) -> Vec<u8> {
        self.settings.datagram(ends, message, self.sequence, clock_ns())
    }
}

/// The time since 1970 in nanoseconds; 64 bits hold it until 2554.
fn clock_ns() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

impl Running {
    fn sync_out(
        &mut self,
        workers: &[Arc<dyn WorkerHandle>],
        sysctls: &Sysctls,
        signing: &mut Signing<'_>,
        now_ms: u64,
    ) {
        let event = self.advance_bulk(workers, signing, now_ms);
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
                    self.queue(port, message, sysctls, signing);
                }
            }
        }
        let mode = signing.settings.policy.mode;
        for port in 0..self.assemblies.len() {
            let due = self.assemblies.get_mut(port).and_then(|assembly| match event {
                // What was sent must be heard before its end.
                Some(Event::Ended) => assembly.flush(),
                Some(Event::Begun) | None => assembly.due(mode, now_ms),
            });
            if let Some(message) = due {
                self.queue(port, message, sysctls, signing);
            }
        }
        if signing.settings.bulk_rate > 0 && self.bulk.is_offer_due(event, now_ms) {
            self.queue_offers(sysctls, signing);
        }
        self.send();
    }

    /// Hears what backups ask, and goes on with the walk.
    fn advance_bulk(&mut self, workers: &[Arc<dyn WorkerHandle>], signing: &Signing<'_>, now_ms: u64) -> Option<Event> {
        let rate = signing.settings.bulk_rate;
        if rate == 0 {
            self.bulk.cancel();
            self.notices = Notices::default();
            return None;
        }
        let (bulk, tally) = (&mut self.bulk, &mut self.tally);
        self.notices
            .hear(&self.daemon, signing.settings, now_ms, |heard| match heard {
                Ok(ask) => bulk.ask(ask),
                Err(refusal) => tally.refuse(refusal.name(), 1),
            });
        self.bulk.advance(workers, rate, self.unsent.is_empty(), now_ms)
    }

    fn queue_offers(&mut self, sysctls: &Sysctls, signing: &mut Signing<'_>) {
        for port in 0..self.assemblies.len() {
            if self.unsent.len() >= sysctls.sync_qlen_max as usize {
                return;
            }
            let offer = Notice::Offer(self.bulk.offer(port)).write(self.daemon.sync_id);
            let ends = ends(&self.daemon, port, self.sockets.source);
            let datagram = signing.datagram(&ends, offer);
            self.unsent.push_back(Unsent {
                port,
                datagram,
                is_notice: true,
            });
        }
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

    fn queue(&mut self, port: usize, message: Vec<u8>, sysctls: &Sysctls, signing: &mut Signing<'_>) {
        self.bulk.count_message(port);
        if self.unsent.len() >= sysctls.sync_qlen_max as usize {
            self.tally.refuse("queue_full", 1);
            return;
        }
        let ends = ends(&self.daemon, port, self.sockets.source);
        let datagram = signing.datagram(&ends, message);
        self.unsent.push_back(Unsent {
            port,
            datagram,
            is_notice: false,
        });
    }

    fn send(&mut self) {
        while let Some(first) = self.unsent.front() {
            let Some(socket) = self.sockets.sockets.get(first.port) else {
                break;
            };
            match socket.send(&first.datagram) {
                Ok(_) => self.tally.messages += u64::from(!first.is_notice),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // The next one is worth as much.
                Err(_) if first.is_notice => {}
                // The interface is down or has no address. Old news is worth nothing, so the message is dropped.
                Err(_) => self.tally.refuse("send_failed", 1),
            }
            self.unsent.pop_front();
        }
    }

    fn ports(&self) -> usize {
        self.sockets.sockets.len()
    }

    fn receive(
        &mut self,
        signing: &mut Signing<'_>,
        senders: &mut [Senders],
        (batch, waiting): (&mut Vec<SyncConn>, &mut [Waiting]),
        now_ms: u64,
    ) {
        // A longer datagram is cut. Its size field then differs from its length, and it is refused.
        let mut buffer = vec![0; usize::from(self.sockets.max_len)];
        let Self {
            daemon,
            sockets,
            tally,
            heard,
            notices,
            ..
        } = self;
        for (port, (socket, senders)) in sockets.sockets.iter().zip(senders).enumerate() {
            for _ in 0..RECEIVED_PER_PASS_MAX {
                let Ok((len, source)) = socket.recv_from(&mut buffer) else {
                    break;
                };
                let source = source.ip();
                let datagram = buffer.get(..len).unwrap_or_default();
                let ends = ends(daemon, port, source);
                let message = match signing.settings.message(&ends, datagram, senders, clock_ns()) {
                    Ok(message) => message,
                    Err(refusal) => {
                        tally.messages += 1;
                        tally.refuse(refusal.name(), 1);
                        continue;
                    }
                };
                if let Some((sync_id, notice)) = Notice::read(message) {
                    let is_for_this = daemon.sync_id == 0 || daemon.sync_id == sync_id;
                    // Asks are for masters.
                    if let Notice::Offer(offer) = notice
                        && is_for_this
                        && signing.settings.bulk_rate > 0
                    {
                        let consequence = heard.offer(port, (source, sync_id), offer, now_ms);
                        if consequence.lost > 0 {
                            tally.refuse("message_lost", consequence.lost);
                        }
                        if let Some(ask) = consequence.ask {
                            notices.send(daemon, Notice::Ask(ask).write(sync_id), signing, now_ms);
                        }
                    }
                    continue;
                }
                tally.messages += 1;
                if let [_, sync_id, ..] = *message {
                    heard.message(port, source, sync_id);
                }
                take_entries(message, daemon.sync_id, (batch, waiting), tally);
            }
        }
        if !batch.is_empty() {
            hand_out(batch, waiting, tally);
        }
    }
}

/// Takes the entries of a message for the workers.
fn take_entries(
    message: &[u8],
    sync_id: u8,
    (batch, waiting): (&mut Vec<SyncConn>, &mut [Waiting]),
    tally: &mut Tally,
) {
    let outcome = message::read(message, sync_id, |entry| match entry {
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

/// Of a datagram from `source` on the `port`th port of `daemon`.
const fn ends(daemon: &SyncDaemon, port: usize, source: IpAddr) -> MessageEnds {
    MessageEnds {
        source,
        group: daemon.group,
        port: daemon.port.wrapping_add(port as u16),
    }
}

/// Gives every worker the batch. Each worker imports the connections that it owns.
fn hand_out(batch: &mut Vec<SyncConn>, waiting: &mut [Waiting], tally: &mut Tally) {
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

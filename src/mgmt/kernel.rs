//! The kernel's network, mirrored: links, addresses, routing and neighbours become an [`L3`].
//!
//! In:  rtnetlink's listings and events; neighbours that workers want resolved.
//! Out: a new `Arc<L3>` whenever something changed that a packet could notice.
//! Routes, nexthop objects and neighbours are followed event by event. What the kernel does not report in full is
//! listed again, on a thread of its own, while events and requests go on: IPv4 routes vanish silently when a link goes
//! down or an address goes away. What happens during a listing is repeated on it. A lost event (ENOBUFS) leads to a
//! listing of everything.
//! Never: changes the kernel's configuration; it only asks for neighbours to be resolved.
//! Ref:  rtnetlink(7); Linux net/core/neighbour.c, net/ipv4/fib_frontend.c.

mod legs;
mod listing;
mod neighbours;
mod network;
mod parse;
mod probe;
mod records;
mod socket;
mod stack;
mod watch;

#[cfg(test)]
mod routing_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use lvs_core::l3::{DeviceId, IcmpPauses, L3, NeighbourKey, Stack};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use listing::{Listing, Parts};
use neighbours::Neighbours;
use network::Network;
use probe::{ProbeLimiter, Prober};
use records::Change;
use stack::StackWatch;
use watch::Watch;

/// Events within this time of the first are answered together.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// At least this long between two new L3.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The mirror rests this many times as long as its last L3 took, so that it never holds the core.
const PAUSE_PER_COST: u32 = 4;
/// How often idle neighbours are looked after.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Pause before a broken netlink connection is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Requests to resolve that may wait for the mirror; more are dropped, the next packet asks again.
const REQUESTS_MAX: usize = 1_024;

/// A twin as the mirror knows it: the device and the kernel's index of its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirroredTwin {
    /// The device.
    pub device: DeviceId,
    /// See [`crate::mgmt::twin::Twin::ifindex`].
    pub ifindex: u32,
    /// See [`crate::mgmt::twin::Twin::name`].
    pub name: String,
}

/// Why the kernel's tables could not be read.
#[derive(Debug, Error)]
pub enum KernelError {
    /// No netlink socket, or no right to listen.
    #[error("cannot open a netlink socket to mirror the kernel's network: {0}")]
    Socket(#[from] std::io::Error),
    /// A dump failed.
    #[error("the kernel refused to list its {what}: {source}")]
    Dump {
        /// Links, addresses, routes or neighbours.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
    /// The thread that lists has ended.
    #[error("the listing of the kernel's network broke off: {0}")]
    BrokenOff(#[from] tokio::task::JoinError),
}

/// The running mirror; it ends when this is dropped.
#[derive(Debug)]
pub struct KernelMirror {
    requests: mpsc::Sender<NeighbourKey>,
    twins: mpsc::UnboundedSender<MirroredTwin>,
    task: tokio::task::JoinHandle<()>,
}

impl KernelMirror {
    /// Reads everything once, hands the first L3 (generation 1) to `publish`, and goes on mirroring on the
    /// current tokio runtime. `publish` must not block; each L3 has a higher generation than the last.
    pub async fn start<F>(twins: &[MirroredTwin], publish: F) -> Result<Self, KernelError>
    where
        F: Fn(Arc<L3>) + Send + 'static,
    {
        let (requests, received) = mpsc::channel(REQUESTS_MAX);
        let mut mirror = Mirror::open(twins, publish).await?;
        mirror.publish();
        let (twins, replaced) = mpsc::unbounded_channel();
        let task = tokio::spawn(mirror.run(received, replaced));
        Ok(Self { requests, twins, task })
    }

    /// A device has another twin.
    pub fn replace_twin(&self, twin: MirroredTwin) {
        // Without its task the mirror has ended, and so will the daemon.
        let _ = self.twins.send(twin);
    }

    /// Asks the kernel to resolve a neighbour; from any thread, never blocks. Repeated questions about one
    /// neighbour within a second, and more than the kernel should be asked, are dropped.
    pub fn resolve(&self, key: NeighbourKey) {
        // A full queue is a flood of unknown destinations: the next packet asks again.
        let _ = self.requests.try_send(key);
    }
}

impl Drop for KernelMirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the task owns.
struct Mirror<F> {
    publish: F,
    watch: Watch,
    stack_watch: StackWatch,
    /// As published.
    stack: Stack,
    prober: Prober,
    network: Network,
    neighbours: Neighbours,
    limiter: ProbeLimiter,
    generation: u32,
    due: Due,
    running: Option<Running>,
}

/// A listing that is being made.
struct Running {
    wanted: Parts,
    task: JoinHandle<Result<Listing, KernelError>>,
    /// What happened since it began.
    since: Vec<Change>,
}

/// What the next pass must do, and when.
struct Due {
    /// To be listed again.
    wanted: Parts,
    /// The L3 differs from the published one.
    publish: bool,
    at: Option<Instant>,
    not_before: Instant,
}

impl Due {
    fn nothing() -> Self {
        Self {
            wanted: Parts::default(),
            publish: false,
            at: None,
            not_before: Instant::now(),
        }
    }

    fn soon(&mut self) {
        if self.at.is_none() {
            self.at = Some(self.not_before.max(Instant::now() + DEBOUNCE));
        }
    }
}

/// A task that may not be there.
async fn end_of(running: &mut Option<Running>) -> Result<Listing, KernelError> {
    match running {
        Some(running) => (&mut running.task).await?,
        None => std::future::pending().await,
    }
}

impl<F: Fn(Arc<L3>) + Send + 'static> Mirror<F> {
    async fn open(twins: &[MirroredTwin], publish: F) -> Result<Self, KernelError> {
        // Listening begins before the listing, so nothing falls between them.
        let (watch, prober) = (Watch::start()?, Prober::open()?);
        let mut mirror = Self {
            publish,
            watch,
            stack_watch: StackWatch::open()?,
            stack: Stack::default(),
            prober,
            network: Network::new(twins),
            neighbours: Neighbours::default(),
            limiter: ProbeLimiter::default(),
            generation: 0,
            due: Due::nothing(),
            running: None,
        };
        let listing = mirror.list(Parts::EVERYTHING).await??;
        mirror.take_in(listing, &[]);
        Ok(mirror)
    }

    async fn run(
        mut self,
        mut requests: mpsc::Receiver<NeighbourKey>,
        mut twins: mpsc::UnboundedReceiver<MirroredTwin>,
    ) {
        let mut probes = interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let pass_at = self.due.at;
            tokio::select! {
                changes = self.watch.next() => self.note(changes).await,
                () = self.stack_watch.changed() => self.note_settings(),
                key = requests.recv() => match key {
                    Some(key) => self.resolve(key).await,
                    None => return,
                },
                Some(twin) = twins.recv() => {
                    self.network.set_twin(twin);
                    self.due.wanted.add(Parts::EVERYTHING);
                    self.due.publish = true;
                    self.due.soon();
                }
                listed = end_of(&mut self.running) => self.listed(listed).await,
                () = sleep_until(pass_at.unwrap_or_else(Instant::now)), if pass_at.is_some() => self.pass(),
                _ = probes.tick() => self.probe_idle().await,
            }
        }
    }

    fn list(&self, wanted: Parts) -> JoinHandle<Result<Listing, KernelError>> {
        let known = self.network.fib().clone();
        tokio::task::spawn_blocking(move || listing::list(wanted, &known))
    }

    async fn note(&mut self, changes: Vec<Change>) {
        for change in &changes {
            self.note_one(change);
        }
        if changes.last() == Some(&Change::Closed) {
            self.reconnect().await;
        }
        if self.due.publish || self.due.wanted.is_any() {
            self.due.soon();
        }
        if let Some(running) = &mut self.running {
            running.since.extend(changes);
        }
    }

    /// There are notices of interfaces that come and go too, so only what differs counts.
    fn note_settings(&mut self) {
        let l3 = self.network.build(&self.neighbours, self.generation);
        if stack::read(l3.interfaces()) != self.stack {
            self.due.publish = true;
            self.due.soon();
        }
    }

    fn note_one(&mut self, change: &Change) {
        match change {
            Change::Neighbour(record) => {
                if self.neighbours.apply(*record) {
                    self.due.publish |= self.network.is_ours(record.ifindex);
                }
            }
            _ => {
                if *change == Change::Lost {
                    log::warn!("kernel mirror: netlink events were lost, listing everything again");
                }
                let effect = self.network.apply(change);
                self.due.publish |= effect.is_visible;
                self.due.wanted.add(effect.wanted);
            }
        }
    }

    /// One pass: begins to list what is dirty, publishes what changed, and rests in proportion to what that cost.
    fn pass(&mut self) {
        let began = Instant::now();
        self.due.at = None;
        if self.running.is_none() && self.due.wanted.is_any() {
            let wanted = std::mem::take(&mut self.due.wanted);
            self.running = Some(Running {
                wanted,
                task: self.list(wanted),
                since: Vec::new(),
            });
        }
        if self.due.publish {
            self.publish();
        }
        let ended = Instant::now();
        self.due.not_before = ended + PAUSE_MIN.max((ended - began) * PAUSE_PER_COST);
    }

    /// A listing has ended.
    async fn listed(&mut self, listed: Result<Listing, KernelError>) {
        let Some(Running { wanted, since, .. }) = self.running.take() else {
            return;
        };
        match listed {
            Ok(listing) => {
                if !listing.is_whole {
                    self.due.wanted.add(wanted);
                }
                self.take_in(listing, &since);
            }
            Err(error) => {
                log::warn!("kernel mirror: {error}; trying again");
                self.due.wanted.add(wanted);
                self.reconnect().await;
            }
        }
        if self.due.publish || self.due.wanted.is_any() {
            self.due.soon();
        }
    }

    /// Takes a listing and repeats what happened `since` it began.
    fn take_in(&mut self, listing: Listing, since: &[Change]) {
        if let Some(listed) = listing.neighbours {
            self.due.publish |= self.neighbours.replace(listed);
        }
        if let Some(topology) = listing.topology {
            self.due.publish |= self.network.set_topology(topology);
        }
        if let Some(routes) = listing.routes {
            self.network.set_routes(routes);
            self.due.publish = true;
        }
        for change in since {
            match change {
                Change::Neighbour(record) => self.due.publish |= self.neighbours.apply(*record),
                // What it leads to has been noted when it came.
                _ => drop(self.network.apply(change)),
            }
        }
    }

    async fn reconnect(&mut self) {
        sleep(RECONNECT_PAUSE).await;
        match Watch::start() {
            Ok(watch) => self.watch = watch,
            Err(error) => log::warn!("kernel mirror: cannot listen to the kernel: {error}; trying again"),
        }
        match Prober::open() {
            Ok(prober) => self.prober = prober,
            Err(error) => log::warn!("kernel mirror: cannot ask the kernel: {error}; trying again"),
        }
        self.due.wanted.add(Parts::EVERYTHING);
        self.due.soon();
    }

    fn publish(&mut self) {
        self.due.publish = false;
        self.generation = self.generation.wrapping_add(1);
        let mut l3 = self.network.build(&self.neighbours, self.generation);
        l3.icmp_pauses = icmp_pauses();
        self.stack = stack::read(l3.interfaces());
        l3.set_stack(self.stack.clone());
        (self.publish)(Arc::new(l3));
    }

    async fn resolve(&mut self, key: NeighbourKey) {
        let ifindex = key.interface.0;
        if self.network.is_ours(ifindex) && self.limiter.allow((ifindex, key.addr), Instant::now()) {
            self.prober.ask(ifindex, key.addr).await;
        }
    }

    /// Traffic on DPDK devices does not touch the kernel's entries, so it would never notice that a
    /// neighbour died, nor ask again for one that failed: both are asked for here.
    async fn probe_idle(&mut self) {
        let network = &self.network;
        let idle: Vec<_> = self.neighbours.idle().filter(|key| network.is_ours(key.0)).collect();
        for key in idle {
            if self.limiter.allow(key, Instant::now()) {
                self.prober.ask(key.0, key.1).await;
            }
        }
    }
}

/// How slowly this namespace's kernel repeats ICMP errors; its defaults where it does not say.
fn icmp_pauses() -> IcmpPauses {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let default = IcmpPauses::default();
    IcmpPauses {
        v4_ms: read("ipv4/icmp_ratelimit").unwrap_or(default.v4_ms),
        v6_ms: read("ipv6/icmp/ratelimit").unwrap_or(default.v6_ms),
    }
}

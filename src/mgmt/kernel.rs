//! The kernel's network, mirrored: links, addresses, routes and neighbours of the twins become an [`L3`].
//!
//! In:  rtnetlink's dumps and events; neighbours that workers want resolved.
//! Out: a new `Arc<L3>` whenever something changed that a packet could notice.
//! Link, address and route events start a fresh dump instead of being applied: the kernel drops IPv4 routes
//! silently when a link goes down or an address goes away. Neighbours, which change often, are followed
//! event by event. A lost event (ENOBUFS) leads to a dump of everything.
//! Never: changes the kernel's configuration; it only asks for neighbours to be resolved.
//! Ref:  rtnetlink(7); Linux net/core/neighbour.c, net/ipv4/fib_frontend.c.

mod network;
mod parse;
mod probe;
mod subscription;
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

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use lvs_core::l3::{DeviceId, IcmpPauses, L3, NeighbourKey};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use network::{Neighbours, Network};
use probe::ProbeLimiter;
use subscription::{Event, Subscription};

/// Events within this time of the first are answered together.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// At least this long between two new L3.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The mirror rests this many times as long as its last dump took, so that it never holds the core.
const PAUSE_PER_COST: u32 = 4;
/// How often idle neighbours are looked after.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Pause before a broken netlink connection is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Requests to resolve that may wait for the mirror; more are dropped, the next packet asks again.
const REQUESTS_MAX: usize = 1_024;

/// A twin as the mirror knows it: the device and the kernel's index of its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirroredTwin {
    /// The device.
    pub device: DeviceId,
    /// See [`crate::mgmt::twin::Twin::ifindex`].
    pub ifindex: u32,
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
        source: rtnetlink::Error,
    },
}

/// The running mirror; it ends when this is dropped.
#[derive(Debug)]
pub struct KernelMirror {
    requests: mpsc::Sender<NeighbourKey>,
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
        let task = tokio::spawn(mirror.run(received));
        Ok(Self { requests, task })
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
    twins: Vec<MirroredTwin>,
    publish: F,
    subscription: Subscription,
    network: Network,
    neighbours: Neighbours,
    limiter: ProbeLimiter,
    generation: u32,
    due: Due,
}

/// What the next pass must do, and when.
struct Due {
    /// Links, addresses and routes must be listed again.
    network: bool,
    /// Neighbours too: events were lost.
    neighbours: bool,
    /// The L3 differs from the published one.
    publish: bool,
    at: Option<Instant>,
    not_before: Instant,
}

impl Due {
    fn nothing() -> Self {
        Self {
            network: false,
            neighbours: false,
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

impl<F: Fn(Arc<L3>) + Send + 'static> Mirror<F> {
    async fn open(twins: &[MirroredTwin], publish: F) -> Result<Self, KernelError> {
        // Listening begins before the dump, so nothing falls between them.
        let subscription = Subscription::open()?;
        let network = subscription.dump_network(twins).await?;
        let mut neighbours = Neighbours::default();
        neighbours.replace(subscription.dump_neighbours().await?);
        let limiter = ProbeLimiter::default();
        let due = Due::nothing();
        Ok(Self {
            twins: twins.to_vec(),
            publish,
            subscription,
            network,
            neighbours,
            limiter,
            generation: 0,
            due,
        })
    }

    async fn run(mut self, mut requests: mpsc::Receiver<NeighbourKey>) {
        let mut probes = interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let pass_at = self.due.at;
            tokio::select! {
                event = self.subscription.next() => self.note(event).await,
                key = requests.recv() => match key {
                    Some(key) => self.resolve(key).await,
                    None => return,
                },
                () = sleep_until(pass_at.unwrap_or_else(Instant::now)), if pass_at.is_some() => self.pass().await,
                _ = probes.tick() => self.probe_idle().await,
            }
        }
    }

    async fn note(&mut self, event: Event) {
        match event {
            Event::Neighbour(record) => {
                if self.network.interface_of(record.ifindex).is_some() && self.neighbours.apply(record) {
                    self.due.publish = true;
                    self.due.soon();
                }
            }
            Event::Network => {
                self.due.network = true;
                self.due.soon();
            }
            Event::Lost => self.lost(),
            Event::Closed => self.reconnect().await,
            Event::Irrelevant => {}
        }
    }

    fn lost(&mut self) {
        log::warn!("kernel mirror: netlink events were lost, listing everything again");
        (self.due.network, self.due.neighbours) = (true, true);
        self.due.soon();
    }

    /// One pass: list what is dirty, publish what changed, and rest in proportion to what it cost.
    async fn pass(&mut self) {
        let began = Instant::now();
        self.due.at = None;
        if let Err(error) = self.refresh().await {
            log::warn!("kernel mirror: {error}; trying again");
            self.reconnect().await;
        }
        if self.due.publish {
            self.publish();
        }
        let ended = Instant::now();
        self.due.not_before = ended + PAUSE_MIN.max((ended - began) * PAUSE_PER_COST);
        if self.due.network || self.due.neighbours {
            self.due.soon();
        }
    }

    async fn refresh(&mut self) -> Result<(), KernelError> {
        if std::mem::take(&mut self.due.network) {
            let network = self
                .subscription
                .dump_network(&self.twins)
                .await
                .inspect_err(|_| self.due.network = true)?;
            self.due.publish |= network != self.network;
            self.network = network;
        }
        if std::mem::take(&mut self.due.neighbours) {
            let listed = self
                .subscription
                .dump_neighbours()
                .await
                .inspect_err(|_| self.due.neighbours = true)?;
            self.due.publish |= self.neighbours.replace(listed);
        }
        Ok(())
    }

    async fn reconnect(&mut self) {
        sleep(RECONNECT_PAUSE).await;
        match Subscription::open() {
            Ok(subscription) => self.subscription = subscription,
            Err(error) => log::warn!("kernel mirror: {error}; trying again"),
        }
        self.lost();
    }

    fn publish(&mut self) {
        self.due.publish = false;
        self.generation = self.generation.wrapping_add(1);
        let mut l3 = network::build(&self.network, &self.neighbours, self.generation);
        l3.icmp_pauses = icmp_pauses();
        (self.publish)(Arc::new(l3));
    }

    async fn resolve(&mut self, key: NeighbourKey) {
        let Some(ifindex) = self.network.ifindex_of(key.device, key.vlan) else {
            return;
        };
        if self.limiter.allow((ifindex, key.addr), Instant::now()) {
            self.subscription.probe(ifindex, key.addr).await;
        }
    }

    /// Traffic on DPDK devices does not touch the kernel's entries, so it would never notice that a
    /// neighbour died, nor ask again for one that failed: both are asked for here.
    async fn probe_idle(&mut self) {
        let network = &self.network;
        let idle: Vec<_> = self
            .neighbours
            .idle()
            .filter(|key| network.interface_of(key.0).is_some())
            .collect();
        for key in idle {
            if self.limiter.allow(key, Instant::now()) {
                self.subscription.probe(key.0, key.1).await;
            }
        }
    }
}

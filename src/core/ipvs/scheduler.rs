//! Which real server gets a new connection: the registry of schedulers, one file each.
//!
//! The path asks [`pick()`] with a [`Pick`], which knows a flow but no packet. State is per worker and service, fixed
//! in size; the wide tables (sh, dh, mh) are computed on the management core into a [`SchedulerTable`]. With one worker
//! every pick is the kernel's: Linux net/netfilter/ipvs/`ip_vs_<name>.c`. A new scheduler needs its own file and a line
//! of the registry below.

mod conhash;
mod dh;
mod fo;
mod lblc;
mod lblcr;
mod lc;
mod locality;
mod lt;
mod mh;
mod nq;
mod ovf;
mod pick;
mod rr;
mod sed;
mod sh;
mod twos;
mod wlc;
mod wlt;
mod wrr;
mod wrt;

use std::sync::Arc;

pub use locality::Localities;
pub use pick::{FlowHint, Loads, Pick};

use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::service::VirtualService;
use crate::random::Random;

/// What every scheduler's file implements.
trait Scheduler {
    /// Names of its options as `ipvsadm -b` takes them, in the order of the flag bits.
    const FLAG_NAMES: &'static [&'static str] = &[];

    /// Whether it compares traffic or response times, which are measured only for such schedulers.
    const MEASURED: bool = false;

    /// Computes what picks need, once for each change of the servers.
    fn table(_inputs: &TableInputs<'_>) -> SchedulerTable {
        SchedulerTable::None
    }

    /// Moves the worker's state from `old` to `new`; `None` when the service or its scheduler is new.
    fn adopt(_state: &mut SchedulerState, _old: Option<&VirtualService>, _new: &VirtualService) {}

    /// The index in `service.servers`; `None` when no server may take a connection.
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize>;
}

macro_rules! registry {
    ($($(#[$doc:meta])* $kind:ident = $name:literal by $scheduler:ty;)*) => {
        /// Which scheduler a service uses.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum SchedulerKind { $($(#[$doc])* $kind,)* }

        impl SchedulerKind {
            /// Every scheduler there is.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The name `ipvsadm -s` takes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Names of the options that `ipvsadm -b` takes for it, in the order of the flag bits.
            pub const fn flag_names(self) -> &'static [&'static str] {
                match self { $(Self::$kind => <$scheduler as Scheduler>::FLAG_NAMES,)* }
            }
        }

        impl SchedulerKind {
            /// Whether it compares traffic or response times, which are measured only for such schedulers.
            #[inline]
            pub const fn is_measured(self) -> bool {
                match self { $(Self::$kind => <$scheduler as Scheduler>::MEASURED,)* }
            }
        }

        /// Computes what the scheduler needs of the servers. Management core only: allocates.
        pub(super) fn table(kind: SchedulerKind, inputs: &TableInputs<'_>) -> SchedulerTable {
            match kind { $(SchedulerKind::$kind => <$scheduler as Scheduler>::table(inputs),)* }
        }

        /// The server for a new connection, as index into `service.servers`; `None` when no server may take one.
        #[inline]
        pub fn pick(ask: &mut Pick<'_, impl Loads>) -> Option<usize> {
            let servers_count = ask.service.servers.len();
            let index = match ask.service.scheduler {
                $(SchedulerKind::$kind => <$scheduler as Scheduler>::pick(ask),)*
            };
            index.filter(|&index| index < servers_count)
        }

        /// Moves a worker's state of one service to its new form, for each service whose revision changed
        /// or that is new. Never allocates.
        pub fn adopt(state: &mut SchedulerState, old: Option<&VirtualService>, new: &VirtualService) {
            let old = old.filter(|old| old.born == new.born && old.scheduler == new.scheduler);
            if old.is_some_and(|old| old.servers_revision == new.servers_revision) {
                return;
            }
            if old.is_none() {
                *state = SchedulerState {
                    random: state.random.clone(),
                    worker: state.worker,
                    workers: state.workers,
                    ..SchedulerState::default()
                };
            }
            match new.scheduler { $(SchedulerKind::$kind => <$scheduler as Scheduler>::adopt(state, old, new),)* }
        }
    };
}

registry! {
    /// Round robin.
    Rr = "rr" by rr::RoundRobin;
    /// Weighted round robin.
    Wrr = "wrr" by wrr::WeightedRoundRobin;
    /// Fewest connections.
    Lc = "lc" by lc::LeastConnection;
    /// Fewest connections for its weight: what `ipvsadm` takes without `-s`.
    Wlc = "wlc" by wlc::WeightedLeastConnection;
    /// Every destination keeps its server: for caches.
    Lblc = "lblc" by lblc::LocalityBasedLeastConnection;
    /// Every destination keeps a set of servers.
    Lblcr = "lblcr" by lblcr::LocalityBasedLeastConnectionWithReplication;
    /// By client address.
    Sh = "sh" by sh::SourceHashing;
    /// By destination address.
    Dh = "dh" by dh::DestinationHashing;
    /// By client address, Maglev.
    Mh = "mh" by mh::MaglevHashing;
    /// By client address, on a ring.
    Conhash = "conhash" by conhash::ConsistentHashing;
    /// Shortest expected delay.
    Sed = "sed" by sed::ShortestExpectedDelay;
    /// An idle server, else shortest expected delay.
    Nq = "nq" by nq::NeverQueue;
    /// The heaviest server that is up.
    Fo = "fo" by fo::WeightedFailover;
    /// The heaviest server with fewer active connections than its weight.
    Ovf = "ovf" by ovf::WeightedOverflow;
    /// The better of two random servers.
    Twos = "twos" by twos::PowerOfTwoChoices;
    /// Least traffic.
    Lt = "lt" by lt::LeastTraffic;
    /// Least traffic for its weight.
    Wlt = "wlt" by wlt::WeightedLeastTraffic;
    /// Shortest response time for its weight.
    Wrt = "wrt" by wrt::WeightedResponseTime;
}

impl SchedulerKind {
    /// The name of the option with that bit. For options that the scheduler does not have it is ipvsadm's.
    pub fn flag_name(self, bit: usize) -> Option<&'static str> {
        const WITHOUT_NAME: [&str; 3] = ["flag-1", "flag-2", "flag-3"];
        let named = self.flag_names().get(bit).copied();
        named.or_else(|| WITHOUT_NAME.get(bit).copied())
    }

    /// The bit of an option. Any scheduler takes `flag-1` to `flag-3`, as in the kernel, which ignores what it
    /// does not know.
    pub fn flag_bit(self, name: &str) -> Option<usize> {
        let own = self.flag_names().iter().position(|own| *own == name);
        own.or_else(|| {
            let number: usize = name.strip_prefix("flag-")?.parse().ok()?;
            (1..=3).contains(&number).then(|| number - 1)
        })
    }

    /// The scheduler of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

/// Options of a scheduler: bit 0 is the kernel's `IP_VS_SVC_F_SCHED1`, bit 1 `…SCHED2`, bit 2 `…SCHED3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SchedulerFlags(pub u8);

impl SchedulerFlags {
    /// `sh-fallback`, `mh-fallback`: an unavailable server's clients go to another one.
    pub const FALLBACK: Self = Self(1);
    /// `sh-port`, `mh-port`: the client's port counts too.
    pub const PORT: Self = Self(2);
    /// `mh-canonical`: the table follows from the set of servers, not from the order of their addition.
    pub const CANONICAL: Self = Self(4);

    /// Whether all bits of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How lc, wlc and twos weigh active against inactive connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overhead {
    /// 256·active + inactive: what every LVS document says.
    #[default]
    Classic,
    /// 257·active + inactive: kernels since "ipvs: add totalconns for dest".
    Current,
}

impl Overhead {
    #[inline]
    fn of<L: Loads>(self, id: RealServerId, loads: &L) -> u64 {
        let factor = match self {
            Self::Classic => 256,
            Self::Current => 257,
        };
        u64::from(loads.active(id)) * factor + u64::from(loads.inactive(id))
    }
}

/// The position of the cursor before the first server: the kernel's list head.
const HEAD: u32 = u32::MAX;

/// What one worker remembers of one service's scheduling.
#[derive(Clone, Debug)]
pub struct SchedulerState {
    /// rr, wrr: index of the server picked last, or [`HEAD`].
    cursor: u32,
    /// wrr: the least weight of the servers that the present round takes.
    current_weight: i32,
    /// wrr: whether a server was picked since the service exists.
    started: bool,
    /// twos, wrt.
    random: Random,
    /// rr, wrr: the number of this worker and how many there are, so that they do not all begin with the same server.
    worker: u8,
    workers: u8,
}

impl Default for SchedulerState {
    fn default() -> Self {
        Self::seeded(0)
    }
}

impl SchedulerState {
    /// A fresh state. Its random choices (twos) are determined by `seed`.
    pub const fn seeded(seed: u64) -> Self {
        Self {
            cursor: HEAD,
            current_weight: 0,
            started: false,
            random: Random::new(seed),
            worker: 0,
            workers: 1,
        }
    }

    /// The same at one of several workers.
    #[must_use]
    pub const fn at_worker(self, worker: u8, workers: u8) -> Self {
        Self {
            worker,
            workers,
            ..self
        }
    }

    /// How many picks of a cycle this worker skips at first, so that workers are spread over the cycle.
    #[inline]
    const fn head_start(&self, cycle: usize) -> usize {
        if self.workers <= 1 {
            return 0;
        }
        cycle * self.worker as usize / self.workers as usize
    }
}

/// What a scheduler computed when its service's servers changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchedulerTable {
    /// Nothing.
    None,
    /// wrr.
    Weights {
        /// Greatest common divisor of the positive weights, at least 1.
        gcd: i32,
        /// Largest weight less (`gcd` - 1); 0 without a positive weight.
        top: i32,
        /// Where a worker that has not picked yet begins. It depends on the history of the weights.
        start: i32,
    },
    /// sh, dh, mh: index of the server for each hash bucket; empty without servers.
    Buckets(Arc<[u16]>),
}

/// The input from which a [`SchedulerTable`] is computed.
pub(super) struct TableInputs<'service> {
    /// Options of the scheduler.
    pub(super) flags: SchedulerFlags,
    /// Newest first.
    pub(super) servers: &'service [RealServer],
    /// The last weight above 0 of each server (`ip_vs_dest.last_weight`), in the same order; 0 for none ever.
    pub(super) last_weights: &'service [u32],
    /// The table before the change; `None` for a new service or scheduler.
    pub(super) previous: Option<&'service SchedulerTable>,
}

/// Linux `hash_32(value, 8)`: the top byte of a multiplication with the golden ratio.
#[inline]
const fn hash_to_byte(value: u32) -> u8 {
    (value.wrapping_mul(0x61C8_8647) >> 24) as u8
}

#[cfg(test)]
mod tests;

//! When a master syncs a connection out, what a backup believes of the entries it gets, and the names of its refusals.
//!
//! The configuration says it (`[sync]`); workers read it through the snapshot.

/// When a connection is synced out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// As the kernel does: by `sync_threshold`, `sync_period` and `sync_refresh_period`, up to 2 s late.
    #[default]
    Kernel,
    /// Every connection as soon as it is established, and then whenever its state changes or the other director's copy
    /// would be a quarter of its timeout behind.
    Every,
}

/// Which entries a backup believes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncAccept {
    /// Those of services and real servers that are configured here, over no connection of this director's own.
    #[default]
    Configured,
    /// Any, as the kernel does.
    Kernel,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncPolicy {
    /// When a connection is synced out.
    pub mode: SyncMode,
    /// Which entries are believed.
    pub accept: SyncAccept,
    /// Whether only messages with the right signature arrive at all.
    pub is_authenticated: bool,
    /// How much of each worker's connection table imported connections may fill, in percent: 1 to 100.
    pub table_percent: u8,
}

impl Default for SyncPolicy {
    fn default() -> Self {
        Self {
            mode: SyncMode::default(),
            accept: SyncAccept::default(),
            is_authenticated: false,
            table_percent: 75,
        }
    }
}

impl SyncPolicy {
    /// How many imported connections a table of this capacity takes.
    pub const fn imported_max(&self, capacity: usize) -> u64 {
        capacity as u64 * self.table_percent as u64 / 100
    }
}

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)*) => {
        /// Why a worker did not import an entry.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ImportRefusal { $($(#[doc = $doc])+ $variant,)* }

        impl ImportRefusal {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name of its counter.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

refusals! {
    /// No packet of a client can have this source address: unspecified, loopback, multicast or broadcast.
    Client = "entry_client",
    /// Its virtual end is no virtual service here, and its mark none of one.
    Service = "entry_no_service",
    /// Its service has no such real server here.
    Server = "entry_no_real_server",
    /// The service needs a local address, and the entry has none or one that is not of the pool.
    LocalAddress = "entry_local_address",
    /// A connection that packets made or used here has its place.
    LocalConn = "entry_over_local_conn",
    /// Imported connections fill their share of the table.
    TableShare = "table_share_full",
    /// The connection table is full.
    TableFull = "conn_table_full",
    /// Another connection has the same ends.
    SameEnds = "entry_same_ends",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = ImportRefusal::ALL.iter().map(|refusal| refusal.name()).collect();
        assert_eq!(names.len(), ImportRefusal::COUNT);
        for (index, refusal) in ImportRefusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, index);
        }
    }

    #[test]
    fn the_share_is_of_the_capacity() {
        let share = |percent, capacity| {
            let policy = SyncPolicy {
                table_percent: percent,
                ..SyncPolicy::default()
            };
            policy.imported_max(capacity)
        };
        assert_eq!((share(100, 16), share(75, 16), share(1, 1 << 28)), (16, 12, 2_684_354));
    }
}

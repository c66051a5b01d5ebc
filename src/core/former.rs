//! Memory of workers of an earlier process that was of another shape: other workers, other table sizes, another layout.
//!
//! In:  the bytes of each former worker, and which layout they are in. Out: a [`Plan`]: which of the present workers gets
//!      which connection. [`crate::worker_state::WorkerState::rehome`] fetches them.
//! Never: writes to that memory; believes a record that was not whole.
//!
//! # Layouts
//!
//! [`FormerWorker::read`] has a reader for every layout whose connections this version goes on with: the present one, and
//! that of the release before. A reader gives records in the present form, however they lie. Who changes a structure of
//! the arena raises [`crate::arena::LAYOUT_VERSION`] and keeps the reader of the layout before, over a copy of the
//! structures as they were; a stored arena of each layout is its test (`src/core/tests/layouts/`).

use crate::address::{Addr4, Addr6};
use crate::ipvs::conn::table::FormerTable;
use crate::ipvs::resting_ports::FormerRestingPorts;
use crate::worker_state::WorkerSettings;

mod plan;

pub use plan::{Plan, Spreading, Survey};

/// The layouts that can be read.
pub const LAYOUTS: [u32; 1] = [3];

/// What a worker of an earlier process left.
pub struct FormerWorker<'m> {
    pub(crate) v4: FormerTable<'m, Addr4>,
    pub(crate) v6: FormerTable<'m, Addr6>,
    pub(crate) resting: FormerRestingPorts<'m>,
}

impl<'m> FormerWorker<'m> {
    /// Reads the memory of a worker that had `settings`, of which the seed does not matter. It may be followed by others'
    /// bytes. `None` when it is not of such a worker, damaged, or of a layout that is not among [`LAYOUTS`].
    pub fn read(layout: u32, bytes: &'m [u8], settings: &WorkerSettings) -> Option<Self> {
        match layout {
            3 => Self::of_layout_3(bytes, settings),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::LAYOUT_VERSION;

    #[test]
    fn the_present_layout_can_be_read() {
        assert!(LAYOUTS.contains(&LAYOUT_VERSION), "src/core/former.rs says what to do");
    }
}

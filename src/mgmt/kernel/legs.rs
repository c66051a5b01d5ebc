//! Routes' legs, each kept once: a million routes lead to a few routers.

use std::collections::HashSet;
use std::sync::Arc;

use lvs_core::l3::fib::Leg;

/// Those that nobody uses go when there are more than so many, and twice as many as were left the last time.
const SWEEP_MIN: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Legs {
    known: HashSet<Arc<Leg>>,
    /// How many were in use after the last sweep.
    used: usize,
}

impl Legs {
    /// Takes those of a listing that are new.
    pub(super) fn add(&mut self, listed: Self) {
        self.known.extend(listed.known);
        self.sweep();
    }

    /// Makes `leg` the one that others like it are.
    pub(super) fn share(&mut self, leg: &mut Arc<Leg>) {
        if let Some(known) = self.known.get(leg) {
            *leg = Arc::clone(known);
            return;
        }
        self.known.insert(Arc::clone(leg));
        self.sweep();
    }

    fn sweep(&mut self) {
        if self.known.len() > SWEEP_MIN.max(2 * self.used) {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.used = self.known.len();
        }
    }
}

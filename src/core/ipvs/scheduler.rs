//! The registry of schedulers.

/// Which scheduler a service uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerKind {
    /// Round robin.
    Rr,
}

/// What a scheduler computed when the service was built.
#[derive(Clone, Debug)]
pub enum SchedulerTable {
    /// Nothing.
    None,
}

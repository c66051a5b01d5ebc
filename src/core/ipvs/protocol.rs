//! Protocol state tables and their timeouts.

/// Connection timeouts in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {}

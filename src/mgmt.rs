//! The management core: may block, allocate and log; owns the desired state.

pub mod punt;

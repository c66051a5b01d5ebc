//! The management core: may block, allocate and log; owns the desired state.

pub mod kernel;
#[cfg(test)]
mod namespace;
pub mod punt;
pub mod twin;

//! The management core.

pub mod kernel;
#[cfg(test)]
mod namespace;
pub mod twin;

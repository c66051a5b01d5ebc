//! Connection synchronisation: [`announce`] puts connections into the outbox, [`import`] takes those of another director.

pub(crate) mod announce;
pub mod import;

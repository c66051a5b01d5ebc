//! Connection synchronisation: [`announce`] puts connections into the outbox, [`bulk`] lists all of them, [`import`] takes
//! those of another director, as far as [`belief`] goes.

pub(crate) mod announce;
mod belief;
pub mod bulk;
pub mod import;

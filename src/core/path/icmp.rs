//! Stage 2, ICMP: errors about connections that come in, and errors that the director sends.
//!
//! [`relay`] an error about a connection goes on to its other end; [`relay_tunnel`] an error about a tunnel goes to the
//! client; [`refuse`] who gets an error when a packet of a connection goes no further, and in whose name; [`undeliverable`]
//! the same after a neighbour did not answer; [`answer`] sends an error within the budget; [`build`] makes its bytes.

pub mod answer;
pub mod build;
pub(crate) mod refuse;
pub(crate) mod relay;
pub(crate) mod relay_tunnel;
pub mod undeliverable;

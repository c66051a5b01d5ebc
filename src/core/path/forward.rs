//! Stage 7: the bytes change. Modes differ in which of these they use, not in copies of the arithmetic.
//!
//! [`rewrite`] new ends (NAT, FULLNAT) and the TTL; [`tunnel`] an outer header (TUN); [`ethernet`] the link header.

pub mod ethernet;
pub mod rewrite;
pub mod tunnel;

//! Stage 7: the bytes change and the packet leaves. Modes differ in which of these they use, not in copies of the
//! arithmetic.
//!
//! [`resolve`] the next hop of a packet, on which the rest depends;
//! [`rewrite`] new ends (NAT, FULLNAT) and the TTL; [`tunnel`] an outer header (TUN); [`ethernet`] the link header.

pub mod ethernet;
pub mod resolve;
pub mod rewrite;
pub mod tunnel;

//! Beside the stages: what the kernel's stack does with a packet before and after IPVS.
//!
//! In:  packets, and how the kernel is set. Out: what it would refuse; IP options filled in and repeated.

pub(crate) mod checks;
pub(crate) mod ip_options;

//! `liblvs_ipvs.so`: lets unmodified IPVS tools talk to lvsd instead of the kernel, by LD_PRELOAD.
//!
//! In:  the C library calls of a foreign program. Out: the same calls, except on a generic-netlink socket
//! that asks for the family "IPVS": that one becomes a connection to lvsd, under the same descriptor.
//! Never: prints, allocates, starts threads, keeps descriptors, fails a send, lets a receiver spin, panics.
//! Ref: libnl nl.c, keepalived libipvs.c (their loops decide what failures must look like).

// Builds that unwind exist only to be checked; what is installed aborts, has no std and cannot panic.
#![cfg_attr(panic = "abort", no_std)]

mod connection;
mod exec;
mod files;
mod netlink;
mod next;
mod option;
mod settings;
mod socket;
mod tracked;

/// Nothing here panics: a test looks for this symbol in the library and must not find it.
#[cfg(panic = "abort")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: abort takes nothing and never returns.
    unsafe { libc::abort() }
}

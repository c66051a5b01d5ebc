//! `liblvs_ipvs.so`: lets unmodified IPVS tools talk to lvsd instead of the kernel, by LD_PRELOAD.
//!
//! In:  the C library calls of a foreign program. Out: the same calls, except on a generic-netlink socket that asks for the
//! family "IPVS". That socket becomes a connection to lvsd with the same descriptor.
//! Never: prints, allocates, starts threads, keeps descriptors, fails a send, makes a receiver spin, panics.
//! Ref: libnl nl.c, keepalived libipvs.c (their loops determine how failures must look).

// Builds that unwind exist for checks only. The installed library aborts, has no std and cannot panic.
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

/// No code here panics. A test makes sure that the library does not have this symbol.
#[cfg(panic = "abort")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: abort takes nothing and never returns.
    unsafe { libc::abort() }
}

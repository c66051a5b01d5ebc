//! `liblvs_ipvs.so`: lets unmodified IPVS tools talk to lvsd instead of the kernel, by LD_PRELOAD.
//!
//! In:  the C library calls of a foreign program. Out: the same calls, except on a generic-netlink socket that asks for the
//! family "IPVS", on the files of IPVS, on its old socket options, and where a program is started that it cannot follow.
//! Never: prints, allocates, starts threads, keeps descriptors, fails a send, makes a receiver spin, panics.
//! Ref: libnl nl.c, keepalived libipvs.c (their loops determine how failures must look).

// Builds that unwind exist for checks only. The installed library aborts, has no std and cannot panic.
#![cfg_attr(panic = "abort", no_std)]

mod calls;
mod connection;
mod exec;
mod files;
mod kernel_option;
mod lead;
mod names;
mod netlink;
mod next;
mod option;
mod path;
mod rewire;
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

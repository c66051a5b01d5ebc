//! What the programs at the ends of a lab network share.
//!
//! They are small stand-ins for what an operator would have: UDP services, a crowd of TCP clients, and the
//! kernel's ipip where the kernel has none.

pub mod carried_address;
pub mod decapsulate;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process hold `wanted` connections and a few files more.
///
/// # Errors
/// When the hard limit is lower and the process may not raise it: then several processes must share.
pub fn raise_file_limit(wanted: u64) -> std::io::Result<()> {
    let needed = wanted + 64;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).map_err(|errno| {
        std::io::Error::other(format!(
            "{needed} files needed, {hard} allowed ({errno}): use more processes"
        ))
    })
}

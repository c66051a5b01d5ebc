//! The programs of this crate, [`lvsctl`] and [`lvs_run`], as a library with a folder for each.
//!
//! The binaries in `bin/` only call it. The generator of manual pages and completions reads the command lines here.

pub mod lvs_run;
pub mod lvsctl;

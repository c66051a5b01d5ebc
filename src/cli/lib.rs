//! The programs of this crate, [`lvsctl`] and [`lvs_run`], as a library.
//!
//! The binaries in `bin/` only call it. What makes manual pages and completions reads the command lines here.

mod capture;
mod client;
pub mod command;
mod listing;
pub mod lvs_run;
pub mod lvsctl;
mod proc_files;
mod run;
mod status;
mod table;
mod top;
mod why;

//! Raw bindings to the part of DPDK that lvsd uses: types, constants and functions as C declares them.
//!
//! No policy and no safe code here; the safe layer above is `src/dpdk/`. `shim_*` are symbols for what DPDK
//! offers only inline. What is bound is the allow-list in `build.rs`.
#![allow(
    non_upper_case_globals,
    non_camel_case_types,
    non_snake_case,
    missing_docs,
    clippy::all,
    unnecessary_transmutes,
    unsafe_op_in_unsafe_fn
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

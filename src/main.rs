//! lvsd.

fn main() {}

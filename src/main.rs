//! lvsd.

mod mgmt;

fn main() {}

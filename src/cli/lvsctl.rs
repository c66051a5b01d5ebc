//! lvsctl.

fn main() {}

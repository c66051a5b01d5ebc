//! Step 7: the bytes change. Modes differ in which of these they use, not in copies of the arithmetic.

pub mod ethernet;
pub mod rewrite;
pub mod tunnel;

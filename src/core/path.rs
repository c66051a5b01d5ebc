//! SPINE: what happens to a burst of frames, one line a step, in call order.

pub mod forward;
pub mod headers;
pub mod icmp;
pub mod parse;
pub mod verdict;

pub use headers::{Flow, Fragment, Headers};
pub use verdict::{DropReason, Verdict};

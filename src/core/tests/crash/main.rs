//! Processes that are ended in the middle of their work, and others that go on with what they left.

mod kills;
mod shared_memory;
mod stores;

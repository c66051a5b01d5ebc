//! Stage 2, fragments: [`reassemble`] puts datagrams together, [`cut`] sends a packet in pieces.

pub(crate) mod cut;
pub(crate) mod reassemble;

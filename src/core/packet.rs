//! One packet on its way through the stages behind parsing.

use crate::address::{Address, FlowKey};
use crate::headers::Headers;

/// A packet of one family in its frame.
pub(crate) struct Packet<'a, A: Address, F> {
    /// What parsing found; changed with the frame where a stage changes lengths.
    pub(crate) headers: Headers,
    /// The flow that it came with.
    pub(crate) key: &'a FlowKey<A>,
    pub(crate) frame: &'a mut F,
    pub(crate) origin: Origin,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was received as it is.
    Whole,
    /// The director put it together from fragments, and it leaves in pieces again: see
    /// [`reassemble`](crate::path::fragments::reassemble).
    Reassembled {
        /// Bytes of the longest piece that it may leave in, at first of the longest fragment. A stage that knows of a
        /// narrower link lowers it; [`u16::MAX`] when what stands in the frame now leaves as one packet.
        longest: u16,
    },
}

impl<'a, A: Address, F> Packet<'a, A, F> {
    /// A packet that was received whole.
    #[inline(always)]
    pub(crate) const fn whole(headers: Headers, key: &'a FlowKey<A>, frame: &'a mut F) -> Self {
        Self {
            headers,
            key,
            frame,
            origin: Origin::Whole,
        }
    }
}

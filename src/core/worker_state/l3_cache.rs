//! What the mirrored tables answered lately about addresses that come again and again: VIPs and real servers.
//!
//! In:  a question about an address, the tables. Out: their answer, asked for anew only when it is not remembered.
//! Direct-mapped and of fixed size: two addresses that meet in a slot forget each other's answer. An answer is of one
//! generation of the tables, so none outlives a change of theirs.

use std::net::IpAddr;

use crate::l3::fib::RouteQuery;
use crate::l3::{L3, Route};

const SLOTS: usize = 256;

/// What is asked about.
pub(crate) trait Subject: Copy + PartialEq {
    /// The address that chooses the slot.
    fn addr(&self) -> IpAddr;
}

impl Subject for IpAddr {
    #[inline]
    fn addr(&self) -> IpAddr {
        *self
    }
}

impl Subject for RouteQuery {
    fn addr(&self) -> IpAddr {
        self.dst
    }
}

/// Answers of one kind.
#[derive(Debug)]
pub(crate) struct Cache<S, T>([Option<Answer<S, T>>; SLOTS]);

#[derive(Clone, Copy, Debug)]
struct Answer<S, T> {
    generation: u32,
    about: S,
    answer: T,
}

impl<S: Subject, T: Copy> Cache<S, T> {
    const fn new() -> Self {
        Self([None; SLOTS])
    }

    /// The answer of `l3` about an address; `ask` must depend on nothing else.
    #[inline]
    pub(crate) fn get_or_look_up(&mut self, l3: &L3, about: S, ask: impl FnOnce() -> T) -> T {
        let generation = l3.generation;
        let slot = &mut self.0[slot_of(about.addr())];
        match slot {
            Some(known) if known.generation == generation && known.about == about => known.answer,
            _ => {
                let answer = ask();
                *slot = Some(Answer {
                    generation,
                    about,
                    answer,
                });
                answer
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct L3Cache {
    /// Whether an address is the director's own.
    pub(crate) locals: Cache<IpAddr, bool>,
    /// Where packets to a real server go, while its address alone decides that.
    pub(crate) routes: Cache<IpAddr, Route>,
    /// The same where more decides it.
    pub(crate) queries: Cache<RouteQuery, Route>,
    /// From which address they go there through a tunnel.
    pub(crate) sources: Cache<IpAddr, Option<IpAddr>>,
}

impl L3Cache {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            locals: Cache::new(),
            routes: Cache::new(),
            queries: Cache::new(),
            sources: Cache::new(),
        })
    }
}

const fn slot_of(addr: IpAddr) -> usize {
    let last = match addr {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    last as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l3::L3Builder;

    #[test]
    fn an_answer_is_asked_for_once_a_generation_and_again_after_a_neighbour_in_the_slot() {
        let mut recall = Cache::new();
        let mut asked = 0;
        let mut about = |recall: &mut Cache<IpAddr, u32>, l3: &L3, addr: &str| {
            recall.get_or_look_up(l3, addr.parse().unwrap(), || {
                asked += 1;
                asked
            })
        };
        let (one, two) = (L3Builder::new().build(1), L3Builder::new().build(2));
        assert_eq!(about(&mut recall, &one, "192.0.2.1"), 1);
        assert_eq!(about(&mut recall, &one, "192.0.2.1"), 1);
        assert_eq!(about(&mut recall, &one, "192.0.2.2"), 2);
        assert_eq!(about(&mut recall, &one, "198.51.100.1"), 3);
        assert_eq!(about(&mut recall, &one, "192.0.2.1"), 4);
        assert_eq!(about(&mut recall, &two, "192.0.2.1"), 5);
        assert_eq!(about(&mut recall, &two, "2001:db8::1"), 6);
    }
}

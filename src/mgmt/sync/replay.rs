//! Numbers of signed sync messages: a sender never gives one twice, and a receiver takes each once.
//!
//! In:  this machine's clock; the number of a message whose signature is right. Out: the next number; whether it is new.
//! Numbers are those of the clock in nanoseconds, so that they go on growing when a sender begins anew. A receiver keeps
//! a window for each of a bounded number of senders: a datagram may be overtaken by others, but not come twice.

use std::net::IpAddr;

use super::auth::MessageRefusal;

/// How far the numbers of a busy or resting sender may be behind its clock before they catch up, in nanoseconds. Numbers
/// between count messages, so that the window holds as many.
const CATCH_UP_NS: u64 = 60_000_000_000;
/// How far the first number that is heard of a sender may be from this machine's clock, in nanoseconds: what was recorded
/// longer ago is not believed by a backup that has just started.
const CLOCKS_APART_MAX_NS: u64 = 600_000_000_000;
/// Senders that are remembered on a port. The one that was silent longest is forgotten for a new one.
const SENDERS_MAX: usize = 16;
/// Messages by which one may be overtaken.
const WINDOW: u64 = 1_024;
const WINDOW_WORDS: usize = (WINDOW / u64::BITS as u64) as usize;

/// The numbers of a sender.
#[derive(Debug, Default)]
pub struct Sequence {
    last: u64,
}

impl Sequence {
    /// The number of the next message; `clock_ns` is the time since 1970.
    pub fn next(&mut self, clock_ns: u64) -> u64 {
        self.last = if clock_ns.saturating_sub(self.last) > CATCH_UP_NS {
            clock_ns
        } else {
            self.last.saturating_add(1)
        };
        self.last
    }
}

/// What was heard of one sender.
#[derive(Debug)]
struct Sender {
    addr: IpAddr,
    newest: u64,
    /// By number modulo the window: whether it came.
    seen: [u64; WINDOW_WORDS],
    /// Counts messages of all senders.
    heard: u64,
}

impl Sender {
    const fn new(addr: IpAddr, newest: u64) -> Self {
        Self {
            addr,
            newest,
            seen: [0; WINDOW_WORDS],
            heard: 0,
        }
    }

    fn take(&mut self, sequence: u64) -> Result<(), MessageRefusal> {
        if sequence > self.newest {
            let skipped = (sequence - self.newest).min(WINDOW);
            for back in 0..skipped {
                self.mark(sequence - back, false);
            }
            self.newest = sequence;
        } else if self.newest - sequence >= WINDOW || self.is_seen(sequence) {
            return Err(MessageRefusal::Replayed);
        }
        self.mark(sequence, true);
        Ok(())
    }

    const fn place(sequence: u64) -> (usize, u64) {
        let bit = sequence % WINDOW;
        ((bit / u64::BITS as u64) as usize, 1 << (bit % u64::BITS as u64))
    }

    fn is_seen(&self, sequence: u64) -> bool {
        let (word, bit) = Self::place(sequence);
        self.seen.get(word).is_some_and(|word| word & bit != 0)
    }

    fn mark(&mut self, sequence: u64, is_seen: bool) {
        let (word, bit) = Self::place(sequence);
        if let Some(word) = self.seen.get_mut(word) {
            *word = if is_seen { *word | bit } else { *word & !bit };
        }
    }
}

/// The senders of messages to one port.
#[derive(Debug, Default)]
pub struct Senders {
    known: Vec<Sender>,
    heard: u64,
}

impl Senders {
    /// Takes the number of a message whose signature is right; `clock_ns` is the time since 1970.
    ///
    /// # Errors
    /// It came before or is too old to know; or it is the first of its sender and far from the clock.
    pub fn take(&mut self, addr: IpAddr, sequence: u64, clock_ns: u64) -> Result<(), MessageRefusal> {
        self.heard += 1;
        if let Some(sender) = self.known.iter_mut().find(|sender| sender.addr == addr) {
            sender.heard = self.heard;
            return sender.take(sequence);
        }
        if sequence.abs_diff(clock_ns) > CLOCKS_APART_MAX_NS {
            return Err(MessageRefusal::Stale);
        }
        if self.known.len() >= SENDERS_MAX {
            let silent_longest = self.known.iter().enumerate().min_by_key(|(_, sender)| sender.heard);
            if let Some((index, _)) = silent_longest {
                self.known.swap_remove(index);
            }
        }
        let mut sender = Sender::new(addr, sequence);
        sender.heard = self.heard;
        sender.mark(sequence, true);
        self.known.push(sender);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    /// A Monday in 2026.
    const NOW: u64 = 1_795_000_000_000_000_000;

    fn addr(number: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, number).into()
    }

    #[test]
    fn numbers_grow_by_one_catch_up_with_the_clock_and_never_go_back() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.next(NOW), NOW);
        assert_eq!(sequence.next(NOW + 5), NOW + 1);
        assert_eq!(sequence.next(NOW + CATCH_UP_NS + 2), NOW + CATCH_UP_NS + 2);
        assert_eq!(
            sequence.next(NOW - 1_000),
            NOW + CATCH_UP_NS + 3,
            "the clock was set back"
        );
        let mut restarted = Sequence::default();
        assert!(restarted.next(NOW + 2 * CATCH_UP_NS) > sequence.next(NOW + CATCH_UP_NS));
    }

    #[test]
    fn a_message_may_be_overtaken_but_not_come_twice() {
        let mut senders = Senders::default();
        let mut take = |sequence| senders.take(addr(2), sequence, NOW);
        assert_eq!(take(NOW + WINDOW), Ok(()));
        assert_eq!(take(NOW + WINDOW), Err(MessageRefusal::Replayed));
        assert_eq!(take(NOW), Err(MessageRefusal::Replayed), "too old to know");
        assert_eq!(take(NOW + 1), Ok(()), "the oldest of the window");
        assert_eq!(take(NOW + 1), Err(MessageRefusal::Replayed));
        assert_eq!(take(NOW + 2 * WINDOW), Ok(()));
        assert_eq!(take(NOW + WINDOW + 1), Ok(()), "its place had another number before");
        assert_eq!(take(u64::MAX), Ok(()));
        assert_eq!(take(NOW + 2 * WINDOW), Err(MessageRefusal::Replayed));
    }

    proptest! {
        #[test]
        fn each_number_of_the_window_is_taken_once(steps in proptest::collection::vec(0..3 * WINDOW, 1..400)) {
            let (mut senders, mut taken, mut newest) = (Senders::default(), HashSet::new(), 0);
            for step in steps {
                let sequence = NOW + step;
                let is_new = newest < sequence + WINDOW && taken.insert(sequence);
                prop_assert_eq!(senders.take(addr(2), sequence, NOW).is_ok(), is_new, "{}", step);
                newest = newest.max(sequence);
            }
        }
    }

    #[test]
    fn the_first_number_of_a_sender_is_near_the_clock() {
        for far in [
            NOW - CLOCKS_APART_MAX_NS - 1,
            NOW + CLOCKS_APART_MAX_NS + 1,
            0,
            u64::MAX,
        ] {
            assert_eq!(Senders::default().take(addr(2), far, NOW), Err(MessageRefusal::Stale));
        }
        for near in [NOW - CLOCKS_APART_MAX_NS, NOW + CLOCKS_APART_MAX_NS] {
            assert_eq!(Senders::default().take(addr(2), near, NOW), Ok(()));
        }
    }

    #[test]
    fn as_many_senders_are_remembered_and_the_one_silent_longest_goes() {
        let mut senders = Senders::default();
        for number in 0..SENDERS_MAX as u8 {
            assert_eq!(senders.take(addr(number), NOW, NOW), Ok(()));
        }
        assert_eq!(senders.take(addr(0), NOW + 1, NOW), Ok(()));
        assert_eq!(senders.take(addr(200), NOW, NOW), Ok(()));
        assert_eq!(senders.known.len(), SENDERS_MAX);
        assert_eq!(
            senders.take(addr(0), NOW, NOW),
            Err(MessageRefusal::Replayed),
            "it is remembered"
        );
        assert!(senders.known.iter().all(|sender| sender.addr != addr(1)));
    }
}

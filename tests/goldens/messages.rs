//! What sync daemons send by themselves: messages, and reports that their sockets joined groups.
//!
//! When a message leaves follows from timers that no two machines share, so only their order is compared: the next
//! that came must be the next that was recorded. Reports are the stack's, at random times, and left out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::frames::{self, Identities};
use crate::scenario::{Expected, Side};
use crate::wire::Wire;

/// A message that is gathered for at most two seconds is looked for this long.
const PATIENCE: Duration = Duration::from_millis(3_500);

/// Messages that came and were not expected yet.
#[derive(Default)]
pub struct Messages {
    arrived: VecDeque<(Instant, Side, Vec<u8>)>,
}

impl Messages {
    /// How many of these frames are compared where they stand.
    pub fn others(&self, expected: &[Expected]) -> usize {
        expected.iter().filter(|one| !is_set_apart(&one.bytes)).count()
    }

    /// Keeps the messages among `frames` and gives back the others.
    pub fn take_from(&mut self, frames: Vec<(Side, Vec<u8>)>) -> Vec<(Side, Vec<u8>)> {
        let mut others = Vec::new();
        for (side, bytes) in frames {
            if !is_set_apart(&bytes) {
                others.push((side, bytes));
            } else if frames::is_sync_message(&bytes) {
                self.arrived.push_back((Instant::now(), side, bytes));
            }
        }
        others
    }

    /// Compares the messages among `expected` with those that came, or come soon, and gives back the others.
    ///
    /// # Errors
    /// Both, readable.
    pub fn expect_all(&mut self, wire: &mut Wire, expected: Vec<Expected>) -> Result<Vec<Expected>, String> {
        let mut others = Vec::new();
        for one in expected {
            if !is_set_apart(&one.bytes) {
                others.push(one);
            } else if frames::is_sync_message(&one.bytes) {
                let Some((side, bytes)) = self.next(wire) else {
                    return Err(format!("the kernel sent it, lvsd did not: {}", one.summary));
                };
                frames::same_frame(&[], side, &bytes, &one, &mut Identities::default())?;
            }
        }
        Ok(others)
    }

    fn next(&mut self, wire: &mut Wire) -> Option<(Side, Vec<u8>)> {
        let begun = Instant::now();
        while self.arrived.is_empty() && begun.elapsed() < PATIENCE {
            wire.pass(Duration::from_millis(20));
            let mut kept = wire.take();
            kept.retain(|(side, bytes)| {
                let is_message = frames::is_sync_message(bytes);
                if is_message {
                    self.arrived.push_back((Instant::now(), *side, bytes.clone()));
                }
                !is_message
            });
            wire.put_back(kept);
        }
        self.arrived.pop_front().map(|(_, side, bytes)| (side, bytes))
    }

    /// Checks at the end that nothing was sent that the kernel had not sent by then.
    ///
    /// # Errors
    /// A message.
    pub fn finish(&self) -> Result<(), String> {
        match self.arrived.front() {
            Some((at, _, bytes)) if at.elapsed() > PATIENCE => Err(format!(
                "lvsd sent what the kernel did not: {}",
                lvs_core::testing::describe(bytes)
            )),
            _ => Ok(()),
        }
    }
}

fn is_set_apart(frame: &[u8]) -> bool {
    frames::is_membership(frame) || frames::is_sync_message(frame)
}

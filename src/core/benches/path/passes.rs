//! The longest pass of a worker's loop in three phases: it fills its table; connections expire as fast as others begin;
//! all that are left expire at once.
//!
//! The bench repeats the same passes in several rounds. The least time that a pass took in any round is its own. What
//! it took beyond that in another round comes from the machine (a hypervisor, interrupts, other threads), which does
//! not interrupt the same pass in every round.

use std::time::Instant;

use super::*;

const ROUNDS: usize = 7;
/// Passes of a busy worker between two that do its housekeeping.
const PASSES_PER_HOUSE: usize = 64;
/// How long a TCP connection lives that has seen nothing but a SYN.
const SYN_LIFE_MS: u32 = 60_000;
/// The longest life of the bench's connections, in milliseconds: longer than any timeout of a first packet.
const LIFE_MS: u32 = 400_000;

/// The longest pass of one phase.
#[derive(Default)]
struct Longest {
    /// By pass, the least of all rounds, in nanoseconds.
    own: Vec<u32>,
    /// The longest of any round.
    seen: u32,
}

impl Longest {
    fn add(&mut self, pass: usize, ns: u32) {
        match self.own.get_mut(pass) {
            Some(least) => *least = ns.min(*least),
            None => self.own.push(ns),
        }
        self.seen = self.seen.max(ns);
    }

    fn report(&self, scenario: Scenario, flows: u32, phase: &str) {
        let own = self.own.iter().max().copied().unwrap_or(0);
        println!(
            "{:<22} {flows:>8}  {phase:<18} longest pass {:7.1} us its own; {:8.1} with the machine's",
            scenario.name(),
            f64::from(own) / 1_000.0,
            f64::from(self.seen) / 1_000.0,
        );
    }
}

/// One pass of the loop without its devices. Returns its nanoseconds.
fn pass(stand: &mut Stand, number: usize, burst: Option<usize>) -> u32 {
    if let Some(burst) = burst {
        stand.fill(burst);
    }
    let start = Instant::now();
    if let Some(burst) = burst {
        stand.measured(burst);
    }
    if number.is_multiple_of(PASSES_PER_HOUSE) {
        path::housekeeping::run(&mut stand.worker, stand.now);
    } else {
        path::housekeeping::expire(&mut stand.worker, stand.now);
    }
    start.elapsed().as_nanos() as u32
}

/// All connections expire, in passes without any frame.
fn drain(stand: &mut Stand, longest: &mut Longest) {
    stand.now = stand.now.plus_ms(LIFE_MS);
    for number in 0.. {
        if stand.worker.conns_count() == (0, 0) {
            break;
        }
        longest.add(number, pass(stand, number, None));
    }
}

/// See the module.
pub(super) fn report(scenario: Scenario, flows: u32) {
    let mut stand = Stand::before(scenario, flows);
    let bursts = stand.frames.len() / BURST_MAX;
    let [mut filling, mut expiring, mut passing] = [const {
        Longest {
            own: Vec::new(),
            seen: 0,
        }
    }; 3];
    let mut first = Longest::default();
    for round in 0..=ROUNDS {
        for burst in 0..bursts {
            let ns = pass(&mut stand, burst, Some(burst));
            // The first round touches memory for the first time. The daemon has touched all of it when it starts.
            if round > 0 {
                filling.add(burst, ns);
            }
        }
        drain(&mut stand, if round > 0 { &mut expiring } else { &mut first });
    }
    // Time passes so fast that half of the table is in use.
    let pass_us = SYN_LIFE_MS * 1_000 / (bursts as u32 / 2).max(1);
    for _ in 0..ROUNDS {
        let mut us = 0;
        for burst in 0..bursts {
            us += pass_us;
            stand.now = stand.now.plus_ms(us / 1_000);
            us %= 1_000;
            passing.add(burst, pass(&mut stand, burst, Some(burst)));
        }
        drain(&mut stand, &mut Longest::default());
    }
    filling.report(scenario, flows, "filling");
    expiring.report(scenario, flows, "expiring at once");
    passing.report(scenario, flows, "create and expire");
}

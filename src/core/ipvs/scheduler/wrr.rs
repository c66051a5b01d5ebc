//! wrr: servers in turn, interleaved by weight. A threshold sinks from the largest weight, each time by the greatest
//! common divisor, and each round takes the servers at or above it.
//!
//! Follows Linux ip_vs_wrr.c, including the odd start after an edit. There is one shortcut: it skips rounds in which
//! every server that takes connections weighs less than the threshold. So a pick takes a few passes over the servers
//! instead of up to 65,535.

use super::pick::takes;
use super::{HEAD, Loads, Pick, Scheduler, SchedulerState, SchedulerTable, TableInputs};
use crate::ipvs::service::VirtualService;

/// With several workers each begins at another position of the cycle, after at most so many picks.
const SKIPPED_MAX: usize = 256;

pub(super) struct WeightedRoundRobin;

impl Scheduler for WeightedRoundRobin {
    fn table(inputs: &TableInputs<'_>) -> SchedulerTable {
        let weights = || {
            inputs
                .servers
                .iter()
                .map(|server| server.weight as i32)
                .filter(|&weight| weight > 0)
        };
        let gcd = weights().reduce(gcd).unwrap_or(1);
        let top = weights().max().unwrap_or(0) - (gcd - 1);
        let start = match inputs.previous {
            Some(&SchedulerTable::Weights { start, .. }) => after_change(start, gcd, top),
            _ => top,
        };
        SchedulerTable::Weights { gcd, top, start }
    }

    fn adopt(state: &mut SchedulerState, _old: Option<&VirtualService>, new: &VirtualService) {
        if let SchedulerTable::Weights { gcd, top, start } = new.table {
            state.cursor = HEAD;
            state.current_weight = if state.started {
                after_change(state.current_weight, gcd, top)
            } else {
                start
            };
        }
    }

    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let SchedulerTable::Weights { gcd, top, .. } = ask.service.table else {
            return None;
        };
        if top <= 0 {
            return None;
        }
        let state = &mut *ask.state;
        let mut walk = Walk {
            service: ask.service,
            loads: ask.loads,
            gcd,
            top,
            first: state.cursor,
            current_weight: state.current_weight,
        };
        if state.cursor == HEAD {
            walk.skip(state.head_start(walk.cycle()));
        }
        let picked = walk.next_server();
        state.started |= picked.is_some();
        state.cursor = picked.unwrap_or(walk.first);
        state.current_weight = walk.current_weight;
        picked.map(|index| index as usize)
    }
}

/// The kernel's double loop. `first` and `current_weight` are the state between two picks.
struct Walk<'a, L> {
    service: &'a VirtualService,
    loads: &'a L,
    gcd: i32,
    top: i32,
    first: u32,
    current_weight: i32,
}

impl<L: Loads> Walk<'_, L> {
    /// Picks until the walk repeats itself, at most as many as a worker may skip.
    #[inline]
    fn cycle(&self) -> usize {
        let weights = self.service.servers.iter().map(|server| server.weight as usize);
        (weights.sum::<usize>() / self.gcd.max(1) as usize).min(SKIPPED_MAX)
    }

    /// Skips so many picks.
    #[inline]
    fn skip(&mut self, picks: usize) {
        for _ in 0..picks {
            let Some(index) = self.next_server() else { break };
            self.first = index;
        }
    }

    /// The next server at or above the threshold. Without one, `first` is where the walk ended: at the server that it
    /// came from, or at the head.
    #[inline]
    fn next_server(&mut self) -> Option<u32> {
        let mut from = if self.first == HEAD { 0 } else { self.first as usize + 1 };
        let mut last = None;
        let (mut restarted, mut is_last_round) = (false, false);
        loop {
            for (index, server) in self.service.servers.iter().enumerate().skip(from) {
                if server.weight as i32 >= self.current_weight && !self.loads.overloaded(server.id) {
                    return Some(index as u32);
                }
                if last == Some(index as u32) {
                    return None;
                }
            }
            from = 0;
            self.current_weight -= self.gcd;
            if self.current_weight <= 0 {
                self.current_weight = self.top;
                if is_last_round || self.first == HEAD {
                    self.first = HEAD;
                    return None;
                }
                restarted = true;
            }
            self.sink_to_takers();
            is_last_round = self.current_weight <= self.gcd;
            if is_last_round && restarted {
                last = Some(self.first);
            }
        }
    }

    /// Skips the rounds in which no server can be found.
    #[inline]
    fn sink_to_takers(&mut self) {
        let servers = self.service.servers.iter();
        let takers = servers.filter(|server| takes(server, self.loads));
        let heaviest = takers.map(|server| server.weight as i32).max().unwrap_or(0).max(1);
        if self.current_weight > heaviest {
            let rounds = (self.current_weight - heaviest + self.gcd - 1) / self.gcd;
            self.current_weight -= rounds * self.gcd;
            if self.current_weight <= 0 {
                self.current_weight += self.gcd;
            }
        }
    }
}

/// The threshold after servers changed (`ip_vs_wrr_dest_changed`).
const fn after_change(current_weight: i32, gcd: i32, top: i32) -> i32 {
    if current_weight > top || current_weight == 0 {
        top
    } else if gcd > 1 {
        (current_weight / gcd) * gcd + 1
    } else {
        current_weight
    }
}

const fn gcd(mut a: i32, mut b: i32) -> i32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

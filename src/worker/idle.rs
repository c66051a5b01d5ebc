//! What a worker does when a pass brought nothing.
//!
//! In:  whether the pass moved frames, when it began. Out: a pause, a sleep, or a wait for a device's interrupt.
//! Never: makes a system call while frames come, or at all unless the policy says so. Every sleep is bounded, because
//! timers, the mailbox and the rings of other threads wake nobody.
//! Ref:  DPDK l3fwd-power (interrupt mode); VPP `rx-mode adaptive`.

use std::time::Duration;

use lvs_core::counters::WorkerCounters;
use lvs_core::single_writer::SingleWriter;

use crate::dpdk::{Clock, RxQueue, clock, queue};
use crate::worker::mailbox::Mailbox;

/// How much CPU an idle worker burns against how soon it notices a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Poll again at once: lowest latency.
    Spin,
    /// Poll again after the CPU's pause instruction: kinder to a hyper-thread sibling.
    #[default]
    Pause,
    /// After so many empty passes sleep between passes: for labs and shared CPUs.
    Sleep {
        /// Empty passes in a row before the first sleep.
        after_polls: u32,
        /// Microseconds a sleep; the kernel adds its timer slack of about 50.
        us: u32,
    },
    /// Poll while frames come. After a silence wait for the interrupt of a device, at most a millisecond; where a queue
    /// has none, sleep a part of the silence so far.
    Adaptive {
        /// Microseconds of silence before the first rest.
        quiet_us: u32,
        /// Microseconds of the longest sleep: how late a frame is noticed.
        sleep_max_us: u32,
    },
}

/// A sleep is the silence so far divided by this: what it adds to a flow's gaps stays small beside them.
const SILENCE_TO_SLEEP: u64 = 4;

/// The longest wait for an interrupt: timers are served as they are while the worker polls.
const WAIT_MS: u16 = 1;

/// The policy and for how long there has been nothing.
#[derive(Debug)]
pub(super) struct Idle {
    policy: IdlePolicy,
    empty_passes: u32,
    /// Every queue of this worker can wake it.
    wakes: bool,
    /// The queues interrupt for the next frame.
    armed: bool,
    /// When the last pass began that moved frames, in cycles.
    busy_at: u64,
    cycles_per_us: u64,
}

impl Idle {
    pub(super) fn new(policy: IdlePolicy, clock: &Clock) -> Self {
        Self {
            policy,
            empty_passes: 0,
            wakes: false,
            armed: false,
            busy_at: 0,
            cycles_per_us: clock.cycles_of_us(1).max(1),
        }
    }

    /// Once, on the worker's own thread, before the first pass.
    pub(super) fn begin(&mut self, rx: &mut [RxQueue]) {
        self.busy_at = clock::cycles();
        if let IdlePolicy::Adaptive { .. } = self.policy {
            self.wakes = !rx.is_empty() && rx.iter_mut().all(RxQueue::watch);
        }
    }

    /// Behind every pass; `began` is when it did, in cycles. Whether there was a rest.
    #[inline]
    pub(super) fn after_pass(&mut self, busy: bool, began: u64, rx: &mut [RxQueue], sleeper: Sleeper<'_>) -> bool {
        if busy {
            self.empty_passes = 0;
            self.busy_at = began;
            if self.armed {
                self.disarm(rx);
            }
            return false;
        }
        match self.policy {
            IdlePolicy::Spin => {}
            IdlePolicy::Pause => std::hint::spin_loop(),
            IdlePolicy::Sleep { after_polls, us } => {
                self.empty_passes = self.empty_passes.saturating_add(1);
                if self.empty_passes > after_polls {
                    sleeper.asleep(|| std::thread::sleep(Duration::from_micros(u64::from(us))));
                    return true;
                }
                std::hint::spin_loop();
            }
            IdlePolicy::Adaptive { quiet_us, sleep_max_us } => {
                let silence_us = began.wrapping_sub(self.busy_at) / self.cycles_per_us;
                if silence_us < u64::from(quiet_us) {
                    std::hint::spin_loop();
                } else if self.wakes {
                    return self.await_interrupt(rx, sleeper);
                } else {
                    let us = sleep_us(silence_us, sleep_max_us);
                    sleeper.asleep(|| std::thread::sleep(Duration::from_micros(us)));
                    return true;
                }
            }
        }
        false
    }

    /// Behind a pass that brought no frames and took a command: one change seldom comes alone.
    #[inline]
    pub(super) fn stay_awake(&mut self, began: u64) {
        self.empty_passes = 0;
        self.busy_at = began;
    }

    /// Arms the queues and lets one more pass look for what came before; behind that pass, waits. Whether it did.
    #[cold]
    fn await_interrupt(&mut self, rx: &mut [RxQueue], sleeper: Sleeper<'_>) -> bool {
        if !self.armed {
            rx.iter_mut().for_each(RxQueue::arm);
            self.armed = true;
            return false;
        }
        let mut woken = false;
        sleeper.asleep(|| woken = queue::wait_for_interrupt(WAIT_MS));
        if woken {
            sleeper.counters.interrupts.add(1);
            // Many NICs arm a queue for one interrupt.
            self.disarm(rx);
        }
        true
    }

    #[cold]
    fn disarm(&mut self, rx: &mut [RxQueue]) {
        rx.iter_mut().for_each(RxQueue::disarm);
        self.armed = false;
    }
}

/// How long to sleep after so long a silence.
fn sleep_us(silence_us: u64, sleep_max_us: u32) -> u64 {
    (silence_us / SILENCE_TO_SLEEP).clamp(1, u64::from(sleep_max_us.max(1)))
}

/// Who is told of a rest.
#[derive(Clone, Copy)]
pub(super) struct Sleeper<'a> {
    pub(super) mailbox: &'a Mailbox,
    pub(super) counters: &'a WorkerCounters,
}

impl Sleeper<'_> {
    #[cold]
    fn asleep(self, sleep: impl FnOnce()) {
        let before = clock::cycles();
        self.mailbox.rest(sleep);
        self.counters.sleeps.add(1);
        self.counters.sleep_cycles.add(clock::cycles().wrapping_sub(before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_a_quarter_of_the_silence_and_never_longer_than_it_may_be() {
        let slept: Vec<_> = [200, 1_000, 3_999, 4_000, 1 << 40]
            .map(|silence_us| sleep_us(silence_us, 1_000))
            .into();
        assert_eq!(slept, [50, 250, 999, 1_000, 1_000]);
        assert_eq!(sleep_us(0, 1_000), 1);
    }
}

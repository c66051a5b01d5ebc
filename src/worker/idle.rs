//! What a worker does after a pass without frames.
//!
//! In:  whether the pass moved frames, and when it began. Out: a pause, a sleep, or a wait for a device's interrupt.
//! Never: makes a system call while frames arrive, or at all unless the policy allows it. Every sleep is bounded, because
//! timers, the mailbox and rings of other threads wake nobody.
//! Ref:  DPDK l3fwd-power (interrupt mode); VPP `rx-mode adaptive`.

use std::time::Duration;

use lvs_core::counters::WorkerCounters;
use lvs_core::single_writer::SingleWriter;

use crate::dpdk::{Clock, RxQueue, clock, queue};
use crate::worker::mailbox::Mailbox;

/// A trade of CPU time: how much an idle worker burns, and how soon it notices a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Poll again at once: lowest latency.
    Spin,
    /// Poll again after the CPU's pause instruction, which leaves more of the core to a hyper-thread sibling.
    #[default]
    Pause,
    /// Sleep between passes after a number of empty ones. For labs and shared CPUs.
    Sleep {
        /// Empty passes in a row before the first sleep.
        after_polls: u32,
        /// Microseconds of one sleep. The kernel adds its timer slack of about 50.
        us: u32,
    },
    /// Poll while frames arrive. After a silence wait for a device's interrupt, at most a millisecond. Where a queue has no
    /// interrupt, sleep for a part of the silence so far.
    Adaptive {
        /// Microseconds of silence before the first sleep.
        quiet_us: u32,
        /// Microseconds of the longest sleep, which is how late a frame may be noticed.
        sleep_max_us: u32,
    },
}

/// A sleep lasts as long as the silence so far, divided by this. So it adds little to the gaps between a flow's frames.
const SILENCE_TO_SLEEP: u64 = 4;

/// The longest wait for an interrupt. Timers are served as often as by a worker that polls.
const WAIT_MS: u16 = 1;

/// The policy and the length of the current silence.
#[derive(Debug)]
pub(super) struct Idle {
    policy: IdlePolicy,
    empty_passes: u32,
    /// Whether every queue of this worker can wake it.
    wakes: bool,
    /// Whether the queues interrupt for the next frame.
    armed: bool,
    /// When the last pass with frames began, in cycles.
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

    /// To be called on the worker's own thread before the first pass.
    pub(super) fn begin(&mut self, rx: &mut [RxQueue]) {
        self.busy_at = clock::cycles();
        if let IdlePolicy::Adaptive { .. } = self.policy {
            self.wakes = !rx.is_empty() && rx.iter_mut().all(RxQueue::watch);
        }
    }

    /// To be called after every pass, which began at `began`, in cycles. Returns whether the worker slept.
    #[inline]
    pub(super) fn after_pass(
        &mut self,
        busy: bool,
        began: u64,
        rx: &mut [RxQueue],
        recorder: SleepRecorder<'_>,
    ) -> bool {
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
                    recorder.sleep(|| std::thread::sleep(Duration::from_micros(u64::from(us))));
                    return true;
                }
                std::hint::spin_loop();
            }
            IdlePolicy::Adaptive { quiet_us, sleep_max_us } => {
                let silence_us = began.wrapping_sub(self.busy_at) / self.cycles_per_us;
                if silence_us < u64::from(quiet_us) {
                    std::hint::spin_loop();
                } else if self.wakes {
                    return self.await_interrupt(rx, recorder);
                } else {
                    let us = sleep_us(silence_us, sleep_max_us);
                    recorder.sleep(|| std::thread::sleep(Duration::from_micros(us)));
                    return true;
                }
            }
        }
        false
    }

    /// To be called after a pass that took a command but no frames. More commands often follow.
    #[inline]
    pub(super) fn stay_awake(&mut self, began: u64) {
        self.empty_passes = 0;
        self.busy_at = began;
    }

    /// Arms the queues in one pass, so that the next pass finds frames that came earlier, and waits after that pass. Returns
    /// whether it waited.
    #[cold]
    fn await_interrupt(&mut self, rx: &mut [RxQueue], recorder: SleepRecorder<'_>) -> bool {
        if !self.armed {
            rx.iter_mut().for_each(RxQueue::arm);
            self.armed = true;
            return false;
        }
        let mut woken = false;
        recorder.sleep(|| woken = queue::wait_for_interrupt(WAIT_MS));
        if woken {
            recorder.counters.interrupts.add(1);
            // Many NICs arm a queue for one interrupt only.
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

/// How long to sleep after a silence of `silence_us`.
fn sleep_us(silence_us: u64, sleep_max_us: u32) -> u64 {
    (silence_us / SILENCE_TO_SLEEP).clamp(1, u64::from(sleep_max_us.max(1)))
}

/// Where a sleep is recorded: in the mailbox, so that its other side knows, and in the counters.
#[derive(Clone, Copy)]
pub(super) struct SleepRecorder<'a> {
    pub(super) mailbox: &'a Mailbox,
    pub(super) counters: &'a WorkerCounters,
}

impl SleepRecorder<'_> {
    #[cold]
    fn sleep(self, sleep: impl FnOnce()) {
        let before = clock::cycles();
        self.mailbox.while_asleep(sleep);
        self.counters.sleeps.add(1);
        self.counters.sleep_cycles.add(clock::cycles().wrapping_sub(before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_lasts_a_quarter_of_the_silence_and_at_most_the_limit() {
        let slept: Vec<_> = [200, 1_000, 3_999, 4_000, 1 << 40]
            .map(|silence_us| sleep_us(silence_us, 1_000))
            .into();
        assert_eq!(slept, [50, 250, 999, 1_000, 1_000]);
        assert_eq!(sleep_us(0, 1_000), 1);
    }
}

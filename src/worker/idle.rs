//! What a worker does when a pass brought nothing.

use std::time::Duration;

/// How much CPU an idle worker burns against how soon it notices a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Poll again at once: lowest latency.
    Spin,
    /// Poll again after the CPU's pause instruction: kinder to a hyper-thread sibling.
    #[default]
    Pause,
    /// After so many empty passes sleep between passes: for labs and shared CPUs. The only system call of a worker.
    Sleep {
        /// Empty passes in a row before the first sleep.
        after_polls: u32,
        /// Microseconds a sleep; the kernel adds its timer slack of about 50.
        us: u32,
    },
}

/// The policy and how many passes in a row were empty.
#[derive(Debug)]
pub(super) struct Idle {
    policy: IdlePolicy,
    empty_passes: u32,
}

impl Idle {
    pub(super) const fn new(policy: IdlePolicy) -> Self {
        Self {
            policy,
            empty_passes: 0,
        }
    }

    #[inline]
    pub(super) fn after_pass(&mut self, busy: bool) {
        if busy {
            self.empty_passes = 0;
            return;
        }
        match self.policy {
            IdlePolicy::Spin => {}
            IdlePolicy::Pause => std::hint::spin_loop(),
            IdlePolicy::Sleep { after_polls, us } => {
                self.empty_passes = self.empty_passes.saturating_add(1);
                if self.empty_passes > after_polls {
                    std::thread::sleep(Duration::from_micros(u64::from(us)));
                } else {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

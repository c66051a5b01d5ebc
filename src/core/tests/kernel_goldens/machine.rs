//! The whole machine of a recording without its devices: the director, the kernel behind its twins, and frames
//! that wait for neighbours. Frames go in at one end, and all that leave come out at the other.

use std::collections::HashMap;

use lvs_core::l3::{DeviceId, L3, NeighbourKey};
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::verdict::DropReason;

use crate::host::{self, Action, Host};
use crate::scenario::Side;
use crate::setup::Setup;

/// The kernel asks so many times for a neighbour, a second apart, and waits another one for an answer.
const PROBES: u32 = 3;
const PROBE_MS: u64 = 1_000;

/// Who sends a frame that waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Director,
    Host,
}

struct Waiting {
    key: NeighbourKey,
    frame: Vec<u8>,
    sender: Sender,
}

struct Probe {
    key: NeighbourKey,
    asked: u32,
    next_ms: u64,
}

/// See the module.
pub struct Machine {
    pub director: TestDirector,
    pub setup: Setup,
    pub host: Host,
    waiting: Vec<Waiting>,
    probes: Vec<Probe>,
    now_ms: u64,
    out: Vec<(Side, Vec<u8>)>,
    dropped: Vec<DropReason>,
    is_unsure: bool,
    /// By host, milliseconds saved up for ICMP errors to it, and when.
    saved: HashMap<Vec<u8>, (u64, u64)>,
}

/// What came of a step.
pub struct Outcomes {
    /// Frames that left, in order.
    pub frames: Vec<(Side, Vec<u8>)>,
    /// Why others did not.
    pub dropped: Vec<DropReason>,
    /// The kernel got something of which it is not known what it does with it.
    pub is_unsure: bool,
}

impl Outcomes {
    /// Both, one after the other.
    pub fn followed_by(mut self, mut later: Self) -> Self {
        self.frames.append(&mut later.frames);
        self.dropped.append(&mut later.dropped);
        self.is_unsure |= later.is_unsure;
        self
    }
}

impl Machine {
    pub fn new(director: TestDirector, setup: Setup) -> Self {
        Self {
            host: Host {
                accepts_local: setup.accepts_local(),
            },
            director,
            setup,
            waiting: Vec::new(),
            probes: Vec::new(),
            now_ms: 0,
            out: Vec::new(),
            dropped: Vec::new(),
            is_unsure: false,
            saved: HashMap::new(),
        }
    }

    /// What came of all since it was asked last.
    pub fn take(&mut self) -> Outcomes {
        Outcomes {
            frames: std::mem::take(&mut self.out),
            dropped: std::mem::take(&mut self.dropped),
            is_unsure: std::mem::take(&mut self.is_unsure),
        }
    }

    /// A frame that `side` receives; whether the director left it to the kernel.
    pub fn receive(&mut self, side: Side, frame: &[u8]) -> bool {
        if !self.setup.is_let_in(frame) {
            return false;
        }
        let device = side.device();
        let outcome = self.director.inject(device, frame);
        let was_punted = matches!(outcome, Outcome::Punted(_));
        self.settle(device, outcome);
        self.settle_made(device);
        if was_punted && let Some((addr, mac)) = host::announced(frame) {
            self.learn(NeighbourKey::of(device, 0, addr), mac);
        }
        was_punted
    }

    /// Lets the time come that the recording's clock shows.
    pub fn advance(&mut self, ms: u32) {
        self.now_ms += u64::from(ms);
        self.director.advance_ms(ms);
        self.settle_made(DeviceId(0));
        while let Some(at) = self.probes.iter().position(|probe| probe.next_ms <= self.now_ms) {
            let probe = &mut self.probes[at];
            if probe.asked < PROBES {
                probe.asked += 1;
                probe.next_ms += PROBE_MS;
                let key = probe.key;
                self.ask(&key);
            } else {
                let key = self.probes.remove(at).key;
                self.give_up(&key);
            }
        }
    }

    /// The kernel's network has changed.
    pub fn change_network(&mut self) {
        self.host.accepts_local = self.setup.accepts_local();
        self.director.set_l3(self.setup.network());
    }

    fn settle_made(&mut self, device: DeviceId) {
        for outcome in self.director.take_generated() {
            self.settle(device, outcome);
        }
    }

    fn settle(&mut self, device: DeviceId, outcome: Outcome) {
        match outcome {
            Outcome::Transmitted(device, frame) => self.out.push((Side::of(device), frame)),
            Outcome::Held(key, frame) => self.wait(key, frame, Sender::Director),
            Outcome::Dropped(reason) => self.dropped.push(reason),
            Outcome::Consumed => {}
            Outcome::Punted(frame) => {
                let l3 = self.setup.network();
                match self.host.receive(&l3, device, &frame) {
                    None => {}
                    Some(Action::Unknown) => self.is_unsure = true,
                    Some(Action::Send(_, frame) | Action::Wait(_, frame)) if !self.may_send(&l3, &frame) => {}
                    Some(Action::Send(device, frame)) => self.leave_host(device, &frame),
                    Some(Action::Wait(key, frame)) => self.wait(key, frame, Sender::Host),
                }
            }
        }
    }

    /// The stack sends six ICMPv4 errors to a host at once, then one in each pause (`inet_peer_xrlim_allow`).
    fn may_send(&mut self, l3: &L3, frame: &[u8]) -> bool {
        const BURST: u64 = 6;
        let pause_ms = u64::from(l3.icmp_pauses.v4_ms);
        let is_own = |bytes: &[u8]| {
            let addr: Option<[u8; 4]> = bytes.try_into().ok();
            addr.is_some_and(|addr| l3.is_own(lvs_core::address::Addr4(addr)))
        };
        let is_error = frame.get(26..30).is_some_and(is_own)
            && frame.get(12..14) == Some(&[8, 0])
            && frame.get(23) == Some(&1)
            && frame.get(34) != Some(&0);
        let Some(target) = frame.get(30..34).filter(|_| is_error && pause_ms > 0) else {
            return true;
        };
        let full = BURST * pause_ms;
        let (saved, seen) = self.saved.entry(target.to_vec()).or_insert((full, self.now_ms));
        *saved = (*saved + self.now_ms - *seen).min(full);
        *seen = self.now_ms;
        let may = *saved >= pause_ms;
        *saved -= if may { pause_ms } else { 0 };
        may
    }

    /// What the kernel sends goes through the director.
    fn leave_host(&mut self, device: DeviceId, frame: &[u8]) {
        let outcome = self.director.from_host(device, frame);
        self.settle(device, outcome);
    }

    fn wait(&mut self, key: NeighbourKey, frame: Vec<u8>, sender: Sender) {
        self.waiting.push(Waiting { key, frame, sender });
        if self.probes.iter().all(|probe| probe.key != key) {
            self.probes.push(Probe {
                key,
                asked: 1,
                next_ms: self.now_ms + PROBE_MS,
            });
            self.ask(&key);
        }
    }

    fn ask(&mut self, key: &NeighbourKey) {
        let frame = host::solicitation(&self.setup.network(), key);
        self.leave_host(key.device, &frame);
    }

    fn learn(&mut self, key: NeighbourKey, mac: [u8; 6]) {
        if self.waiting.iter().all(|waiting| waiting.key != key) {
            return;
        }
        self.probes.retain(|probe| probe.key != key);
        self.setup.learn(key, mac);
        self.change_network();
        for Waiting { frame, sender, .. } in self.take_waiting(&key) {
            match sender {
                Sender::Director => {
                    let outcome = self.director.finish(key, &frame);
                    self.settle(key.device, outcome);
                }
                Sender::Host => {
                    let mut frame = frame;
                    frame[..6].copy_from_slice(&mac);
                    self.leave_host(key.device, &frame);
                }
            }
        }
    }

    fn give_up(&mut self, key: &NeighbourKey) {
        for Waiting { frame, sender, .. } in self.take_waiting(key) {
            if sender == Sender::Director {
                let outcome = self.director.give_up(key.device, &frame);
                self.settle(key.device, outcome);
            }
        }
    }

    fn take_waiting(&mut self, key: &NeighbourKey) -> Vec<Waiting> {
        let all = std::mem::take(&mut self.waiting);
        let (taken, left) = all.into_iter().partition(|waiting| waiting.key == *key);
        self.waiting = left;
        taken
    }
}

//! The far ends of the director's two cables: frames are put on them and taken from them as they are.
//!
//! Packet sockets in a namespace that has nothing but these two ends, and no addresses.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use lvs_test_support::namespace::Namespace;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};

use crate::scenario::Side;

/// Largest frame.
const FRAME_MAX: usize = 65_536;
/// The MAC address of whoever asks whether all frames before have come through.
const BARRIER_MAC: [u8; 6] = [2, 0, 0, 0, 0xFF, 0xFD];
/// If nothing comes for this time, nothing more is expected to come.
const QUIET: Duration = Duration::from_millis(30);
/// The same when all expected frames have come. A further frame would be seen with the next step.
const QUIET_AFTER_ALL: Duration = Duration::from_millis(6);
/// Frames that are expected are waited for as long as this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Both ends.
pub struct Wire {
    ends: [OwnedFd; 2],
    arrived: Vec<(Side, Vec<u8>)>,
    /// Barrier answers seen.
    barriers: usize,
    /// The longest that the director took to answer a barrier.
    slowest: Duration,
}

impl Wire {
    /// Opens the ends `names` in `namespace`.
    pub fn open(namespace: &Namespace, names: [&'static str; 2]) -> Self {
        Self {
            ends: namespace.run(move || names.map(open_end)),
            arrived: Vec::new(),
            barriers: 0,
            slowest: Duration::ZERO,
        }
    }

    /// Puts a frame on the cable towards `side`.
    pub fn send(&self, side: Side, frame: &[u8]) {
        send(self.end(side).as_raw_fd(), frame, MsgFlags::empty()).expect("the cable takes it");
    }

    /// Sends a question behind everything else, and returns what came until the director answered it and all was quiet.
    /// It waits for `expected` frames at least.
    pub fn settle(&mut self, side: Side, expected: usize) -> Vec<(Side, Vec<u8>)> {
        let (begun, before) = (Instant::now(), self.barriers);
        self.send(side, &barrier(side));
        while self.barriers == before && begun.elapsed() < PATIENCE {
            self.listen(Duration::from_millis(5));
        }
        self.slowest = self.slowest.max(begun.elapsed());
        let mut quiet_since = Instant::now();
        loop {
            let is_missing = self.arrived.len() < expected && begun.elapsed() < PATIENCE;
            let quiet = if self.arrived.len() == expected {
                QUIET_AFTER_ALL
            } else {
                QUIET
            };
            if !is_missing && quiet_since.elapsed() >= quiet {
                return std::mem::take(&mut self.arrived);
            }
            if self.listen(Duration::from_millis(5)) {
                quiet_since = Instant::now();
            }
        }
    }

    /// The longest so far from a frame to all that the director does with it.
    pub fn slowest(&self) -> Duration {
        self.slowest
    }

    /// What comes within `time`.
    pub fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.listen(left.min(Duration::from_millis(50)));
        }
    }

    /// What has come since it was asked last.
    pub fn take(&mut self) -> Vec<(Side, Vec<u8>)> {
        std::mem::take(&mut self.arrived)
    }

    /// Frames that were taken too early come first next time.
    pub fn put_back(&mut self, frames: Vec<(Side, Vec<u8>)>) {
        self.arrived.splice(..0, frames);
    }

    fn end(&self, side: Side) -> &OwnedFd {
        match side {
            Side::Client => &self.ends[0],
            Side::Rs => &self.ends[1],
        }
    }

    /// Takes what comes within `time`; whether anything that counts did.
    fn listen(&mut self, time: Duration) -> bool {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
        let mut ends = [&self.ends[0], &self.ends[1]].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
        if poll(&mut ends, timeout).is_err() {
            return false;
        }
        let mut any = false;
        for side in [Side::Client, Side::Rs] {
            let mut buffer = vec![0; FRAME_MAX];
            while let Ok(count) = recv(self.end(side).as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                let frame = &buffer[..count];
                if frame.starts_with(&BARRIER_MAC) {
                    self.barriers += 1;
                } else if !is_noise(frame) {
                    any = true;
                    self.arrived.push((side, frame.to_vec()));
                }
            }
        }
        any
    }
}

fn open_end(name: &str) -> OwnedFd {
    let end = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .expect("root may open packet sockets");
    let address: LinkAddr = getifaddrs()
        .expect("interfaces can be listed")
        .filter(|interface| interface.interface_name == name)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .expect("the cable's end is there");
    setsockopt(&end, sockopt::RcvBufForce, &(8 << 20)).expect("root may");
    bind(end.as_raw_fd(), &address).expect("the cable's end is there");
    // What came from all interfaces before it was bound.
    let mut buffer = [0; 64];
    while recv(end.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
    end
}

/// An ARP request for the director's address, from a host that is in no recording.
fn barrier(side: Side) -> Vec<u8> {
    let net = match side {
        Side::Client => 0,
        Side::Rs => 1,
    };
    let mut frame = vec![0xFF; 6];
    frame.extend_from_slice(&BARRIER_MAC);
    frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&BARRIER_MAC);
    frame.extend_from_slice(&[10, net, 0, 253, 0, 0, 0, 0, 0, 0, 10, net, 0, 1]);
    frame.resize(60, 0);
    frame
}

/// Whether an IPv6 stack sends this by itself: multicast listener reports, router solicitations.
fn is_noise(frame: &[u8]) -> bool {
    if frame.get(12..14) != Some(&[0x86, 0xDD]) {
        return false;
    }
    let (next, at) = match frame.get(20) {
        Some(0) => (
            frame.get(54),
            54 + 8 * (1 + usize::from(frame.get(55).copied().unwrap_or(0))),
        ),
        next => (next, 54),
    };
    next == Some(&58) && frame.get(at).is_some_and(|kind| matches!(kind, 130..=133 | 143))
}

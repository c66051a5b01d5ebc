//! What one pass of the worker's loop does at most, in virtual time: a table is filled, and expires, piece by piece.

use lvs_core::frame::Frame;
use lvs_core::frame::vec::VecFrame;
use lvs_core::ipvs::protocol::Timeouts;
use lvs_core::limits::{BURST_MAX, TIMERS_PER_PASS_MAX};
use lvs_core::testing::network::{WAN, director_mac};
use lvs_core::testing::udp4;

use super::*;

/// Connections that live at the same time.
const LIVE: usize = 1 << 20;
/// Where the UDP source port lies in a frame.
const SRC_PORT_AT: usize = 34;
const PORTS: usize = 60_000;

/// A worker that is given bursts of first packets, each from an end of its own.
struct Flood {
    director: TestDirector,
    by_client: Vec<Vec<u8>>,
    sent: usize,
}

/// What one pass did.
#[derive(Debug)]
struct Turn {
    created: usize,
    expired: usize,
    live: usize,
}

impl Flood {
    fn new(conns_max: usize, udp_sec: u32) -> Self {
        let mut director = TestDirector::new(1, conns_max, network().build(1));
        let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
        director.change(|desired| {
            let spec = ServiceSpec::new(key, SchedulerKind::Rr);
            desired.add_service(spec).expect("a new service");
            let server = ServerSpec::new(addr("198.51.100.11"), 53, ForwardingMode::DirectRouting, 1);
            desired.add_server(&key, server).expect("a new server");
        });
        let mut timeouts = Timeouts::default();
        timeouts.set(0, 0, udp_sec).expect("a timeout");
        director.set_timeouts(timeouts);
        let by_client = (1..64)
            .map(|host| {
                let packet = udp4(&format!("203.0.113.{host}:1 > 192.0.2.100:53"));
                packet.without_checksum().dst_mac(director_mac(WAN)).build()
            })
            .collect();
        Self {
            director,
            by_client,
            sent: 0,
        }
    }

    /// A pass that receives `frames` new ends' first datagrams and takes `us` microseconds.
    fn pass(&mut self, frames: usize, us: u32) -> Turn {
        let (picks, expired) = self.counts();
        let mut burst: Vec<VecFrame> = (0..frames).map(|_| self.next_frame()).collect();
        for outcome in self.director.burst(0, WAN, &mut burst) {
            outcome.transmitted();
        }
        self.director.advance_us(us);
        let now = self.counts();
        Turn {
            created: now.0 - picks,
            expired: now.1 - expired,
            live: now.0 - now.1,
        }
    }

    fn next_frame(&mut self) -> VecFrame {
        let mut frame = VecFrame::with_headroom(&self.by_client[self.sent / PORTS], 0, 64);
        let port = 1_024 + (self.sent % PORTS) as u16;
        frame.bytes_mut()[SRC_PORT_AT..SRC_PORT_AT + 2].copy_from_slice(&port.to_be_bytes());
        self.sent += 1;
        frame
    }

    /// Connections begun and expired so far.
    fn counts(&self) -> (usize, usize) {
        let counters = &self.director.counters[0];
        let count = |counter: &std::sync::atomic::AtomicU64| counter.get() as usize;
        (count(&counters.scheduler_picks), count(&counters.conns_expired))
    }
}

#[test]
fn a_million_connections_a_second_expire_as_fast_as_others_begin_a_few_in_every_pass() {
    const PASSES_PER_SEC: usize = LIVE / BURST_MAX;
    // An eighth more than live for their second: who expired too late would keep new ones out.
    let mut flood = Flood::new(LIVE + LIVE / 8, 1);
    let (mut most_expired, mut most_live) = (0, 0);
    for pass in 0..2 * PASSES_PER_SEC {
        let seen = flood.pass(BURST_MAX, 1_000_000 / PASSES_PER_SEC as u32);
        assert_eq!(seen.created, BURST_MAX, "pass {pass}: {seen:?}");
        most_expired = most_expired.max(seen.expired);
        most_live = most_live.max(seen.live);
    }
    assert!((1..=TIMERS_PER_PASS_MAX).contains(&most_expired), "{most_expired}");
    assert!(most_live < LIVE + LIVE / 8, "{most_live}");
}

#[test]
fn a_million_connections_that_are_due_at_once_expire_in_passes_of_a_few() {
    let mut flood = Flood::new(LIVE, 300);
    while flood.sent < LIVE {
        flood.pass(BURST_MAX, 0);
    }
    flood.director.advance_us(400_000_000);
    let mut passes = 0;
    loop {
        let seen = flood.pass(0, 1);
        assert!(seen.expired <= TIMERS_PER_PASS_MAX, "{seen:?}");
        if seen.live == 0 {
            break;
        }
        passes += 1;
    }
    // Each comes down a level and fires; besides, the clock passes 400 s in units of 64 ms.
    let steps = 2 * LIVE + 400_000 / 64;
    assert!(passes <= steps / TIMERS_PER_PASS_MAX + 1, "{passes} passes");
}

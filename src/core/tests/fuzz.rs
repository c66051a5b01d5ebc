//! Arbitrary frames, fragments and ICMP errors among them, through the whole path, alone and in bursts, with one
//! worker and with three: nothing panics, every frame gets exactly one verdict, and every connection is counted by exactly one server.
//!
//! Deterministic: the seed is printed on failure. `LVSD_FUZZ_SECONDS=600` goes on with new seeds.

use std::time::{Duration, Instant};

use lvs_core::frame::Frame;
use lvs_core::frame::vec::VecFrame;
use lvs_core::l3::DeviceId;
use lvs_core::limits::BURST_MAX;
use lvs_core::random::Random;
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::mutate::{add_services, arbitrary, seeds};
use lvs_core::testing::network::{LAN, WAN, network};
use lvs_core::testing::tcp4;

/// Frames of one run with the default settings: ten million in all.
const FRAMES_PER_RUN: usize = 2_500_000;
/// Small, so that the table is full most of the time.
const CONNS_MAX: usize = 4_096;

fn director(workers: u8) -> TestDirector {
    let mut director = TestDirector::new(workers, CONNS_MAX, network().build(1));
    director.change(add_services);
    director
}

fn run(seed: u64, workers: u8, frames_count: usize) {
    let mut random = Random::new(seed);
    let mut director = director(workers);
    let seeds = seeds();
    let (mut verdicts, mut made_count) = (0, 0);
    while verdicts < frames_count {
        let device = if random.below(4) == 0 { LAN } else { WAN };
        let count = random.below(BURST_MAX as u32) as usize + 1;
        let mut frames: Vec<VecFrame> = (0..count)
            .map(|_| {
                let bytes = arbitrary(&mut random, &seeds);
                VecFrame::with_headroom(&bytes, random.below(130) as usize, 64)
            })
            .collect();
        let worker = random.below(u32::from(workers)) as usize;
        let outcomes = director.burst(worker, device, &mut frames);
        verdicts += outcomes.len();
        let made = director.take_generated();
        made_count += made.len();
        for outcome in outcomes.into_iter().chain(made) {
            if let Outcome::Transmitted(DeviceId(device), bytes) = outcome {
                assert!(
                    device < 2 && bytes.len() >= 14 + 20,
                    "seed {seed}: an incomplete frame was sent"
                );
            }
        }
        if random.below(64) == 0 {
            director.advance_ms(random.below(2_000));
        }
    }
    assert!(
        made_count > frames_count / 1_000,
        "seed {seed}: only {made_count} pieces of datagrams"
    );
    assert_counts_agree(&director, seed);
    // Ten days later nothing is left.
    for _ in 0..30 {
        director.advance_ms(60_000);
    }
    assert_eq!(
        director.conns().len(),
        0,
        "seed {seed}: connections outlive their timeouts"
    );
    assert_counts_agree(&director, seed);
}

/// ActiveConn + InActConn over all servers is the number of connections in the tables.
fn assert_counts_agree(director: &TestDirector, seed: u64) {
    let counted: u64 = director
        .counters
        .iter()
        .flat_map(|worker| worker.servers.iter())
        .map(|server| u64::from(server.active.get()) + u64::from(server.inactive.get()))
        .sum();
    let held: usize = director
        .workers
        .iter()
        .map(|worker| worker.conns_count().0 + worker.conns_count().1)
        .sum();
    assert_eq!(
        counted, held as u64,
        "seed {seed}: servers count other connections than the tables hold"
    );
}

#[test]
fn arbitrary_frames_neither_panic_nor_get_lost() {
    let started = Instant::now();
    let budget = std::env::var("LVSD_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .map(Duration::from_secs);
    let mut seed = 1;
    loop {
        run(seed, 1, FRAMES_PER_RUN);
        run(seed + 1, 3, FRAMES_PER_RUN);
        seed += 2;
        match budget {
            None if seed > 4 => break,
            Some(budget) if started.elapsed() > budget => break,
            _ => {}
        }
    }
}

#[test]
fn frames_of_every_short_length_are_named_drops_or_punted() {
    let mut director = director(1);
    let whole = tcp4("192.0.2.2:40002 > 192.0.2.100:80").syn().mss(1_460).build();
    for len in 0..whole.len() {
        let mut frames = [VecFrame::new(&whole[..len])];
        let outcome = director.burst(0, WAN, &mut frames).remove(0);
        assert!(matches!(outcome, Outcome::Dropped(_)), "{len} bytes: {outcome:?}");
        assert_eq!(frames[0].bytes().len(), len, "a dropped frame is left as it was");
    }
    assert_eq!(director.conns().len(), 0);
}

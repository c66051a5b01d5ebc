//! Many workers, virtual time: schedulers stay fair over all of them, and those that measure do not herd.
//!
//! A connection is a SYN, and for loads an ACK, a service time and an RST, or packets of some size. Everything goes through
//! the real path of every worker; only time and the wire are made up. `--nocapture` prints the figures.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lvs_core::ipvs::desired::{ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::random::Random;
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::TestDirector;
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{PacketBuilder, describe, tcp4};

const CONNS: u32 = 100_000;
const WORKERS: [u8; 5] = [1, 2, 4, 16, 64];
/// Between two new connections at most: 50,000 a second, several within one beat of the workers' loads.
const ARRIVAL_MAX_US: u32 = 40;

/// A director with one service whose real servers 198.51.100.11… have these weights.
fn director(scheduler: &str, workers: u8, weights: &[u32], conns_max: usize) -> TestDirector {
    let mut director = TestDirector::new(workers, conns_max, network().build(1));
    let key = ServiceKey::Address {
        protocol: ServiceProtocol::Tcp,
        addr: "192.0.2.100".parse().unwrap(),
        port: 80,
    };
    let kind = SchedulerKind::parse(scheduler).unwrap();
    director.change(|desired| {
        desired.add_service(ServiceSpec::new(key, kind)).unwrap();
        for (index, weight) in weights.iter().enumerate() {
            let addr = format!("198.51.100.{}", index + 11).parse().unwrap();
            let server = ServerSpec::new(addr, 80, ForwardingMode::Nat, *weight);
            desired.add_server(&key, server).unwrap();
        }
    });
    director
}

fn end_of_client(number: u32) -> String {
    let [_, b, c, d] = number.to_be_bytes();
    format!("203.{b}.{c}.{d}:{}", 1_024 + number % 60_000)
}

fn client(number: u32) -> PacketBuilder {
    tcp4(&format!("{} > 192.0.2.100:80", end_of_client(number)))
}

/// Which server, from 0, a frame was sent to.
fn server_of(frame: &[u8]) -> usize {
    let text = describe(frame);
    let (_, end) = text.split_once("> 198.51.100.").unwrap_or_else(|| panic!("{text}"));
    end.split(':').next().unwrap().parse::<usize>().unwrap() - 11
}

/// Connections that each server got, over all workers.
fn counts(director: &TestDirector, servers: usize) -> Vec<u64> {
    let of = |id: usize| {
        let workers = director.counters.iter();
        workers
            .map(|worker| worker.server(RealServerId(id as u32)).connections.get())
            .sum()
    };
    (0..servers).map(of).collect()
}

/// The largest difference of `counts` from `exact`, in percent of it.
fn worst_percent(counts: &[u64], exact: &[f64]) -> f64 {
    let differences = counts
        .iter()
        .zip(exact)
        .map(|(count, exact)| (*count as f64 / exact - 1.0).abs() * 100.0);
    differences.fold(0.0, f64::max)
}

fn exact_by_weight(weights: &[u32], conns: u32) -> Vec<f64> {
    let total: u32 = weights.iter().sum();
    weights
        .iter()
        .map(|weight| f64::from(conns) * f64::from(*weight) / f64::from(total))
        .collect()
}

/// Opens `conns` connections that stay for a minute. Returns how many each server got.
fn spread(scheduler: &str, workers: u8, weights: &[u32], conns: u32) -> Vec<u64> {
    let capacity = conns as usize * 2 / usize::from(workers) + 1_024;
    let mut director = director(scheduler, workers, weights, capacity);
    for number in 0..conns {
        director.advance_us(10);
        director.inject(WAN, &client(number).syn().build()).transmitted();
    }
    counts(&director, weights.len())
}

#[test]
fn rr_and_wrr_are_even_over_any_number_of_workers() {
    for (scheduler, weights) in [("rr", [1; 9]), ("wrr", [1, 2, 3, 4, 5, 10, 20, 25, 30])] {
        let exact = exact_by_weight(&weights, CONNS);
        for workers in WORKERS {
            let worst = worst_percent(&spread(scheduler, workers, &weights, CONNS), &exact);
            println!("{scheduler:4} {workers:2} workers: {worst:.3} % from exact");
            assert!(worst < 1.0, "{scheduler} {workers}: {worst} %");
        }
    }
}

/// Each worker starts at another place of the cycle, so even a few connections are spread over all servers.
#[test]
fn few_connections_over_many_workers_do_not_all_begin_with_the_same_server() {
    for scheduler in ["rr", "wrr"] {
        let counts = spread(scheduler, 64, &[1; 8], 160);
        assert!(
            counts.iter().all(|count| (10..=30).contains(count)),
            "{scheduler}: {counts:?}"
        );
    }
}

/// Opens 50,000 connections a second. Each lasts 100 to 300 ms times the slowness of its server.
fn under_load(scheduler: &str, workers: u8, weights: &[u32], slowness: &[f64]) -> Vec<u64> {
    let capacity = CONNS as usize * 2 / usize::from(workers) + 1_024;
    let mut director = director(scheduler, workers, weights, capacity);
    let mut random = Random::new(7);
    let mut ends: BinaryHeap<Reverse<(u64, u32)>> = BinaryHeap::new();
    for number in 0..CONNS {
        director.advance_us(random.below(ARRIVAL_MAX_US + 1));
        while let Some(Reverse((at, ended))) = ends.peek().copied() {
            if at > director.now_us() {
                break;
            }
            ends.pop();
            director.inject(WAN, &client(ended).rst().build()).transmitted();
        }
        let (_, frame) = director.inject(WAN, &client(number).syn().build()).transmitted();
        director.inject(WAN, &client(number).ack().build()).transmitted();
        let lasts_us = f64::from(100_000 + random.below(200_000)) * slowness[server_of(&frame)];
        ends.push(Reverse((director.now_us() + lasts_us as u64, number)));
    }
    counts(&director, weights.len())
}

#[test]
fn wlc_picks_over_many_workers_as_over_one_under_a_load_of_service_times() {
    let weights = [1, 1, 2, 2, 3, 3, 4, 4, 5];
    let slowness = [1.0, 3.0, 1.0, 2.0, 1.0, 0.5, 1.0, 1.5, 1.0];
    for scheduler in ["wlc", "lc", "sed"] {
        let one = under_load(scheduler, 1, &weights, &slowness);
        let exact: Vec<f64> = one.iter().map(|count| *count as f64).collect();
        println!("{scheduler:4}  1 worker:  {one:?}");
        for workers in &WORKERS[1..] {
            let many = under_load(scheduler, *workers, &weights, &slowness);
            let worst = worst_percent(&many, &exact);
            println!("{scheduler:4} {workers:2} workers: {worst:.2} % from one");
            assert!(
                worst < 3.0,
                "{scheduler} {workers}: {worst} %: {many:?} instead of {one:?}"
            );
        }
    }
}

/// A thousand connections a second, each of which lasts two seconds and sends a packet every 100 ms.
struct Traffic {
    /// Share of the busiest server in any half second of new connections.
    herd: f64,
    /// Bytes of each server in the second half.
    bytes: Vec<u64>,
}

fn under_traffic(scheduler: &str, workers: u8, weights: &[u32]) -> Traffic {
    const SECONDS: u32 = 16;
    let mut director = director(scheduler, workers, weights, 65_536);
    let mut random = Random::new(11);
    let mut due: BinaryHeap<Reverse<(u64, u32, u32, usize)>> = BinaryHeap::new();
    let mut traffic = Traffic {
        herd: 0.0,
        bytes: Vec::new(),
    };
    let bytes = |director: &TestDirector| -> Vec<u64> {
        let of = |id: usize| {
            let workers = director.counters.iter();
            workers
                .map(|worker| worker.server(RealServerId(id as u32)).in_bytes.get())
                .sum()
        };
        (0..weights.len()).map(of).collect()
    };
    let (mut before, mut half) = (counts(&director, weights.len()), Vec::new());
    for number in 0..SECONDS * 1_000 {
        director.advance_us(1_000);
        while let Some(Reverse((at, conn, left, size))) = due.peek().copied() {
            if at > director.now_us() {
                break;
            }
            due.pop();
            director
                .inject(WAN, &client(conn).ack().payload_len(size).build())
                .transmitted();
            if left > 0 {
                due.push(Reverse((at + 100_000, conn, left - 1, size)));
            }
        }
        director.inject(WAN, &client(number).syn().build()).transmitted();
        // Few connections bring much, many bring little.
        let size = if random.below(10) == 0 { 1_400 } else { 100 };
        due.push(Reverse((director.now_us() + 50_000, number, 20, size)));
        if number % 500 == 499 {
            let now = counts(&director, weights.len());
            let most = now.iter().zip(&before).map(|(now, before)| now - before).max().unwrap();
            traffic.herd = traffic.herd.max(most as f64 / 500.0);
            before = now;
        }
        if number == SECONDS * 500 {
            half = bytes(&director);
        }
    }
    traffic.bytes = bytes(&director)
        .iter()
        .zip(&half)
        .map(|(now, then)| now - then)
        .collect();
    traffic
}

#[test]
fn lt_and_wlt_level_traffic_by_weight_and_do_not_herd() {
    for (scheduler, weights) in [("lt", [1; 8]), ("wlt", [1, 1, 1, 1, 2, 2, 4, 4])] {
        for workers in [1, 2, 16] {
            let traffic = under_traffic(scheduler, workers, &weights);
            let total: u64 = traffic.bytes.iter().sum();
            let shares = exact_by_weight(&weights, total as u32);
            let uneven = worst_percent(&traffic.bytes, &shares);
            let fair = f64::from(*weights.iter().max().unwrap()) / f64::from(weights.iter().sum::<u32>());
            let herd = traffic.herd / fair;
            println!("{scheduler:3} {workers:2} workers: traffic {uneven:.1} % from its share, herd {herd:.2} x fair");
            assert!(
                herd < 3.0,
                "{scheduler} {workers}: {herd} times its share to one server"
            );
            assert!(uneven < 20.0, "{scheduler} {workers}: {uneven} %: {:?}", traffic.bytes);
        }
    }
}

/// Connections that each server got in the last of `seconds`, when it answers a SYN after so many microseconds
/// (by second), at a thousand connections a second that last 100 ms.
fn answered(workers: u8, servers: usize, seconds: u32, response_us: impl Fn(usize, u32) -> u64) -> Vec<Vec<u64>> {
    let mut director = director("wrt", workers, &vec![1; servers], 65_536);
    let mut answers: BinaryHeap<Reverse<(u64, u32, usize)>> = BinaryHeap::new();
    let mut ends: BinaryHeap<Reverse<(u64, u32)>> = BinaryHeap::new();
    let mut each = Vec::new();
    let mut before = vec![0; servers];
    for number in 0..seconds * 1_000 {
        for _ in 0..10 {
            director.advance_us(100);
            while let Some(Reverse((at, conn, server))) = answers.peek().copied() {
                if at > director.now_us() {
                    break;
                }
                answers.pop();
                let ends = format!("198.51.100.{}:80 > {}", server + 11, end_of_client(conn));
                let reply = tcp4(&ends).syn().ack();
                director
                    .inject(LAN, &reply.dst_mac(director_mac(LAN)).build())
                    .transmitted();
            }
            while let Some(Reverse((at, conn))) = ends.peek().copied() {
                if at > director.now_us() {
                    break;
                }
                ends.pop();
                director.inject(WAN, &client(conn).ack().build()).transmitted();
                director.inject(WAN, &client(conn).rst().build()).transmitted();
            }
        }
        let (_, frame) = director.inject(WAN, &client(number).syn().build()).transmitted();
        let server = server_of(&frame);
        let second = number / 1_000;
        answers.push(Reverse((
            director.now_us() + response_us(server, second),
            number,
            server,
        )));
        ends.push(Reverse((director.now_us() + 100_000, number)));
        if number % 1_000 == 999 {
            let now = counts(&director, servers);
            each.push(now.iter().zip(&before).map(|(now, before)| now - before).collect());
            before = now;
        }
    }
    each
}

#[test]
fn wrt_prefers_servers_that_answer_soon_without_herding_and_takes_back_one_that_recovers() {
    for (workers, servers) in [(1, 3), (1, 8), (2, 8), (4, 8)] {
        // The last server is ten times as slow for twenty seconds.
        let slow = servers - 1;
        let each = answered(workers, servers, 60, |server, second| {
            if server == slow && second < 20 { 4_000 } else { 400 }
        });
        let fair = 1_000 / servers as u64;
        let (then, now) = (each[18][slow], each[59][slow]);
        println!("wrt {workers} workers, {servers} servers: the slow one got {then}, recovered {now} of a fair {fair}");
        assert!(then * 2 < fair, "{then} of {fair}");
        assert!(now * 2 > fair, "{now} of {fair}");
        for second in &each[1..] {
            let most = *second.iter().max().unwrap();
            assert!(most < fair * 3, "{second:?}");
        }
    }
}

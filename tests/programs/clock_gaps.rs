//! What a machine takes from a program that wants its CPU all the time: reads the clock again and again, and prints the
//! longest gap between two readings, in microseconds. The benches run it where a worker ran.

use std::time::{Duration, Instant};

use clap::Parser;

/// Prints the longest gap between two readings of the clock, in microseconds.
#[derive(Parser)]
struct Arguments {
    /// For how long to read it, in milliseconds.
    #[arg(value_parser = clap::value_parser!(u64).range(1..=600_000))]
    milliseconds: u64,
}

fn main() {
    let span = Duration::from_millis(Arguments::parse().milliseconds);
    let begin = Instant::now();
    let mut last = begin;
    let mut longest = Duration::ZERO;
    while last - begin < span {
        let now = Instant::now();
        longest = longest.max(now - last);
        last = now;
    }
    println!("{}", longest.as_micros());
}

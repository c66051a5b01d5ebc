//! What a machine takes from a program that wants its CPU all the time: reads the clock again and again, each time with one
//! line of its memory, and prints the longest gap between two readings, in microseconds. The benches run it where a worker
//! ran.

use std::hint::black_box;
use std::time::{Duration, Instant};

use clap::Parser;

/// Numbers on a line of memory.
const LINE: usize = 8;

/// Prints the longest gap between two readings of the clock, in microseconds.
#[derive(Parser)]
struct Arguments {
    /// For how long to read it, in milliseconds.
    #[arg(value_parser = clap::value_parser!(u64).range(1..=600_000))]
    milliseconds: u64,
    /// How much memory to go about in, in megabytes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    memory_mb: u32,
}

fn main() {
    let arguments = Arguments::parse();
    let span = Duration::from_millis(arguments.milliseconds);
    // Written, so that it is there.
    let mut memory = vec![1_u64; arguments.memory_mb as usize * (1 << 20) / size_of::<u64>()];
    let lines = (memory.len() / LINE) as u64;
    let mut random = 1_u64;
    let begin = Instant::now();
    let mut last = begin;
    let mut longest = Duration::ZERO;
    while last - begin < span {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        memory[(random % lines) as usize * LINE] += 1;
        let now = Instant::now();
        longest = longest.max(now - last);
        last = now;
    }
    black_box(memory);
    println!("{}", longest.as_micros());
}

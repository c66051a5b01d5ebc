//! Asks numbered questions over several flows, each flow the next one once the last is answered.
//!
//! A closed loop: no clock says how fast it goes, so a busy machine makes it slow and loses nothing. A datagram that
//! is not answered for long is sent again and counted; who lost it, the director's own counters say.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

/// What is not answered within this time is sent again; far longer than any machine keeps a program waiting.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// How often one datagram is sent before it counts as lost.
const SENDS_MAX: u32 = 3;

/// UDP client that counts what comes back; fails when a datagram was never answered.
#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// The echo service.
    target: SocketAddr,
    /// Datagrams in all.
    #[arg(long, default_value_t = 10_000)]
    count: u32,
    /// Source ports to spread them over; each has one datagram under way.
    #[arg(long, default_value_t = 10)]
    flows: u32,
    /// Bytes of payload, at least 4.
    #[arg(long, default_value_t = 64)]
    size_bytes: usize,
}

/// What became of a flow's datagrams.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    answered: u32,
    sent_again: u32,
}

fn main() -> std::io::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut flows = Vec::new();
    for flow in 0..arguments.flows.max(1) {
        let arguments = arguments.clone();
        flows.push(thread::spawn(move || run_flow(&arguments, flow)));
    }
    let mut all = Outcome::default();
    for flow in flows {
        let of_flow = flow.join().map_err(|_| std::io::Error::other("a flow died"))??;
        all.answered += of_flow.answered;
        all.sent_again += of_flow.sent_again;
    }
    println!(
        "asked {} answered {} sent again {}",
        arguments.count, all.answered, all.sent_again
    );
    Ok(if all.answered == arguments.count {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Asks this flow's share; ends with the first datagram that is never answered.
fn run_flow(arguments: &Arguments, flow: u32) -> std::io::Result<Outcome> {
    let flows = arguments.flows.max(1);
    let share = arguments.count / flows + u32::from(flow < arguments.count % flows);
    let any = if arguments.target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(arguments.target)?;
    let mut payload = vec![b'.'; arguments.size_bytes.max(4)];
    let mut outcome = Outcome::default();
    for number in 0..share {
        payload[..4].copy_from_slice(&number.to_be_bytes());
        let mut sends = 1;
        while !is_answered(&socket, &payload)? {
            if sends == SENDS_MAX {
                return Ok(outcome);
            }
            sends += 1;
            outcome.sent_again += 1;
        }
        outcome.answered += 1;
    }
    Ok(outcome)
}

/// Sends one datagram and waits for itself to come back; a late answer to an earlier one is passed over.
fn is_answered(socket: &UdpSocket, payload: &[u8]) -> std::io::Result<bool> {
    let give_up = Instant::now() + ANSWERED_WITHIN;
    // An error is about an earlier datagram that met a closed port; this one was not sent.
    if socket.send(payload).is_err() {
        return Ok(false);
    }
    let mut buffer = [0; 65_536];
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            Ok(len) if buffer[..len] == *payload => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(false),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

//! Sends numbered datagrams at a steady rate over several flows and counts the answers, each once.

use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

/// How long to wait for the last answers.
const PATIENCE: Duration = Duration::from_secs(3);

/// UDP client that counts what comes back; fails when a datagram was lost.
#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// The echo service.
    target: SocketAddr,
    /// Datagrams in all.
    #[arg(long, default_value_t = 10_000)]
    count: u32,
    /// Datagrams per second in all.
    #[arg(long, default_value_t = 4_000)]
    rate_pps: u32,
    /// Source ports to spread them over.
    #[arg(long, default_value_t = 10)]
    flows: u32,
    /// Bytes of payload, at least 4.
    #[arg(long, default_value_t = 64)]
    size_bytes: usize,
}

fn main() -> std::io::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut flows = Vec::new();
    for flow in 0..arguments.flows.max(1) {
        let arguments = arguments.clone();
        flows.push(thread::spawn(move || run_flow(&arguments, flow)));
    }
    let mut answered = 0;
    for flow in flows {
        answered += flow.join().map_err(|_| std::io::Error::other("a flow died"))??;
    }
    let lost = arguments.count - answered;
    println!("sent {} answered {answered} lost {lost}", arguments.count);
    Ok(if lost == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Sends this flow's share and returns how many different ones were answered.
fn run_flow(arguments: &Arguments, flow: u32) -> std::io::Result<u32> {
    let flows = arguments.flows.max(1);
    let share = arguments.count / flows + u32::from(flow < arguments.count % flows);
    let any = if arguments.target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(arguments.target)?;
    let receiver = socket.try_clone()?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let counting = thread::spawn(move || count_answers(&receiver, share));

    let pace = Duration::from_secs(1) * flows / arguments.rate_pps.max(1);
    let mut payload = vec![b'.'; arguments.size_bytes.max(4)];
    let start = Instant::now();
    for number in 0..share {
        payload[..4].copy_from_slice(&number.to_be_bytes());
        // Refused means that an earlier one met a closed port; it counts as lost by not being answered.
        let _ = socket.send(&payload);
        thread::sleep((start + pace * (number + 1)).saturating_duration_since(Instant::now()));
    }
    counting.join().map_err(|_| std::io::Error::other("counting died"))
}

fn count_answers(receiver: &UdpSocket, share: u32) -> u32 {
    let mut seen = vec![false; share as usize];
    let mut answered = 0;
    let mut buffer = [0; 65_536];
    while answered < share {
        match receiver.recv(&mut buffer) {
            Ok(len) if len >= 4 => {
                let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
                if let Some(slot @ false) = seen.get_mut(number as usize) {
                    *slot = true;
                    answered += 1;
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(_) => break,
        }
    }
    answered
}

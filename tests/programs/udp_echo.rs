//! Answers every datagram with itself, from the address it was sent to.

use std::net::{SocketAddr, UdpSocket};
use std::thread;

use clap::Parser;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Space for bursts while the program is not scheduled, in bytes.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// UDP echo service (RFC 862).
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen. Name the VIP itself in DR and TUN, so that answers come from it.
    #[arg(required = true)]
    listen: Vec<SocketAddr>,
    /// Answer with this line instead of the datagram.
    #[arg(long)]
    say: Option<String>,
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let line = arguments.say.map(|text| text + "\n");
    let mut threads = Vec::new();
    for addr in arguments.listen {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        socket.bind(&SockAddr::from(addr))?;
        let socket = UdpSocket::from(socket);
        let line = line.clone();
        threads.push(thread::spawn(move || answer(&socket, line.as_deref())));
    }
    println!("ready");
    for thread in threads {
        if let Ok(result) = thread.join() {
            result?;
        }
    }
    Ok(())
}

fn answer(socket: &UdpSocket, line: Option<&str>) -> std::io::Result<()> {
    let mut buffer = [0; 65_536];
    loop {
        let (len, from) = socket.recv_from(&mut buffer)?;
        // Losing one answer is UDP; an unreachable client must not end the service.
        let _ = socket.send_to(line.map_or(&buffer[..len], str::as_bytes), from);
    }
}

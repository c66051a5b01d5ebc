//! A FULLNAT real server that reads the client's address where the kernel's toa and uoa modules would: off raw
//! sockets, in the packets that opened a connection, or in the datagrams that came first.

use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::thread;

use clap::{Parser, Subcommand};
use lvs_lab_programs::carried_address::{self, Carried};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Space for what arrives while the program is not scheduled, in bytes.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// If there are more senders than that, the program forgets them.
const SENDERS_MAX: usize = 65_536;

/// Says which client each connection or datagram comes from.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    carrier: Carrier,
}

#[derive(Debug, Subcommand)]
enum Carrier {
    /// TCP option 254 or 253: greets each connection with `syn CLIENT ack CLIENT`, `none` where there is no option.
    Toa {
        /// Where to listen.
        #[arg(required = true)]
        listen: Vec<SocketAddr>,
    },
    /// IPv4 option 31 or protocol 248: answers each datagram with `CLIENT`, or `none`.
    Uoa {
        /// Where to listen.
        #[arg(required = true)]
        listen: Vec<SocketAddr>,
    },
}

fn main() -> std::io::Result<()> {
    let (listen, serve): (_, fn(SocketAddr) -> std::io::Result<()>) = match Arguments::parse().carrier {
        Carrier::Toa { listen } => (listen, toa),
        Carrier::Uoa { listen } => (listen, uoa),
    };
    let threads: Vec<_> = listen
        .into_iter()
        .map(|end| thread::spawn(move || serve(end)))
        .collect();
    for thread in threads {
        if let Ok(result) = thread.join() {
            result?;
        }
    }
    Ok(())
}

/// A raw socket that sees every packet of `protocol` before the protocol itself does.
fn raw(of: SocketAddr, protocol: u8) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(of),
        Type::RAW,
        Some(Protocol::from(i32::from(protocol))),
    )?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    Ok(UdpSocket::from(socket))
}

/// Every packet that waits, with its sender.
fn drain(socket: &UdpSocket, mut each: impl FnMut(IpAddr, &[u8])) -> std::io::Result<()> {
    let mut buffer = [0; 65_536];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => each(from.ip(), &buffer[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn toa(end: SocketAddr) -> std::io::Result<()> {
    let packets = raw(end, 6)?;
    let socket = Socket::new(Domain::for_address(end), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(end))?;
    socket.listen(128)?;
    let listener = TcpListener::from(socket);
    let mut opened: HashMap<(IpAddr, u16), [Option<SocketAddr>; 2]> = HashMap::new();
    loop {
        let (mut stream, peer) = listener.accept()?;
        drain(&packets, |from, packet| {
            if let Some(Carried {
                port,
                to_port,
                is_syn,
                client,
            }) = carried_address::of_segment(from, packet)
                && to_port == end.port()
            {
                if opened.len() >= SENDERS_MAX {
                    opened.clear();
                }
                let seen = opened.entry((from, port)).or_default();
                if is_syn {
                    *seen = [client, None];
                } else {
                    seen[1] = seen[1].or(client);
                }
            }
        })?;
        let [syn, ack] = opened.remove(&(peer.ip(), peer.port())).unwrap_or_default();
        // A client that is gone already must not end the service.
        let _ = writeln!(stream, "syn {} ack {}", text(syn), text(ack));
    }
}

fn text(client: Option<SocketAddr>) -> String {
    client.map_or_else(|| "none".to_owned(), |client| client.to_string())
}

fn uoa(end: SocketAddr) -> std::io::Result<()> {
    let (packets, wrapped) = (raw(end, 17)?, raw(end, carried_address::OPTION_PROTOCOL)?);
    let socket = UdpSocket::bind(end)?;
    // Datagrams behind the option protocol never reach the socket: one look in a while is due to them.
    socket.set_read_timeout(Some(std::time::Duration::from_millis(5)))?;
    let mut clients: HashMap<(IpAddr, u16), SocketAddr> = HashMap::new();
    let mut buffer = [0; 65_536];
    loop {
        let from = match socket.recv_from(&mut buffer) {
            Ok((_, from)) => Some(from),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => return Err(error),
        };
        if clients.len() >= SENDERS_MAX {
            clients.clear();
        }
        drain(&packets, |from, packet| {
            if let Some(Carried {
                port,
                client: Some(client),
                ..
            }) = carried_address::of_datagram(from, packet)
            {
                clients.insert((from, port), client);
            }
        })?;
        let mut unwrapped = Vec::new();
        drain(&wrapped, |from, packet| {
            if let Some(Carried {
                port,
                to_port,
                client: Some(client),
                ..
            }) = carried_address::of_wrapped(from, packet)
                && to_port == end.port()
            {
                clients.insert((from, port), client);
                unwrapped.push(SocketAddr::new(from, port));
            }
        })?;
        for from in unwrapped.into_iter().chain(from) {
            let client = clients.get(&(from.ip(), from.port())).copied();
            let _ = socket.send_to(format!("{}\n", text(client)).as_bytes(), from);
        }
    }
}

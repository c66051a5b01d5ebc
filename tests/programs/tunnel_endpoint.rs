//! The real server's end of a tunnel, where the kernel has none: takes IP in IP and GRE off raw sockets and GUE off
//! UDP sockets, of both families, and hands the inner packet to its own kernel through a TUN interface.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use clap::Parser;
use lvs_lab_programs::decapsulate::{Between, Outer, inner};
use socket2::{Domain, Protocol, Socket, Type};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// IP in IP (RFC 2003), IPv6 in IP (RFC 4213, RFC 2473), GRE (RFC 2784).
const PROTOCOLS: [(i32, Between); 3] = [(4, Between::Nothing), (41, Between::Nothing), (47, Between::Gre)];

/// Space for bursts while the program is not scheduled, in bytes.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Decapsulates IP in IP, GRE and GUE for this network namespace.
#[derive(Debug, Parser)]
struct Arguments {
    /// Name of the TUN interface to make.
    #[arg(long, default_value = "tunl")]
    interface: String,
    /// UDP port of GUE.
    #[arg(long, default_value_t = 6080)]
    gue_port: u16,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let tun = DeviceBuilder::new()
        .name(&arguments.interface)
        .layer(Layer::L3)
        .mtu(1500)
        .build_sync()?;
    let tun = Arc::new(tun);
    let mut threads = Vec::new();
    let mut take = |outer, between, socket: Socket| {
        let tun = Arc::clone(&tun);
        threads.push(std::thread::spawn(move || carry(outer, between, socket, &tun)));
    };
    for (outer, domain) in [(Outer::Ipv4, Domain::IPV4), (Outer::Taken, Domain::IPV6)] {
        for (protocol, between) in PROTOCOLS {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
            take(outer, between, socket);
        }
    }
    let unsummed = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::UDP))?;
    unsummed.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    take(Outer::Taken, Between::GueUnsummed(arguments.gue_port), unsummed);
    for addr in [
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, arguments.gue_port)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, arguments.gue_port)),
    ] {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        socket.bind(&addr.into())?;
        take(Outer::Taken, Between::Gue, socket);
    }
    println!("ready: {} takes what was tunnelled", arguments.interface);
    for thread in threads {
        thread.join().map_err(|_| "a carrying thread died")??;
    }
    Ok(())
}

fn carry(outer: Outer, between: Between, mut socket: Socket, tun: &SyncDevice) -> std::io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        let len = socket.read(&mut buffer)?;
        if let Some(packet) = inner(outer, between, &buffer[..len]) {
            // The kernel refuses what it cannot take (interface down); so does a real tunnel.
            let _ = tun.send(packet);
        }
    }
}

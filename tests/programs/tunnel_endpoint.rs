//! The real server's end of a tunnel, where the kernel has no ipip: takes protocols 4 and 41 off raw
//! sockets of both families and hands the inner packet to its own kernel through a TUN interface.

use std::io::Read;
use std::sync::Arc;

use clap::Parser;
use lvs_lab_programs::decapsulate::{Outer, inner};
use socket2::{Domain, Protocol, Socket, Type};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// IP in IP (RFC 2003) and IPv6 in IP (RFC 4213, RFC 2473).
const PROTOCOLS: [i32; 2] = [4, 41];

/// Room for bursts while the program is not scheduled, in octets.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Decapsulates IP in IP for this network namespace.
#[derive(Debug, Parser)]
struct Arguments {
    /// Name of the TUN interface to make.
    #[arg(long, default_value = "tunl")]
    interface: String,
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
    for (outer, domain) in [(Outer::Ipv4, Domain::IPV4), (Outer::Ipv6, Domain::IPV6)] {
        for protocol in PROTOCOLS {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
            let tun = Arc::clone(&tun);
            threads.push(std::thread::spawn(move || carry(outer, socket, &tun)));
        }
    }
    println!("ready: {} takes what was tunnelled", arguments.interface);
    for thread in threads {
        thread.join().map_err(|_| "a carrying thread died")??;
    }
    Ok(())
}

fn carry(outer: Outer, mut socket: Socket, tun: &SyncDevice) -> std::io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        let len = socket.read(&mut buffer)?;
        if let Some(packet) = inner(outer, &buffer[..len]) {
            // The kernel refuses what it cannot take (interface down); so does a real tunnel.
            let _ = tun.send(packet);
        }
    }
}

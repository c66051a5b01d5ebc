//! `lvsctl why` on the command line.

use std::net::{IpAddr, SocketAddr};

use clap::Args;
use lvs_api::{Protocol, ServiceId};

/// `lvsctl why`.
#[derive(Debug, Args)]
pub struct WhyArguments {
    /// The client: 203.0.113.7, or 203.0.113.7:40000 for one of its connections.
    #[arg(value_parser = parse_client)]
    pub client: (IpAddr, Option<u16>),
    /// Where its packet goes: tcp:192.0.2.10:80, or 192.0.2.10:80 for TCP.
    #[arg(value_name = "VIP", value_parser = parse_virt)]
    pub virt: (Protocol, SocketAddr),
    /// The device where it arrives; default: the first.
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// A packet from the middle of a connection, not the first one.
    #[arg(long)]
    pub established: bool,
}

fn parse_client(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(addr) = text.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok((addr, None));
    }
    let end: SocketAddr = text.parse().map_err(|_| "write ADDRESS or ADDRESS:PORT")?;
    Ok((end.ip(), Some(end.port())))
}

fn parse_virt(text: &str) -> Result<(Protocol, SocketAddr), String> {
    if let Ok(end) = text.parse() {
        return Ok((Protocol::Tcp, end));
    }
    match text.parse() {
        Ok(ServiceId::Address { protocol, addr, port }) => Ok((protocol, SocketAddr::new(addr, port))),
        _ => Err("write tcp:192.0.2.10:80, udp:[2001:db8::10]:53 or 192.0.2.10:80".to_owned()),
    }
}

//! The sockets of a sync daemon, as the kernel sets up its own.
//!
//! In:  a daemon and what the settings say about sockets. Out: one socket a port, ready to send or receive without
//! ever blocking.
//! Ref: Linux ip_vs_sync.c `make_send_sock()`, `make_receive_sock()`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;

use lvs_core::ipvs::sync::daemon::{SyncDaemon, SyncRole};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use rustix::net::sockopt;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use thiserror::Error;

/// Buffer of a backup, in bytes: half a second of a bulk sync, for which a busy machine may let it wait.
const RECEIVE_BUFFER_BYTES: usize = 2 << 20;

/// Why a daemon has no sockets.
#[derive(Debug, Error)]
pub enum OpenError {
    /// No such interface.
    #[error("there is no network interface {interface:?}; `ip link` lists those there are")]
    NoInterface {
        /// As asked for.
        interface: String,
    },
    /// The system refused.
    #[error("sync messages on {interface}: {source}; give the interface an address and bring it up")]
    Refused {
        /// Where.
        interface: String,
        /// What it said.
        source: io::Error,
    },
}

/// The sockets of one daemon.
#[derive(Debug)]
pub struct Sockets {
    /// By port, from the daemon's on.
    pub sockets: Vec<UdpSocket>,
    /// Bytes of a datagram at most.
    pub max_len: u16,
    /// The address that messages of a master come from.
    pub source: IpAddr,
}

/// Opens the sockets of `daemon` on `ports` ports; `buffer_bytes` 0 leaves their buffers as they are.
///
/// # Errors
/// A missing interface, or what the system says.
pub fn open(daemon: &SyncDaemon, ports: u16, buffer_bytes: u32) -> Result<Sockets, OpenError> {
    let interface = daemon.interface.clone();
    let index = match if_nametoindex(interface.as_str()) {
        Ok(index) => index,
        Err(Errno::ENODEV) => return Err(OpenError::NoInterface { interface }),
        Err(errno) => {
            let source = errno.into();
            return Err(OpenError::Refused { interface, source });
        }
    };
    let one = |number| match daemon.role {
        SyncRole::Master => sender(daemon, number, index, buffer_bytes),
        SyncRole::Backup => receiver(daemon, number, index, buffer_bytes),
    };
    let opened = (0..ports).map(one).collect::<io::Result<Vec<_>>>();
    let with_source = opened.and_then(|sockets| {
        // All are on one interface.
        let source = match sockets.first() {
            Some(socket) => socket.local_addr()?.ip(),
            None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        Ok((sockets, source))
    });
    match with_source {
        Ok((sockets, source)) => Ok(Sockets {
            sockets,
            max_len: daemon.effective_max_len(mtu(&interface)),
            source,
        }),
        Err(source) => Err(OpenError::Refused { interface, source }),
    }
}

/// The socket by which a master hears of backups, or a backup asks a master, on the daemon's first port.
///
/// # Errors
/// What the system says, as long as the interface is not there or has no address.
pub fn open_notices(daemon: &SyncDaemon) -> io::Result<UdpSocket> {
    let index = if_nametoindex(daemon.interface.as_str())?;
    match daemon.role {
        SyncRole::Master => receiver(daemon, 0, index, 0),
        SyncRole::Backup => sender(daemon, 0, index, 0),
    }
}

/// Where messages of the `number`th port go.
const fn address(daemon: &SyncDaemon, number: u16) -> SocketAddr {
    SocketAddr::new(daemon.group, daemon.port.wrapping_add(number))
}

fn on_interface(daemon: &SyncDaemon) -> io::Result<Socket> {
    let domain = Domain::for_address(address(daemon, 0));
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    socket.bind_device(Some(daemon.interface.as_bytes()))?;
    Ok(socket)
}

fn sender(daemon: &SyncDaemon, number: u16, index: u32, buffer_bytes: u32) -> io::Result<UdpSocket> {
    let socket = on_interface(daemon)?;
    match daemon.group {
        IpAddr::V4(_) => {
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_ttl_v4(u32::from(daemon.ttl))?;
            // Messages may be longer than a link: `set_mcast_pmtudisc(sk, 0)` of ip_vs_sync.c.
            sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DONT)?;
        }
        IpAddr::V6(_) => {
            socket.set_multicast_if_v6(index)?;
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_hops_v6(u32::from(daemon.ttl))?;
            sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::DONT)?;
        }
    }
    if buffer_bytes > 0 {
        socket.set_send_buffer_size(buffer_bytes as usize)?;
    }
    socket.connect(&address(daemon, number).into())?;
    Ok(socket.into())
}

fn receiver(daemon: &SyncDaemon, number: u16, index: u32, buffer_bytes: u32) -> io::Result<UdpSocket> {
    let socket = on_interface(daemon)?;
    socket.set_reuse_address(true)?;
    if buffer_bytes > 0 {
        socket.set_recv_buffer_size(buffer_bytes as usize)?;
    } else {
        // Beyond what users may have. Whoever may not say so keeps the system's default.
        let _ = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER_BYTES);
    }
    socket.bind(&address(daemon, number).into())?;
    match daemon.group {
        IpAddr::V4(group) => socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?,
        IpAddr::V6(group) => socket.join_multicast_v6(&group, index)?,
    }
    Ok(socket.into())
}

/// The interface's MTU, which allows longer messages than usual.
fn mtu(interface: &str) -> u16 {
    let path = Path::new("/sys/class/net").join(interface).join("mtu");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // Beyond 16 bits: the loopback interface.
    text.trim()
        .parse::<u32>()
        .map_or(0, |mtu| mtu.min(u32::from(u16::MAX)) as u16)
}

//! Accepts clients, one task each, and bounds what each may cost.
//!
//! In:  datagrams. Out: answers, one datagram at a time as the client takes them.
//! Never: answers a change before packets are judged by it, reads the next request before the last answer is taken,
//! waits for a client beyond its time, or carries out a request that its sender has withdrawn.

use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lvs_api::kernel_files;
use lvs_api::kernel_options::Call;
use lvs_api::netlink::{Errno, Hello, Messages, Opening, cancelled_sequence, refuse};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, recv, send, sendmsg};
use nix::unistd::{Gid, Uid};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::answer::{Answered, answer};
use super::{IpvsTable, file_names, kernel_options};
use crate::mgmt::lock::lock;
use crate::mgmt::unix_socket::UnixSocket;

/// What clients may cost.
#[derive(Clone, Copy, Debug)]
pub struct IpvsLimits {
    /// Clients that may be connected at once. Further ones are closed at once; to tools this looks as if no director
    /// ran.
    pub clients_max: usize,
    /// For the first datagram.
    pub opening_timeout: Duration,
    /// How long a client may take to receive a datagram of its answer.
    pub write_timeout: Duration,
    /// Bytes of a datagram.
    pub request_max_bytes: usize,
}

impl Default for IpvsLimits {
    fn default() -> Self {
        Self {
            clients_max: 512,
            opening_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            request_max_bytes: 16 << 10,
        }
    }
}

/// The pause after `accept` failed because descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A text of `/proc/net`, by its path; `None` when there is none of that name.
pub type FileFuture = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// Ends when the workers decide about packets by what was changed.
pub type ArrivalFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What every client can reach.
pub struct Served<Table> {
    /// The services.
    pub table: Arc<Mutex<Table>>,
    /// Awaited between a change of the table and its answer.
    pub changes_arrive: Box<dyn Fn() -> ArrivalFuture + Send + Sync>,
    /// Renders `/proc/net/ip_vs*`.
    pub file: Box<dyn Fn(&str) -> FileFuture + Send + Sync>,
    /// What clients may cost.
    pub limits: IpvsLimits,
}

/// Serves until the future is dropped.
pub async fn serve<Table: IpvsTable + Send + 'static>(
    socket: UnixSocket,
    served: Arc<Served<Table>>,
) -> io::Result<()> {
    if let Err(error) = file_names::lay_out(socket.path()) {
        log::warn!("IPVS socket: the names of /proc/net/ip_vs* and net.ipv4.vs cannot be laid out: {error}");
    }
    let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
    let places = Arc::new(Semaphore::new(served.limits.clients_max));
    loop {
        let connection = match listener.accept().await {
            // The type stands for a stream, but all system calls made on it keep datagrams apart.
            Ok((stream, _)) => Connection { stream },
            Err(error) => {
                log::warn!("IPVS socket: {error}; trying again");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            log::warn!(
                "IPVS socket: {} clients are connected already",
                served.limits.clients_max
            );
            continue;
        };
        let admitted = connection.is_admitted(&socket);
        let served = Arc::clone(&served);
        tokio::spawn(async move {
            if let Err(error) = converse(&connection, &served, admitted).await {
                log::debug!("IPVS socket: {error}");
            }
            drop(place);
        });
    }
}

struct Connection {
    stream: UnixStream,
}

impl Connection {
    fn is_admitted(&self, socket: &UnixSocket) -> bool {
        getsockopt(&self.stream, PeerCredentials)
            .is_ok_and(|peer| socket.gate.admits(Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid())))
    }

    /// The length of the next datagram, which may exceed `buffer`; `None` when the client is gone.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        // The system returns the datagram's own length, even when the datagram does not fit.
        let read = || Ok(recv(self.stream.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC)?);
        let len = self.stream.async_io(Interest::READABLE, read).await?;
        Ok((len > 0).then_some(len))
    }

    async fn send(&self, datagram: &[u8], limit: Duration) -> io::Result<()> {
        let write = || Ok(send(self.stream.as_raw_fd(), datagram, MsgFlags::MSG_NOSIGNAL)?);
        let sent = timeout(limit, self.stream.async_io(Interest::WRITABLE, write)).await;
        sent.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the client does not read"))??;
        Ok(())
    }

    /// Whether the sender of the request just read has withdrawn it.
    fn is_withdrawn(&self, sequence: u32) -> bool {
        let mut next = [0; 12];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let len = recv(self.stream.as_raw_fd(), &mut next, flags).unwrap_or(0);
        next.get(..len).and_then(cancelled_sequence) == Some(sequence)
    }
}

async fn converse<Table: IpvsTable>(connection: &Connection, served: &Served<Table>, admitted: bool) -> io::Result<()> {
    let mut buffer = vec![0; served.limits.request_max_bytes];
    let opening = timeout(served.limits.opening_timeout, connection.receive(&mut buffer)).await;
    let opening = opening.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the client says nothing"))??;
    match opening.and_then(|len| buffer.get(..len)).and_then(Opening::parse) {
        Some(Opening::Netlink(hello)) => answer_all(connection, served, admitted, hello, &mut buffer).await,
        Some(Opening::File(path)) if admitted => give_file(connection, served, &path).await,
        Some(Opening::Write(path)) => write_file(connection, served, admitted, &path, &mut buffer).await,
        Some(Opening::KernelOption(call)) => answer_option(connection, served, admitted, &call).await,
        _ => Ok(()),
    }
}

async fn answer_all<Table: IpvsTable>(
    connection: &Connection,
    served: &Served<Table>,
    admitted: bool,
    mut hello: Hello,
    buffer: &mut [u8],
) -> io::Result<()> {
    let limit = served.limits.write_timeout;
    while let Some(len) = connection.receive(buffer).await? {
        let Some(datagram) = buffer.get(..len) else {
            log::debug!("IPVS socket: {} sent {len} bytes at once and is closed", hello.comm);
            return Ok(());
        };
        if cancelled_sequence(datagram).is_some() {
            continue;
        }
        // The program has given its socket another name.
        if let Some(Opening::Netlink(again)) = Opening::parse(datagram) {
            hello = again;
            continue;
        }
        let mut understood = false;
        for message in Messages::new(datagram) {
            understood = true;
            if connection.is_withdrawn(message.sequence) {
                continue;
            }
            if !admitted {
                let refusal = refuse(&message, hello.port_id, Errno::NotPermitted);
                connection.send(&refusal, limit).await?;
                continue;
            }
            let Answered { answer, changed } = {
                let mut table = lock(&served.table);
                answer(&mut *table, &message, hello.port_id)
            };
            if changed {
                (served.changes_arrive)().await;
            }
            for datagram in answer {
                connection.send(&datagram, limit).await?;
            }
        }
        if !understood {
            log::debug!("IPVS socket: {} sends what is no netlink and is closed", hello.comm);
            return Ok(());
        }
    }
    Ok(())
}

/// Takes values for a setting.
async fn write_file<Table: IpvsTable>(
    connection: &Connection,
    served: &Served<Table>,
    admitted: bool,
    path: &str,
    buffer: &mut [u8],
) -> io::Result<()> {
    while let Some(len) = connection.receive(buffer).await? {
        let value = buffer.get(..len).and_then(|value| std::str::from_utf8(value).ok());
        let outcome = match (admitted, kernel_files::sysctl_of(path), value) {
            (false, ..) => Err(Errno::NotPermitted),
            (true, Some(name), Some(value)) => {
                let value = value.trim_matches(|letter: char| letter == '\0' || letter.is_ascii_whitespace());
                lock(&served.table).set_sysctl(name, value)
            }
            _ => Err(Errno::Invalid),
        };
        let errno = outcome.map_or_else(|errno| errno as i32, |()| 0);
        if errno == 0 {
            (served.changes_arrive)().await;
        }
        connection
            .send(&errno.to_ne_bytes(), served.limits.write_timeout)
            .await?;
    }
    Ok(())
}

async fn answer_option<Table: IpvsTable>(
    connection: &Connection,
    served: &Served<Table>,
    admitted: bool,
    call: &[u8],
) -> io::Result<()> {
    let limit = served.limits.write_timeout;
    if !admitted {
        let refusal = (Errno::NotPermitted as i32).to_ne_bytes();
        return connection.send(&refusal, limit).await;
    }
    let Some(call) = Call::parse(call) else {
        return Ok(());
    };
    let kernel_options::CallOutcome { answer, changed } = {
        let mut table = lock(&served.table);
        kernel_options::answer(&mut *table, &call)
    };
    if changed {
        (served.changes_arrive)().await;
    }
    connection.send(&answer, limit).await
}

/// Sends a descriptor of an anonymous file with the text.
async fn give_file<Table>(connection: &Connection, served: &Served<Table>, path: &str) -> io::Result<()> {
    let Some(text) = (served.file)(path).await else {
        return Ok(());
    };
    let file = memfd_create("ip_vs", MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(file);
    io::Write::write_all(&mut file, text.as_bytes())?;
    io::Seek::rewind(&mut file)?;
    let descriptors = [file.as_raw_fd()];
    let give = || {
        let sent = sendmsg::<()>(
            connection.stream.as_raw_fd(),
            &[IoSlice::new(b"+")],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        Ok(sent?)
    };
    connection.stream.async_io(Interest::WRITABLE, give).await?;
    Ok(())
}

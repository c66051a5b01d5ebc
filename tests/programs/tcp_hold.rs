//! A crowd of TCP connections: `serve` accepts and holds them, `open` makes them and holds them.
//!
//! Each held connection is an echo, so that `open` can prove at the end that every one still lives.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{Parser, Subcommand};
use lvs_lab_programs::raise_file_limit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Connections being made at once: enough to fill the path, few enough for a backlog.
const OPENING_MAX: usize = 64;
/// Connections waiting to be accepted.
const BACKLOG: u32 = 4_096;
/// How long one connection may take to open, or to answer.
const PATIENCE: Duration = Duration::from_secs(20);
#[derive(Debug, Parser)]
#[command(about = "Holds many TCP connections")]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Accept and hold; whoever connects to the status address reads how many, and from where.
    Serve {
        /// Where to listen.
        listen: SocketAddr,
        /// Where to report the counts.
        #[arg(long)]
        status: SocketAddr,
        /// Connections to be ready for. Several processes may share the listening address.
        #[arg(long, default_value_t = 18_000)]
        count: u64,
    },
    /// Open, hold until the standard input ends, check each and report.
    Open {
        /// The service.
        target: SocketAddr,
        /// How many connections.
        #[arg(long, default_value_t = 1_000)]
        count: u32,
        /// Client addresses to spread them over; the kernel's choice without.
        #[arg(long, value_delimiter = ',')]
        from: Vec<IpAddr>,
        /// First source port of each of them.
        #[arg(long, default_value_t = 1_024)]
        first_port: u16,
    },
}

type Sources = Arc<Mutex<BTreeMap<IpAddr, u32>>>;

fn main() -> std::io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Arguments::parse().role {
        Role::Serve { listen, status, count } => {
            raise_file_limit(count)?;
            runtime.block_on(serve(listen, status))
        }
        Role::Open {
            target,
            count,
            from,
            first_port,
        } => {
            raise_file_limit(u64::from(count))?;
            let sources = (0..count).map(|number| source_of(number, &from, first_port)).collect();
            runtime.block_on(open(target, sources))
        }
    }
}

async fn serve(listen: SocketAddr, status: SocketAddr) -> std::io::Result<ExitCode> {
    let socket = if listen.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(listen)?;
    let listener = socket.listen(BACKLOG)?;
    let reports = TcpListener::bind(status).await?;
    let sources = Sources::default();
    println!("ready");
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, peer) = accepted?;
                tokio::spawn(hold(stream, peer.ip(), Arc::clone(&sources)));
            }
            asked = reports.accept() => {
                let (mut stream, _) = asked?;
                let _ = stream.write_all(describe(&sources).as_bytes()).await;
            }
        }
    }
}

fn change(sources: &Sources, source: IpAddr, by: i32) {
    let mut sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
    let count = sources.entry(source).or_default();
    *count = count.saturating_add_signed(by);
    if *count == 0 {
        sources.remove(&source);
    }
}

fn describe(sources: &Sources) -> String {
    let sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
    let mut text = format!("held {}\n", sources.values().sum::<u32>());
    for (source, count) in sources.iter() {
        text += &format!("from {} {count}\n", source.to_canonical());
    }
    text
}

async fn hold(mut stream: TcpStream, source: IpAddr, sources: Sources) {
    change(&sources, source, 1);
    let mut byte = [0; 1];
    while let Ok(1) = stream.read(&mut byte).await {
        if stream.write_all(&byte).await.is_err() {
            break;
        }
    }
    change(&sources, source, -1);
}

async fn open(target: SocketAddr, sources: Vec<Option<SocketAddr>>) -> std::io::Result<ExitCode> {
    let count = sources.len();
    let permits = Arc::new(Semaphore::new(OPENING_MAX));
    let mut opening = Vec::new();
    for source in sources {
        let permit = Arc::clone(&permits)
            .acquire_owned()
            .await
            .map_err(std::io::Error::other)?;
        opening.push(tokio::spawn(async move {
            let opened = timeout(PATIENCE, connect(target, source)).await;
            drop(permit);
            opened
        }));
    }
    let mut held = Vec::new();
    let mut first_error = None;
    for task in opening {
        match task.await.map_err(std::io::Error::other)? {
            Ok(Ok(stream)) => held.push(stream),
            Ok(Err(error)) => first_error = first_error.or(Some(error.to_string())),
            Err(_) => first_error = first_error.or(Some("timed out".to_owned())),
        }
    }
    println!(
        "opened {} of {count}{}",
        held.len(),
        first_error.map(|e| format!(" ({e})")).unwrap_or_default()
    );
    let mut rest = Vec::new();
    tokio::task::spawn_blocking(move || std::io::Read::read_to_end(&mut std::io::stdin(), &mut rest))
        .await
        .map_err(std::io::Error::other)??;
    let alive = count_alive(held).await;
    println!("alive {alive} of {count}");
    Ok(if alive == count {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Addresses rotate; each goes up through its ports.
fn source_of(number: u32, from: &[IpAddr], first_port: u16) -> Option<SocketAddr> {
    let ports = u32::from(u16::MAX - first_port) + 1;
    let addresses = u32::try_from(from.len()).ok().filter(|&len| len > 0)?;
    let addr = from.get((number % addresses) as usize)?;
    let port = u32::from(first_port) + (number / addresses) % ports;
    Some(SocketAddr::new(*addr, port as u16))
}

async fn connect(target: SocketAddr, source: Option<SocketAddr>) -> std::io::Result<TcpStream> {
    let socket = if target.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(source) = source {
        socket.set_reuseaddr(true)?;
        socket.bind(source)?;
    }
    socket.connect(target).await
}

async fn count_alive(held: Vec<TcpStream>) -> usize {
    let mut alive = 0;
    let mut waiting = Vec::new();
    for mut stream in held {
        if stream.write_all(b"?").await.is_ok() {
            waiting.push(stream);
        }
    }
    for stream in &mut waiting {
        let mut byte = [0; 1];
        if let Ok(Ok(1)) = timeout(PATIENCE, stream.read(&mut byte)).await {
            alive += 1;
        }
    }
    alive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_use_every_address_before_the_next_port() {
        let from = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        let sources: Vec<_> = (0..4)
            .filter_map(|number| source_of(number, &from, 1_024))
            .map(|end| end.to_string())
            .collect();
        assert_eq!(
            sources,
            ["192.0.2.1:1024", "192.0.2.2:1024", "192.0.2.1:1025", "192.0.2.2:1025"]
        );
        assert_eq!(source_of(64_512 * 2, &from, 1_024), source_of(0, &from, 1_024));
        assert_eq!(source_of(0, &[], 1_024), None);
    }

    #[test]
    fn the_status_tells_the_sum_and_each_source() {
        let sources = Sources::default();
        for source in ["::ffff:192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
            change(&sources, source.parse().unwrap(), 1);
        }
        assert_eq!(describe(&sources), "held 3\nfrom 192.0.2.1 2\nfrom 2001:db8::1 1\n");
        change(&sources, "2001:db8::1".parse().unwrap(), -1);
        assert_eq!(describe(&sources), "held 2\nfrom 192.0.2.1 2\n");
    }
}

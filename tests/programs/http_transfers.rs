//! Downloads and uploads of one file, side by side, that are under way until the standard input says a line.
//!
//! Until then each moves a little at a time; afterwards all that is left.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use socket2::{Domain, Socket, Type};

/// What a transfer moves at a time while it is held.
const PIECE: usize = 4_096;
/// How long it rests between two pieces.
const PAUSE: Duration = Duration::from_secs(1);
/// What the kernel may hold of a transfer here, so that it does not hold all of it.
const BUFFER: usize = 16_384;
/// How long a transfer may stand still before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
#[command(about = "Holds HTTP downloads and uploads of one file")]
struct Arguments {
    /// The web server.
    target: SocketAddr,
    /// The file that is uploaded as /upload/NAME-N.
    file: PathBuf,
    /// What it is called on the server, below /files/, to be downloaded.
    path: String,
    /// Where the downloads are kept, as NAME-N.
    #[arg(long)]
    into: PathBuf,
    /// The name of these transfers.
    #[arg(long)]
    name: String,
    /// How many downloads, and how many uploads.
    #[arg(long)]
    count: usize,
}

/// What the transfers know of each other.
#[derive(Default)]
struct Progress {
    /// Transfers that have moved their first piece.
    begun: usize,
    /// Nothing holds them any more.
    is_released: bool,
}

#[derive(Default)]
struct Held {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Held {
    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Rests between two pieces, unless nothing holds the transfers any more.
    fn rest(&self) {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(progress, PAUSE, |now| !now.is_released));
    }

    fn wait_until_begun(&self, count: usize) {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(progress, |now| now.begun < count));
    }

    /// Moves everything from one to the other, a piece at a time. The number of bytes.
    fn copy(&self, from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
        let (mut piece, mut moved) = ([0; PIECE], 0);
        loop {
            let len = from.read(&mut piece)?;
            to.write_all(&piece[..len])?;
            self.change(|progress| progress.begun += usize::from(moved == 0));
            if len == 0 {
                return Ok(moved);
            }
            moved += len as u64;
            self.rest();
        }
    }
}

/// A stream of the web server that has sent this head.
fn asked(target: SocketAddr, head: &str) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_send_buffer_size(BUFFER)?;
    socket.connect_timeout(&target.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{head} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n").as_bytes())?;
    Ok(stream)
}

/// Reads the head of the answer, which must say success; the length of what follows.
fn answered(reader: &mut impl BufRead) -> io::Result<u64> {
    let (mut line, mut len) = (String::new(), 0);
    reader.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 20") {
        return Err(io::Error::other(format!("the answer is {line:?}")));
    }
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    Ok(len)
}

fn download(arguments: &Arguments, into: &Path, held: &Held) -> io::Result<()> {
    let mut stream = asked(arguments.target, &format!("GET /files/{}", arguments.path))?;
    stream.write_all(b"\r\n")?;
    let mut reader = BufReader::with_capacity(PIECE, stream);
    let len = answered(&mut reader)?;
    let moved = held.copy(&mut reader.take(len), &mut File::create(into)?)?;
    if moved == len {
        Ok(())
    } else {
        Err(io::Error::other(format!("ended after {moved} of {len} bytes")))
    }
}

fn upload(arguments: &Arguments, name: &str, held: &Held) -> io::Result<()> {
    let mut file = File::open(&arguments.file)?;
    let mut stream = asked(arguments.target, &format!("PUT /upload/{name}"))?;
    stream.write_all(format!("Content-Length: {}\r\n\r\n", file.metadata()?.len()).as_bytes())?;
    held.copy(&mut file, &mut stream)?;
    answered(&mut BufReader::new(stream)).map(drop)
}

/// One of the transfers: the downloads first, then as many uploads.
fn transfer(arguments: &Arguments, number: usize, held: &Held) -> Result<(), String> {
    let name = format!("{}-{}", arguments.name, number % arguments.count);
    let (what, result) = if number < arguments.count {
        ("download", download(arguments, &arguments.into.join(&name), held))
    } else {
        ("upload", upload(arguments, &name, held))
    };
    // Nobody waits for the beginning of one that has failed.
    result.map_err(|error| {
        held.change(|progress| progress.begun += 1);
        format!("{what} {name}: {error}")
    })
}

fn main() -> ExitCode {
    let (arguments, held) = (Arguments::parse(), Held::default());
    let transfers = 2 * arguments.count;
    let results: Vec<Result<(), String>> = std::thread::scope(|scope| {
        let (arguments, held) = (&arguments, &held);
        let threads: Vec<_> = (0..transfers)
            .map(|number| scope.spawn(move || transfer(arguments, number, held)))
            .collect();
        held.wait_until_begun(transfers);
        println!("under way");
        let _ = io::stdin().read_line(&mut String::new());
        held.change(|progress| progress.is_released = true);
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    let failures: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    failures.iter().for_each(|failure| println!("{failure}"));
    println!("failed {}", failures.len());
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

//! A real server on a real socket, spoken to by hand and by the real `lvsctl`.

mod clients;
mod commands;
mod metrics;
#[path = "../../../tests/process/rude_clients.rs"]
mod rude_clients;
mod top;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lvs_api::{ApiError, Version};
use nix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::serve::serve;
use super::{Admin, AdminLimits};
use crate::mgmt::director::{Director, tend::tend};
use crate::mgmt::fake_worker::FakeWorker;
use crate::mgmt::unix_socket::{SocketKind, UnixSocket};

/// A director with two workers of plain memory behind a socket in a directory of its own.
struct Stand {
    socket: PathBuf,
    workers: Vec<Arc<FakeWorker>>,
    stop: Option<oneshot::Sender<()>>,
    /// Ends with the processor time that it took.
    thread: Option<JoinHandle<Duration>>,
    _directory: TempDir,
}

impl Stand {
    fn new(limits: AdminLimits) -> Self {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("api.sock");
        let (mut director, _) = Director::restore(&directory.path().join("journal")).unwrap();
        let workers = vec![FakeWorker::new(), FakeWorker::new()];
        director.attach(
            workers.iter().map(|worker| Arc::clone(worker) as _).collect(),
            Instant::now(),
        );
        let version = Version {
            api: lvs_api::API_VERSION.to_owned(),
            lvsd: "0.0.0".to_owned(),
            revision: "test".to_owned(),
            pid: std::process::id(),
            conns4_max: 4_096,
            conns6_max: 4_096,
        };
        let director = Arc::new(Mutex::new(director));
        let admin = Admin {
            director: Arc::clone(&director),
            version,
            devices: Box::new(Vec::new),
            buffers: Box::new(lvs_api::Buffers::default),
            reload: Box::new(|| {
                Err(ApiError::new(
                    lvs_api::ErrorCode::ConfigRefused,
                    "lvsd.toml: no such key",
                ))
            }),
            limits,
            captures: Arc::new(tokio::sync::Semaphore::new(1)),
        };
        let listener = UnixSocket::open(&socket, SocketKind::Stream, None).unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, Arc::new(admin)) => served.unwrap(),
                    () = tend(director) => {}
                    _ = stopped => {}
                }
            });
            clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
        });
        Self {
            socket,
            workers,
            stop: Some(stop),
            thread: Some(thread),
            _directory: directory,
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Status and body of the answer to one request.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = self.connect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: lvsd\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // The daemon may answer and close before it has read what it refuses, a client too many at once.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body.as_bytes());
        let answer = read_all(&mut stream);
        (
            status(&answer),
            answer
                .split_once("\r\n\r\n")
                .map_or_else(String::new, |(_, body)| body.to_owned()),
        )
    }

    /// The refusal of one request.
    fn refused(&self, method: &str, path: &str, body: &str) -> (u16, ApiError) {
        let (status, body) = self.ask(method, path, body);
        (
            status,
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body:?}")),
        )
    }

    fn lvsctl(&self, arguments: &str) -> Output {
        run_lvsctl(&self.socket, arguments)
    }

    /// What a command that must succeed prints.
    fn printed(&self, arguments: &str) -> String {
        let output = self.lvsctl(arguments);
        assert!(
            output.status.success(),
            "{arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Stand {
    /// Ends the server; the processor time that it took, if it did not panic.
    fn stop(&mut self) -> Option<Duration> {
        drop(self.stop.take());
        self.thread.take()?.join().ok()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let ended = self.stop();
            assert!(std::thread::panicking() || ended.is_some(), "the server panicked");
        }
    }
}

/// Everything until the other end closes; a reset counts as closing.
fn read_all(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4_096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}

/// The real binary, built once; a no-op where the whole workspace is tested.
fn lvsctl_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let exe = std::env::current_exe().unwrap();
        let profile = exe.parent().and_then(Path::parent).unwrap();
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "-p", "lvs-cli", "--bin", "lvsctl"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success());
        profile.join("lvsctl")
    })
}

fn run_lvsctl(socket: &Path, arguments: &str) -> Output {
    let mut command = std::process::Command::new(lvsctl_binary());
    command
        .env("LVSD_SOCKET", socket)
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

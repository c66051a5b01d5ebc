//! A real server on a real socket, spoken to by hand and by the real `lvsctl`.

mod clients;
mod commands;
mod metrics;
mod schema;
mod top;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lvs_api::{ApiError, Version};
use lvs_test_support::http::{self, read_all};
use lvs_test_support::process::{run, thread_cpu_time};
use lvs_test_support::tools;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::serve::serve;
use super::{Admin, AdminLimits, KeptState};
use crate::mgmt::director::{Director, tend::tend};
use crate::mgmt::fake_worker::FakeWorker;
use crate::mgmt::unix_socket::{SocketKind, UnixSocket};

/// A director with two workers of plain memory behind a socket in a directory of its own.
struct Testbed {
    socket: PathBuf,
    workers: Vec<Arc<FakeWorker>>,
    stop: Option<oneshot::Sender<()>>,
    /// Ends with the processor time that it took.
    thread: Option<JoinHandle<Duration>>,
    _directory: TempDir,
}

impl Testbed {
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
            kept: KeptState {
                status: Mutex::default(),
                give_up: Box::new(|| Err("/dev/shm/lvsd: not permitted".to_owned())),
            },
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
            thread_cpu_time()
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
        http::connect(&self.socket)
    }

    /// Status and body of the answer to one request; 0 and nothing when there is none.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        http::ask(&self.socket, method, path, body).unwrap_or_default()
    }

    /// The refusal of one request.
    fn refused(&self, method: &str, path: &str, body: &str) -> (u16, ApiError) {
        let (status, body) = self.ask(method, path, body);
        (status, http::refusal(&body))
    }

    fn lvsctl(&self, arguments: &str) -> Output {
        lvsctl(&self.socket, arguments).output().unwrap()
    }

    /// Runs commands that must succeed and print nothing.
    fn run_silently(&self, commands: &[&str]) {
        for command in commands {
            assert_eq!(self.printed(command), "", "{command}");
        }
    }

    /// What a command that must succeed prints.
    fn printed(&self, arguments: &str) -> String {
        run(&mut lvsctl(&self.socket, arguments))
    }
}

impl Testbed {
    /// Ends the server; the processor time that it took, if it did not panic.
    fn stop(&mut self) -> Option<Duration> {
        drop(self.stop.take());
        self.thread.take()?.join().ok()
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let ended = self.stop();
            assert!(std::thread::panicking() || ended.is_some(), "the server panicked");
        }
    }
}

/// The status of an answer; 0 for none.
fn status(answer: &str) -> u16 {
    http::status(answer).unwrap_or_default()
}

/// An `lvsctl` that is still to be started.
fn lvsctl(socket: &Path, arguments: &str) -> Command {
    let mut command = Command::new(tools::lvsctl());
    command.env("LVSD_SOCKET", socket).args(arguments.split_whitespace());
    command
}

/// Fails unless `text` contains each of these.
fn assert_contains_all(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

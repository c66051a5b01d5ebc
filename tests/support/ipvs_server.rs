//! The testbed of IPVS clients: a director, or a table in memory, behind the IPVS socket alone, in a process of its own
//! that can be killed and stopped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lvs_api::proc_text::{self, ProcFile};
use lvsd::mgmt::director::Director;
use lvsd::mgmt::ipvs_netlink::proc_files;
use lvsd::mgmt::ipvs_netlink::serve::{FileFuture, IpvsLimits, Served, serve};
use lvsd::mgmt::unix_socket::{SocketKind, UnixSocket};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::memory_table::MemoryTable;
use crate::process;
use crate::tools::library;
use crate::waits::{PATIENCE, until};

/// Set in the process that is to be the server.
const SOCKET_OF_CHILD: &str = "LVSD_TEST_IPVS_SERVER";
/// Set as well when it is to serve the director.
const JOURNAL_OF_CHILD: &str = "LVSD_TEST_IPVS_JOURNAL";

/// A client that reads nothing for so long loses its place.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Does what the child is for; does nothing in the test process itself. The child runs the test `server_of_the_tests`.
/// Each test program that uses this must have such a test, and it must call only this function.
pub fn serve_if_child() {
    let Some(path) = std::env::var_os(SOCKET_OF_CHILD) else {
        return;
    };
    let socket = UnixSocket::open(Path::new(&path), SocketKind::SeqPacket, None).unwrap();
    let limits = IpvsLimits {
        write_timeout: WRITE_TIMEOUT,
        ..IpvsLimits::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let Some(journal) = std::env::var_os(JOURNAL_OF_CHILD) else {
        return runtime.block_on(serve(socket, Arc::new(memory(limits)))).unwrap();
    };
    let (director, _) = Director::restore(Path::new(&journal)).unwrap();
    let table = Arc::new(Mutex::new(director));
    let of_files = Arc::clone(&table);
    let served = Served {
        table,
        changes_arrive: Box::new(|| Box::pin(std::future::ready(()))),
        file: Box::new(move |path| Box::pin(proc_files::render(Arc::clone(&of_files), path.to_owned()))),
        limits,
    };
    runtime.block_on(serve(socket, Arc::new(served))).unwrap();
}

fn memory(limits: IpvsLimits) -> Served<MemoryTable> {
    let table = Arc::new(Mutex::new(MemoryTable::default()));
    let of_files = Arc::clone(&table);
    let file = move |path: &str| -> FileFuture {
        let text = match ProcFile::of_path(path) {
            Some(ProcFile::Services) => Some(proc_files::services(
                &mut *of_files.lock().unwrap_or_else(PoisonError::into_inner),
            )),
            Some(ProcFile::Connections) => Some(proc_text::connections([].iter())),
            _ => proc_files::of_table(&*of_files.lock().unwrap_or_else(PoisonError::into_inner), path),
        };
        Box::pin(std::future::ready(text))
    };
    Served {
        table,
        changes_arrive: Box::new(|| Box::pin(std::future::ready(()))),
        file: Box::new(file),
        limits,
    }
}

/// Waits until a process waits for an answer.
pub fn await_question(pid: &str) {
    // What a receiver sleeps in, as the kernel names it.
    let waits_in = || std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    until("it asks something", || waits_in().contains("wait_for_more_packets"));
}

/// A running server. It is killed when dropped.
pub struct Server {
    child: Child,
    socket: PathBuf,
    _folder: TempDir,
    serves_director: bool,
}

impl Server {
    /// Serves a table that keeps all the protocol can say.
    pub fn start() -> Self {
        Self::with(false)
    }

    /// Serves a director with a journal and without workers.
    pub fn start_director() -> Self {
        Self::with(true)
    }

    fn with(serves_director: bool) -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("ipvs.sock");
        let child = spawn(&socket, serves_director);
        Self {
            child,
            socket,
            _folder: folder,
            serves_director,
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Processor time that it has taken: how long it all lasts depends on what else the machine does.
    pub fn cpu_time(&self) -> Duration {
        process::cpu_time(&self.child.id().to_string(), &[""])
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        process::signal(&self.child, signal);
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after [`Self::kill`].
    pub fn restart(&mut self) {
        self.child = spawn(&self.socket, self.serves_director);
    }

    /// `program` with the library in front of the C library.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("LD_PRELOAD", library())
            .env("LVS_IPVS_SOCK", &self.socket)
            .env("LVS_IPVS_TIMEOUT", "0.5")
            .env_remove("LVS_IPVS_WAIT");
        command
    }

    /// A shell line, as recordings have them: standard output, standard error, exit code.
    pub fn shell(&self, line: &str) -> (String, String, i32) {
        let output = self
            .command("/bin/sh")
            .args(["-c", line])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
            output.status.code().unwrap_or(-1),
        )
    }

    /// Gives `rules` to `ipvsadm -R`. Returns whether it succeeded.
    pub fn restore(&self, rules: &str) -> bool {
        let mut child = self.command("ipvsadm").arg("-R").stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        child.wait().unwrap().success()
    }

    /// Waits until `holds` is true for the table as `ipvsadm -Sn` prints it. `wanted` describes that table.
    ///
    /// # Panics
    /// When the table does not become so in time.
    pub fn await_table(&self, wanted: &str, holds: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (table, errors, _) = self.shell("ipvsadm -Sn");
            if holds(&table) {
                return;
            }
            assert!(Instant::now() < deadline, "wanted\n{wanted}\nfound\n{table}{errors}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(socket: &Path, serves_director: bool) -> Child {
    // A dead server's socket file would answer for it.
    let _ = std::fs::remove_file(socket);
    let mut command = Command::new(std::env::current_exe().unwrap());
    if serves_director {
        command.env(JOURNAL_OF_CHILD, socket.with_file_name("journal"));
    }
    let child = command
        .args(["--exact", "server_of_the_tests", "--nocapture"])
        .env(SOCKET_OF_CHILD, socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the server is up", || socket.exists());
    child
}

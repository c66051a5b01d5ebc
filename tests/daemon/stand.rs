//! Where a daemon under test stands: a network namespace, a directory, a configuration; and the daemon itself.
//!
//! Everything goes with the value that made it; a daemon whose test fails shows its log first.

use std::fs::Permissions;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lvs_api::{ApiError, DropCount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::tools::lvs_run;

/// What a condition may take on a machine that does much else beside it; only a fault makes anybody wait that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace and a directory.
pub struct Stand {
    namespace: String,
    directory: TempDir,
}

impl Stand {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let stand = Self {
            namespace: format!("lvsdt-{}-{number}", std::process::id()),
            directory: TempDir::new().unwrap(),
        };
        run(Command::new("ip").args(["netns", "add", &stand.namespace]));
        stand.inside(
            "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0 \
             net.ipv6.conf.default.router_solicitations=0 net.ipv4.conf.all.rp_filter=0",
        );
        stand
    }

    /// The namespace; asked by the recordings' player.
    #[allow(dead_code)]
    pub fn name(&self) -> &str {
        &self.namespace
    }

    /// Runs a shell line in the namespace; for the recordings' player.
    #[allow(dead_code)]
    pub fn shell(&self, line: &str) -> Output {
        self.command().args(["sh", "-c", line]).output().unwrap()
    }

    /// A command behind `lvs-run`: what IPVS tools in it say comes to this stand's daemon.
    pub fn led(&self, command: &[&str]) -> Command {
        let mut led = self.command();
        led.arg(&lvs_run().program)
            .arg("--library")
            .arg(&lvs_run().library)
            .arg("--socket")
            .arg(self.path("ipvs.sock"))
            .args(["--mode", "preload", "--"])
            .args(command);
        led
    }

    /// Runs a command in the namespace; what it prints.
    pub fn inside(&self, command: &str) -> String {
        run(self.command().args(command.split_whitespace()))
    }

    /// Its name under `/run/netns`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A command of which the program is missing yet.
    pub fn command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]);
        command
    }

    /// A file of this stand.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("api.sock")
    }

    /// Writes `lvsd.toml`: what every test has in common, and `rest`.
    pub fn configure(&self, rest: &str) {
        self.write_config(&format!("{}{rest}", self.common_config(4_096)));
    }

    /// As [`Self::configure`], with tables for so many IPv4 connections.
    pub fn configure_with_conns4_max(&self, conns4_max: u32, rest: &str) {
        self.write_config(&format!("{}{rest}", self.common_config(conns4_max)));
    }

    /// Writes `lvsd.toml`.
    pub fn write_config(&self, text: &str) {
        fs::write(self.path("lvsd.toml"), text).unwrap();
    }

    fn common_config(&self, conns4_max: u32) -> String {
        let cpus = lvsd::dpdk::eal::available_cpus();
        format!(
            "[eal]\nhugepages = \"never\"\nmain_core = {}\nworker_cores = [{}]\n\
             [workers]\nidle = \"sleep\"\n\
             [connections]\nipv4_max = {conns4_max}\nipv6_max = 4096\n\
             [api]\nsocket = {:?}\n[journal]\npath = {:?}\n",
            cpus[0],
            cpus[1 % cpus.len()],
            self.socket(),
            self.path("journal"),
        )
    }

    /// A persistent TAP for the device `name`, up.
    pub fn twin(&self, name: &str, mac: &str) {
        self.inside(&format!("ip tuntap add dev {name} mode tap"));
        self.inside(&format!("ip link set {name} address {mac} up"));
    }

    /// Gives `device` an address.
    pub fn address(&self, device: &str, address: &str) {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.inside(&format!("ip addr add {address} dev {device} {nodad}"));
    }

    /// The daemon, ready.
    pub fn start(&self) -> Daemon<'_> {
        self.start_with(&[])
    }

    /// The daemon, ready, with more in its environment.
    pub fn start_with(&self, environment: &[(&str, &Path)]) -> Daemon<'_> {
        let mut command = self.command();
        command.envs(environment.iter().copied());
        let mut daemon = self.spawn(command);
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("lvsd ended: {status}");
            }
            if daemon.try_ask("GET", "/v1/version", "").is_some() {
                return daemon;
            }
            assert!(Instant::now() < end, "lvsd is not ready after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A daemon that must refuse to start: what it says last.
    pub fn refused(&self) -> String {
        last_words(self.spawn(self.command()))
    }

    /// The same for a user without rights, who may read and write in the directory.
    pub fn refused_as_nobody(&self) -> String {
        fs::set_permissions(self.path(""), Permissions::from_mode(0o777)).unwrap();
        let mut command = self.command();
        command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        last_words(self.spawn(command))
    }

    /// Starts the daemon behind what `command` says already.
    fn spawn(&self, mut command: Command) -> Daemon<'_> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let log = self.path(&format!("log-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&log).unwrap();
        command
            .arg(env!("CARGO_BIN_EXE_lvsd"))
            .arg("--config")
            .arg(self.path("lvsd.toml"))
            .env_remove("RUST_LOG")
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        Daemon {
            stand: self,
            child: command.spawn().unwrap(),
            log,
        }
    }
}

/// The last line of a daemon that must end by itself, without its name.
fn last_words(mut daemon: Daemon<'_>) -> String {
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = daemon.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "lvsd did not end after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    };
    let log = daemon.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    let last = log.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("lvsd: "), "{log}");
    last["lvsd: ".len()..].to_owned()
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

/// Runs a command that must succeed; what it prints.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A running `lvsd`. It is killed when dropped.
pub struct Daemon<'a> {
    stand: &'a Stand,
    child: Child,
    log: PathBuf,
}

impl Daemon<'_> {
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.stand.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Status and body of the answer to one request.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.try_ask(method, path, body)
            .unwrap_or_else(|| panic!("{method} {path}: no answer"))
    }

    /// The same; `None` when the daemon is gone or goes before it has answered.
    pub fn try_ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.stand.socket()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: lvsd\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // The daemon may answer and close before it has read a body that it refuses.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body.as_bytes());
        let answer = read_all(&mut stream);
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// What `GET path` answers.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// Status and text of the refusal of a request.
    pub fn refusal(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (status, answer) = self.ask(method, path, body);
        let error: ApiError = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
        (status, error.to_string())
    }

    /// Frames dropped for `reason`.
    pub fn drops_of(&self, reason: &str) -> u64 {
        let drops: Vec<DropCount> = self.get("/v1/drops");
        let of = drops.iter().find(|drop| drop.reason == reason);
        of.unwrap_or_else(|| panic!("no such reason: {reason}")).packets
    }

    pub fn lvsctl(&self, arguments: &str) -> Output {
        self.lvsctl_command(arguments).output().unwrap()
    }

    /// An `lvsctl` that is still to be started.
    pub fn lvsctl_command(&self, arguments: &str) -> Command {
        let mut command = Command::new(lvsctl_binary());
        command.arg("--socket").arg(self.stand.socket());
        command.args(arguments.split_whitespace());
        command
    }

    /// What an `lvsctl` command that must succeed prints.
    pub fn printed(&self, arguments: &str) -> String {
        let output = self.lvsctl(arguments);
        assert!(
            output.status.success(),
            "lvsctl {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Ends it as `systemctl stop` does; its log.
    pub fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "SIGTERM does not end it");
            std::thread::sleep(Duration::from_millis(5));
        };
        let log = self.log();
        assert!(status.success(), "{status}: {log}");
        assert!(!log.contains("panicked"), "{log}");
        log
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- lvsd's log\n{}---", self.log());
        }
    }
}

/// Everything until the other end closes; a reset counts as closing.
pub fn read_all(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4_096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The real `lvsctl`, built once; nothing to do where the whole workspace is tested.
fn lvsctl_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let profile = Path::new(env!("CARGO_BIN_EXE_lvsd")).parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
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

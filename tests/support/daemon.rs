//! The testbed of the real `lvsd`: a network namespace, a directory, a configuration; and the daemon itself, with `lvsctl`
//! as its operator.
//!
//! Needs root; works without hugepages and without a NIC. A daemon whose test fails shows its log first.

use std::fs::Permissions;
use std::fs::{self, File};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lvs_api::DropCount;
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::process::{self, await_end, run};
use crate::waits::until;
use crate::{http, tools};

/// A namespace, in which the daemon runs, and a directory; on a tmpfs another one, for connections.
pub struct Testbed {
    namespace: Namespace,
    directory: TempDir,
    on_tmpfs: TempDir,
}

/// A testbed is a host with more.
impl Deref for Testbed {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl Testbed {
    /// Makes it; nothing is configured yet.
    pub fn create() -> Self {
        let namespace = Namespace::create();
        // A director with masqueraded servers needs these settings.
        namespace.inside("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        Self {
            namespace,
            directory: TempDir::new().unwrap(),
            on_tmpfs: TempDir::with_prefix_in("lvsdt-", "/dev/shm").unwrap(),
        }
    }

    /// A command behind `lvs-run`: what IPVS tools in it say comes to this testbed's daemon.
    pub fn lvs_run(&self, command: &[&str]) -> Command {
        let mut behind = self.command();
        behind
            .args(tools::lvs_run(&self.path("ipvs.sock")))
            .args(["--mode", "preload", "--"])
            .args(command);
        behind
    }

    /// A file of this testbed.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.path("api.sock")
    }

    /// Where its connections outlive the daemon. The daemon makes it.
    pub fn state_dir(&self) -> PathBuf {
        self.on_tmpfs.path().join("lvsd")
    }

    /// Writes `lvsd.toml`: what every test has in common, and `rest`.
    pub fn configure(&self, rest: &str) {
        self.write_config(&format!("{}{rest}", self.common_config(4_096)));
    }

    /// Does the same as [`Self::configure`], with a table for `conns4_max` IPv4 connections.
    pub fn configure_with_conns4_max(&self, conns4_max: u32, rest: &str) {
        self.write_config(&format!("{}{rest}", self.common_config(conns4_max)));
    }

    /// Writes `lvsd.toml`.
    pub fn write_config(&self, text: &str) {
        fs::write(self.path("lvsd.toml"), text).unwrap();
    }

    /// Replaces a text that stands in `lvsd.toml`.
    ///
    /// # Panics
    /// When it does not stand there.
    pub fn edit_config(&self, from: &str, to: &str) {
        let config = fs::read_to_string(self.path("lvsd.toml")).unwrap();
        assert!(config.contains(from), "{from} in {config}");
        self.write_config(&config.replace(from, to));
    }

    fn common_config(&self, conns4_max: u32) -> String {
        let cpus = lvsd::dpdk::eal::available_cpus();
        format!(
            "[eal]\nhugepages = \"never\"\nmain_core = {}\nworker_cores = [{}]\n\
             [workers]\nidle = \"sleep\"\n\
             [connections]\nipv4_max = {conns4_max}\nipv6_max = 4096\nstate_dir = {:?}\n\
             [api]\nsocket = {:?}\n[journal]\npath = {:?}\n",
            cpus[0],
            cpus[1 % cpus.len()],
            self.state_dir(),
            self.socket(),
            self.path("journal"),
        )
    }

    /// The daemon, ready.
    pub fn start(&self) -> Daemon<'_> {
        self.start_with(&[])
    }

    /// The daemon, ready, with more in its environment.
    pub fn start_with(&self, environment: &[(&str, &Path)]) -> Daemon<'_> {
        let mut command = self.command();
        command.envs(environment.iter().copied());
        self.started(command)
    }

    /// The daemon, ready, behind a shell line in a mount namespace of its own: what the line mounts, only the daemon sees.
    /// From outside it is below `/proc/PID/root`.
    pub fn start_behind(&self, line: &str) -> Daemon<'_> {
        // `ip netns exec` makes the mount namespace.
        let mut command = self.command();
        command.args(["sh", "-ec", &format!("{line}; exec \"$@\""), "sh"]);
        self.started(command)
    }

    fn started(&self, command: Command) -> Daemon<'_> {
        let mut daemon = self.spawn(command);
        until("lvsd is ready", || {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("lvsd ended: {status}");
            }
            daemon.try_ask("GET", "/v1/version", "").is_some()
        });
        daemon
    }

    /// An `lvsd` with this configuration and a switch with which it does something else than run.
    pub fn lvsd(&self, switch: &str) -> Command {
        let mut command = self.command();
        command
            .arg(tools::lvsd())
            .arg("--config")
            .arg(self.path("lvsd.toml"))
            .arg(switch);
        command
    }

    /// A daemon that must refuse to start: what it says last.
    pub fn refused(&self) -> String {
        last_words(self.spawn(self.command()))
    }

    /// The same for a user without rights, who may read and write in the directory.
    pub fn refused_as_nobody(&self) -> String {
        for directory in [&self.directory, &self.on_tmpfs] {
            fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        }
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
            .arg(tools::lvsd())
            .arg("--config")
            .arg(self.path("lvsd.toml"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        Daemon {
            testbed: self,
            child: command.spawn().unwrap(),
            log,
        }
    }
}

/// The last line of a daemon that must end by itself, without its name.
fn last_words(mut daemon: Daemon<'_>) -> String {
    let status = await_end(&mut daemon.child, "by itself");
    let log = daemon.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    let last = log.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("lvsd: "), "{log}");
    last["lvsd: ".len()..].to_owned()
}

/// A running `lvsd`. It is killed when dropped.
pub struct Daemon<'a> {
    testbed: &'a Testbed,
    child: Child,
    log: PathBuf,
}

impl Daemon<'_> {
    /// A connection to the admin socket.
    pub fn connect(&self) -> UnixStream {
        http::connect(&self.testbed.socket())
    }

    /// Status and body of the answer to one request.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.try_ask(method, path, body)
            .unwrap_or_else(|| panic!("{method} {path}: no answer"))
    }

    /// The same; `None` when the daemon is gone or goes before it has answered.
    pub fn try_ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        http::ask(&self.testbed.socket(), method, path, body)
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
        (status, http::refusal(&answer).to_string())
    }

    /// Frames dropped for `reason`.
    pub fn drops_of(&self, reason: &str) -> u64 {
        let drops: Vec<DropCount> = self.get("/v1/drops");
        let of = drops.iter().find(|drop| drop.reason == reason);
        of.unwrap_or_else(|| panic!("no such reason: {reason}")).packets
    }

    /// Runs an `lvsctl`.
    pub fn lvsctl(&self, arguments: &str) -> Output {
        self.lvsctl_command(arguments).output().unwrap()
    }

    /// An `lvsctl` that is still to be started.
    pub fn lvsctl_command(&self, arguments: &str) -> Command {
        let mut command = Command::new(tools::lvsctl());
        command.arg("--socket").arg(self.testbed.socket());
        command.args(arguments.split_whitespace());
        command
    }

    /// What an `lvsctl` command that must succeed prints.
    pub fn printed(&self, arguments: &str) -> String {
        run(&mut self.lvsctl_command(arguments))
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it runs still.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time of its threads whose names begin with one of `names`; an empty one is of all.
    pub fn cpu_time(&self, names: &[&str]) -> Duration {
        process::cpu_time(&self.pid().to_string(), names)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        process::signal(&self.child, signal);
    }

    /// Ends it as `systemctl stop` does; its log.
    pub fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let status = await_end(&mut self.child, "after SIGTERM");
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

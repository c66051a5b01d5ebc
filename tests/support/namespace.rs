//! A network namespace: a host on the network of a test.

use std::fs::File;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::process::run;

/// It is removed when dropped. Its name carries the process id and a number: tests run side by side.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one in which the kernel neither asks for routers nor doubts addresses.
    pub fn create() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = Self {
            name: format!("lvsdt-{}-{number}", std::process::id()),
        };
        run(Command::new("ip").args(["netns", "add", &namespace.name]));
        namespace.inside(
            "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0 \
             net.ipv6.conf.default.router_solicitations=0 net.ipv4.conf.all.rp_filter=0",
        );
        namespace
    }

    /// Its name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command of which the program is missing yet.
    pub fn command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]);
        command
    }

    /// Runs a command that must succeed; what it prints.
    pub fn inside(&self, command: &str) -> String {
        run(self.command().args(command.split_whitespace()))
    }

    /// Runs a shell line.
    pub fn shell(&self, line: &str) -> Output {
        let output = self.command().args(["sh", "-c", line]).output();
        output.expect("iproute2 is installed")
    }

    /// Runs `work` in a thread of this namespace. Sockets that it makes stay there.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let file = File::open(format!("/run/netns/{}", self.name)).expect("the namespace is there");
        thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter it");
            work()
        })
    }

    /// The same, and waits for what comes of it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().expect("the work does not panic")
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

    /// The twins of two devices with their addresses: "wan", which also has the service address 192.0.2.100, and "lan".
    pub fn wan_and_lan(&self) {
        for (device, number, address) in [("wan", 1, "192.0.2.1/24"), ("lan", 2, "198.51.100.1/24")] {
            self.twin(device, &format!("02:00:00:00:00:0{number}"));
            self.address(device, address);
        }
        self.address("wan", "192.0.2.100/32");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

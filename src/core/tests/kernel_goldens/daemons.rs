//! Sync daemons of recordings: the master's messages are compared as they leave, the backup gets those that were
//! injected. Joining groups is the stack's business, and when exactly a message leaves the kernel's timers'.

use std::collections::VecDeque;
use std::net::IpAddr;

use lvs_api::ipvsadm_text::{self, Daemon};
use lvs_api::proc_text::{self, ConnectionRow};
use lvs_core::address::AddressFamily;
use lvs_core::ipvs::conn::ConnFlags;
use lvs_core::ipvs::sync::assembly::Assembly;
use lvs_core::ipvs::sync::daemon::{SyncDaemon, SyncDaemonError, SyncRole};
use lvs_core::ipvs::sync::policy::{SyncAccept, SyncMode, SyncPolicy};
use lvs_core::ipvs::sync::{SyncRoles, message};
use lvs_core::testing::director::TestDirector;

use crate::scenario::Side;

const LINK_MTU: u16 = 1_500;
/// How much later than due a kernel may look for messages that are due (`IPVS_SYNC_CHECK_PERIOD`), and some.
const LATENESS_MS: u64 = 1_200;

/// A kernel believes any entry, fills its table with them and syncs out by the number of packets.
const AS_A_KERNEL: SyncPolicy = SyncPolicy {
    mode: SyncMode::Kernel,
    accept: SyncAccept::Kernel,
    is_authenticated: false,
    table_percent: 100,
};

/// A message that left.
struct Sent {
    at_ms: u64,
    payload: Vec<u8>,
}

/// See the module.
#[derive(Default)]
pub struct Daemons {
    master: Option<(SyncDaemon, Assembly)>,
    backup: Option<SyncDaemon>,
    sent: VecDeque<Sent>,
}

/// A UDP datagram in a frame.
struct Datagram<'a> {
    dst: IpAddr,
    ttl: u8,
    port: u16,
    payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    fn of(frame: &'a [u8]) -> Option<Self> {
        let (dst, ttl, protocol, udp) = match frame.get(12..14)? {
            [8, 0] => {
                let addr = |at: usize| Some(IpAddr::from(*frame.get(at..)?.first_chunk::<4>()?));
                (addr(30)?, *frame.get(22)?, *frame.get(23)?, frame.get(34..)?)
            }
            [0x86, 0xDD] => {
                let addr = |at: usize| Some(IpAddr::from(*frame.get(at..)?.first_chunk::<16>()?));
                (addr(38)?, *frame.get(21)?, *frame.get(20)?, frame.get(54..)?)
            }
            _ => return None,
        };
        let len = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
        (protocol == 17).then_some(Self {
            dst,
            ttl,
            port: u16::from_be_bytes([udp[2], udp[3]]),
            payload: udp.get(8..len)?,
        })
    }
}

impl Daemons {
    /// Runs `ipvsadm --start-daemon …` or `--stop-daemon …`; `None` for other commands.
    pub fn run(&mut self, director: &mut TestDirector, line: &str) -> Option<Result<(), String>> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let done = match words[..] {
            ["ipvsadm", "--start-daemon", ..] if has_mixed_families(director) => {
                Err(SyncDaemonError::MixedFamilies.to_string())
            }
            ["ipvsadm", "--start-daemon", role, ref options @ ..] => self.start(role, options),
            ["ipvsadm", "--stop-daemon", role] => role_of(role).and_then(|role| self.stop(role)),
            _ => return None,
        };
        director.set_sync(SyncRoles {
            master: self.master.is_some(),
            backup: self.backup.is_some(),
        });
        director.set_sync_policy(AS_A_KERNEL);
        Some(done)
    }

    fn runs(&self, role: SyncRole) -> bool {
        match role {
            SyncRole::Master => self.master.is_some(),
            SyncRole::Backup => self.backup.is_some(),
        }
    }

    fn stop(&mut self, role: SyncRole) -> Result<(), String> {
        if !self.runs(role) {
            return Err(SyncDaemonError::Missing { role }.to_string());
        }
        match role {
            SyncRole::Master => {
                self.master = None;
                self.sent.clear();
            }
            SyncRole::Backup => self.backup = None,
        }
        Ok(())
    }

    /// Whether a command adds a server of another family than its service while a daemon runs.
    pub fn refuse_mixed(&self, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |options: &[&str]| {
            let at = words.iter().position(|word| options.contains(word))?;
            words.get(at + 1).map(|value| value.starts_with('['))
        };
        let is_running = self.master.is_some() || self.backup.is_some();
        let (service, server) = (after(&["-t", "-u", "--sctp-service"]), after(&["-r"]));
        is_running && words.contains(&"-a") && service.is_some() && server.is_some() && service != server
    }

    fn start(&mut self, role: &str, options: &[&str]) -> Result<(), String> {
        let role = role_of(role)?;
        if self.runs(role) {
            return Err(SyncDaemonError::Exists { role }.to_string());
        }
        let mut daemon = SyncDaemon::new(role, "");
        for option in options.chunks(2) {
            let number = || option[1].parse::<u16>().map_err(|error| error.to_string());
            match option[0] {
                "--mcast-interface" => daemon.interface = option[1].to_owned(),
                "--syncid" => daemon.sync_id = number()? as u8,
                "--sync-maxlen" => daemon.max_len = number()?,
                "--mcast-group" => daemon.group = option[1].parse().map_err(|_| "no group")?,
                "--mcast-port" => daemon.port = number()?,
                "--mcast-ttl" => daemon.ttl = number()? as u8,
                other => return Err(format!("option {other} is not understood")),
            }
        }
        daemon.check().map_err(|error| error.to_string())?;
        match role {
            SyncRole::Master => {
                let assembly = Assembly::new(daemon.sync_id, daemon.effective_max_len(LINK_MTU));
                self.master = Some((daemon, assembly));
            }
            SyncRole::Backup => self.backup = Some(daemon),
        }
        Ok(())
    }

    /// Takes the connections that the director's workers sync out, and sends the messages that are due.
    pub fn gather(&mut self, director: &mut TestDirector, at_ms: u64) {
        let conns = director.take_synced();
        let Some((_, assembly)) = &mut self.master else { return };
        let version = director.sysctls().sync_version;
        let sent = &mut self.sent;
        let mut leave = |payload| sent.push_back(Sent { at_ms, payload });
        for conn in &conns {
            assembly.add(conn, version, at_ms).into_iter().for_each(&mut leave);
        }
        assembly.due(SyncMode::Kernel, at_ms).into_iter().for_each(leave);
    }

    /// A message that the kernel sent must be the next of ours.
    pub fn expect(&mut self, frame: &[u8]) -> Result<(), String> {
        let theirs = Datagram::of(frame).ok_or("no message")?;
        let shown = |payload: &[u8]| payload.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (Some((daemon, _)), Some(ours)) = (&self.master, self.sent.pop_front()) else {
            return Err(format!("  the kernel sent, lvsd did not: {}", shown(theirs.payload)));
        };
        if (theirs.dst, theirs.port, theirs.ttl) != (daemon.group, daemon.port, daemon.ttl) {
            return Err(format!("  the kernel sent to {} port {}", theirs.dst, theirs.port));
        }
        if theirs.payload != ours.payload {
            let (theirs, ours) = (shown(theirs.payload), shown(&ours.payload));
            return Err(format!("  kernel: {theirs}\n  lvsd:   {ours}"));
        }
        Ok(())
    }

    /// Fails if lvsd sent a message that the kernel had not sent by the end of the recording.
    pub fn finish(&self, at_ms: u64) -> Result<(), String> {
        match self.sent.front() {
            Some(sent) if at_ms > sent.at_ms + LATENESS_MS => Err(format!(
                "  lvsd sent a message at {} ms that the kernel did not send",
                sent.at_ms
            )),
            _ => Ok(()),
        }
    }

    /// A frame that the director leaves to its kernel, whose socket may be the backup's.
    pub fn receive(&self, director: &mut TestDirector, side: Side, frame: &[u8]) {
        let (Some(daemon), Some(datagram)) = (&self.backup, Datagram::of(frame)) else {
            return;
        };
        let interface = match side {
            Side::Client => "eth0",
            Side::Rs => "eth1",
        };
        let is_for_it = (interface, datagram.dst, datagram.port) == (&*daemon.interface, daemon.group, daemon.port);
        if !is_for_it || datagram.payload.len() > usize::from(daemon.effective_max_len(LINK_MTU)) {
            return;
        }
        let mut conns = Vec::new();
        // What is malformed is dropped in silence, as by the kernel.
        let _ = message::read(datagram.payload, daemon.sync_id, |entry| conns.extend(entry.ok()));
        director.import_synced(&conns);
    }

    /// What commands about daemons and what came from others print; `None` for other commands.
    pub fn listing(&self, director: &TestDirector, command: &str) -> Option<String> {
        if command.starts_with("ipvsadm -L") && command.ends_with("--daemon") {
            let master = self.master.as_ref().map(|(daemon, _)| daemon);
            let running: Vec<Daemon> = master.into_iter().chain(&self.backup).map(shown).collect();
            return Some(ipvsadm_text::daemons(&running));
        }
        (command == "cat /proc/net/ip_vs_conn_sync").then(|| {
            let rows: Vec<ConnectionRow> = director.conns().iter().map(row).collect();
            proc_text::connection_origins(rows.iter())
        })
    }
}

/// Compares a listing of daemons or connections, whose order and seconds are no two runs' the same.
pub fn same_lines(ours: &str, theirs: &str) -> bool {
    let sorted = |text: &str| {
        let mut lines: Vec<(String, Option<u32>)> = text
            .lines()
            .map(|line| match line.rsplit_once(' ') {
                Some((line, seconds)) if seconds.parse::<u32>().is_ok() => {
                    (line.trim_end().to_owned(), seconds.parse().ok())
                }
                _ => (line.to_owned(), None),
            })
            .collect();
        lines.sort();
        lines
    };
    let (ours, theirs) = (sorted(ours), sorted(theirs));
    ours.len() == theirs.len()
        && ours
            .iter()
            .zip(&theirs)
            .all(|(ours, theirs)| ours.0 == theirs.0 && ours.1.unwrap_or(0).abs_diff(theirs.1.unwrap_or(0)) <= 1)
}

fn has_mixed_families(director: &TestDirector) -> bool {
    director.desired.services().any(|listing| {
        let family = listing.spec.key.family();
        let mut servers = listing.servers();
        servers.any(|server| AddressFamily::of(&server.spec.addr) != family)
    })
}

fn role_of(name: &str) -> Result<SyncRole, String> {
    [SyncRole::Master, SyncRole::Backup]
        .into_iter()
        .find(|role| role.name() == name)
        .ok_or_else(|| format!("{name} is no role"))
}

fn shown(daemon: &SyncDaemon) -> Daemon {
    Daemon {
        role: daemon.role.name(),
        interface: daemon.interface.clone(),
        sync_id: u32::from(daemon.sync_id),
        max_len: daemon.effective_max_len(LINK_MTU),
        group: daemon.group,
        port: daemon.port,
        ttl: daemon.ttl,
    }
}

fn row(record: &lvs_core::conn_record::ConnRecord) -> ConnectionRow {
    ConnectionRow {
        protocol: record.protocol,
        client: record.client,
        virt: record.virt,
        real: record.real,
        state: record.state_name(),
        expires_sec: record.expires_in_ms / 1_000,
        is_synced: record.flags.contains(ConnFlags::SYNCED),
    }
}

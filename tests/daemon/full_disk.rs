//! A journal on a disk that is full or hangs, and one that is damaged: forwarding comes first, and nothing is guessed.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use lvs_api::{JournalStatus, State};
use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::process::run;
use lvs_test_support::waits::until;
use nix::sys::signal::Signal;

/// A testbed whose journal lies in a directory of its own, on which a disk can be mounted.
fn testbed() -> (Testbed, PathBuf) {
    let testbed = Testbed::create();
    testbed.configure("[timeouts]\ntcp_sec = 77\n");
    let disk = testbed.path("disk");
    fs::create_dir(&disk).unwrap();
    let text = fs::read_to_string(testbed.path("lvsd.toml")).unwrap();
    let (old, new) = (testbed.path("journal"), disk.join("journal"));
    testbed.write_config(&text.replace(&format!("path = {old:?}"), &format!("path = {new:?}")));
    (testbed, disk)
}

fn is_stale(daemon: &Daemon<'_>) -> bool {
    daemon.get::<JournalStatus>("/v1/journal").stale
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let error = std::iter::repeat_with(|| file.write_all(&[0x55; 512])).find_map(Result::err);
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::StorageFull));
}

/// Adds services until one does not fit the disk: the last page of the file takes a few.
fn change_until_stale(daemon: &Daemon<'_>, ports: impl Iterator<Item = u16>) {
    for port in ports {
        daemon.printed(&format!("service add tcp:192.0.2.100:{port}"));
        if is_stale(daemon) {
            return;
        }
    }
    panic!("everything fits a full disk");
}

#[test]
fn with_a_full_disk_changes_take_effect_and_are_journaled_when_there_is_space_again() {
    let (testbed, disk) = testbed();
    let daemon = testbed.start_behind(&format!("mount -t tmpfs -o size=128k tmpfs {}", disk.display()));
    let seen = PathBuf::from(format!("/proc/{}/root{}", daemon.pid(), disk.display()));
    assert!(
        daemon
            .printed("status")
            .contains("ok     journal      holds every change\n")
    );
    fill(&seen.join("filler"));
    change_until_stale(&daemon, 1..500);

    // Every way of changing goes on, and refuses what it refuses otherwise, by the same numbers.
    run(&mut testbed.lvs_run(&["ipvsadm", "-A", "-t", "192.0.2.100:8080"]));
    let refused = testbed
        .lvs_run(&["ipvsadm", "-A", "-t", "192.0.2.100:8080"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&refused.stderr), "Service already exists\n");
    run(&mut testbed.lvs_run(&["ipvsadm", "-D", "-t", "192.0.2.100:1"]));
    let text = fs::read_to_string(testbed.path("lvsd.toml")).unwrap();
    testbed.write_config(&text.replace("tcp_sec = 77", "tcp_sec = 66"));
    daemon.printed("reload");
    let before: State = daemon.get("/v1/state");
    assert_eq!(before.timeouts.unwrap().tcp_sec, 66);

    let status = daemon.printed("status");
    let wrong = status
        .lines()
        .find(|line| line.starts_with("WRONG  journal "))
        .expect("it is wrong");
    assert!(
        wrong.contains("stale, 4 changes are in memory only: No space left on device"),
        "{wrong}"
    );
    let metrics = daemon.ask("GET", "/metrics", "").1;
    for line in ["\nlvsd_journal_stale 1\n", "\nlvsd_journal_changes_in_memory 4\n"] {
        assert!(metrics.contains(line), "{line}");
    }
    let log = daemon.log();
    assert_eq!(
        log.matches("changes take effect, but a restart loses them").count(),
        1,
        "{log}"
    );

    fs::remove_file(seen.join("filler")).unwrap();
    until("it is written anew", || !is_stale(&daemon));
    assert!(
        daemon
            .printed("status")
            .contains("ok     journal      holds every change\n")
    );
    assert!(daemon.log().contains("written anew; it holds every change"));
    daemon.printed("service add tcp:192.0.2.100:9090");
    let before: State = daemon.get("/v1/state");
    // The disk goes with the daemon, so the journal is saved from it.
    let journal = fs::read(seen.join("journal")).unwrap();
    daemon.signal(Signal::SIGKILL);
    drop(daemon);

    // A full disk stops no start either.
    let saved = testbed.path("saved");
    fs::write(&saved, journal).unwrap();
    let (disk, saved) = (disk.display(), saved.display());
    let daemon = testbed.start_behind(&format!(
        "mount -t tmpfs -o size=128k tmpfs {disk}; cp {saved} {disk}/journal; cat /dev/zero >{disk}/filler 2>/dev/null || true"
    ));
    assert_eq!(daemon.get::<State>("/v1/state"), before);
    change_until_stale(&daemon, 1_000..1_500);
    let log = daemon.stop();
    assert!(log.contains("the next start restores an older state"), "{log}");
}

/// A file system that takes no write and answers none, until this is dropped. It is reached through an open directory,
/// because `/proc/PID/root` goes with the main thread of a daemon.
struct Frozen(File);

impl Frozen {
    fn freeze(path: &Path) -> Self {
        let frozen = Self(File::open(path).unwrap());
        run(&mut frozen.fsfreeze("--freeze"));
        frozen
    }

    fn fsfreeze(&self, what: &str) -> Command {
        let mut command = Command::new("fsfreeze");
        let directory = format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd());
        command.arg(what).arg(directory);
        command
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.fsfreeze("--unfreeze").status();
    }
}

#[test]
fn a_disk_that_hangs_holds_up_one_change_for_seconds_and_then_none() {
    let (testbed, disk) = testbed();
    let image = testbed.path("image");
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    run(Command::new("mkfs.ext4").arg("-q").arg(&image));
    let daemon = testbed.start_behind(&format!("mount -o loop {} {}", image.display(), disk.display()));
    let seen = PathBuf::from(format!("/proc/{}/root{}", daemon.pid(), disk.display()));
    let frozen = Frozen::freeze(&seen);
    daemon.printed("service add tcp:192.0.2.100:80");
    let status: JournalStatus = daemon.get("/v1/journal");
    assert_eq!(status.reason, "the disk has been silent for 5s");
    for port in 81..99 {
        daemon.printed(&format!("service add tcp:192.0.2.100:{port}"));
    }
    assert!(is_stale(&daemon));

    drop(frozen);
    until("it is written anew", || !is_stale(&daemon));
    daemon.printed("service add tcp:192.0.2.100:99");
    assert!(!is_stale(&daemon));
    let before: State = daemon.get("/v1/state");
    assert_eq!(before.services.len(), 20);
    let journal = fs::read(seen.join("journal")).unwrap();

    // It ends without the disk: the kernel keeps only the threads that wait for it.
    let frozen = Frozen::freeze(&seen);
    daemon.printed("service add tcp:192.0.2.100:100");
    assert!(is_stale(&daemon));
    daemon.signal(Signal::SIGTERM);
    let main_thread = format!("/proc/{0}/task/{0}/stat", daemon.pid());
    until("its main thread has ended", || {
        let stat = fs::read_to_string(&main_thread).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with('Z'))
    });
    drop(frozen);
    drop(daemon);
    fs::write(disk.join("journal"), journal).unwrap();
    let daemon = testbed.start();
    assert_eq!(daemon.get::<State>("/v1/state"), before);
    daemon.stop();
}

#[test]
fn a_director_starts_from_a_disk_that_can_only_be_read() {
    let (testbed, disk) = testbed();
    let daemon = testbed.start();
    daemon.printed("service add tcp:192.0.2.100:80");
    let before: State = daemon.get("/v1/state");
    daemon.stop();
    let disk = disk.display();
    let daemon = testbed.start_behind(&format!("mount --bind {disk} {disk}; mount -o remount,bind,ro {disk}"));
    assert_eq!(daemon.get::<State>("/v1/state"), before);
    daemon.printed("service add tcp:192.0.2.100:81");
    let status: JournalStatus = daemon.get("/v1/journal");
    assert_eq!(status.reason, "Read-only file system (os error 30)");
    daemon.stop();
}

#[test]
fn a_damaged_journal_is_refused_until_the_operator_goes_on_without_what_is_damaged() {
    let (testbed, disk) = testbed();
    let daemon = testbed.start();
    for port in 1..=9 {
        daemon.printed(&format!("service add tcp:192.0.2.100:{port}"));
    }
    daemon.stop();
    let journal = disk.join("journal");
    let mut bytes = fs::read(&journal).unwrap();
    let at = bytes
        .windows(16)
        .position(|window| window == b"192.0.2.100:5\",\"")
        .expect("it is journaled");
    bytes[at] ^= 0x01;
    fs::write(&journal, &bytes).unwrap();

    let message = testbed.refused();
    assert!(message.contains("/journal: record 6 at byte "), "{message}");
    assert!(
        message.contains(" is damaged, with 4 whole records behind it; lvsd "),
        "{message}"
    );
    assert_eq!(fs::read(&journal).unwrap(), bytes);

    let said = run(&mut testbed.lvsd("--salvage-journal"));
    assert!(
        said.contains("record 6 at byte ") && said.contains("is left out: it is damaged\n"),
        "{said}"
    );
    assert_eq!(fs::read(disk.join("journal.damaged")).unwrap(), bytes);
    let daemon = testbed.start();
    let state: State = daemon.get("/v1/state");
    let ports: Vec<_> = state.services.iter().map(|service| service.service.port()).collect();
    assert_eq!(ports, [1, 2, 3, 4, 6, 7, 8, 9]);
    daemon.stop();
}

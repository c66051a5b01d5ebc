//! Kill -9 at any byte, disks that lose, flip and refuse bytes: what was answered before is still there, or the daemon says
//! that it is not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use lvs_test_support::waits::until;
use proptest::prelude::*;
use tempfile::TempDir;

use super::records::frame;
use super::*;

fn add(index: u16) -> Action {
    let text = format!(r#"{{"service": "tcp:192.0.2.1:{index}", "scheduler": "rr"}}"#);
    Action::AddService(serde_json::from_str(&text).unwrap())
}

fn whole(count: u16) -> Whole {
    let services = (1..=count)
        .map(|index| match add(index) {
            Action::AddService(service) => service,
            other => panic!("{other:?}"),
        })
        .collect();
    let state = State {
        services,
        ..State::default()
    };
    Whole::new(state, State::default())
}

/// A directory with a journal's path.
fn place() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("journal");
    (directory, path)
}

/// Writes the journal anew as the background does, with nothing between.
fn rewrite(journal: &mut Journal, whole: &Whole, now: Instant) {
    let written = journal.begin_rewrite(whole.clone()).run();
    journal.finish_rewrite(written, now);
}

/// A journal of one whole record (two services) and five actions; its bytes and where each record ends.
fn sample() -> (Vec<u8>, Vec<usize>) {
    let (_directory, path) = place();
    let now = Instant::now();
    let (mut journal, _) = Journal::open(&path).unwrap();
    journal.append_whole(whole(2), now);
    let mut ends = vec![journal.len_bytes as usize];
    for index in 10..15 {
        journal.append(&add(index), now);
        ends.push(journal.len_bytes as usize);
    }
    drop(journal);
    (fs::read(&path).unwrap(), ends)
}

fn restore(bytes: &[u8]) -> (TempDir, Journal, Restored) {
    let (directory, path) = place();
    fs::write(&path, bytes).unwrap();
    let (journal, restored) = Journal::open(&path).unwrap();
    (directory, journal, restored)
}

/// Why a journal of these bytes is refused. It must be left as it is, alone in its directory.
fn refused(bytes: &[u8]) -> JournalError {
    let (directory, path) = place();
    fs::write(&path, bytes).unwrap();
    let error = Journal::open(&path).map(|_| ()).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    error
}

/// A record with this payload.
fn record(payload: &str) -> Vec<u8> {
    let mut bytes = vec![0; records::RECORD_HEADER_BYTES];
    bytes.extend(payload.as_bytes());
    frame(&mut bytes);
    bytes
}

#[test]
fn what_was_written_is_restored_in_order() {
    let (bytes, _) = sample();
    let (_directory, _journal, restored) = restore(&bytes);
    assert_eq!(restored.whole, whole(2));
    assert_eq!(restored.actions, (10..15).map(add).collect::<Vec<_>>());
    assert_eq!(restored.damage, None);
}

#[test]
fn cut_at_every_offset_keeps_every_whole_record_and_can_be_continued() {
    let (bytes, ends) = sample();
    for cut in 0..bytes.len() {
        if cut > MAGIC.len() && cut < ends[0] {
            // No crash leaves half of the first record.
            let error = refused(&bytes[..cut]);
            assert!(
                matches!(
                    error,
                    JournalError::Damaged {
                        record: 1,
                        at: 8,
                        behind: 0,
                        ..
                    }
                ),
                "cut at {cut}: {error}"
            );
            continue;
        }
        let (directory, mut journal, restored) = restore(&bytes[..cut]);
        let complete = ends.iter().filter(|end| **end <= cut).count();
        assert_eq!(restored.actions.len(), complete.saturating_sub(1), "cut at {cut}");
        assert_eq!(restored.whole == whole(2), complete > 0, "cut at {cut}");
        let at_a_boundary = ends.contains(&cut) || cut <= MAGIC.len();
        assert_eq!(restored.damage.is_some(), !at_a_boundary, "cut at {cut}");
        journal.append(&add(99), Instant::now());
        assert!(!journal.status().stale);
        drop(journal);
        let (_, again) = Journal::open(&directory.path().join("journal")).unwrap();
        assert_eq!(again.actions.last(), Some(&add(99)), "cut at {cut}");
        assert_eq!(again.damage, None, "cut at {cut}");
    }
}

#[test]
fn a_torn_tail_is_reported_with_its_size_and_kept_aside_beside_an_earlier_one() {
    let (bytes, ends) = sample();
    let (directory, journal, restored) = restore(&bytes[..bytes.len() - 3]);
    let damage = restored.damage.unwrap();
    assert_eq!(damage.kept_bytes, ends[4] as u64);
    assert_eq!(damage.lost_bytes, (ends[5] - ends[4] - 3) as u64);
    let first = damage.copy.unwrap();
    assert_eq!(first, directory.path().join("journal.damaged"));
    assert_eq!(fs::read(&first).unwrap(), &bytes[ends[4]..bytes.len() - 3]);
    drop(journal);

    let path = directory.path().join("journal");
    fs::write(&path, &bytes[..ends[2] + 5]).unwrap();
    let (_, restored) = Journal::open(&path).unwrap();
    let second = restored.damage.unwrap().copy.unwrap();
    assert_eq!(second, directory.path().join("journal.damaged-2"));
    assert_eq!(fs::read(second).unwrap(), &bytes[ends[2]..ends[2] + 5]);
    assert_eq!(fs::read(first).unwrap(), &bytes[ends[4]..bytes.len() - 3]);
}

proptest! {
    #[test]
    fn a_flipped_bit_is_refused_with_its_place_unless_it_is_in_the_last_record(at in 8usize..1_000, bit in 0u8..8) {
        let (mut bytes, ends) = sample();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 1 << bit;
        let index = ends.iter().filter(|end| **end <= at).count();
        if index == 5 {
            let (_directory, _journal, restored) = restore(&bytes);
            prop_assert_eq!(restored.actions, (10..14).map(add).collect::<Vec<_>>());
            prop_assert_eq!(restored.damage.unwrap().kept_bytes, ends[4] as u64);
        } else {
            let begins = if index == 0 { MAGIC.len() } else { ends[index - 1] };
            match refused(&bytes) {
                JournalError::Damaged { record, at, behind, .. } => {
                    prop_assert_eq!((record, at, behind), (index + 1, begins, 5 - index));
                }
                other => prop_assert!(false, "{other}"),
            }
        }
    }
}

#[test]
fn every_part_of_a_record_in_the_middle_counts() {
    let (bytes, ends) = sample();
    let begins = ends[1];
    // Length, its highest byte, checksum, the first and the last byte of the payload.
    for at in [begins, begins + 3, begins + 4, begins + 8, ends[2] - 1] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x01;
        assert_eq!(
            refused(&bytes).to_string().split_once(" record ").unwrap().1,
            format!(
                "3 at byte {begins} is damaged, with 3 whole records behind it; lvsd {} wrote it; restore the file from \
                 a copy, or go on without this record: lvsd --salvage-journal",
                env!("CARGO_PKG_VERSION")
            )
        );
    }
}

#[test]
fn what_a_crash_leaves_of_several_records_is_one_torn_tail() {
    let (bytes, ends) = sample();
    let mut garbled = bytes.clone();
    garbled[ends[3] + 20] ^= 0x40;
    garbled[ends[4] + 20] ^= 0x40;
    let mut tails = vec![garbled[ends[3]..].to_vec()];
    // Zeros, where the length of a file was on the disk before its content.
    tails.extend([1, 4, 8, 9, 5_000].map(|len| vec![0; len]));
    for tail in tails {
        let (_directory, _journal, restored) = restore(&[&bytes[..ends[3]], &tail[..]].concat());
        assert_eq!(restored.actions, (10..13).map(add).collect::<Vec<_>>());
        let damage = restored.damage.unwrap();
        assert_eq!(
            (damage.kept_bytes, damage.lost_bytes),
            (ends[3] as u64, tail.len() as u64)
        );
    }
}

#[test]
fn a_record_of_another_version_is_refused_with_its_place_and_that_version() {
    let (bytes, ends) = sample();
    let from_the_future = record(r#"{"action": {"turn_around": {"service": "tcp:192.0.2.1:80"}}}"#);
    for (before, behind) in [(ends[1], &bytes[ends[1]..]), (bytes.len(), &[][..])] {
        let error = refused(&[&bytes[..before], &from_the_future[..], behind].concat());
        assert!(
            matches!(error, JournalError::Unknown { at, .. } if at == before),
            "{error}"
        );
    }

    let (_directory, path) = place();
    let newer = record(r#"{"whole": {"lvsd": "9.8.7", "state": {"shape": 1}, "base": {}}}"#);
    fs::write(&path, [MAGIC, &newer[..], &from_the_future[..]].concat()).unwrap();
    let message = Journal::open(&path).unwrap_err().to_string();
    let begin = format!(
        "journal {}: record 1 at byte 8 is whole, but lvsd {} does not understand it: unknown field `shape`",
        path.display(),
        env!("CARGO_PKG_VERSION")
    );
    assert!(message.starts_with(&begin), "{message}");
    let end =
        "; lvsd 9.8.7 wrote it; start the version that wrote it, or go on without this record: lvsd --salvage-journal";
    assert!(message.ends_with(end), "{message}");
}

#[test]
fn salvage_goes_on_with_every_record_that_is_understood_and_keeps_the_file_aside() {
    let (mut bytes, ends) = sample();
    bytes[ends[1] + 12] ^= 0x10;
    bytes.splice(ends[3]..ends[3], record(r#"{"action": "dance"}"#));
    let (directory, path) = place();
    for aside in ["journal.damaged", "journal.damaged-2"] {
        fs::write(&path, &bytes).unwrap();
        let text = salvage(&path).unwrap().to_string();
        let lines: Vec<_> = text.lines().collect();
        let len = ends[2] - ends[1];
        let begin = format!(
            "{}: record 3 at byte {} ({len} bytes) is left out: it is damaged",
            path.display(),
            ends[1]
        );
        assert_eq!(lines[0], begin);
        assert!(
            lines[1].contains("record 5 at byte") && lines[1].contains("unknown variant `dance`"),
            "{text}"
        );
        assert!(
            lines[2].ends_with(aside) && lines[2].contains("5 records are kept"),
            "{text}"
        );
        assert_eq!(fs::read(directory.path().join(aside)).unwrap(), bytes);
        let (_, restored) = Journal::open(&path).unwrap();
        assert_eq!(restored.whole, whole(2));
        assert_eq!(restored.actions, [10, 12, 13, 14].map(add));
    }
    let sound = fs::read(&path).unwrap();
    assert!(salvage(&path).unwrap().to_string().contains("all 5 records are sound"));
    assert_eq!(fs::read(&path).unwrap(), sound);
    let (_journal, _) = Journal::open(&path).unwrap();
    assert!(matches!(salvage(&path), Err(JournalError::InUse { .. })));
}

#[test]
fn a_foreign_file_is_refused_and_left_alone() {
    let notes = b"precious notes of somebody else";
    assert!(matches!(refused(notes), JournalError::Foreign { .. }));
    let (_directory, path) = place();
    fs::write(&path, notes).unwrap();
    assert!(matches!(salvage(&path), Err(JournalError::Foreign { .. })));
    assert_eq!(fs::read(&path).unwrap(), notes);
}

#[test]
fn a_second_opener_is_refused_even_after_a_compaction() {
    let (_directory, path) = place();
    let (mut journal, _) = Journal::open(&path).unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::InUse { .. })));
    rewrite(&mut journal, &whole(1), Instant::now());
    assert!(matches!(Journal::open(&path), Err(JournalError::InUse { .. })));
}

#[test]
fn compaction_pays_only_when_the_journal_outgrew_its_state_and_keeps_what_came_meanwhile() {
    let (_directory, path) = place();
    let now = Instant::now();
    let (mut journal, _) = Journal::open(&path).unwrap();
    let mut appended = 0;
    while !journal.wants_rewrite(now) {
        journal.append(&add(appended % 1_000 + 1), now);
        appended += 1;
    }
    assert!(journal.len_bytes > COMPACT_MIN_BYTES);
    let work = journal.begin_rewrite(whole(3));
    assert!(!journal.wants_rewrite(now), "it is under way");
    journal.append(&add(10), now);
    let written = work.run();
    journal.append(&add(11), now);
    journal.finish_rewrite(written, now);
    assert!(!journal.wants_rewrite(now));
    journal.append(&add(12), now);
    drop(journal);
    let (_, restored) = Journal::open(&path).unwrap();
    assert_eq!(
        (restored.whole, restored.actions),
        (whole(3), [10, 11, 12].map(add).into())
    );
}

#[test]
fn a_compaction_killed_before_its_rename_changes_nothing() {
    let (bytes, _) = sample();
    let (_directory, path) = place();
    fs::write(&path, &bytes).unwrap();
    fs::write(path.with_extension("next"), &bytes[..20]).unwrap();
    let (mut journal, restored) = Journal::open(&path).unwrap();
    assert_eq!(restored.actions.len(), 5);
    rewrite(&mut journal, &whole(4), Instant::now());
    drop(journal);
    assert_eq!(Journal::open(&path).unwrap().1.whole, whole(4));
}

/// Whether somebody waits for the lock on the file `inode` (proc_locks(5)).
fn is_lock_awaited(inode: u64) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let of_file = format!(":{inode} ");
    locks
        .lines()
        .any(|line| line.contains("-> FLOCK") && line.contains(&of_file))
}

#[test]
fn a_rewrite_waits_for_the_one_before_and_leaves_its_file_alone() {
    for takes_place in [false, true] {
        let (bytes, _) = sample();
        let (directory, mut journal, _) = restore(&bytes);
        let path = directory.path().join("journal");
        let first = journal.begin_rewrite(whole(3)).run().unwrap();
        let written = fs::read(path.with_extension("next")).unwrap();
        let second = journal.begin_rewrite(whole(4));
        let second = std::thread::spawn(move || second.run());
        let inode = fs::metadata(path.with_extension("next")).unwrap().ino();
        until("the second waits or has ended", || {
            second.is_finished() || is_lock_awaited(inode)
        });
        assert_eq!(fs::read(path.with_extension("next")).unwrap(), written);
        let first = if takes_place {
            // As when the kernel ends a rename that was given up.
            let first = first.take_place(&path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), written);
            first
        } else {
            first
        };
        drop(first);
        let second = second.join().unwrap();
        assert_eq!(fs::read(&path).unwrap(), if takes_place { written } else { bytes });
        journal.finish_rewrite(second, Instant::now());
        drop(journal);
        let (_, restored) = Journal::open(&path).unwrap();
        assert_eq!((restored.whole, restored.actions.len()), (whole(4), 0));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

/// Makes the journal's next write fail: its file is open for reading only.
fn refuse_writes(journal: &mut Journal, directory: &TempDir) {
    let other = directory.path().join("other");
    fs::write(&other, "").unwrap();
    journal.file = Arc::new(lock(File::open(other).unwrap(), &journal.path).unwrap());
}

#[test]
fn a_disk_that_hangs_makes_the_journal_stale_and_holds_up_one_change_only() {
    let (bytes, _) = sample();
    let (directory, mut journal, _) = restore(&bytes);
    journal.begin_service();
    let now = Instant::now();
    journal.append(&add(20), now);
    assert!(!journal.is_stale());

    // Work that does not end, as a write to a disk that does not answer.
    let (end, hangs) = std::sync::mpsc::channel::<()>();
    let disk = journal.disk.as_mut().unwrap();
    disk.patience = Duration::from_millis(20);
    let hanging = disk.run(move || {
        let _ = hangs.recv();
        Ok(())
    });
    assert_eq!(hanging.unwrap_err().kind(), io::ErrorKind::TimedOut);
    journal.append(&add(21), now);
    // Whoever waited for the disk from now on would say so.
    journal.disk.as_mut().unwrap().patience = Duration::from_millis(21);
    for index in 22..200 {
        journal.append(&add(index), now);
    }
    let status = journal.status();
    assert_eq!(status.reason, "the disk has been silent for 20ms");
    assert_eq!(status.changes_in_memory, 179);
    let later = now + Duration::from_secs(1);
    rewrite(&mut journal, &whole(3), later);
    assert!(journal.is_stale(), "its name would be changed behind what hangs");

    // Nothing that was given up is done later.
    let disk = journal.disk.as_mut().unwrap();
    disk.patience = Duration::from_secs(60);
    drop(end);
    disk.run(|| Ok(())).unwrap();
    let path = directory.path().join("journal");
    let kept = bytes.len() + encode(&JournalRecord::Action(add(20))).len();
    assert_eq!(fs::metadata(&path).unwrap().len() as usize, kept);
    rewrite(&mut journal, &whole(4), later);
    assert!(!journal.is_stale());
    journal.append(&add(30), later);
    drop(journal);
    let (_, restored) = Journal::open(&path).unwrap();
    assert_eq!((restored.whole, restored.actions), (whole(4), vec![add(30)]));
}

#[test]
fn a_journal_that_cannot_be_written_is_stale_until_it_is_written_anew() {
    let (bytes, _) = sample();
    let (directory, mut journal, _) = restore(&bytes);
    let now = Instant::now();
    refuse_writes(&mut journal, &directory);
    assert!(!journal.is_stale());
    journal.append(&add(20), now);
    journal.append_whole(whole(3), now);
    let status = journal.status();
    assert_eq!((status.stale, status.changes_in_memory), (true, 2));
    assert_eq!(status.reason, "Bad file descriptor (os error 9)");
    assert!(!journal.wants_rewrite(now), "at once would fail again");
    let later = now + Duration::from_secs(1);
    assert!(journal.wants_rewrite(later));

    // What changes while it is written is in it too.
    let work = journal.begin_rewrite(whole(4));
    journal.append(&add(21), later);
    let written = work.run();
    journal.append(&add(22), later);
    journal.finish_rewrite(written, later);
    assert_eq!((journal.status().stale, journal.status().changes_in_memory), (false, 0));
    assert!(!journal.wants_rewrite(later));
    journal.append(&add(23), later);
    drop(journal);
    let (_, restored) = Journal::open(&directory.path().join("journal")).unwrap();
    assert_eq!(
        (restored.whole, restored.actions),
        (whole(4), [21, 22, 23].map(add).into())
    );
}

#[test]
fn attempts_pause_for_longer_and_longer_but_not_for_long_after_a_change() {
    let (directory, path) = place();
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let path = inner.join(path.file_name().unwrap());
    let mut now = Instant::now();
    let (mut journal, _) = Journal::open(&path).unwrap();
    journal.append_whole(whole(1), now);
    assert!(journal.unsynced().unwrap().run().is_ok());
    assert!(journal.unsynced().is_none(), "nothing came since");

    // With its directory the file is gone, though the kernel goes on taking what is appended.
    fs::remove_dir_all(&inner).unwrap();
    journal.append(&add(20), now);
    assert!(!journal.is_stale());
    let error = journal.unsynced().unwrap().run().unwrap_err();
    journal.not_synced(&error.to_string(), now);
    assert!(journal.is_stale());
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let mut pause = Duration::ZERO;
        while !journal.wants_rewrite(now + pause) {
            pause += Duration::from_secs(1);
        }
        pauses.push(pause.as_secs());
        now += pause;
        rewrite(&mut journal, &whole(1), now);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    assert_eq!(journal.status().reason, "No such file or directory (os error 2)");
    journal.append(&add(21), now);
    assert!(!journal.wants_rewrite(now) && journal.wants_rewrite(now + Duration::from_secs(1)));

    fs::create_dir(&inner).unwrap();
    rewrite(&mut journal, &whole(2), now);
    assert!(!journal.is_stale());
    assert!(journal.unsynced().unwrap().run().is_ok());
    fs::rename(&path, inner.join("moved")).unwrap();
    fs::write(&path, "notes").unwrap();
    journal.append(&add(22), now);
    let error = journal.unsynced().unwrap().run().unwrap_err();
    assert_eq!(error.to_string(), "no file or another one has its name");
}

#[test]
fn a_new_journal_that_cannot_be_written_stops_nobody() {
    let (directory, path) = place();
    fs::create_dir(path.with_extension("next")).unwrap();
    let now = Instant::now();
    let (mut journal, _) = Journal::open(&path).unwrap();
    journal.append_whole(whole(2), now);
    assert!(journal.is_stale());
    journal.append(&add(20), now);
    drop(journal);
    let (mut journal, restored) = Journal::open(&path).unwrap();
    assert_eq!((restored.whole, restored.actions.len()), (Whole::default(), 0));
    fs::remove_dir(path.with_extension("next")).unwrap();
    journal.append_whole(whole(2), now);
    assert!(!journal.is_stale());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn more_changes_than_fit_memory_make_a_rewrite_be_repeated() {
    let (bytes, _) = sample();
    let (directory, mut journal, _) = restore(&bytes);
    let now = Instant::now();
    let work = journal.begin_rewrite(whole(2));
    let large = Action::ReplaceState(whole(50_000).state);
    for _ in 0..6 {
        journal.append(&large, now);
    }
    journal.finish_rewrite(work.run(), now);
    assert!(!journal.is_stale(), "the file in use has them");
    assert!(!directory.path().join("journal.next").exists());
    drop(journal);
    let (_, restored) = Journal::open(&directory.path().join("journal")).unwrap();
    assert_eq!(restored.actions.len(), 11);
}

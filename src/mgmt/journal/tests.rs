//! Kill -9 at any byte: what was answered before is still there.

use super::*;
use proptest::prelude::*;
use tempfile::TempDir;

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
    Whole {
        state: State {
            services,
            ..State::default()
        },
        base: State::default(),
        drained: Vec::new(),
    }
}

/// A journal of one whole record (two services) and five actions; its bytes and where each record ends.
fn sample() -> (Vec<u8>, Vec<usize>) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("journal");
    let (mut journal, _) = Journal::open(&path).unwrap();
    journal.compact(&whole(2)).unwrap();
    let mut ends = vec![journal.len_bytes as usize];
    for index in 10..15 {
        journal.append(&add(index)).unwrap();
        ends.push(journal.len_bytes as usize);
    }
    drop(journal);
    (fs::read(&path).unwrap(), ends)
}

fn restore(bytes: &[u8]) -> (TempDir, Journal, Restored) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("journal");
    fs::write(&path, bytes).unwrap();
    let (journal, restored) = Journal::open(&path).unwrap();
    (directory, journal, restored)
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
        let (directory, mut journal, restored) = restore(&bytes[..cut]);
        let complete = ends.iter().filter(|end| **end <= cut).count();
        assert_eq!(restored.actions.len(), complete.saturating_sub(1), "cut at {cut}");
        assert_eq!(restored.whole == whole(2), complete > 0, "cut at {cut}");
        let at_a_boundary = ends.contains(&cut) || cut <= MAGIC.len();
        assert_eq!(restored.damage.is_some(), !at_a_boundary, "cut at {cut}");
        journal.append(&add(99)).unwrap();
        drop(journal);
        let (_, again) = Journal::open(&directory.path().join("journal")).unwrap();
        assert_eq!(again.actions.last(), Some(&add(99)), "cut at {cut}");
        assert_eq!(again.damage, None, "cut at {cut}");
    }
}

#[test]
fn damage_is_reported_with_its_size_and_kept_aside() {
    let (bytes, ends) = sample();
    let (_directory, _journal, restored) = restore(&bytes[..bytes.len() - 3]);
    let damage = restored.damage.unwrap();
    assert_eq!(damage.kept_bytes, ends[4] as u64);
    assert_eq!(damage.lost_bytes, (ends[5] - ends[4] - 3) as u64);
    assert_eq!(fs::read(damage.copy).unwrap(), &bytes[ends[4]..bytes.len() - 3]);
}

proptest! {
    #[test]
    fn a_garbled_octet_loses_only_its_record_and_what_follows(at in 8usize..1_000, flip in 1u8..=255) {
        let (mut bytes, ends) = sample();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= flip;
        let (_directory, _journal, restored) = restore(&bytes);
        let complete = ends.iter().filter(|end| **end <= at).count();
        prop_assert_eq!(restored.actions.len(), complete.saturating_sub(1));
        prop_assert_eq!(restored.actions, (10..15).map(add).take(complete.saturating_sub(1)).collect::<Vec<_>>());
        prop_assert!(restored.damage.is_some());
    }
}

#[test]
fn a_foreign_file_is_refused_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("journal");
    fs::write(&path, "precious notes of somebody else").unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::Foreign { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"precious notes of somebody else");
}

#[test]
fn a_second_opener_is_refused_even_after_a_compaction() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("journal");
    let (mut journal, _) = Journal::open(&path).unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::InUse { .. })));
    journal.compact(&whole(1)).unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::InUse { .. })));
}

#[test]
fn compaction_pays_only_when_the_journal_outgrew_its_state() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("journal");
    let (mut journal, _) = Journal::open(&path).unwrap();
    let mut appended = 0;
    while !journal.wants_compaction() {
        journal.append(&add(appended % 1_000 + 1)).unwrap();
        appended += 1;
    }
    assert!(journal.len_bytes > COMPACT_MIN_BYTES);
    journal.compact(&whole(3)).unwrap();
    assert!(!journal.wants_compaction());
    drop(journal);
    let (_, restored) = Journal::open(&path).unwrap();
    assert_eq!((restored.whole, restored.actions.len()), (whole(3), 0));
}

#[test]
fn a_compaction_killed_before_its_rename_changes_nothing() {
    let (bytes, _) = sample();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("journal");
    fs::write(&path, &bytes).unwrap();
    fs::write(path.with_extension("next"), &bytes[..20]).unwrap();
    let (mut journal, restored) = Journal::open(&path).unwrap();
    assert_eq!(restored.actions.len(), 5);
    journal.compact(&whole(4)).unwrap();
    drop(journal);
    assert_eq!(Journal::open(&path).unwrap().1.whole, whole(4));
}

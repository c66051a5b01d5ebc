//! What may be wrong with the directory: each fault has a defined end, and a message that names cause and cure.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};

use lvs_core::rss::KEY_LEN;
use tempfile::TempDir;

use super::*;

const LEN: usize = 10_000;
const LEN_OF_FILE: u64 = 12_288;

struct Place {
    parent: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            parent: TempDir::with_prefix_in("lvsdt-", "/dev/shm").unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.parent.path().join("lvsd")
    }

    fn open(&self) -> StateDirectory {
        StateDirectory::open(&self.path(), false).unwrap()
    }

    fn refused(&self) -> String {
        let error = StateDirectory::open(&self.path(), false).unwrap_err();
        self.without_path(&error)
    }

    fn without_path(&self, error: &StateError) -> String {
        error.to_string().replace(&self.path().display().to_string(), "DIR")
    }
}

fn shape(workers: &str) -> Shape {
    Shape::new([("workers", workers.to_owned())])
}

fn secrets() -> Secrets {
    Secrets {
        connections: [1, 2, 3, 4],
        rss_key: [5; KEY_LEN],
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// A directory as a process leaves it that had one worker, whose file begins with "state".
fn left_behind(place: &Place) -> PathBuf {
    let directory = place.open();
    assert_eq!(directory.earlier().unwrap(), Earlier::Nothing);
    let (mut file, found) = directory.worker_file(FileSet::A, 0, LEN).unwrap();
    assert_eq!(found, Found::Missing);
    file.write_all(b"state").unwrap();
    directory.commit(&shape("1"), &secrets(), FileSet::A).unwrap();
    place.path().join("worker-0")
}

#[test]
fn a_later_process_finds_what_an_earlier_one_left_and_nobody_else_may_read_it() {
    let place = Place::new();
    let worker = left_behind(&place);
    assert_eq!(mode_of(&place.path()), 0o700);
    assert_eq!((mode_of(&worker), mode_of(&place.path().join(HEADER))), (0o600, 0o600));
    let directory = place.open();
    let Earlier::Header(header) = directory.earlier().unwrap() else {
        panic!("there is a header");
    };
    assert_eq!((header.differences(&shape("1")).len(), header.secrets), (0, secrets()));
    let (mut file, found) = directory.worker_file(FileSet::A, 0, LEN).unwrap();
    let mut bytes = [0; 5];
    file.read_exact(&mut bytes).unwrap();
    assert_eq!(
        (found, &bytes, file.metadata().unwrap().len()),
        (Found::Whole, b"state", LEN_OF_FILE)
    );
}

#[test]
fn a_second_process_is_refused_as_long_as_the_first_one_lives() {
    let place = Place::new();
    let first = place.open();
    assert_eq!(
        place.refused(),
        "another lvsd keeps its connections in DIR; stop it first, or set another connections.state_dir"
    );
    drop(first);
    place.open();
}

#[test]
fn directories_with_one_last_name_have_different_hugepages() {
    let on = |path: &str| named_after(Path::new(path), Path::new("/dev/hugepages"));
    assert_eq!(on("/dev/shm/lvsd"), Path::new("/dev/hugepages/dev-shm-lvsd"));
    assert_ne!(on("/dev/shm/a/lvsd"), on("/dev/shm/b/lvsd"));
}

#[test]
fn a_whole_file_system_is_refused_and_nobody_is_told_to_remove_it() {
    assert_eq!(
        StateDirectory::open(Path::new("/dev/shm"), false)
            .unwrap_err()
            .to_string(),
        "/dev/shm is a whole file system; set connections.state_dir to a directory of lvsd's own on it, such as \
         /dev/shm/lvsd"
    );
}

/// Needs a hugetlbfs to say more than that nothing is there.
#[test]
fn hugepages_of_a_process_that_lives_are_not_given_back() {
    let Some(mount) = hugetlbfs::mounts().pop() else { return };
    let place = Place::new();
    let memory = named_after(&place.path(), &mount);
    let other = locked_directory(&memory, HUGETLBFS_MAGIC).unwrap();
    let worker = memory.join("worker-0");
    fs::write(&worker, "").unwrap();
    assert!(matches!(place.open().wipe(), Err(StateError::InUse(path)) if path == memory));
    assert!(worker.exists());
    drop(other);
    place.open().remove().unwrap();
    assert!(!memory.exists());
}

#[test]
fn a_directory_that_somebody_else_may_have_written_is_refused() {
    let place = Place::new();
    drop(place.open());
    let (uid, path) = (Uid::effective(), place.path());
    let refused = |found: &str| {
        format!(
            "DIR {found}, and lvsd keeps connections only in a directory of its own user with mode 0700; find out who \
             made it and remove it (rm -r DIR), or set another connections.state_dir"
        )
    };
    for mode in [0o755, 0o770, 0o1700] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert_eq!(
            place.refused(),
            refused(&format!("belongs to user {uid} and has mode {mode:04o}"))
        );
    }
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    if uid.is_root() {
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        assert_eq!(place.refused(), refused("belongs to user 65534 and has mode 0700"));
    }
    fs::remove_dir(&path).unwrap();
    symlink("/dev/shm", &path).unwrap();
    assert_eq!(place.refused(), refused("is something else"));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "notes").unwrap();
    assert_eq!(place.refused(), refused("is something else"));
    assert_eq!(fs::read(&path).unwrap(), b"notes", "it is left alone");
}

#[test]
fn a_file_that_somebody_else_may_have_written_is_refused() {
    let place = Place::new();
    let worker = left_behind(&place);
    let directory = place.open();
    let refused =
        |directory: &StateDirectory| place.without_path(&directory.worker_file(FileSet::A, 0, LEN).unwrap_err());
    let expected = |found: &str| {
        format!(
            "DIR/worker-0 {found}, and lvsd keeps connections only in files of its own user with mode 0600; find out who \
             made it and remove it (rm -r DIR/worker-0), or set another connections.state_dir"
        )
    };
    fs::set_permissions(&worker, Permissions::from_mode(0o666)).unwrap();
    let found = format!("belongs to user {} and has mode 0666", Uid::effective());
    assert_eq!(refused(&directory), expected(&found));
    fs::set_permissions(&worker, Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(&worker, place.path().join("other")).unwrap();
    assert_eq!(refused(&directory), expected("is no plain file with one name"));
    fs::remove_file(&worker).unwrap();
    symlink(place.path().join("other"), &worker).unwrap();
    assert_eq!(refused(&directory), expected("is a symbolic link"));
    assert_eq!(
        &fs::read(place.path().join("other")).unwrap()[..5],
        b"state",
        "it is left alone"
    );
    fs::set_permissions(place.path().join(HEADER), Permissions::from_mode(0o644)).unwrap();
    let header = place.without_path(&directory.earlier().unwrap_err());
    assert!(header.starts_with("DIR/header belongs to user"), "{header}");
}

#[test]
fn a_file_that_is_missing_or_of_another_length_is_empty_and_said_to_be() {
    let place = Place::new();
    let worker = left_behind(&place);
    let directory = place.open();
    for len in [0, 5, LEN_OF_FILE - 4_096, LEN_OF_FILE + 4_096] {
        let file = OpenOptions::new().write(true).open(&worker).unwrap();
        file.set_len(len).unwrap();
        let (file, found) = directory.worker_file(FileSet::A, 0, LEN).unwrap();
        assert_eq!(
            (found, file.metadata().unwrap().len()),
            (Found::OfLength(len), LEN_OF_FILE)
        );
        assert!(fs::read(&worker).unwrap().iter().all(|byte| *byte == 0));
    }
    fs::remove_file(&worker).unwrap();
    assert_eq!(directory.worker_file(FileSet::A, 0, LEN).unwrap().1, Found::Missing);
}

#[test]
fn a_header_that_is_damaged_torn_or_of_another_version_is_not_believed() {
    let place = Place::new();
    left_behind(&place);
    let directory = place.open();
    let header = place.path().join(HEADER);
    let text = fs::read(&header).unwrap();
    let unusable = |bytes: &[u8]| {
        fs::write(&header, bytes).unwrap();
        match directory.earlier().unwrap() {
            Earlier::Unusable(why) => why,
            other => panic!("{other:?}"),
        }
    };
    let mut flipped = text.clone();
    flipped[20] ^= 4;
    assert_eq!(unusable(&flipped), "its header is damaged");
    flipped[20] = 0xff;
    assert_eq!(unusable(&flipped), "its header is damaged", "no UTF-8");
    assert_eq!(unusable(&text[..text.len() / 2]), "its header is damaged");
    assert_eq!(unusable(b""), "its header is damaged");
    fs::write(&header, &text).unwrap();
    let Earlier::Header(earlier) = directory.earlier().unwrap() else {
        panic!("it is whole again");
    };
    assert_eq!(earlier.differences(&shape("2")), ["workers was 1 and is 2"]);
}

#[test]
fn a_process_that_ends_before_it_has_said_what_its_files_are_leaves_nothing() {
    let place = Place::new();
    let directory = place.open();
    directory.worker_file(FileSet::A, 0, LEN).unwrap();
    fs::write(place.path().join(NEW_HEADER), "half a head").unwrap();
    assert_eq!(directory.earlier().unwrap(), Earlier::Nothing);
    directory.wipe().unwrap();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn what_is_given_back_is_free_at_once_and_what_is_not_lvsd_s_stays() {
    let place = Place::new();
    let worker = left_behind(&place);
    let mapped = OpenOptions::new().read(true).open(&worker).unwrap();
    fs::write(place.path().join("notes"), "mine").unwrap();
    let directory = StateDirectory::open_existing(&place.path()).unwrap().unwrap();
    directory.wipe().unwrap();
    assert_eq!(mapped.metadata().unwrap().len(), 0, "the memory, not only the name");
    assert_eq!(fs::read(place.path().join("notes")).unwrap(), b"mine");
    assert!(directory.remove().is_err());
    fs::remove_file(place.path().join("notes")).unwrap();
    place.open().remove().unwrap();
    assert!(StateDirectory::open_existing(&place.path()).unwrap().is_none());
}

#[test]
fn a_disk_and_a_folder_that_is_not_there_are_named() {
    let on_disk = TempDir::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = on_disk.path().join("lvsd");
    let disk = StateDirectory::open(&path, false).unwrap_err().to_string();
    if fstatfs(File::open(on_disk.path()).unwrap()).unwrap().filesystem_type() != TMPFS_MAGIC {
        assert_eq!(
            disk,
            format!(
                "{} is not on a tmpfs; set connections.state_dir to a directory that is, such as /dev/shm/lvsd",
                path.display()
            )
        );
    }
    let place = Place::new();
    let nowhere = StateDirectory::open(&place.path().join("below"), false).unwrap_err();
    assert_eq!(
        place.without_path(&nowhere),
        "DIR/below: No such file or directory (os error 2); check connections.state_dir, or set connections.keep = false"
    );
}

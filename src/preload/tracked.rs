//! The sockets of the process that are connections to lvsd, by inode. So the library need not follow dup, fork and close.

use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

/// More sockets than any IPVS tool has at the same time. When there are more, the least recently used one is forgotten.
const TRACKED_MAX: usize = 256;

/// More settings than a program has open for writing at the same time. The oldest is forgotten.
const SETTINGS_MAX: usize = 16;

/// A socket that was diverted to the daemon.
pub(crate) struct Tracked {
    /// 0: free.
    inode: AtomicU64,
    used: AtomicU64,
    /// The port id of the netlink socket that it stands for.
    pub(crate) port_id: AtomicU32,
    /// Whether that socket would have its port id by now.
    pub(crate) bound: AtomicBool,
    /// `SOCK_RAW` or `SOCK_DGRAM`, as it was asked for.
    pub(crate) kind: AtomicI32,
    /// The options of SOL_NETLINK that are on, as bits.
    pub(crate) options: AtomicU32,
    /// The sequence number of the pending request.
    pub(crate) sequence: AtomicU32,
    /// Whether a request is pending.
    pub(crate) waiting: AtomicBool,
    /// Whether its answer ends with an acknowledgement or the end of a dump.
    pub(crate) ends_late: AtomicBool,
    /// Whether it has no connection to the daemon.
    pub(crate) dead: AtomicBool,
}

impl Tracked {
    const fn new() -> Self {
        Self {
            inode: AtomicU64::new(0),
            used: AtomicU64::new(0),
            port_id: AtomicU32::new(0),
            bound: AtomicBool::new(false),
            kind: AtomicI32::new(0),
            options: AtomicU32::new(0),
            sequence: AtomicU32::new(0),
            waiting: AtomicBool::new(false),
            ends_late: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        }
    }

    /// Notes that no descriptor refers to this entry's socket any more.
    pub(crate) fn forget(&self) {
        self.inode.store(0, Ordering::Release);
    }

    /// Notes that `fd` now refers to this entry's socket.
    pub(crate) fn follow(&self, fd: c_int) {
        self.inode.store(inode_of(fd), Ordering::Release);
        ANY.store(true, Ordering::Release);
    }
}

static TABLE: [Tracked; TRACKED_MAX] = [const { Tracked::new() }; TRACKED_MAX];
/// Connections that take values for a setting, by inode.
static SETTINGS: [AtomicU64; SETTINGS_MAX] = [const { AtomicU64::new(0) }; SETTINGS_MAX];
static ANY_SETTING: AtomicBool = AtomicBool::new(false);
/// Whether the descriptors that the process began with have been looked at.
static INHERITED: AtomicBool = AtomicBool::new(false);
static ANY: AtomicBool = AtomicBool::new(false);
static CLOCK: AtomicU64 = AtomicU64::new(1);

pub(crate) fn inode_of(fd: c_int) -> u64 {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat writes the struct or fails.
    if unsafe { libc::fstat(fd, status.as_mut_ptr()) } != 0 {
        return 0;
    }
    // SAFETY: it did not fail.
    let status = unsafe { status.assume_init() };
    if status.st_mode & libc::S_IFMT == libc::S_IFSOCK {
        status.st_ino
    } else {
        0
    }
}

/// The entry of `fd`. This costs nothing in a process that never used IPVS.
pub(crate) fn find(fd: c_int) -> Option<&'static Tracked> {
    if !INHERITED.swap(true, Ordering::AcqRel) {
        crate::connection::adopt_inherited();
    }
    if !ANY.load(Ordering::Acquire) {
        return None;
    }
    let inode = inode_of(fd);
    if inode == 0 {
        return None;
    }
    let entry = TABLE
        .iter()
        .find(|entry| entry.inode.load(Ordering::Acquire) == inode)?;
    entry
        .used
        .store(CLOCK.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    Some(entry)
}

/// A new entry for a socket with this port id. [`Tracked::follow`] makes it findable.
pub(crate) fn remember(port_id: u32, kind: c_int) -> Option<&'static Tracked> {
    let entry = TABLE.iter().min_by_key(|entry| entry.used.load(Ordering::Relaxed))?;
    entry.inode.store(0, Ordering::Release);
    entry
        .used
        .store(CLOCK.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    entry.port_id.store(port_id, Ordering::Relaxed);
    entry.bound.store(false, Ordering::Relaxed);
    entry.kind.store(kind, Ordering::Relaxed);
    entry.options.store(0, Ordering::Relaxed);
    entry.waiting.store(false, Ordering::Relaxed);
    entry.dead.store(true, Ordering::Relaxed);
    Some(entry)
}

/// Whether a socket of this process, of those that stand for netlink sockets, has this port id.
pub(crate) fn has_port_id(port_id: u32) -> bool {
    let live = TABLE.iter().filter(|entry| entry.inode.load(Ordering::Acquire) != 0);
    live.into_iter()
        .any(|entry| entry.port_id.load(Ordering::Relaxed) == port_id)
}

/// Notes that values for a setting are written to `fd`.
pub(crate) fn remember_setting(fd: c_int) {
    let index = CLOCK.fetch_add(1, Ordering::Relaxed) % SETTINGS_MAX as u64;
    if let Some(place) = SETTINGS.get(index as usize) {
        place.store(inode_of(fd), Ordering::Release);
    }
    ANY_SETTING.store(true, Ordering::Release);
}

/// Whether values for a setting are written to `fd`.
pub(crate) fn is_setting(fd: c_int) -> bool {
    if !ANY_SETTING.load(Ordering::Acquire) {
        return false;
    }
    let inode = inode_of(fd);
    inode != 0 && SETTINGS.iter().any(|place| place.load(Ordering::Acquire) == inode)
}

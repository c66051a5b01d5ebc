//! Where hugepages can be had as files.
//!
//! In:  the kernel's list of mounts. Out: directories.
//! Ref: Linux Documentation/admin-guide/mm/hugetlbpage.rst, proc_pid_mounts(5).

use std::fs;
use std::path::PathBuf;

/// The hugetlbfs whose pages have the machine's default size, else the first one; `None` when none is mounted.
pub(super) fn of_default_size() -> Option<PathBuf> {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    choose(&mounts_text(), default_kb(&memory))
}

/// All that are mounted.
pub(super) fn mounts() -> Vec<PathBuf> {
    parse(&mounts_text()).map(|mount| mount.path).collect()
}

struct Mount {
    path: PathBuf,
    page_kb: Option<u64>,
}

fn mounts_text() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap_or_default()
}

fn choose(mounts: &str, default_kb: Option<u64>) -> Option<PathBuf> {
    let of_default = parse(mounts).find(|mount| mount.page_kb.is_some() && mount.page_kb == default_kb);
    Some(of_default.or_else(|| parse(mounts).next())?.path)
}

fn parse(mounts: &str) -> impl Iterator<Item = Mount> + '_ {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (path, kind, options) = (fields.nth(1)?, fields.next()?, fields.next()?);
        let mut options = options.split(',');
        let is_writable = options.clone().any(|option| option == "rw");
        (kind == "hugetlbfs" && is_writable).then(|| Mount {
            path: PathBuf::from(path.replace("\\040", " ")),
            page_kb: options.find_map(|option| size_kb(option.strip_prefix("pagesize=")?)),
        })
    })
}

/// `2M`, `1024M`, `64K`, as the kernel writes them.
fn size_kb(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let kb = match unit {
        "K" => 1,
        "M" => 1 << 10,
        "G" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(kb)
}

fn default_kb(memory: &str) -> Option<u64> {
    let line = memory.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "tmpfs /dev/shm tmpfs rw,nosuid 0 0\n\
                          nodev /mnt/huge\\0401G hugetlbfs rw,relatime,pagesize=1024M 0 0\n\
                          hugetlbfs /mnt/fixed hugetlbfs ro,pagesize=2M 0 0\n\
                          hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n";

    #[test]
    fn the_hugetlbfs_of_the_default_size_is_chosen() {
        assert_eq!(
            default_kb("HugePages_Total: 0\nHugepagesize:       2048 kB\n"),
            Some(2_048)
        );
        assert_eq!(choose(MOUNTS, Some(2_048)), Some("/dev/hugepages".into()));
        assert_eq!(choose(MOUNTS, Some(1 << 20)), Some("/mnt/huge 1G".into()));
        assert_eq!(choose(MOUNTS, None), Some("/mnt/huge 1G".into()));
        assert_eq!(choose("tmpfs /dev/shm tmpfs rw 0 0\n", Some(2_048)), None);
    }
}

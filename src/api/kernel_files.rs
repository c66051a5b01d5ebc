//! The names under which a kernel with IPVS has files for it: `/proc/net/ip_vs*`, `/proc/sys/net/ipv4/vs/*`,
//! `/sys/module/ip_vs*`, `/proc/modules`.
//!
//! In:  a path as a program gives it. Out: the one name that it means, if it is one of these.
//! lvsd lays out an empty file for each of them in a folder beside its socket, so that whoever leads a program there can
//! let the system answer what a program asks about a name. The content comes from lvsd.

use std::path::{Path, PathBuf};

/// Folder of the settings, `net.ipv4.vs.*`.
pub const SYSCTLS: &str = "/proc/sys/net/ipv4/vs";
/// The listing of modules, which exists with or without IPVS.
pub const MODULES: &str = "/proc/modules";

const PROC_FILES: &str = "/proc/net/ip_vs";
const MODULE: &str = "/sys/module/ip_vs";

/// The canonical name of a path, if the path is that of a file or folder of IPVS. `base` is where a relative one begins.
pub fn canonical(base: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { base };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let parts = match parts.as_slice() {
        ["proc", process, "task", thread, "net", rest @ ..] if is_process(process) && is_process(thread) => {
            [&["proc", "net"], rest].concat()
        }
        ["proc", process, "net", rest @ ..] if is_process(process) => [&["proc", "net"], rest].concat(),
        parts => parts.to_vec(),
    };
    let whole = format!("/{}", parts.join("/"));
    let below = |folder: &str| {
        let rest = whole.strip_prefix(folder);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let is_ours = whole.starts_with(PROC_FILES) || below(SYSCTLS) || is_module(&whole) || whole == MODULES;
    is_ours.then_some(whole)
}

fn is_process(name: &str) -> bool {
    matches!(name, "self" | "thread-self") || (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_module(path: &str) -> bool {
    let rest = path.strip_prefix(MODULE);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '_']))
}

/// The name of a setting, if that is what a canonical path is.
pub fn sysctl_of(canonical: &str) -> Option<&str> {
    let name = canonical.strip_prefix(SYSCTLS)?.strip_prefix('/')?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// The folder with the empty files of the lvsd behind `socket`.
pub fn folder_of(socket: &Path) -> PathBuf {
    let mut folder = socket.as_os_str().to_owned();
    folder.push(".files");
    PathBuf::from(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_a_kernel_gives_a_file_is_the_same_file() {
        for path in [
            "/proc/net/ip_vs_conn",
            "//proc/./net//ip_vs_conn",
            "/proc/self/net/ip_vs_conn",
            "/proc/thread-self/net/ip_vs_conn",
            "/proc/4711/net/ip_vs_conn",
            "/proc/self/task/12/net/ip_vs_conn",
            "/proc/sys/../net/ip_vs_conn",
        ] {
            assert_eq!(canonical("/", path).as_deref(), Some("/proc/net/ip_vs_conn"), "{path}");
        }
        assert_eq!(canonical("/proc/7/net", "ip_vs").as_deref(), Some("/proc/net/ip_vs"));
        assert_eq!(
            canonical("/proc/sys/net/ipv4/vs", "drop_entry")
                .as_deref()
                .and_then(sysctl_of),
            Some("drop_entry")
        );
        assert_eq!(canonical("/proc/sys/net", "ipv4/vs/").as_deref(), Some(SYSCTLS));
        assert_eq!(
            canonical("/", "/sys/module/ip_vs_rr/initstate").as_deref(),
            Some("/sys/module/ip_vs_rr/initstate")
        );
        assert_eq!(canonical("/", MODULES).as_deref(), Some(MODULES));
    }

    #[test]
    fn other_names_are_left_alone() {
        for path in [
            "/proc/net/ip_tables_names",
            "/proc/net/dev",
            "/proc/x7/net/ip_vs",
            "/proc/sys/net/ipv4/vsx",
            "/sys/module/ip_vsx",
            "/home/proc/net/ip_vs",
            "/proc/modules/x",
            "",
        ] {
            assert_eq!(canonical("/", path), None, "{path}");
        }
    }
}

//! A folder of empty files beside the socket: the names of a kernel with IPVS, as `stat`, `access` and `ls` ask for them.
//!
//! In:  the path of the socket, the names of settings and schedulers. Out: files and folders below
//! [`kernel_files::folder_of`]. Never: holds content, which [`super::proc_files`] renders when a file is opened.

use std::fs::Permissions;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lvs_api::kernel_files::{self, SYSCTLS};
use lvs_api::proc_text;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::sysctl::Sysctls;

/// Files of a module that tools read, and what is in them.
const MODULE_FILES: [(&str, &str); 3] = [("initstate", "live\n"), ("refcnt", "0\n"), ("coresize", "16384\n")];

/// Lays the folder out anew.
pub fn lay_out(socket: &Path) -> io::Result<()> {
    let folder = kernel_files::folder_of(socket);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let below = |path: &str| folder.join(path.trim_start_matches('/'));
    let proc_net = below("/proc/net");
    fs::create_dir_all(&proc_net)?;
    for name in proc_text::NAMES {
        let file = File::create(proc_net.join(name))?;
        file.set_permissions(Permissions::from_mode(0o444))?;
    }
    let sysctls = below(SYSCTLS);
    fs::create_dir_all(&sysctls)?;
    for name in Sysctls::NAMES {
        File::create(sysctls.join(name))?;
    }
    for module in modules() {
        let module = below("/sys/module").join(module);
        fs::create_dir_all(module.join("holders"))?;
        for (name, _) in MODULE_FILES {
            File::create(module.join(name))?;
        }
    }
    Ok(())
}

/// The modules that a kernel would have loaded for what lvsd does.
pub fn modules() -> Vec<String> {
    let of_schedulers = SchedulerKind::ALL.iter().map(|kind| format!("ip_vs_{}", kind.name()));
    [String::from("ip_vs")].into_iter().chain(of_schedulers).collect()
}

/// The content of a module's file.
pub fn module_file(canonical: &str) -> Option<String> {
    let (module, file) = canonical.strip_prefix("/sys/module/")?.split_once('/')?;
    let is_known = modules().iter().any(|known| known == module);
    let content = MODULE_FILES
        .iter()
        .find(|(name, _)| *name == file)
        .map(|(_, content)| *content);
    content.filter(|_| is_known).map(str::to_owned)
}

/// `/proc/modules` with the modules of IPVS in it.
pub fn module_list(kernels: &str) -> String {
    let mut text = kernels.to_owned();
    for module in modules() {
        let is_there = kernels.lines().any(|line| line.split(' ').next() == Some(&module));
        if !is_there {
            text.push_str(&format!("{module} 16384 0 - Live 0x0000000000000000\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_every_name_and_is_laid_out_again_over_an_old_one() {
        let folder = tempfile::TempDir::new().unwrap();
        let socket = folder.path().join("ipvs.sock");
        for _ in 0..2 {
            lay_out(&socket).unwrap();
        }
        let files = folder.path().join("ipvs.sock.files");
        for name in [
            "proc/net/ip_vs_conn",
            "proc/sys/net/ipv4/vs/drop_entry",
            "sys/module/ip_vs/initstate",
            "sys/module/ip_vs_wrr/holders",
        ] {
            assert!(files.join(name).exists(), "{name}");
        }
    }

    #[test]
    fn the_list_of_modules_is_the_kernels_and_those_of_ipvs_once_each() {
        let text = module_list("dummy 16384 0 - Live 0x0\nip_vs 7 0 - Live 0x0\n");
        assert!(
            text.starts_with("dummy 16384 0 - Live 0x0\nip_vs 7 0 - Live 0x0\nip_vs_"),
            "{text}"
        );
        assert_eq!(text.lines().filter(|line| line.starts_with("ip_vs ")).count(), 1);
        assert!(text.contains("\nip_vs_rr 16384 0 - Live"), "{text}");
        assert_eq!(module_file("/sys/module/ip_vs_rr/initstate").as_deref(), Some("live\n"));
        assert_eq!(module_file("/sys/module/ip_vs_none/initstate"), None);
    }
}

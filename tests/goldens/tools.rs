//! The operator's tools: `lvs-run` with the library that leads IPVS tools to a daemon, as they are built here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// `lvs-run` and its library.
pub struct LvsRun {
    pub program: PathBuf,
    pub library: PathBuf,
}

/// Built once.
pub fn lvs_run() -> &'static LvsRun {
    static TOOLS: OnceLock<LvsRun> = OnceLock::new();
    TOOLS.get_or_init(|| LvsRun {
        program: built(&["-p", "lvs-cli", "--bin", "lvs-run"], "debug/lvs-run"),
        // As it is installed: built for release.
        library: built(&["--release", "-p", "lvs-preload"], "release/liblvs_ipvs.so"),
    })
}

fn built(arguments: &[&str], result: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cargo = Command::new(env!("CARGO"));
    let built = cargo
        .args(["build", "--quiet"])
        .args(arguments)
        .current_dir(root)
        .status();
    assert!(built.expect("cargo runs").success());
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join(result)
}

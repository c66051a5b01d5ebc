//! The programs of this workspace, as they are built for the tests.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder of the test's own profile: cargo lays tests and benches one level below, programs directly into it.
fn profile() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test.parent().and_then(Path::parent);
    profile.expect("cargo lays tests into target/PROFILE/deps").to_owned()
}

/// Builds a part of the workspace that cargo does not build for the tests of lvsd; nothing to do where it is there.
fn built(arguments: &[&str], is_release: bool, file: &str) -> PathBuf {
    let own = profile();
    let target = own.parent().expect("a profile is a folder of target");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet"]).args(arguments);
    if is_release {
        cargo.arg("--release");
    }
    cargo.arg("--target-dir").arg(target);
    let status = cargo
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .status();
    assert!(status.expect("cargo runs").success(), "{cargo:?}");
    target.join(if is_release { "release" } else { "debug" }).join(file)
}

fn built_as_the_test(program: &str) -> PathBuf {
    built(
        &["-p", "lvs-cli", "--bin", program],
        profile().ends_with("release"),
        program,
    )
}

/// The real `lvsd`; cargo builds it before any integration test of it.
pub fn lvsd() -> PathBuf {
    profile().join("lvsd")
}

/// The real `lvsctl`, built once.
pub fn lvsctl() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built_as_the_test("lvsctl"))
}

/// The library that leads IPVS tools to a director, built once, as it is installed: for release.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| built(&["-p", "lvs-preload"], true, "liblvs_ipvs.so"))
}

/// `lvs-run` for the director behind `socket`: the beginning of a command line, built once.
pub fn lvs_run(socket: &Path) -> [OsString; 5] {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| built_as_the_test("lvs-run"));
    [
        program.into(),
        "--library".into(),
        library().into(),
        "--socket".into(),
        socket.into(),
    ]
}

//! Programs of every kind, and a director that is not there.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::program::{Obstacle, Program};
use super::{absence, find_library, probe};

fn program(folder: &TempDir, name: &str, bytes: &[u8], mode: u32) -> Program {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    Program { path }
}

#[test]
fn a_dynamic_program_can_be_preloaded_and_a_script_is_its_interpreter() {
    let shell = Program::find("sh".as_ref()).unwrap();
    assert_eq!(shell.obstacle(), None);
    let folder = TempDir::new().unwrap();
    let script = program(&folder, "script", b"#! /usr/bin/env sh\n", 0o755);
    assert_eq!(script.obstacle(), None);
    assert_eq!(Program::find(folder.path().as_os_str()), None, "a folder is no program");
}

#[test]
fn what_the_loader_would_not_preload_is_named() {
    let folder = TempDir::new().unwrap();
    let shell = fs::read("/bin/sh").unwrap();
    assert_eq!(
        program(&folder, "setuid", &shell, 0o4755).obstacle(),
        Some(Obstacle::SetId)
    );
    let mut without_loader = shell;
    // No program headers: nothing to find a loader in.
    without_loader[56..58].fill(0);
    assert_eq!(
        program(&folder, "static", &without_loader, 0o755).obstacle(),
        Some(Obstacle::Static)
    );
    let script = format!("#!{}\n", folder.path().join("setuid").display());
    assert_eq!(
        program(&folder, "script", script.as_bytes(), 0o755).obstacle(),
        Some(Obstacle::SetId)
    );
}

#[test]
fn an_absent_director_is_said_with_how_to_start_it() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ipvs.sock");
    let message = absence(&path, probe(&path).unwrap_err());
    assert!(
        message.contains("systemctl start lvsd") && message.contains("ipvs.sock"),
        "{message}"
    );
}

#[test]
fn a_missing_library_is_said_with_where_it_was_looked_for() {
    let (code, message) = find_library(Some("/nowhere/liblvs_ipvs.so".as_ref())).unwrap_err();
    assert_eq!(code, 4);
    assert!(message.contains("/nowhere/liblvs_ipvs.so"), "{message}");
}

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
    assert!(!shell.is_libnl_tool());
    let folder = TempDir::new().unwrap();
    let script = |first: &str| program(&folder, "script", first.as_bytes(), 0o755).obstacle();
    for first in ["#! /usr/bin/env sh\n", "#!/usr/bin/env -S A=1 sh -u\n", "#!/bin/sh"] {
        assert_eq!(script(first), None, "{first}");
    }
    assert_eq!(script("what is this"), Some(Obstacle::Unknown));
    assert_eq!(Program::find(folder.path().as_os_str()), None, "a folder is no program");
}

fn own_machine() -> u16 {
    u16::try_from(super::elf::OWN_MACHINE).unwrap()
}

/// What a 32-bit Arm program is to this machine.
fn machine(number: u64) -> Obstacle {
    if number == super::elf::COMPANION_MACHINE {
        Obstacle::ThirtyTwoBit
    } else {
        Obstacle::Machine(number)
    }
}

#[test]
fn what_the_loader_would_not_preload_is_named() {
    let folder = TempDir::new().unwrap();
    let shell = fs::read("/bin/sh").unwrap();
    assert_eq!(
        program(&folder, "setuid", &shell, 0o4755).obstacle(),
        Some(Obstacle::SetId)
    );
    let mut without_loader = shell.clone();
    // No program headers: nothing to find a loader in.
    without_loader[56..58].fill(0);
    assert_eq!(
        program(&folder, "static", &without_loader, 0o755).obstacle(),
        Some(Obstacle::Static)
    );
    let patched = |name: &str, places: &[(usize, u8)]| {
        let mut bytes = shell.clone();
        for (at, byte) in places {
            bytes[*at] = *byte;
        }
        program(&folder, name, &bytes, 0o755).obstacle()
    };
    // The class and the machine of the header.
    assert_eq!(patched("arm", &[(18, 40), (4, 1)]), Some(machine(40)));
    assert_eq!(
        patched("big", &[(5, 2)]),
        Some(Obstacle::Machine(u64::from(own_machine().swap_bytes())))
    );
    assert_eq!(patched("narrow", &[(4, 1)]), Some(Obstacle::X32));
    assert!(Obstacle::X32.bars_supervisor());
    let at = shell.windows(9).position(|word| word == b"/ld-linux").unwrap();
    let musl: Vec<(usize, u8)> = (at..).zip(*b"/ld-musl-").collect();
    assert!(matches!(patched("musl", &musl), Some(Obstacle::Loader(_))));
    let at = shell.windows(4).position(|word| word == b"GNU\0").unwrap();
    let go: Vec<(usize, u8)> = (at..).zip(*b"Go\0\0").collect();
    assert_eq!(patched("go", &go), Some(Obstacle::Go));
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

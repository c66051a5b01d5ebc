//! The laws of the house that a compiler does not check: who may depend on whom, where unsafe code may
//! stand, how long a file may be, how each begins.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms in which unsafe code is allowed.
const UNSAFE_ROOMS: [&str; 10] = [
    "src/core/arena.rs",
    "src/core/tag_match.rs",
    "src/core/prefetch.rs",
    "src/dpdk",
    "dpdk-sys",
    "src/preload",
    "src/cli/lvs_run/raw_calls.rs",
    // Maps hugepages for its arena.
    "src/core/benches/table.rs",
    // Buffers without bounds checks, as mbufs are.
    "src/core/benches/path.rs",
    // DPDK's table.
    "tests/bench/contest.rs",
];
const FILE_LINES_MAX: usize = 600;
const FILE_LINES_WITH_TESTS_MAX: usize = 900;
const FORBIDDEN_NAMES: [&str; 7] = ["util", "utils", "common", "helpers", "manager", "info", "data"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for folder in ["src", "dpdk-sys", "tests"] {
        collect(&root().join(folder), &mut files);
    }
    assert!(files.len() > 50, "the walk finds the sources");
    files
}

fn collect(folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a source folder is readable") {
        let path = entry.expect("a folder entry is readable").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            files.push((name, fs::read_to_string(&path).expect("a source file is UTF-8")));
        }
    }
}

fn offenders(rule: impl Fn(&str, &str) -> Option<String>) -> Vec<String> {
    rust_files()
        .iter()
        .filter_map(|(name, text)| rule(name, text).map(|why| format!("{name}: {why}")))
        .collect()
}

#[test]
fn files_begin_with_what_they_are_for() {
    let found = offenders(|_, text| {
        let header = text.lines().take_while(|line| line.starts_with("//!")).count();
        match header {
            0 => Some("no //! header".into()),
            1..=20 => None,
            more => Some(format!("a header of {more} lines")),
        }
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let found = offenders(|name, text| {
        let lines = text.lines().count();
        let code = text
            .split("\n#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default()
            .lines()
            .count();
        let code_lines_max = if name.ends_with("tests.rs") {
            FILE_LINES_WITH_TESTS_MAX
        } else {
            FILE_LINES_MAX
        };
        (code > code_lines_max || lines > FILE_LINES_WITH_TESTS_MAX).then(|| format!("{code} of {lines} lines"))
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn modules_have_a_name_of_their_own() {
    let found = offenders(|name, _| {
        let stem = Path::new(name)
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        (stem == "mod" || FORBIDDEN_NAMES.contains(&stem)).then(|| "a name that says nothing".into())
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let found = offenders(|name, text| {
        let allowed = UNSAFE_ROOMS.iter().any(|room| name.starts_with(room)) || name == "tests/tidy.rs";
        let uses = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        (!allowed && uses).then(|| "unsafe code outside its rooms".into())
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let found = offenders(|name, text| {
        if name.starts_with("tests/") {
            return None;
        }
        let lines: Vec<&str> = text.lines().collect();
        let silent = lines.iter().enumerate().find(|(index, line)| {
            let code = line.split("//").next().unwrap_or_default();
            let opens = code.contains("unsafe {") || code.contains("unsafe impl");
            opens
                && !lines[index.saturating_sub(8)..=*index]
                    .iter()
                    .any(|near| near.contains("SAFETY"))
        });
        silent.map(|(index, _)| format!("line {}: no SAFETY comment", index + 1))
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn crates_depend_in_one_direction() {
    let imports = |text: &str, crate_name: &str| {
        text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains(&format!("{crate_name}::"))
        })
    };
    let found = offenders(|name, text| {
        let forbidden: &[&str] = match name {
            // Recordings are compared with the text that clients print.
            _ if name.starts_with("src/core/tests/kernel_goldens/") => &["dpdk_sys", "tokio", "axum", "log"],
            _ if name.starts_with("src/core/") => &["dpdk_sys", "lvs_api", "tokio", "axum", "log"],
            _ if name.starts_with("src/api/") => &["lvs_core", "dpdk_sys"],
            _ if name.starts_with("src/cli/") => &["lvs_core", "dpdk_sys"],
            _ if name.starts_with("src/preload/") => &["lvs_core", "lvs_api", "dpdk_sys"],
            _ if name.starts_with("src/mgmt") => &["dpdk_sys"],
            _ if name.starts_with("src/worker") => &["dpdk_sys", "lvs_api", "log"],
            _ if name.starts_with("src/dpdk") => &["lvs_api"],
            _ => &[],
        };
        forbidden
            .iter()
            .find(|crate_name| imports(text, crate_name))
            .map(|found| format!("names {found}"))
    });
    assert!(found.is_empty(), "{found:#?}");
}

/// What later folders of the core build on never names them: `path` uses `worker_state`, both use the rest.
#[test]
fn folders_of_the_core_depend_in_one_direction() {
    const GROUND: [&str; 7] = ["wire", "l3", "ipvs", "counters", "verdict", "headers", "conn_record"];
    let found = offenders(|name, text| {
        let (folder, _) = name.strip_prefix("src/core/")?.split_once(['/', '.'])?;
        let forbidden: &[&str] = match folder {
            _ if GROUND.contains(&folder) => &["crate::path", "crate::worker_state"],
            "worker_state" => &["crate::path"],
            _ => &[],
        };
        let code: String = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect();
        forbidden
            .iter()
            .find(|module| code.contains(**module))
            .map(|module| format!("names {module}"))
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_core_reads_no_clock_and_does_no_io() {
    let found = offenders(|name, text| {
        if !name.starts_with("src/core/") || name.starts_with("src/core/benches/") || name.contains("tests") {
            return None;
        }
        let code: String = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        [
            "std::time::Instant",
            "SystemTime",
            "std::fs",
            "std::net::TcpStream",
            "std::thread",
            "println!",
        ]
        .iter()
        .find(|word| code.contains(**word))
        .map(|word| format!("uses {word}"))
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_path_cannot_panic_by_name() {
    let found = offenders(|name, text| {
        let on_path = ["src/core/path", "src/core/worker_state", "src/core/wire", "src/worker"]
            .iter()
            .any(|folder| name.starts_with(folder));
        if !on_path || name.contains("tests") {
            return None;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        [".unwrap()", ".expect(", "panic!(", "unreachable!(", "assert!(", "log::"]
            .iter()
            .find(|word| {
                code.lines().any(|line| {
                    let at_compile_time = line.contains("debug_assert") || line.trim_start().starts_with("const _");
                    !line.trim_start().starts_with("//") && line.contains(**word) && !at_compile_time
                })
            })
            .map(|word| format!("uses {word}"))
    });
    assert!(found.is_empty(), "{found:#?}");
}

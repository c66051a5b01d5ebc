//! The laws of the project that a compiler does not check: which module may depend on which, which files may hold unsafe
//! code, how long a file may be, how each file begins, and which words are retired.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Files and folders in which unsafe code is allowed.
const UNSAFE_MODULES: [&str; 12] = [
    "src/core/arena.rs",
    "src/core/tag_match.rs",
    "src/core/prefetch.rs",
    "src/dpdk",
    "dpdk-sys",
    "src/preload",
    "src/cli/lvs_run/raw_calls.rs",
    // Takes descriptors from systemd.
    "src/mgmt/twin/fd_store.rs",
    // Maps hugepages for its arena.
    "src/core/benches/table.rs",
    // Share memory with processes that they end.
    "src/core/tests/crash",
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

/// Holds a rule for each file: `None`, or what is wrong with it.
fn no_file_breaks(rule: impl Fn(&str, &str) -> Option<String>) {
    let found = offenders(rule);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn files_begin_with_what_they_are_for() {
    no_file_breaks(|_, text| {
        let header = text.lines().take_while(|line| line.starts_with("//!")).count();
        match header {
            0 => Some("no //! header".into()),
            1..=20 => None,
            more => Some(format!("a header of {more} lines")),
        }
    });
}

#[test]
fn files_can_be_read_in_one_sitting() {
    no_file_breaks(|name, text| {
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
}

#[test]
fn modules_have_a_name_of_their_own() {
    no_file_breaks(|name, _| {
        let stem = Path::new(name)
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        (stem == "mod" || FORBIDDEN_NAMES.contains(&stem)).then(|| "a name that says nothing".into())
    });
}

#[test]
fn unsafe_code_stays_in_its_modules() {
    no_file_breaks(|name, text| {
        let allowed = UNSAFE_MODULES.iter().any(|module| name.starts_with(module)) || name == "tests/tidy.rs";
        let uses = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        (!allowed && uses).then(|| "unsafe code outside its modules".into())
    });
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    no_file_breaks(|name, text| {
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

/// The lower folders of the core never name the higher ones: `path` uses `worker_state`, both use the rest.
#[test]
fn folders_of_the_core_depend_in_one_direction() {
    const GROUND: [&str; 8] = [
        "wire",
        "l3",
        "ipvs",
        "counters",
        "verdict",
        "headers",
        "conn_record",
        "packet",
    ];
    no_file_breaks(|name, text| {
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
}

#[test]
fn the_core_reads_no_clock_and_does_no_io() {
    no_file_breaks(|name, text| {
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
}

#[test]
fn the_path_cannot_panic_by_name() {
    let found = offenders(|name, text| {
        let on_path = [
            "src/core/path",
            "src/core/explain",
            "src/core/packet",
            "src/core/worker_state",
            "src/core/wire",
            "src/worker",
        ]
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

/// Words that this code once used with a meaning of its own, each with the field's word for it (`docs/glossary.md`).
const RETIRED_WORDS: [(&str, &str); 25] = [
    ("astray", "rss_misses, mismatch"),
    ("crew", "assignment"),
    ("handover", "handoff"),
    ("handovers", "handoffs"),
    ("house", "project, housekeeping"),
    ("introduce", "client address"),
    ("introduces", "client address"),
    ("keep_house", "housekeeping"),
    ("madeframes", "GeneratedFrames"),
    ("mailboxport", "MailboxHandle"),
    ("next_made", "next_generated"),
    ("obey", "handle_command"),
    ("obeys", "handles"),
    ("octet", "byte"),
    ("octets", "bytes"),
    ("outlet", "TxBuffer"),
    ("outlets", "TxBuffer"),
    ("plainframe", "FastFrame"),
    ("plainheader", "FastHeader"),
    ("preface", "PROXY header"),
    ("recalls", "L3Cache"),
    ("stepname", "Stage"),
    ("take_over", "handoff in, import a synced connection"),
    ("wantedstate", "StateBody"),
    ("workerport", "WorkerHandle"),
];
/// Words that are retired in code and in what code prints. A script or a document may use them in plain English.
const RETIRED_IN_SOURCES: [(&str, &str); 9] = [
    ("introduction", "client address"),
    ("lane", "Family"),
    ("lanes", "Families, tag_match"),
    ("room", "module, folder, headroom, capacity, space"),
    ("rooms", "modules, folders"),
    ("tell", "sync out, publish, send an ICMP error, notify, report"),
    ("telling", "syncing out, publishing, reporting"),
    ("tells", "syncs out, publishes, sends an ICMP error, reports"),
    ("told", "synced out, published, answered by ICMP, notified"),
];
const RETIRED_PHRASES: [(&str, &str); 12] = [
    ("at rest", "asleep"),
    ("comes home", "arrives at its owner"),
    ("come home", "arrive at their owner"),
    ("full way", "slow path"),
    ("gives way", "must be rescheduled"),
    ("hand over", "hand off"),
    ("hand-over", "handoff"),
    ("handed over", "handed off"),
    ("hands over", "hands off"),
    ("handing over", "handing off"),
    ("short way", "fast path"),
    ("struct wanted", "a name of its own"),
];

/// Whether the word at `at` is the method of the standard library's addresses, or the line quotes an RFC.
fn is_the_fields_own(line: &str, word: &str, at: usize) -> bool {
    word == "octets" && (line[..at].ends_with('.') || line[..at].ends_with("::")) || line.contains("RFC")
}

fn retired_in(line: &str, is_source: bool) -> Option<String> {
    let lower = line.to_lowercase();
    let begins_a_word = |at: usize| !lower[..at].ends_with(char::is_alphanumeric);
    let phrase = RETIRED_PHRASES
        .iter()
        .find(|(phrase, _)| lower.match_indices(phrase).any(|(at, _)| begins_a_word(at)));
    if let Some((phrase, instead)) = phrase {
        return Some(format!("\"{phrase}\": {instead}"));
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut at = 0;
    for word in lower.split(|c| !is_part(c)) {
        let also: &[_] = if is_source { &RETIRED_IN_SOURCES } else { &[] };
        let found = RETIRED_WORDS.iter().chain(also).find(|(retired, _)| *retired == word);
        if let Some((word, instead)) = found
            && !is_the_fields_own(&lower, word, at)
            && !is_the_fields_own(line, word, at)
        {
            return Some(format!("\"{word}\": {instead}"));
        }
        at += word.len() + 1;
    }
    None
}

#[test]
fn the_dialect_stays_retired() {
    let mut found = Vec::new();
    for (name, text) in texts() {
        if name == "tests/tidy.rs" || name.starts_with("tests/kernel-goldens/") {
            continue;
        }
        let is_source = name.ends_with(".rs") || name.starts_with("conf/");
        let places = text.lines().enumerate();
        found.extend(
            places.filter_map(|(index, line)| Some(format!("{name}:{}: {}", index + 1, retired_in(line, is_source)?))),
        );
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn retired_words_are_found_and_the_fields_own_are_not() {
    assert!(retired_in("/// What the sender is told.", true).is_some());
    assert!(retired_in("fn take_over(&mut self)", true).is_some());
    assert!(retired_in("the worker is at rest", true).is_some());
    assert!(retired_in("length in octets", true).is_some());
    assert!(retired_in("addr.octets()", true).is_none());
    assert!(retired_in("Ipv4Addr::octets", true).is_none());
    assert!(retired_in("\"in units of 8 octets\" (RFC 791 3.1)", true).is_none());
    assert!(retired_in("the planes, the classroom, a storyteller", true).is_none());
}

/// Sources, scripts, documents and configuration: all that a person writes and reads here.
fn texts() -> Vec<(String, String)> {
    let mut found = rust_files();
    for folder in ["scripts", "packaging", "conf", "docs", "fuzz", "xtask"] {
        let folder = root().join(folder);
        if folder.is_dir() {
            collect_texts(&folder, &mut found);
        }
    }
    for file in [
        "README.md",
        "CONTRIBUTING.md",
        "SPECIFICATION.md",
        "src/ARCHITECTURE.md",
        "Cargo.toml",
    ] {
        if let Ok(text) = fs::read_to_string(root().join(file)) {
            found.push((file.to_owned(), text));
        }
    }
    found
}

fn collect_texts(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a source folder is readable") {
        let path = entry.expect("a folder entry is readable").path();
        if path.is_dir() {
            if !["target", "__pycache__", "corpus", "book"]
                .iter()
                .any(|name| path.ends_with(name))
            {
                collect_texts(&path, found);
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            found.push((name, text));
        }
    }
}

const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn functions_fit_a_screen() {
    no_file_breaks(|name, text| {
        if name.contains("tests") || name.contains("benches") {
            return None;
        }
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().enumerate().find_map(|(index, line)| {
            let code = line.trim_start();
            let indent = line.len() - code.len();
            let is_function = code.split('(').next()?.split_whitespace().any(|word| word == "fn")
                && !code.starts_with("//")
                && lines[index..]
                    .iter()
                    .find(|line| line.ends_with(['{', ';']))?
                    .ends_with('{');
            let closing = format!("{}}}", " ".repeat(indent));
            let len = lines[index..].iter().position(|line| **line == closing)?;
            (is_function && len >= FUNCTION_LINES_MAX)
                .then(|| format!("line {}: a function of {} lines", index + 1, len + 1))
        })
    });
}

#[test]
fn public_types_have_a_name_of_their_own_within_their_crate() {
    let mut seen: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
    for (name, text) in rust_files() {
        let Some(crate_name) = ["src/core/", "src/api/", "src/cli/", "src/preload/", "src/"]
            .into_iter()
            .find(|prefix| name.starts_with(prefix))
        else {
            continue;
        };
        if name.contains("/tests") || name.contains("/benches/") {
            continue;
        }
        for line in text.lines() {
            let mut words = line
                .split_whitespace()
                .skip_while(|word| word.starts_with("pub("))
                .peekable();
            if !line.trim_start().starts_with("pub") {
                continue;
            }
            let _ = words.next_if(|word| *word == "pub");
            let is_type = words
                .next()
                .is_some_and(|word| ["struct", "enum", "trait", "type", "union"].contains(&word));
            if let (true, Some(rest)) = (is_type, words.next()) {
                let type_name: String = rest
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                // A macro's types have the names that its caller gives.
                if !type_name.is_empty() {
                    seen.entry((crate_name, type_name)).or_default().push(name.clone());
                }
            }
        }
    }
    let found: Vec<_> = seen.into_iter().filter(|(_, places)| places.len() > 1).collect();
    assert!(found.is_empty(), "{found:#?}");
}

const LAB_LINES_MAX: usize = 150;

#[test]
fn labs_are_stories_that_fit_two_screens() {
    let mut found = Vec::new();
    collect_texts(&root().join("scripts/lab.d"), &mut found);
    found.retain(|(_, text)| text.lines().count() > LAB_LINES_MAX);
    let long: Vec<_> = found.iter().map(|(name, text)| (name, text.lines().count())).collect();
    assert!(long.is_empty(), "{long:#?}");
}

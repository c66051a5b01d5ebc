//! What the documents show is so: commands are understood, links lead somewhere, files and tests that they name exist,
//! and no page outgrows its purpose.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use clap::{CommandFactory, Parser};

use super::LvsctlArguments;
use crate::lvs_run::arguments::RunArguments;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "the test needs only the definition of the command line"
)]
#[path = "../../../arguments.rs"]
mod lvsd_arguments;
mod markdown;
mod tour;

use markdown::{Page, page, pages, root};

/// Longest page of these names, in bytes.
const BYTES_MAX: [(&str, usize); 2] = [("README.md", 7 << 10), ("src/ARCHITECTURE.md", 9 << 10)];
/// Longest line of prose, in characters.
const LINE_MAX: usize = 120;

/// The commands of a shell line, without what belongs to the shell.
fn commands(line: &str) -> Vec<Vec<&str>> {
    let line = line.split(" #").next().unwrap_or_default();
    line.split([';', '|', '&'])
        .map(|command| {
            command
                .split_whitespace()
                .take_while(|word| !matches!(*word, ">" | "<"))
                .collect()
        })
        .collect()
}

/// Words that stand for something.
fn example(word: &str) -> &str {
    match word {
        "SERVICE" | "tcp:VIP:PORT" => "tcp:192.0.2.1:80",
        "ADDRESS" | "CLIENT" | "RIP" => "192.0.2.1",
        "…" => "EXAMPLE",
        other => other,
    }
}

/// Calls `check` with each command of `program` that any page shows with words behind it.
fn each_command(program: &str, mut check: impl FnMut(&[&str]) -> Result<(), String>) -> usize {
    let (mut count, mut wrong) = (0, Vec::new());
    for page in pages() {
        for line in page.shown() {
            for words in commands(&line) {
                if words.first() != Some(&program) || words.len() == 1 {
                    continue;
                }
                count += 1;
                let words: Vec<_> = words.into_iter().map(example).collect();
                if let Err(error) = check(&words) {
                    wrong.push(format!("{}: {line}\n{error}", page.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    count
}

fn parse<Words: Parser>(words: &[&str]) -> Result<(), String> {
    match Words::try_parse_from(words) {
        Err(error) if error.use_stderr() && !names_a_command::<Words>(words) => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Whether the words are the name of a command and no more, as prose speaks of it.
fn names_a_command<Words: CommandFactory>(words: &[&str]) -> bool {
    let mut command = Words::command();
    for word in words.iter().skip(1) {
        match command.find_subcommand(word) {
            Some(below) => command = below.clone(),
            None => return false,
        }
    }
    true
}

#[test]
fn every_lvsctl_is_understood() {
    let count = each_command("lvsctl", parse::<LvsctlArguments>);
    assert!(count > 100, "{count} commands");
}

#[test]
fn every_lvs_run_and_lvsd_is_understood() {
    let count = each_command("lvs-run", parse::<RunArguments>);
    assert!(count > 3, "{count} commands");
    let count = each_command("lvsd", parse::<lvsd_arguments::Arguments>);
    assert!(count > 2, "{count} commands");
}

/// What a script says of itself, as words.
fn help(words: &[&str]) -> Vec<String> {
    let mut script = Command::new(root().join(words[0]));
    let output = script
        .args(&words[1..])
        .arg("--help")
        .output()
        .unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && !text.is_empty(),
        "{words:?} --help: {output:?}"
    );
    let is_word = |letter: char| letter.is_alphanumeric() || "-_".contains(letter);
    text.split(|letter| !is_word(letter)).map(str::to_owned).collect()
}

/// Whether the help of the script, or of its bench, names each word that is a name or an option; numbers, files and
/// examples are values.
fn is_in_help(helps: &mut HashMap<String, Vec<String>>, words: &[&str]) -> Result<(), String> {
    // What runs on another release is a command of its own.
    let words = match words.get(1) {
        Some(&"on") => words.get(..3).unwrap_or(words),
        _ => words,
    };
    let depth = match words.get(1) {
        Some(&"bench") => words.len().min(3),
        _ => 1,
    };
    let (script, arguments) = words.split_at(depth);
    let known = helps.entry(script.join(" ")).or_insert_with(|| help(script));
    for word in arguments {
        let is_value = word.starts_with(|first: char| first.is_uppercase() || first.is_ascii_digit() || first == '[');
        if !is_value && *word != "--help" && !known.iter().any(|one| one == word) {
            return Err(format!("{} --help does not know {word}", script.join(" ")));
        }
    }
    Ok(())
}

#[test]
fn every_script_is_understood() {
    let mut helps = HashMap::new();
    for script in ["scripts/dev", "scripts/lab"] {
        let count = each_command(script, |words| is_in_help(&mut helps, words));
        assert!(count > 3, "{count} times {script}");
    }
}

#[test]
fn every_cargo_names_packages_tests_and_benches_that_are_there() {
    let manifests: String = [
        "Cargo.toml",
        "src/core/Cargo.toml",
        "src/api/Cargo.toml",
        "src/cli/Cargo.toml",
    ]
    .map(|name| fs::read_to_string(root().join(name)).expect("a manifest is readable"))
    .concat();
    let folders = ["tests", "src/core/tests", "src/core/benches"];
    let is_file = |target: &str| {
        folders.iter().any(|folder| {
            let at = root().join(folder).join(target);
            at.with_extension("rs").exists() || at.join("main.rs").exists()
        })
    };
    let count = each_command("cargo", |words| {
        for pair in words.windows(2) {
            let is_there = match pair[0] {
                "-p" => manifests.contains(&format!("name = \"{}\"\n", pair[1])),
                "--test" | "--bench" => is_file(pair[1]),
                _ => true,
            };
            if !is_there {
                return Err(format!("there is no {}", pair[1]));
            }
        }
        Ok(())
    });
    assert!(count > 3, "{count} commands");
}

#[test]
fn every_link_leads_to_a_page_and_a_heading() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        let folder = root()
            .join(&page.name)
            .parent()
            .expect("a file has a folder")
            .to_owned();
        for link in page.links() {
            if link.starts_with("https://") || link.starts_with("http://") {
                continue;
            }
            count += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let at = if path.is_empty() {
                root().join(&page.name)
            } else {
                folder.join(path)
            };
            if !at.exists() {
                wrong.push(format!("{}: {link}: no such file", page.name));
            } else if !anchor.is_empty() && !anchors_of(&at).contains(&anchor.to_owned()) {
                wrong.push(format!("{}: {link}: no such heading", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 50, "{count} links");
}

fn anchors_of(path: &std::path::Path) -> Vec<String> {
    let path = path.canonicalize().expect("it exists");
    let name = path.strip_prefix(root().canonicalize().expect("it exists"));
    page(&name.expect("of the repository").display().to_string()).anchors()
}

#[test]
fn every_page_of_the_book_is_in_its_summary() {
    let summary = page("docs/SUMMARY.md").links();
    let listed: Vec<_> = summary.iter().map(|link| format!("docs/{link}")).collect();
    let missing: Vec<_> = pages()
        .into_iter()
        .map(|page| page.name)
        .filter(|name| name.starts_with("docs/") && name != "docs/SUMMARY.md" && !listed.contains(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Whether a code span is the path of something in the repository.
fn is_path(span: &str) -> bool {
    let tops = [
        "src/",
        "docs/",
        "tests/",
        "scripts/",
        "conf/",
        "packaging/",
        "dpdk-sys/",
    ];
    tops.iter().any(|top| span.starts_with(top)) && !span.contains([' ', '*', '{', '…'])
}

#[test]
fn every_path_that_is_named_exists() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        for span in page.code_spans().iter().filter(|span| is_path(span)) {
            count += 1;
            if !root().join(span).exists() {
                wrong.push(format!("{}: {span}", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 100, "{count} paths");
}

#[test]
fn every_file_of_the_architecture_exists() {
    let page = page("src/ARCHITECTURE.md");
    let spans = page.code_spans();
    let files: Vec<_> = spans
        .iter()
        .filter(|span| span.ends_with(".rs") || span.ends_with('/'))
        .collect();
    let folders = ["", "src", "src/core/path", "src/worker"];
    let missing: Vec<_> = files
        .iter()
        .filter(|file| !folders.iter().any(|folder| root().join(folder).join(file).exists()))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(files.len() > 30, "{files:?}");
}

/// Tests that SPECIFICATION.md names behind their file, as `file` `test`.
fn tests_of(line: &str) -> Vec<(&str, &str)> {
    let is_name = |span: &str| {
        span.contains('_')
            && span
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    let mut file = "";
    let mut found = Vec::new();
    for span in line.split('`').skip(1).step_by(2) {
        if is_path(span) {
            file = span;
        } else if is_name(span) {
            found.push((file, span));
        }
    }
    found
}

#[test]
fn every_test_that_holds_a_promise_exists() {
    let page = page("SPECIFICATION.md");
    let mut count = 0;
    for line in page.lines() {
        for (file, test) in tests_of(line.text) {
            count += 1;
            let text = fs::read_to_string(root().join(file)).unwrap_or_default();
            assert!(
                text.contains(&format!("fn {test}(")),
                "SPECIFICATION.md:{}: no {test} in {file:?}",
                line.number
            );
        }
    }
    assert!(count > 20, "{count} tests");
}

#[test]
fn every_metric_and_drop_that_is_named_exists() {
    let read = |folder: &str| -> String {
        let folder = fs::read_dir(root().join(folder)).expect("a source folder is readable");
        let files = folder.map(|entry| entry.expect("a folder entry is readable").path());
        files
            .filter(|path| path.is_file())
            .map(|path| fs::read_to_string(path).unwrap_or_default())
            .collect()
    };
    let metrics = read("src/mgmt/metrics");
    let reasons = read("src/core") + &read("src/core/path");
    let troubles = page("docs/troubleshoot.md");
    let drops = troubles
        .lines()
        .iter()
        .skip_while(|line| line.text != "## Drops by name")
        .skip(5)
        .map_while(|line| line.text.strip_prefix("| `"))
        .filter_map(|row| row.split('`').next())
        .map(str::to_owned)
        .collect::<Vec<_>>();
    assert!(drops.len() > 5, "{drops:?}");
    for drop in drops {
        assert!(reasons.contains(&format!("= \"{drop}\",")), "there is no drop {drop}");
    }
    let is_metric = |span: &String| span.starts_with("lvsd_") && !span.contains(['*', '.']);
    // The changelog says which names went.
    let spans = pages()
        .iter()
        .filter(|page| page.name != "CHANGELOG.md")
        .flat_map(Page::code_spans)
        .filter(is_metric)
        .collect::<Vec<_>>();
    assert!(spans.len() > 15, "{spans:?}");
    let missing: Vec<_> = spans
        .iter()
        .filter(|metric| !metrics.contains(&format!("\"{metric}\"")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_key_of_a_shown_configuration_is_one() {
    let reference = fs::read_to_string(root().join("conf/lvsd.reference.toml")).expect("the reference is readable");
    let mut count = 0;
    for page in pages() {
        for line in page
            .lines()
            .iter()
            .filter(|line| line.fence == Some("toml") && !line.text.is_empty())
        {
            count += 1;
            let key = line.text.split(['=', '#']).next().unwrap_or_default().trim_end();
            let is_key = reference.lines().any(|known| {
                let known = known.strip_prefix('#').unwrap_or_default();
                known == key || known.split(" = ").next() == Some(key)
            });
            assert!(is_key, "{}:{}: {}", page.name, line.number, line.text);
        }
    }
    assert!(count > 5, "{count} lines");
}

#[test]
fn pages_and_lines_are_no_longer_than_their_purpose() {
    for (name, most) in BYTES_MAX {
        let len = page(name).text.len();
        assert!(
            len <= most,
            "{name}: {len} bytes of {most}: move something to the page of its reader"
        );
    }
    let mut wrong = Vec::new();
    for page in pages().iter().filter(|page| page.name != "CONTRIBUTING.md") {
        for line in page.lines() {
            if line.text.chars().count() > LINE_MAX && !line.text.trim_start().starts_with('|') {
                wrong.push(format!("{}:{}", page.name, line.number));
            }
        }
    }
    assert!(wrong.is_empty(), "more than {LINE_MAX} characters: {wrong:?}");
}

//! The newcomer's tour of CONTRIBUTING.md: each trip names files that exist and what to read in them, in an order in
//! which one file leads to the next.

use std::fs;

use super::markdown::{page, root};

/// Longest trips, in files. A trip that gets longer asks for a simpler path, not for a higher bound.
const FILES_MAX: [(&str, usize); 6] = [("a", 13), ("b", 20), ("c", 10), ("d", 10), ("e", 16), ("f", 6)];

/// A file on a trip, and what to read in it.
struct Stop<'page> {
    file: &'page str,
    names: Vec<&'page str>,
}

/// `N. `file`: `name`, `name`. Sentence.`
fn stop(line: &str, number: usize) -> Stop<'_> {
    let rest = line
        .strip_prefix(&format!("{number}. "))
        .unwrap_or_else(|| panic!("stop {number} is expected, not: {line}"));
    let (file, rest) = rest.split_once(": ").unwrap_or_else(|| panic!("no colon: {line}"));
    let names = rest.split_once(". ").map_or(rest, |(names, _)| names);
    assert!(
        file.starts_with('`') && names.starts_with('`'),
        "a file, then names: {line}"
    );
    Stop {
        file: file.trim_matches('`'),
        names: names.split(", ").map(|name| name.trim_matches(['`', '.'])).collect(),
    }
}

/// Whether `text` has `name` as a whole word.
fn has_word(text: &str, name: &str) -> bool {
    let is_inside = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(is_inside) && !text[at + name.len()..].starts_with(is_inside))
}

/// Whether `text`, a file of Rust or a configuration, defines `name`.
fn defines(text: &str, name: &str) -> bool {
    let defined = ["fn", "struct", "enum", "trait", "const"]
        .iter()
        .any(|word| has_word(text, &format!("{word} {name}")));
    defined || has_word(text, &format!("{name}:")) || text.contains(&format!("{name} ="))
}

#[test]
fn every_trip_leads_from_file_to_file() {
    let contributing = page("CONTRIBUTING.md");
    let tour = contributing
        .text
        .split_once("## A newcomer's tour")
        .expect("there is a tour")
        .1;
    let tour = tour.split("\n## ").next().unwrap_or_default();
    let mut trips = 0;
    for (trip, (letter, files_max)) in tour.split("### Trip ").skip(1).zip(FILES_MAX) {
        assert!(trip.starts_with(&format!("{letter}: ")), "trips are in order: {trip}");
        let lines = trip
            .lines()
            .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        // The texts of the files so far, and what the last of them is read for.
        let (mut met, mut last) = (String::new(), Vec::<&str>::new());
        let mut count = 0;
        for (index, line) in lines.enumerate() {
            let Stop { file, names } = stop(line, index + 1);
            let text =
                fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("trip {letter}, {file}: {error}"));
            for name in &names {
                assert!(defines(&text, name), "trip {letter}: {file} has no {name}");
            }
            let leads = names.iter().any(|name| has_word(&met, name)) || last.iter().any(|name| has_word(&text, name));
            assert!(index == 0 || leads, "trip {letter}: nothing leads to {file}");
            met += &text;
            (last, count) = (names, index + 1);
        }
        assert!(
            count > 2 && count <= files_max,
            "trip {letter}: {count} files, at most {files_max}"
        );
        trips += 1;
    }
    assert_eq!(trips, FILES_MAX.len());
}

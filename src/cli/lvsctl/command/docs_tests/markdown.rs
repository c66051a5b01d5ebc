//! The documents as a reader sees them: lines, code, headings and links.
//!
//! In:  the repository's folder. Out: pages, each with what is to be checked of it.
//! Never: more Markdown than the documents use: fenced blocks, code spans, inline links, `#` headings.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The repository.
pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("two folders below the repository")
        .to_owned()
}

/// One document.
pub(super) struct Page {
    /// Its path from the repository's folder.
    pub(super) name: String,
    pub(super) text: String,
}

/// A line of a page.
pub(super) struct Line<'page> {
    pub(super) number: usize,
    pub(super) text: &'page str,
    /// The language of the fenced block that it stands in.
    pub(super) fence: Option<&'page str>,
}

impl Page {
    fn read(path: &Path) -> Self {
        Self {
            name: path
                .strip_prefix(root())
                .expect("of the repository")
                .display()
                .to_string(),
            text: fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        }
    }

    /// Every line but the fences.
    pub(super) fn lines(&self) -> Vec<Line<'_>> {
        let mut fence = None;
        let mut found = Vec::new();
        for (index, text) in self.text.lines().enumerate() {
            match (text.trim_start().strip_prefix("```"), fence) {
                (Some(language), None) => fence = Some(language.trim()),
                (Some(_), Some(_)) => fence = None,
                (None, fence) => found.push(Line {
                    number: index + 1,
                    text,
                    fence,
                }),
            }
        }
        assert!(fence.is_none(), "{}: a block of code that does not end", self.name);
        found
    }

    /// The lines outside of blocks as one text, in which code spans and links may go over the end of a line.
    pub(super) fn prose(&self) -> String {
        let lines = self.lines();
        let prose = lines.iter().filter(|line| line.fence.is_none());
        prose.map(|line| format!("{}\n", line.text.trim())).collect()
    }

    /// What stands between backquotes outside of blocks.
    pub(super) fn code_spans(&self) -> Vec<String> {
        let spaced = |span: &str| span.split_whitespace().collect::<Vec<_>>().join(" ");
        let prose = self.prose();
        // A blank line ends a span that was never closed.
        prose
            .split("\n\n")
            .flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2))
            .map(|span| spaced(span).replace("\\|", "|"))
            .collect()
    }

    /// Code spans, and the lines of shell blocks.
    pub(super) fn shown(&self) -> Vec<String> {
        let lines = self.lines();
        let blocks = lines.iter().filter(|line| line.fence == Some("sh"));
        let mut found = self.code_spans();
        found.extend(blocks.map(|line| line.text.to_owned()));
        found
    }

    /// Where inline links lead.
    pub(super) fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1);
        targets
            .filter_map(|rest| rest.split_once(')'))
            .map(|(target, _)| target.to_owned())
            .collect()
    }

    /// What links may name behind `#`, as hosts of repositories and mdBook make it of headings.
    pub(super) fn anchors(&self) -> Vec<String> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let lines = self.lines();
        let headings = lines
            .iter()
            .filter(|line| line.fence.is_none() && line.text.starts_with('#'));
        headings
            .map(|line| {
                let anchor = slug(line.text.trim_start_matches('#').trim());
                let before = seen.entry(anchor.clone()).or_default();
                *before += 1;
                match *before {
                    1 => anchor,
                    more => format!("{anchor}-{}", more - 1),
                }
            })
            .collect()
    }
}

fn slug(heading: &str) -> String {
    let letters = heading.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        letter if letter.is_alphanumeric() => Some(letter.to_ascii_lowercase()),
        _ => None,
    });
    letters.collect()
}

/// All documents: those at the top that are there, the architecture, and everything below docs/.
pub(super) fn pages() -> Vec<Page> {
    let mut paths = vec![root().join("src/ARCHITECTURE.md")];
    let mut folders = vec![root(), root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of documents is readable") {
            let path = entry.expect("a folder entry is readable").path();
            if path.is_dir() && folder != root() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

/// One of them.
pub(super) fn page(name: &str) -> Page {
    Page::read(&root().join(name))
}

//! Which recordings there are, which cannot apply, and what the summary says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The list of what cannot apply stays below this.
const NOT_APPLICABLE_MAX: usize = 10;

/// Where the lists and the recordings lie.
pub struct Recordings {
    root: PathBuf,
}

impl Recordings {
    /// Those of the repository at `root`.
    pub fn of(root: &Path) -> Self {
        Self {
            root: root.join("tests/kernel-goldens"),
        }
    }

    /// `name: reason` by name, one a line; `#` begins a remark.
    pub fn listed(&self, file: &str) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.root.join(file)).unwrap_or_default();
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter(|line| !line.trim().is_empty())
            .map(|line| line.split_once(": ").unwrap_or((line.trim(), "")))
            .map(|(name, reason)| (name.to_owned(), reason.to_owned()))
            .collect()
    }

    /// What cannot apply to lvsd.
    pub fn not_applicable(&self) -> BTreeMap<String, String> {
        let list = self.listed("not-applicable.txt");
        assert!(
            list.len() < NOT_APPLICABLE_MAX,
            "{} recordings are too many to leave out",
            list.len()
        );
        list
    }

    /// Files of the folder that `LVS_GOLDENS` names, else of the repository's; of `LVS_GOLDENS_ONLY`, if set, alone.
    pub fn paths(&self) -> Vec<PathBuf> {
        let folders = match std::env::var_os("LVS_GOLDENS") {
            Some(folder) => vec![PathBuf::from(folder)],
            None => vec![self.root.join("recordings"), self.root.join("own")],
        };
        let only = std::env::var("LVS_GOLDENS_ONLY").ok();
        let is_wanted = |path: &PathBuf| {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            path.extension().is_some_and(|extension| extension == "json")
                && only.as_deref().is_none_or(|only| only == stem)
        };
        let mut paths: Vec<PathBuf> = folders
            .iter()
            .flat_map(|folder| fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())))
            .map(|entry| entry.expect("a readable entry").path())
            .filter(is_wanted)
            .collect();
        paths.sort();
        paths
    }
}

/// What became of all recordings.
#[derive(Default)]
pub struct Summary {
    pub passed: usize,
    pub failed: usize,
    /// Names and reasons.
    pub not_applicable: Vec<(String, String)>,
    /// The same: what this player does not play, and what does.
    pub elsewhere: Vec<(String, String)>,
    pub pending: usize,
}

impl Summary {
    /// Prints it, as the last lines.
    pub fn print(&self) -> ExitCode {
        for (name, reason) in &self.not_applicable {
            println!("not applicable: {name}: {reason}");
        }
        for (name, reason) in &self.elsewhere {
            println!("not here: {name}: {reason}");
        }
        let not_applicable = self.not_applicable.len();
        print!(
            "{} passed, {} failed, {not_applicable} not applicable",
            self.passed, self.failed
        );
        for (count, what) in [(self.elsewhere.len(), "not here"), (self.pending, "pending")] {
            if count > 0 {
                print!(", {count} {what}");
            }
        }
        println!();
        if self.failed == 0 && self.passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

//! What is wrong with a configuration file, where, and what to do about it.

use std::ops::Range;

use thiserror::Error;

use crate::ipvs::desired::ServiceError;
use crate::ipvs::mark::MarkError;
use crate::ipvs::sync::daemon::SyncDaemonError;
use crate::ipvs::sysctl::SysctlError;

/// A fault of the file: `lvsd.toml:12:10: workers.count: 0 is out of range: give 1 to 64`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{file_name}:{line}:{column}: {key}: {problem}")]
pub struct ConfigError {
    /// As given to [`super::Config::parse`].
    pub file_name: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Table and key, like `workers.count`.
    pub key: String,
    /// Cause and cure.
    pub problem: Box<ConfigProblem>,
}

/// Cause and cure.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ConfigProblem {
    /// Not TOML, an unknown or missing key, or a value of the wrong type.
    #[error("{message}: {cure}")]
    Text { message: String, cure: &'static str },
    /// Outside its range.
    #[error("{value} is out of range: give {min} to {max}")]
    OutOfRange { value: u64, min: u64, max: u64 },
    /// A name that must be unique is not.
    #[error("{what} {value} is there twice: {cure}")]
    Duplicate {
        what: &'static str,
        value: String,
        cure: &'static str,
    },
    /// A value that does not have the form it must have.
    #[error("{value:?} is not {wanted}: {cure}")]
    NotA {
        value: String,
        wanted: &'static str,
        cure: String,
    },
    /// Two keys that contradict each other.
    #[error(
        "{count} workers but {cores} worker cores: \
         give eal.worker_cores one core for each worker, or leave one of the two out"
    )]
    WorkersAndCores { count: u64, cores: usize },
    /// As the API would refuse it.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// As the API would refuse it.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// As the API would refuse it.
    #[error(transparent)]
    SyncDaemon(#[from] SyncDaemonError),
    /// As the API would refuse it.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// A fault at a place in the text.
#[derive(Debug)]
pub(super) struct Invalid {
    pub(super) span: Range<usize>,
    pub(super) problem: ConfigProblem,
}

impl Invalid {
    pub(super) fn located(self, text: &str, file_name: &str) -> ConfigError {
        let (line, column) = line_and_column(text, self.span.start);
        ConfigError {
            file_name: file_name.into(),
            line,
            column,
            key: key_at(text, self.span.start),
            problem: Box::new(self.problem),
        }
    }
}

impl ConfigError {
    /// From an error of the TOML parser.
    pub(super) fn of_toml(error: &toml::de::Error, text: &str, file_name: &str) -> Self {
        let message = error.message().trim().replace('\n', ", ");
        let cure = if message.starts_with("unknown field") {
            "correct its name or remove it; lvsd.reference.toml lists every key"
        } else if message.starts_with("missing field") {
            "add it; lvsd.reference.toml explains it"
        } else if message.starts_with("invalid") || message.starts_with("unknown variant") {
            "give a value as lvsd.reference.toml describes it"
        } else {
            "correct the line; it must be TOML (https://toml.io)"
        };
        let span = error.span().unwrap_or(0..0);
        Invalid {
            span,
            problem: ConfigProblem::Text { message, cure },
        }
        .located(text, file_name)
    }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// The table and key that a place belongs to: of the lines up to the place the last one that begins a value, and the
/// last table header before it.
fn key_at(text: &str, offset: usize) -> String {
    let end = text[offset.min(text.len())..]
        .find('\n')
        .map_or(text.len(), |newline| offset + newline);
    let (mut key, mut table) = (None, None);
    for line in text[..end].lines().rev().map(str::trim) {
        if line.starts_with('[') && line.trim_end_matches(|c| c != ']').ends_with(']') && !line.contains(',') {
            table = Some(
                line.split('#')
                    .next()
                    .unwrap_or(line)
                    .trim()
                    .trim_matches(['[', ']'])
                    .trim(),
            );
            break;
        }
        if key.is_none() && !line.starts_with('#') {
            key = line
                .split_once('=')
                .map(|(name, _)| name.trim())
                .filter(|name| !name.is_empty());
        }
    }
    match (table, key) {
        (Some(table), Some(key)) => format!("{table}.{key}"),
        (Some(name), None) | (None, Some(name)) => name.into(),
        (None, None) => "the file".into(),
    }
}

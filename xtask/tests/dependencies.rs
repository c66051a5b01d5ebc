//! What the workspace depends on is what `deny.toml` allows: licences, banned crates, one version of each, one registry.
//!
//! In:  `deny.toml` and `cargo metadata`, without a network. cargo-deny reads the same list and knows advisories besides
//! (`scripts/dev deny`). What is used is what a build for this machine uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, LicenseReq, Licensee};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn deny() -> toml::Table {
    let text = fs::read_to_string(root().join("deny.toml")).expect("deny.toml is readable");
    text.parse().expect("deny.toml is TOML")
}

/// The texts of a list in `deny.toml`.
fn texts<'table>(table: &'table toml::Table, chapter: &str, key: &str) -> Vec<&'table str> {
    let list = table[chapter].get(key).and_then(toml::Value::as_array);
    list.into_iter().flatten().filter_map(toml::Value::as_str).collect()
}

/// Names of the crates in a list of tables in `deny.toml`.
fn crates<'table>(table: &'table toml::Table, key: &str) -> Vec<&'table str> {
    let list = table["bans"].get(key).and_then(toml::Value::as_array);
    let entries = list.into_iter().flatten();
    entries
        .map(|entry| entry["crate"].as_str().expect("an entry names its crate"))
        .collect()
}

struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// The registry; none for the workspace's own.
    source: Option<String>,
}

/// All that a build for this machine can use.
fn packages() -> Vec<Package> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--offline",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            &target,
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let used: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let all = metadata["packages"].as_array().expect("packages").iter();
    all.filter(|package| package["id"].as_str().is_some_and(|id| used.contains(id)))
        .map(|package| Package {
            name: text(&package["name"]).expect("a name"),
            version: text(&package["version"]).expect("a version"),
            license: text(&package["license"]),
            source: text(&package["source"]),
        })
        .collect()
}

#[test]
fn licences_are_among_those_allowed() {
    let deny = deny();
    let allowed: Vec<Licensee> = texts(&deny, "licenses", "allow")
        .into_iter()
        .map(|text| Licensee::parse(text).unwrap_or_else(|error| panic!("deny.toml: {text}: {error}")))
        .collect();
    let (mut refused, mut needed) = (Vec::new(), BTreeSet::new());
    for Package {
        name, version, license, ..
    } in packages()
    {
        // Older crates separate choices by a slash.
        let text = license.unwrap_or_default().replace('/', " OR ");
        let Ok(expression) = Expression::parse(&text) else {
            refused.push(format!("{name} {version}: {text:?} is no licence"));
            continue;
        };
        let is_allowed = |requirement: &LicenseReq| allowed.iter().any(|licensee| licensee.satisfies(requirement));
        if !expression.evaluate(is_allowed) {
            refused.push(format!("{name} {version}: {text}"));
        }
        needed.extend(expression.requirements().map(|requirement| requirement.req.to_string()));
    }
    assert!(refused.is_empty(), "not in deny.toml's licenses.allow: {refused:#?}");
    let unused: Vec<_> = texts(&deny, "licenses", "allow")
        .into_iter()
        .filter(|text| !needed.contains(*text))
        .collect();
    assert!(
        unused.is_empty(),
        "deny.toml allows licences that nothing has: {unused:?}"
    );
}

#[test]
fn banned_crates_are_not_used() {
    let deny = deny();
    let banned = crates(&deny, "deny");
    let used: Vec<String> = packages().into_iter().map(|package| package.name).collect();
    let found: Vec<_> = banned
        .into_iter()
        .filter(|name| used.iter().any(|used| used == name))
        .collect();
    assert!(found.is_empty(), "banned by deny.toml: {found:?}");
}

#[test]
fn every_crate_is_there_once() {
    let deny = deny();
    let skipped = crates(&deny, "skip");
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        versions.entry(package.name).or_default().insert(package.version);
    }
    versions.retain(|_, versions| versions.len() > 1);
    let several: Vec<_> = versions
        .iter()
        .filter(|(name, _)| !skipped.contains(&name.as_str()))
        .collect();
    assert!(
        several.is_empty(),
        "in several versions; unify, or add to deny.toml's bans.skip: {several:#?}"
    );
    let needless: Vec<_> = skipped
        .into_iter()
        .filter(|name| !versions.contains_key(*name))
        .collect();
    assert!(needless.is_empty(), "deny.toml skips what is there once: {needless:?}");
}

#[test]
fn crates_come_from_the_registries_allowed() {
    let deny = deny();
    let allowed = texts(&deny, "sources", "allow-registry");
    let is_allowed = |source: &str| {
        source
            .strip_prefix("registry+")
            .is_some_and(|registry| allowed.contains(&registry))
    };
    let found: Vec<_> = packages()
        .into_iter()
        .filter_map(|package| package.source.map(|source| (package.name, source)))
        .filter(|(_, source)| !is_allowed(source))
        .collect();
    assert!(found.is_empty(), "from elsewhere than deny.toml allows: {found:?}");
}

//! What an edited configuration file changes in a director that runs.
//!
//! In:  what the file said when it was last loaded (the base), what it says now, and what runs.
//! Out: what shall run: the file's edits on top of what was changed at run time. A wrong file changes nothing.

use std::collections::HashMap;
use std::fs;
use std::hash::Hash;
use std::path::PathBuf;
use std::time::Instant;

use lvs_api::{
    ApiError, ErrorCode, MarkRule, ReloadReport, Server, Service, Settings, State, SyncDaemon, SyncRole, Timeouts,
};
use lvs_core::config::Config;

use crate::mgmt::director::{Director, convert, settings};
use crate::mgmt::sync::settings::SyncSettings;

#[cfg(test)]
mod tests;

/// Tables of the file that take effect while the director runs; all others are read once, at start.
const LIVE: &[&str] = &["ipvs", "mark", "service", "sync", "sync_daemon", "sysctl", "timeouts"];

/// The configuration file, to be read again.
pub struct Reloader {
    path: PathBuf,
    /// The file as it was at start. Everything that needs a restart still runs as it says.
    started: toml::Table,
}

impl Reloader {
    /// A reloader of the file at `path`, which held `text` at start.
    pub fn new(path: PathBuf, text: &str) -> Self {
        // The text was parsed as a configuration before, so this cannot fail. An empty table would name every key as
        // changed.
        Self {
            path,
            started: text.parse().unwrap_or_default(),
        }
    }

    /// Reads the file and applies what changed in it. A file that is missing or wrong changes nothing.
    pub fn reload(&self, director: &mut Director, now: Instant) -> Result<ReloadReport, ApiError> {
        let refused =
            |message: String| ApiError::new(ErrorCode::ConfigRefused, format!("{message}; nothing was changed"));
        let name = self.path.display().to_string();
        let text = fs::read_to_string(&self.path).map_err(|error| refused(format!("{name}: {error}")))?;
        let config = Config::parse(&text, &name).map_err(|error| refused(error.to_string()))?;
        // A file of the same name may hold another key now.
        let sync = SyncSettings::read(&config.sync).map_err(|error| refused(error.to_string()))?;
        let mut report = load(director, &config, sync, now)?;
        let table = text
            .parse()
            .map_err(|error: toml::de::Error| refused(error.to_string()))?;
        report.restart_needed = restart_needed(&self.started, &table, LIVE);
        Ok(report)
    }
}

/// Brings what changed in the file since it was last loaded into the director, at start and on reload. `sync` is what its
/// `[sync]` says.
pub fn load(
    director: &mut Director,
    config: &Config,
    sync: SyncSettings,
    now: Instant,
) -> Result<ReloadReport, ApiError> {
    let devices: Vec<String> = config.devices.iter().map(|device| device.name.clone()).collect();
    let file = state_of(config, &devices);
    let merged = merge(director.base(), &file, director.state());
    let applied = director.rebase(merged.state, file, now)?;
    director.set_overhead(config.overhead, now);
    director.set_sync_settings(sync, now);
    Ok(ReloadReport {
        applied,
        left_out: merged.left_out,
        restart_needed: Vec::new(),
    })
}

fn state_of(config: &Config, devices: &[String]) -> State {
    let services = config
        .services
        .iter()
        .map(|service| convert::service(&service.spec, &service.local_addresses, service.servers.iter()));
    State {
        services: services.collect(),
        timeouts: Some(convert::timeouts(&config.timeouts)),
        sync_daemons: Some(config.sync_daemons.iter().map(convert::sync_daemon).collect()),
        sysctls: Some(settings::sysctls(&config.sysctls)),
        marks: Some(settings::marks(&config.marks, devices)),
    }
}

/// What shall run, and the edits that concern what no longer runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// What shall run.
    pub state: State,
    /// Edits of the file that concern what was removed at run time, a sentence for each.
    pub left_out: Vec<String>,
}

/// Applies the difference between `base` and `file` to `running`.
pub fn merge(base: &State, file: &State, running: State) -> Merged {
    let mut merged = Merged {
        state: running,
        left_out: Vec::new(),
    };
    let key = |service: &Service| service.service;
    let (old, new) = (by(&base.services, key), by(&file.services, key));
    merged
        .state
        .services
        .retain(|service| !old.contains_key(&key(service)) || new.contains_key(&key(service)));
    for service in &file.services {
        let running = merged
            .state
            .services
            .iter_mut()
            .find(|running| running.service == service.service);
        match (old.get(&service.service), running) {
            (old, Some(running)) => merge_service(old.copied(), service, running, &mut merged.left_out),
            (None, None) => merged.state.services.push(service.clone()),
            (Some(old), None) if *old != service => {
                let id = service.service;
                merged.left_out.push(format!(
                    "service {id} was deleted at run time; add it again to use its new settings"
                ));
            }
            (Some(_), None) => {}
        }
    }
    merged.state.timeouts = merge_timeouts(base.timeouts, file.timeouts, merged.state.timeouts);
    let (old, new) = (base.sync_daemons.as_deref(), file.sync_daemons.as_deref());
    merge_sync_daemons(old.unwrap_or_default(), new, &mut merged.state.sync_daemons);
    merged.state.sysctls = merge_sysctls(base, file, merged.state.sysctls);
    if let (Some(file), Some(running)) = (&file.marks, merged.state.marks.take()) {
        let base = base.marks.as_deref().unwrap_or_default();
        merged.state.marks = Some(merge_marks(base, file, running, &mut merged.left_out));
    }
    merged
}

/// Applies to the sync daemons what the file starts, stops or changes. Other daemons run on as they are.
fn merge_sync_daemons(base: &[SyncDaemon], file: Option<&[SyncDaemon]>, running: &mut Option<Vec<SyncDaemon>>) {
    let Some(file) = file else { return };
    for role in SyncRole::ALL {
        let of = |daemons: &[SyncDaemon]| daemons.iter().find(|daemon| daemon.role == role).cloned();
        let new = of(file);
        if of(base) != new {
            let running = running.get_or_insert_default();
            running.retain(|daemon| daemon.role != role);
            running.extend(new);
            running.sort_by_key(|daemon| daemon.role);
        }
    }
}

fn by<T, K: Hash + Eq>(items: &[T], key: impl Fn(&T) -> K) -> HashMap<K, &T> {
    items.iter().map(|item| (key(item), item)).collect()
}

/// Sets `new` where the file was edited, or where the file says it for the first time.
fn edit<T: PartialEq + Clone>(old: Option<&T>, new: &T, running: &mut T) {
    if old != Some(new) {
        *running = new.clone();
    }
}

fn merge_service(base: Option<&Service>, file: &Service, running: &mut Service, left_out: &mut Vec<String>) {
    let mut settings = running.settings();
    settings.merge(base.map(Service::settings).as_ref(), &file.settings());
    let scheduling = |service: &Service| (service.scheduler.clone(), service.scheduler_flags.clone());
    if base.is_none_or(|base| scheduling(base) != scheduling(file)) {
        // A scheduler and its options belong together.
        (settings.scheduler, settings.scheduler_flags) = scheduling(file);
    }
    running.set(settings);
    edit(
        base.map(|base| &base.local_addresses),
        &file.local_addresses,
        &mut running.local_addresses,
    );
    let key = |server: &Server| server.server;
    let (old, new) = (
        by(base.map_or(&[][..], |base| &base.servers), key),
        by(&file.servers, key),
    );
    running
        .servers
        .retain(|server| !old.contains_key(&key(server)) || new.contains_key(&key(server)));
    for server in &file.servers {
        let old = old.get(&server.server).copied();
        let mut present = running.servers.iter_mut();
        match (old, present.find(|running| running.server == server.server)) {
            (old, Some(running)) => {
                let mut settings = running.settings();
                settings.merge(old.map(Server::settings).as_ref(), &server.settings());
                running.set(settings);
            }
            (None, None) => running.servers.push(server.clone()),
            (Some(old), None) if old != server => {
                let (end, id) = (server.server, file.service);
                left_out.push(format!(
                    "server {end} of {id} was deleted at run time; add it again to use its new settings"
                ));
            }
            (Some(_), None) => {}
        }
    }
}

fn merge_timeouts(base: Option<Timeouts>, file: Option<Timeouts>, running: Option<Timeouts>) -> Option<Timeouts> {
    let (Some(file), Some(mut merged)) = (file, running) else {
        return running.or(file);
    };
    let Timeouts {
        tcp_sec,
        tcp_fin_sec,
        udp_sec,
    } = file;
    edit(base.as_ref().map(|base| &base.tcp_sec), &tcp_sec, &mut merged.tcp_sec);
    edit(
        base.as_ref().map(|base| &base.tcp_fin_sec),
        &tcp_fin_sec,
        &mut merged.tcp_fin_sec,
    );
    edit(base.as_ref().map(|base| &base.udp_sec), &udp_sec, &mut merged.udp_sec);
    Some(merged)
}

fn merge_sysctls(base: &State, file: &State, running: Option<Settings>) -> Option<Settings> {
    let (Some(file), Some(mut merged)) = (&file.sysctls, running) else {
        return None;
    };
    let base = base.sysctls.as_ref();
    for name in base.into_iter().flatten().chain(file).map(|(name, _)| name) {
        // If the file no longer names a setting, the setting gets its default.
        if base.and_then(|base| base.get(name)) != file.get(name) {
            match file.get(name) {
                Some(value) => merged.insert(name.clone(), value.clone()),
                None => merged.remove(name),
            };
        }
    }
    Some(merged)
}

/// The rules of the file in its order. A rule that was added at run time follows the rule that it followed before.
fn merge_marks(
    base: &[MarkRule],
    file: &[MarkRule],
    running: Vec<MarkRule>,
    left_out: &mut Vec<String>,
) -> Vec<MarkRule> {
    if base == file {
        return running;
    }
    let same = |rules: &[MarkRule], rule: &MarkRule| rules.iter().position(|other| other.has_conditions_of(rule));
    let mut merged = Vec::new();
    for rule in file {
        let old = same(base, rule).and_then(|index| base.get(index));
        let now = same(&running, rule).and_then(|index| running.get(index));
        match (old, now) {
            (Some(old), Some(now)) => merged.push(if old == rule { now.clone() } else { rule.clone() }),
            (None, _) => merged.push(rule.clone()),
            (Some(old), None) if old != rule => left_out.push(format!(
                "a rule for mark {} was deleted at run time; add it again to use its new settings",
                rule.mark
            )),
            (Some(_), None) => {}
        }
    }
    let mut place = 0;
    for rule in running {
        if let Some(index) = same(&merged, &rule) {
            place = index + 1;
        } else if same(base, &rule).is_none() {
            merged.insert(place, rule);
            place += 1;
        }
    }
    merged
}

/// Keys that differ between two configuration files, the tables in `live` aside: `workers.count`.
fn restart_needed(started: &toml::Table, now: &toml::Table, live: &[&str]) -> Vec<String> {
    let mut keys = Vec::new();
    let names = started
        .keys()
        .chain(now.keys().filter(|name| !started.contains_key(*name)));
    for name in names.filter(|name| !live.contains(&name.as_str())) {
        differing(name, started.get(name), now.get(name), &mut keys);
    }
    keys.sort_unstable();
    keys
}

fn differing(place: &str, old: Option<&toml::Value>, new: Option<&toml::Value>, keys: &mut Vec<String>) {
    let empty = toml::Table::new();
    let table = |value: Option<&toml::Value>| value.map_or(Some(empty.clone()), |value| value.as_table().cloned());
    match (table(old), table(new)) {
        (Some(old), Some(new)) => {
            for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
                differing(&format!("{place}.{name}"), old.get(name), new.get(name), keys);
            }
        }
        _ if old != new => keys.push(place.to_owned()),
        _ => {}
    }
}

//! The difference between two desired states, for people and as the actions that lead from one to the other.
//!
//! Pure. What is equal is left alone, so connections and scheduler cursors of unchanged services stay.

use std::collections::{BTreeSet, HashMap, HashSet};

use lvs_api::{
    Action, ApiError, ErrorCode, Server, ServerOfService, Service, ServiceId, Settings, State, StateDiff, SyncRole,
};

use super::settings;

/// An action and the place in the new state that asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// `services[2].servers[0]`; empty for removals.
    pub place: String,
    /// What to do.
    pub action: Action,
}

/// The actions that lead from `from` to `to`. Removals come first, so that limits and ids are free for what is added.
pub fn difference(from: &State, to: &State) -> Result<(StateDiff, Vec<Edit>), ApiError> {
    refuse_duplicates(to)?;
    let old: HashMap<_, _> = from.services.iter().map(|service| (service.service, service)).collect();
    let desired: HashSet<_> = to.services.iter().map(|service| service.service).collect();
    let mut plan = Plan::default();
    for service in from
        .services
        .iter()
        .filter(|service| !desired.contains(&service.service))
    {
        plan.diff.services_removed.push(service.service);
        plan.edit(String::new(), Action::DeleteService(service.service));
    }
    for (index, service) in to.services.iter().enumerate() {
        let place = format!("services[{index}]");
        match old.get(&service.service) {
            Some(old) => plan.change_service(&place, old, service),
            None => plan.add_service(place, service),
        }
    }
    if let Some(timeouts) = to.timeouts
        && from.timeouts != to.timeouts
    {
        plan.diff.timeouts_changed = true;
        plan.edit("timeouts".to_owned(), Action::SetTimeouts(timeouts.into()));
    }
    plan.change_sync_daemons(from, to);
    plan.change_sysctls(from, to);
    if let Some(marks) = &to.marks
        && from.marks.as_ref() != Some(marks)
    {
        plan.diff.marks_changed = true;
        plan.edit("marks".to_owned(), Action::SetMarks(marks.clone()));
    }
    Ok((plan.diff, plan.edits))
}

fn refuse_duplicates(state: &State) -> Result<(), ApiError> {
    let mut services = HashSet::new();
    for (index, service) in state.services.iter().enumerate() {
        let id = service.service;
        if !services.insert(id) {
            let message = format!("virtual service {id} is listed twice; merge both entries into one");
            return Err(ApiError::new(ErrorCode::ServiceExists, message).at(format!("services[{index}]")));
        }
        let mut servers = HashSet::new();
        for (position, server) in service.servers.iter().enumerate() {
            let end = server.server;
            if !servers.insert(end) {
                let message = format!("real server {end} is listed twice in {id}; merge both entries into one");
                let place = format!("services[{index}].servers[{position}]");
                return Err(ApiError::new(ErrorCode::ServerExists, message).at(place));
            }
        }
    }
    let daemons = state.sync_daemons.as_deref().unwrap_or_default();
    for (index, daemon) in daemons.iter().enumerate() {
        if daemons[..index].iter().any(|other| other.role == daemon.role) {
            let message = format!(
                "the {} sync daemon is listed twice; at most one of each role runs",
                daemon.role
            );
            return Err(ApiError::new(ErrorCode::SyncDaemonExists, message).at(format!("sync_daemons[{index}]")));
        }
    }
    Ok(())
}

#[derive(Default)]
struct Plan {
    diff: StateDiff,
    edits: Vec<Edit>,
}

impl Plan {
    fn edit(&mut self, place: String, action: Action) {
        self.edits.push(Edit { place, action });
    }

    fn change_sync_daemons(&mut self, from: &State, to: &State) {
        let Some(desired) = &to.sync_daemons else { return };
        let running = from.sync_daemons.as_deref().unwrap_or_default();
        for role in SyncRole::ALL {
            let old = running.iter().find(|daemon| daemon.role == role);
            let new = desired.iter().enumerate().find(|(_, daemon)| daemon.role == role);
            if old == new.map(|(_, daemon)| daemon) {
                continue;
            }
            self.diff.sync_daemons_changed.push(role);
            if old.is_some() {
                self.edit(String::new(), Action::StopSyncDaemon(role));
            }
            if let Some((index, daemon)) = new {
                self.edit(
                    format!("sync_daemons[{index}]"),
                    Action::StartSyncDaemon(daemon.clone()),
                );
            }
        }
    }

    /// Settings that `to` does not name get their defaults, unless it says nothing about settings at all.
    fn change_sysctls(&mut self, from: &State, to: &State) {
        let Some(desired) = &to.sysctls else { return };
        let running = from.sysctls.clone().unwrap_or_default();
        let value = |of: &Settings, name: &str| of.get(name).cloned().or_else(|| settings::sysctl_default(name));
        let names: BTreeSet<&String> = running.keys().chain(desired.keys()).collect();
        let changed = names.into_iter().filter_map(|name| {
            let new = value(desired, name)?;
            (value(&running, name).as_ref() != Some(&new)).then(|| (name.clone(), new))
        });
        let changed: Settings = changed.collect();
        if !changed.is_empty() {
            self.diff.sysctls_changed = changed.keys().cloned().collect();
            self.edit("sysctls".to_owned(), Action::SetSysctls(changed));
        }
    }

    fn add_service(&mut self, place: String, service: &Service) {
        self.diff.services_added.push(service.service);
        let of = |server: &Server| ServerOfService {
            service: service.service,
            server: server.server,
        };
        self.diff.servers_added.extend(service.servers.iter().map(of));
        self.edit(place, Action::AddService(service.clone()));
    }

    fn change_pool(&mut self, place: &str, old: &Service, new: &Service) {
        if old.local_addresses != new.local_addresses {
            self.diff.local_addresses_changed.push(new.service);
            let action = Action::SetLocalAddresses {
                service: new.service,
                addresses: new.local_addresses.clone(),
            };
            self.edit(format!("{place}.local_addresses"), action);
        }
    }

    fn change_service(&mut self, place: &str, old: &Service, new: &Service) {
        let id = new.service;
        // A service that carries the client's address needs a pool. So the pool is set first and removed last.
        let has_pool = !new.local_addresses.is_empty();
        if has_pool {
            self.change_pool(place, old, new);
        }
        let settings = new.settings();
        if old.settings() != settings {
            self.diff.services_changed.push(id);
            let patch = settings.into();
            self.edit(place.to_owned(), Action::EditService { service: id, patch });
        }
        let desired: HashSet<_> = new.servers.iter().map(|server| server.server).collect();
        for server in old.servers.iter().filter(|server| !desired.contains(&server.server)) {
            let (service, server) = (id, server.server);
            self.diff.servers_removed.push(ServerOfService { service, server });
            self.edit(String::new(), Action::DeleteServer { service, server });
        }
        if !has_pool {
            self.change_pool(place, old, new);
        }
        let present: HashMap<_, _> = old.servers.iter().map(|server| (server.server, server)).collect();
        for (index, server) in new.servers.iter().enumerate() {
            let old = present.get(&server.server).copied();
            self.change_server(format!("{place}.servers[{index}]"), id, old, server);
        }
    }

    fn change_server(&mut self, place: String, service: ServiceId, old: Option<&Server>, new: &Server) {
        let of = ServerOfService {
            service,
            server: new.server,
        };
        match old {
            None => {
                self.diff.servers_added.push(of);
                let server = new.clone();
                self.edit(place, Action::AddServer { service, server });
            }
            Some(old) if old != new => {
                self.diff.servers_changed.push(of);
                let (server, patch) = (new.server, new.settings().into());
                self.edit(place, Action::EditServer { service, server, patch });
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(text: &str) -> State {
        serde_json::from_str(text).unwrap()
    }

    const BEFORE: &str = r#"{"services": [
        {"service": "tcp:192.0.2.1:80", "scheduler": "rr",
         "servers": [{"server": "198.51.100.1:80"}, {"server": "198.51.100.2:80", "weight": 2}]},
        {"service": "udp:192.0.2.1:53"}]}"#;

    #[test]
    fn a_state_does_not_differ_from_itself() {
        let (diff, edits) = difference(&state(BEFORE), &state(BEFORE)).unwrap();
        assert!(diff.is_empty() && edits.is_empty());
    }

    #[test]
    fn only_what_differs_is_touched_and_removals_come_first() {
        let after = state(
            r#"{"services": [
            {"service": "tcp:192.0.2.1:80", "scheduler": "wrr", "local_addresses": ["198.51.100.250"],
             "servers": [{"server": "198.51.100.2:80", "weight": 3}, {"server": "198.51.100.3:80"}]},
            {"service": "tcp:192.0.2.2:80", "servers": [{"server": "198.51.100.9:80"}]}],
            "timeouts": {"tcp_sec": 900, "tcp_fin_sec": 120, "udp_sec": 10}}"#,
        );
        let (diff, edits) = difference(&state(BEFORE), &after).unwrap();
        let lengths = [
            diff.services_added.len(),
            diff.services_changed.len(),
            diff.services_removed.len(),
            diff.servers_added.len(),
            diff.servers_changed.len(),
            diff.servers_removed.len(),
            diff.local_addresses_changed.len(),
        ];
        assert_eq!(lengths, [1, 1, 1, 2, 1, 1, 1]);
        assert!(diff.timeouts_changed);
        assert_eq!(
            edits[0].action,
            Action::DeleteService("udp:192.0.2.1:53".parse().unwrap())
        );
        let places: Vec<_> = edits.iter().map(|edit| edit.place.as_str()).collect();
        let expected = [
            "",
            "services[0].local_addresses",
            "services[0]",
            "",
            "services[0].servers[0]",
            "services[0].servers[1]",
            "services[1]",
            "timeouts",
        ];
        assert_eq!(places, expected);
    }

    #[test]
    fn timeouts_that_are_not_mentioned_stay() {
        let mut before = state(BEFORE);
        before.timeouts = Some(lvs_api::Timeouts {
            tcp_sec: 1,
            tcp_fin_sec: 2,
            udp_sec: 3,
        });
        assert!(difference(&before, &state(BEFORE)).unwrap().0.is_empty());
    }

    #[test]
    fn a_sync_daemon_that_differs_stops_and_starts_and_one_that_is_not_mentioned_stays() {
        let with = |daemons: &str| state(&format!(r#"{{"services": [], "sync_daemons": {daemons}}}"#));
        let master = r#"{"role": "master", "interface": "lan", "sync_id": 7}"#;
        let before = with(&format!("[{master}]"));
        assert!(difference(&before, &state(r#"{"services": []}"#)).unwrap().0.is_empty());
        let after = with(&format!(
            r#"[{{"role": "backup", "interface": "lan"}}, {}]"#,
            master.replace('7', "8")
        ));
        let (diff, edits) = difference(&before, &after).unwrap();
        assert_eq!(diff.sync_daemons_changed, SyncRole::ALL);
        let places: Vec<_> = edits.iter().map(|edit| edit.place.as_str()).collect();
        assert_eq!(places, ["", "sync_daemons[1]", "sync_daemons[0]"]);
        let (_, edits) = difference(&before, &with("[]")).unwrap();
        assert_eq!(edits[0].action, Action::StopSyncDaemon(SyncRole::Master));
        let twice = with(&format!("[{master}, {master}]"));
        assert_eq!(
            difference(&before, &twice).unwrap_err().place.as_deref(),
            Some("sync_daemons[1]")
        );
    }

    #[test]
    fn duplicates_are_refused_with_their_place() {
        let twice = r#"{"services": [{"service": "tcp:192.0.2.1:80"}, {"service": "tcp:192.0.2.1:80"}]}"#;
        let error = difference(&State::default(), &state(twice)).unwrap_err();
        assert_eq!(
            (error.code, error.place.as_deref()),
            (ErrorCode::ServiceExists, Some("services[1]"))
        );
        let twice = r#"{"services": [{"service": "tcp:192.0.2.1:80",
            "servers": [{"server": "198.51.100.1:80"}, {"server": "198.51.100.1:80"}]}]}"#;
        let error = difference(&State::default(), &state(twice)).unwrap_err();
        assert_eq!(
            (error.code, error.place.as_deref()),
            (ErrorCode::ServerExists, Some("services[0].servers[1]"))
        );
    }
}

//! The desired state: what the operator has asked for, and what each action makes of it.
//!
//! In:  actions, whole states. Out: the next desired state, or a refusal with its place and nothing changed.
//! Never: takes a lock, reads a clock, does I/O or knows a worker: the director around it journals, publishes and counts.

use std::net::SocketAddr;
use std::sync::Arc;

use lvs_api::{
    Action, ApiError, ErrorCode, MarkRule, Mode, Server, ServerPatch, Service, ServiceId, ServicePatch, SettingValue,
    Settings, State, SyncDaemon, SyncRole, Tunnel,
};
use lvs_core::address::AddressFamily;
use lvs_core::ipvs::client_address;
use lvs_core::ipvs::desired::{DesiredServices, ServerListing, ServiceError, ServiceListing, ServiceSpec};
use lvs_core::ipvs::mark::{MarkError, MarkRules};
use lvs_core::ipvs::protocol::{TimeoutError, Timeouts};
use lvs_core::ipvs::service::ServiceKey;
use lvs_core::ipvs::sync::daemon::{self, SyncDaemonError};
use lvs_core::ipvs::sysctl::Sysctls;

use super::{convert, diff, settings};
use crate::mgmt::journal::{Deleted, Drained, Whole};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct DesiredState {
    pub(super) services: DesiredServices,
    pub(super) timeouts: Timeouts,
    /// The master first.
    pub(super) daemons: Vec<daemon::SyncDaemon>,
    pub(super) sysctls: Sysctls,
    pub(super) marks: Arc<MarkRules>,
    /// Names of the devices that mark rules may name, by id.
    pub(super) devices: Arc<[String]>,
}

impl DesiredState {
    /// Nothing is asked for yet; mark rules may name `devices`, by their ids.
    pub(super) fn new(devices: Arc<[String]>) -> Self {
        Self {
            services: DesiredServices::default(),
            timeouts: Timeouts::default(),
            daemons: Vec::new(),
            sysctls: Sysctls::default(),
            marks: Arc::default(),
            devices,
        }
    }

    /// Quiesced servers and the weight that each had before. mh fills its table by these weights.
    pub(super) fn drained(&self) -> Vec<Drained> {
        let mut drained = Vec::new();
        for listing in self.services.services() {
            let service = convert::id(&listing.spec.key);
            for listed in listing
                .servers()
                .filter(|listed| listed.spec.weight == 0 && listed.last_weight > 0)
            {
                let server = SocketAddr::new(listed.spec.addr, listed.spec.port);
                drained.push(Drained {
                    service,
                    server,
                    last_weight: listed.last_weight,
                });
            }
        }
        drained
    }

    /// Servers that were deleted while connections may still refer to them.
    fn deleted(&self) -> Vec<Deleted> {
        let deleted = self.services.deleted().map(|(key, spec, last_weight)| Deleted {
            service: convert::id(key),
            server: convert::server(spec),
            last_weight,
        });
        deleted.collect()
    }

    /// Everything that a restart needs, beside what the configuration file said.
    pub(super) fn whole(&self, base: State) -> Whole {
        Whole {
            drained: self.drained(),
            deleted: self.deleted(),
            ..Whole::new(self.state(), base)
        }
    }

    /// Makes this state, which is new, a whole one that was stored. Returns what was refused and is left out.
    pub(super) fn restore(&mut self, whole: &Whole) -> Vec<ApiError> {
        let mut refused = Vec::new();
        refused.extend(replayed(whole).iter().filter_map(|action| self.apply(action).err()));
        for Deleted {
            service,
            server,
            last_weight,
        } in &whole.deleted
        {
            let spec = convert::server_spec(server);
            let remembered = self
                .services
                .remember_deleted(&convert::key(service), spec, *last_weight);
            refused.extend(remembered.map_err(convert::refusal).err());
        }
        refused
    }

    pub(super) fn state(&self) -> State {
        State {
            services: self.services.services().map(|listing| service_of(&listing)).collect(),
            timeouts: Some(convert::timeouts(&self.timeouts)),
            sync_daemons: Some(self.daemons.iter().map(convert::sync_daemon).collect()),
            sysctls: Some(settings::sysctls(&self.sysctls)),
            marks: Some(self.mark_rules()),
        }
    }

    /// Carries out one action as a whole or not at all. A refusal names its place inside the action.
    pub(super) fn apply(&mut self, action: &Action) -> Result<(), ApiError> {
        match action {
            Action::AddService(service) => {
                let id = &service.service;
                self.add_service(service).inspect_err(|error| {
                    if error.code != ErrorCode::ServiceExists && self.services.listing(&convert::key(id)).is_ok() {
                        // Undoes the part that was carried out. The service did not exist before.
                        let _ = self.services.delete_service(&convert::key(id));
                    }
                })
            }
            Action::EditService { service, patch } => self.edit_service(service, patch),
            Action::DeleteService(service) => self
                .services
                .delete_service(&convert::key(service))
                .map_err(convert::refusal),
            Action::Flush => {
                self.services.flush();
                Ok(())
            }
            Action::AddServer { service, server } => self.add_server(service, server),
            Action::EditServer { service, server, patch } => self.edit_server(service, *server, patch),
            Action::DeleteServer { service, server } => self
                .services
                .delete_server(&convert::key(service), server.ip(), server.port())
                .map_err(convert::refusal),
            Action::SetLocalAddresses { service, addresses } => self
                .services
                .set_local_addresses(&convert::key(service), addresses.clone())
                .map_err(convert::refusal),
            Action::SetTimeouts(patch) => {
                let lvs_api::TimeoutsPatch {
                    tcp_sec,
                    tcp_fin_sec,
                    udp_sec,
                } = *patch;
                let refused = |error: TimeoutError| {
                    let TimeoutError::TooLong { name, .. } = error;
                    ApiError::new(ErrorCode::Refused, error.to_string()).at(name)
                };
                self.timeouts.set(tcp_sec, tcp_fin_sec, udp_sec).map_err(refused)
            }
            Action::StartSyncDaemon(daemon) => self.start_sync_daemon(daemon),
            Action::StopSyncDaemon(role) => self.stop_sync_daemon(*role),
            Action::SetSysctls(named) => self.set_sysctls(named),
            Action::SetMarks(rules) => self.set_marks(rules),
            Action::AddMark { position, rule } => self.add_mark(*position, rule),
            Action::DeleteMark { position } => self.delete_mark(*position),
            Action::ReplaceState(state) => {
                let (_, edits) = diff::difference(&self.state(), state)?;
                let mut next = self.clone();
                next.apply_edits(&edits)?;
                *self = next;
                Ok(())
            }
        }
    }

    /// Carries out several actions. After a refusal `self` must not be used any more, because some of them are carried
    /// out.
    pub(super) fn apply_edits(&mut self, edits: &[diff::Edit]) -> Result<(), ApiError> {
        for edit in edits {
            self.apply(&edit.action).map_err(|error| {
                let place = match &error.place {
                    Some(inner) if inner.starts_with('[') => format!("{}{inner}", edit.place),
                    Some(inner) if !edit.place.is_empty() => format!("{}.{inner}", edit.place),
                    _ => edit.place.clone(),
                };
                error.at(place)
            })?;
        }
        Ok(())
    }

    fn add_service(&mut self, service: &Service) -> Result<(), ApiError> {
        let id = &service.service;
        let spec = convert::service_spec(id, &service.settings())?;
        let key = convert::key(id);
        let without_pool = ServiceSpec {
            client_address: client_address::ClientAddress::None,
            ..spec
        };
        self.services.add_service(without_pool).map_err(convert::refusal)?;
        if !service.local_addresses.is_empty() {
            let addresses = service.local_addresses.clone();
            self.services
                .set_local_addresses(&key, addresses)
                .map_err(convert::refusal)?;
        }
        if spec != without_pool {
            self.services.edit_service(spec).map_err(convert::refusal)?;
        }
        for (index, server) in service.servers.iter().enumerate() {
            self.add_server(id, server).map_err(|error| {
                let inner = error.place.clone().unwrap_or_default();
                error.at(format!("servers[{index}].{inner}"))
            })?;
        }
        Ok(())
    }

    fn edit_service(&mut self, id: &ServiceId, patch: &ServicePatch) -> Result<(), ApiError> {
        let listing = self.services.listing(&convert::key(id)).map_err(convert::refusal)?;
        let mut old = convert::service_settings(listing.spec);
        if patch.scheduler.as_ref().is_some_and(|name| *name != old.scheduler) {
            // Another scheduler has other options.
            old.scheduler_flags.clear();
        }
        let spec = convert::service_spec(id, &old.patched(patch.clone()))?;
        self.services.edit_service(spec).map_err(convert::refusal)
    }

    fn add_server(&mut self, id: &ServiceId, server: &Server) -> Result<(), ApiError> {
        let spec = convert::server_spec(server);
        self.refuse_mixed(&convert::key(id), spec.addr)?;
        self.services
            .add_server(&convert::key(id), spec)
            .map(|_| ())
            .map_err(convert::refusal)
    }

    fn edit_server(&mut self, id: &ServiceId, end: SocketAddr, patch: &ServerPatch) -> Result<(), ApiError> {
        let key = convert::key(id);
        let listing = self.services.listing(&key).map_err(convert::refusal)?;
        let is_it = |listed: &ServerListing| (listed.spec.addr, listed.spec.port) == (end.ip(), end.port());
        let found = listing.servers().find(is_it);
        let Some(old) = found else {
            let missing = ServiceError::NoSuchServer {
                service: key,
                addr: end.ip(),
                port: end.port(),
            };
            return Err(convert::refusal(missing));
        };
        let mut old = convert::server(&old.spec).settings();
        if patch.mode.is_some_and(|mode| mode != Mode::Tunnel) {
            // A server that is no longer tunnelled keeps nothing of its tunnel.
            old.tunnel = Tunnel::Ipip;
        }
        let new = Server::new(old.patched(patch.clone()), end);
        self.services
            .edit_server(&key, convert::server_spec(&new))
            .map_err(convert::refusal)
    }

    /// Whether a real server has another family than its service. A sync message cannot express this.
    pub(super) fn has_mixed_families(&self) -> bool {
        self.services.services().any(|listing| {
            let family = listing.spec.key.family();
            listing
                .servers()
                .any(|server| AddressFamily::of(&server.spec.addr) != family)
        })
    }

    /// Refuses a server that sync messages cannot express while a sync daemon runs.
    pub(super) fn refuse_mixed(&self, key: &ServiceKey, addr: std::net::IpAddr) -> Result<(), ApiError> {
        if self.daemons.is_empty() || AddressFamily::of(&addr) == key.family() {
            return Ok(());
        }
        let message = "sync daemons run, and their messages cannot name a real server of another address family \
                       than its service: stop them first";
        Err(ApiError::new(ErrorCode::Refused, message).at("server"))
    }

    pub(super) fn start_sync_daemon(&mut self, desired: &SyncDaemon) -> Result<(), ApiError> {
        let daemon = convert::core_sync_daemon(desired);
        daemon.check().map_err(|error| daemon_refusal(&error))?;
        if self.has_mixed_families() {
            return Err(daemon_refusal(&SyncDaemonError::MixedFamilies));
        }
        let role = daemon.role;
        if self.daemons.iter().any(|other| other.role == role) {
            return Err(daemon_refusal(&SyncDaemonError::Exists { role }));
        }
        self.daemons.push(daemon);
        self.daemons.sort_by_key(|daemon| daemon.role);
        Ok(())
    }

    pub(super) fn stop_sync_daemon(&mut self, role: SyncRole) -> Result<(), ApiError> {
        let role = convert::core_sync_role(role);
        let count = self.daemons.len();
        self.daemons.retain(|daemon| daemon.role != role);
        if self.daemons.len() == count {
            return Err(daemon_refusal(&SyncDaemonError::Missing { role }));
        }
        Ok(())
    }

    /// Sets the named settings, all of them or none.
    pub(super) fn set_sysctls(&mut self, named: &Settings) -> Result<(), ApiError> {
        let mut next = self.sysctls;
        for (name, SettingValue(value)) in named {
            next.set(name, value)
                .map_err(|error| ApiError::new(ErrorCode::Refused, error.to_string()).at(name))?;
        }
        self.sysctls = next;
        Ok(())
    }

    /// The rules by the names of their devices.
    pub(super) fn mark_rules(&self) -> Vec<MarkRule> {
        settings::marks(&self.marks, &self.devices)
    }

    /// Sets all rules.
    pub(super) fn set_marks(&mut self, rules: &[MarkRule]) -> Result<(), ApiError> {
        let inside = |index: usize, error: ApiError| {
            let place = error
                .place
                .as_ref()
                .map_or_else(String::new, |place| format!(".{place}"));
            error.at(format!("[{index}]{place}"))
        };
        let mut core = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            core.push(convert::core_mark_rule(rule, &self.devices).map_err(|error| inside(index, error))?);
        }
        let checked = MarkRules::new(core).map_err(|error| match error.rule() {
            Some(index) => inside(index, mark_refusal(error)),
            None => mark_refusal(error),
        })?;
        self.marks = Arc::new(checked);
        Ok(())
    }

    /// Adds a rule behind `position` others. Without a position the rule becomes the last.
    pub(super) fn add_mark(&mut self, position: Option<usize>, rule: &MarkRule) -> Result<(), ApiError> {
        let mut rules = self.marks.rules().to_vec();
        let position = position.unwrap_or(rules.len());
        if position > rules.len() {
            let message = format!(
                "there are {} mark rules: give a number from 1 to {}",
                rules.len(),
                rules.len() + 1
            );
            return Err(ApiError::new(ErrorCode::Refused, message).at("number"));
        }
        rules.insert(position, convert::core_mark_rule(rule, &self.devices)?);
        self.marks = Arc::new(MarkRules::new(rules).map_err(mark_refusal)?);
        Ok(())
    }

    /// Deletes the one behind `position` others.
    pub(super) fn delete_mark(&mut self, position: usize) -> Result<(), ApiError> {
        let mut rules = self.marks.rules().to_vec();
        if position >= rules.len() {
            let message = match rules.len() {
                0 => "there are no mark rules".to_owned(),
                count => format!("there are {count} mark rules: give a number from 1 to {count}"),
            };
            return Err(ApiError::new(ErrorCode::NoSuchMark, message).at("number"));
        }
        rules.remove(position);
        self.marks = Arc::new(MarkRules::new(rules).map_err(mark_refusal)?);
        Ok(())
    }
}

/// The actions that lead to a whole state. Each service has an action of its own, so that the others can be carried out
/// if one is refused.
fn replayed(whole: &Whole) -> Vec<Action> {
    let mut services = whole.state.services.clone();
    let mut drains = Vec::new();
    for Drained {
        service,
        server,
        last_weight,
    } in &whole.drained
    {
        let of = services.iter_mut().find(|listed| listed.service == *service);
        let Some(found) = of.and_then(|of| of.servers.iter_mut().find(|listed| listed.server == *server)) else {
            continue;
        };
        // The server is added with the weight that it had before, and then drained again.
        found.weight = *last_weight;
        let patch = ServerPatch {
            weight: Some(0),
            ..ServerPatch::default()
        };
        drains.push(Action::EditServer {
            service: *service,
            server: *server,
            patch,
        });
    }
    let timeouts = whole
        .state
        .timeouts
        .map(|timeouts| Action::SetTimeouts(timeouts.into()));
    let daemons = whole.state.sync_daemons.iter().flatten().cloned();
    services
        .into_iter()
        .map(Action::AddService)
        .chain(drains)
        .chain(timeouts)
        .chain(daemons.map(Action::StartSyncDaemon))
        .chain(settings::replayed(&whole.state))
        .collect()
}

pub(super) fn service_of(listing: &ServiceListing<'_>) -> Service {
    let servers: Vec<_> = listing.servers().map(|listed| listed.spec).collect();
    convert::service(listing.spec, listing.local_addresses, servers.iter())
}

fn daemon_refusal(error: &SyncDaemonError) -> ApiError {
    let (code, place) = match error {
        SyncDaemonError::InterfaceName { .. } => (ErrorCode::Refused, "interface"),
        SyncDaemonError::Group { .. } => (ErrorCode::Refused, "group"),
        SyncDaemonError::Length { .. } => (ErrorCode::Refused, "max_len_bytes"),
        SyncDaemonError::Port => (ErrorCode::Refused, "port"),
        SyncDaemonError::Ttl => (ErrorCode::Refused, "ttl"),
        SyncDaemonError::Exists { .. } => (ErrorCode::SyncDaemonExists, "role"),
        SyncDaemonError::Missing { .. } => (ErrorCode::NoSuchSyncDaemon, ""),
        SyncDaemonError::MixedFamilies => (ErrorCode::Refused, ""),
    };
    ApiError::new(code, error.to_string()).at(place)
}

fn mark_refusal(error: MarkError) -> ApiError {
    let place = match error {
        MarkError::Zero { .. } => "mark",
        MarkError::MixedFamilies { .. } => "source",
        MarkError::PortsWithoutProtocol { .. } => "protocol",
        MarkError::TooManyRanges { .. } => "destination_ports",
        MarkError::EmptyRange { .. } | MarkError::Twice { .. } | MarkError::TooMany { .. } => "",
    };
    ApiError::new(ErrorCode::Refused, error.to_string()).at(place)
}

#[cfg(test)]
mod tests;

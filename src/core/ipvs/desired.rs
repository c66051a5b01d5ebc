//! The services as an operator wants them. Only the management core changes them; workers' tables are built from them.
//!
//! In: one change at a time, checked as ipvsadm and the kernel check it. Out: a [`ServiceTable`], or an error without
//!      any change. Pure: no clock, no I/O. An id is a slot that workers index by. It is reused only when no connection
//!      can refer to it any more. Follows Linux ip_vs_ctl.c `ip_vs_add_dest()`, `__ip_vs_update_dest()`,
//!      `ip_vs_trash_get_dest()`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::local_address::LocalAddressPool;
use crate::ipvs::persistence::Spread;
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::scheduler::{self, Overhead, SchedulerTable, TableInputs};
use crate::ipvs::service::{ServerSlot, ServiceId, ServiceKey, VirtualService};
use crate::ipvs::service_table::ServiceTable;
use crate::ipvs::tunnel_kind::TunnelKind;
use crate::limits::{REAL_SERVERS_MAX, SERVICES_MAX, TRASH_PERIOD_SEC};

mod check;
mod error;

pub use crate::ipvs::service::ServiceSpec;
pub use error::ServiceError;

/// A real server as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// Its address: unicast.
    pub addr: IpAddr,
    /// Its port; 0 for the port that packets come with.
    pub port: u16,
    /// 0 (quiesced) to 2147483647.
    pub weight: u32,
    /// `Nat`, `Tunnel` or `DirectRouting`.
    pub mode: ForwardingMode,
    /// How TUN wraps packets; of no effect in other modes.
    pub tunnel: TunnelKind,
    /// `-x`; 0 for none.
    pub upper_threshold: u32,
    /// `-y`; at most `upper_threshold`, 0 for ¾ of it.
    pub lower_threshold: u32,
}

impl ServerSpec {
    /// A server without thresholds.
    pub const fn new(addr: IpAddr, port: u16, mode: ForwardingMode, weight: u32) -> Self {
        Self {
            addr,
            port,
            weight,
            mode,
            tunnel: TunnelKind::IpIp,
            upper_threshold: 0,
            lower_threshold: 0,
        }
    }
}

/// A server of a service, for listings and the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerListing {
    /// Its slot.
    pub id: RealServerId,
    /// As configured.
    pub spec: ServerSpec,
    /// Its last weight above 0; 0 for none. mh fills its table by it. To restore a director exactly, add the server
    /// with this weight and then edit it to its own.
    pub last_weight: u32,
}

/// A service, for listings and the journal. To rebuild it, add the service, its pool and its servers in this order.
#[derive(Clone, Copy, Debug)]
pub struct ServiceListing<'desired> {
    /// Its slot.
    pub id: ServiceId,
    /// As configured.
    pub spec: &'desired ServiceSpec,
    /// Its local-address pool; empty for none.
    pub local_addresses: &'desired [IpAddr],
    servers: &'desired [DesiredServer],
}

impl<'desired> ServiceListing<'desired> {
    /// Its servers in the order of their addition.
    pub fn servers(&self) -> impl DoubleEndedIterator<Item = ServerListing> + ExactSizeIterator + use<'desired> {
        self.servers.iter().map(|server| ServerListing {
            id: server.id,
            spec: server.spec,
            last_weight: server.last_weight,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct DesiredServer {
    id: RealServerId,
    spec: ServerSpec,
    last_weight: u32,
}

#[derive(Clone, Debug)]
struct DesiredService {
    spec: ServiceSpec,
    /// Oldest first.
    servers: Vec<DesiredServer>,
    local_addresses: Arc<[IpAddr]>,
    /// What workers will see; always up to date.
    built: VirtualService,
}

/// What identifies a server that is added again.
type ServerKey = (ServiceKey, IpAddr, u16);

/// A deleted server that connections may still refer to.
#[derive(Clone, Debug)]
struct Trashed {
    service: ServiceId,
    server: DesiredServer,
    built: RealServer,
    /// When it was first seen without connections, in seconds.
    idle_since_sec: Option<u64>,
}

/// Ids from 0, the lowest free one first.
#[derive(Clone, Debug, Default)]
struct Slots {
    freed: BTreeSet<u32>,
    next: u32,
}

impl Slots {
    fn take(&mut self, slots_max: usize) -> Option<u32> {
        if let Some(slot) = self.freed.pop_first() {
            return Some(slot);
        }
        ((self.next as usize) < slots_max).then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    fn free(&mut self, slot: u32) {
        self.freed.insert(slot);
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct DesiredServices {
    overhead: Overhead,
    /// By the revision at which they were added.
    services: BTreeMap<u64, DesiredService>,
    by_key: HashMap<ServiceKey, u64>,
    trash: BTreeMap<ServerKey, Trashed>,
    service_ids: Slots,
    server_ids: Slots,
    /// Of the last change.
    revision: u64,
}

impl DesiredServices {
    /// No services; schedulers will weigh connections by `overhead`.
    pub fn new(overhead: Overhead) -> Self {
        Self {
            overhead,
            ..Self::default()
        }
    }

    /// `ipvsadm -A`. A new service has no pool. Options that need one are set by [`Self::edit_service`] afterwards.
    pub fn add_service(&mut self, spec: ServiceSpec) -> Result<ServiceId, ServiceError> {
        check::service(&spec)?;
        check::has_pool(&spec, &[])?;
        if self.by_key.contains_key(&spec.key) {
            return Err(ServiceError::ServiceExists { service: spec.key });
        }
        let id = self.take_service(&spec.key)?;
        let born = self.next_revision();
        let built = VirtualService {
            id,
            spec,
            overhead: self.overhead,
            spread: Spread::ENDS,
            is_spread_by_flow: false,
            servers: Arc::new([]),
            revision: born,
            servers_revision: born,
            born,
            table: scheduler::table(
                spec.scheduler,
                &TableInputs {
                    flags: spec.scheduler_flags,
                    servers: &[],
                    last_weights: &[],
                    previous: None,
                },
            ),
            local_addresses: None,
        };
        let service = DesiredService {
            spec,
            servers: Vec::new(),
            local_addresses: Arc::new([]),
            built,
        };
        self.services.insert(born, service);
        self.by_key.insert(spec.key, born);
        Ok(id)
    }

    /// `ipvsadm -E`: scheduler and options; servers, pool and statistics stay.
    pub fn edit_service(&mut self, spec: ServiceSpec) -> Result<(), ServiceError> {
        check::service(&spec)?;
        let modes = self.service(&spec.key)?.servers.iter().map(|server| server.spec.mode);
        check::modes(&spec.key, spec.scheduler, modes)?;
        let revision = self.revision + 1;
        let service = self.service_mut(&spec.key)?;
        check::has_pool(&spec, &service.local_addresses)?;
        service.spec = spec;
        service.rebuild(revision, false);
        self.revision = revision;
        Ok(())
    }

    /// `ipvsadm -D`: connections stay, but their servers are no longer available.
    pub fn delete_service(&mut self, key: &ServiceKey) -> Result<(), ServiceError> {
        let born = self
            .by_key
            .remove(key)
            .ok_or(ServiceError::NoSuchService { service: *key })?;
        self.next_revision();
        if let Some(service) = self.services.remove(&born) {
            self.bury(service);
        }
        Ok(())
    }

    /// `ipvsadm -C`: deletes every service.
    pub fn flush(&mut self) {
        self.next_revision();
        self.by_key.clear();
        for service in std::mem::take(&mut self.services).into_values() {
            self.bury(service);
        }
    }

    /// `ipvsadm -a`. A server that was deleted from the same service a short while ago gets its slot back, and with it
    /// its connections, counters and last weight.
    pub fn add_server(&mut self, key: &ServiceKey, spec: ServerSpec) -> Result<RealServerId, ServiceError> {
        let service = self.service(key)?;
        check::server(key, &spec)?;
        if service.find(spec.addr, spec.port).is_some() {
            return Err(ServiceError::ServerExists {
                service: *key,
                addr: spec.addr,
                port: spec.port,
            });
        }
        let others = service.servers.iter().map(|server| server.spec.mode);
        check::modes(key, service.spec.scheduler, others.chain([spec.mode]))?;
        let (id, last_weight) = match self.trash.remove(&(*key, spec.addr, spec.port)) {
            Some(trashed) => (trashed.server.id, trashed.server.last_weight),
            None => {
                let slot = self
                    .server_ids
                    .take(REAL_SERVERS_MAX)
                    .ok_or(ServiceError::TooManyServers)?;
                (RealServerId(slot), 0)
            }
        };
        let last_weight = if spec.weight > 0 { spec.weight } else { last_weight };
        self.change(key, |service| {
            service.servers.push(DesiredServer { id, spec, last_weight })
        })?;
        Ok(id)
    }

    /// `ipvsadm -e`. It replaces the whole server and keeps its place in the list.
    pub fn edit_server(&mut self, key: &ServiceKey, spec: ServerSpec) -> Result<(), ServiceError> {
        let service = self.service(key)?;
        check::server(key, &spec)?;
        let position = service.position(key, spec.addr, spec.port)?;
        let others = service
            .servers
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != position);
        let others = others.map(|(_, server)| server.spec.mode);
        check::modes(key, service.spec.scheduler, others.chain([spec.mode]))?;
        self.change(key, |service| {
            let server = &mut service.servers[position];
            server.spec = spec;
            if spec.weight > 0 {
                server.last_weight = spec.weight;
            }
        })
    }

    /// `ipvsadm -d`. Its slot stays reserved until it has been idle for the trash period.
    pub fn delete_server(&mut self, key: &ServiceKey, addr: IpAddr, port: u16) -> Result<(), ServiceError> {
        let service = self.service(key)?;
        let position = service.position(key, addr, port)?;
        let trashed = service.trashed(position);
        self.trash.insert((*key, addr, port), trashed);
        self.change(key, |service| {
            service.servers.remove(position);
        })
    }

    /// Sets the local-address pool, which turns masquerading into FULLNAT; an empty one removes it.
    pub fn set_local_addresses(&mut self, key: &ServiceKey, addresses: Vec<IpAddr>) -> Result<(), ServiceError> {
        check::local_addresses(key, &addresses)?;
        let revision = self.revision + 1;
        let service = self.service_mut(key)?;
        check::pool_is_free(&service.spec, &addresses)?;
        service.local_addresses = addresses.into();
        service.rebuild(revision, false);
        self.revision = revision;
        Ok(())
    }

    /// Chooses how schedulers weigh active against inactive connections, for all services.
    pub fn set_overhead(&mut self, overhead: Overhead) {
        self.overhead = overhead;
        let revision = self.next_revision();
        for service in self.services.values_mut() {
            service.built.overhead = overhead;
            service.built.revision = revision;
        }
    }

    /// Deleted servers that connections may still refer to, each with its service, its last configuration and its last
    /// weight above 0.
    pub fn deleted(&self) -> impl Iterator<Item = (&ServiceKey, &ServerSpec, u32)> {
        let trash = self.trash.iter();
        trash.map(|((key, ..), trashed)| (key, &trashed.server.spec, trashed.server.last_weight))
    }

    /// Remembers a server that an earlier process deleted, as if it had been deleted just now: connections of that
    /// process may refer to it. Nothing is remembered of one that is listed.
    pub fn remember_deleted(
        &mut self,
        key: &ServiceKey,
        spec: ServerSpec,
        last_weight: u32,
    ) -> Result<(), ServiceError> {
        check::server(key, &spec)?;
        let listed = self.service(key).ok();
        let is_known = self.trash.contains_key(&(*key, spec.addr, spec.port));
        if is_known || listed.is_some_and(|service| service.find(spec.addr, spec.port).is_some()) {
            return Ok(());
        }
        let has_pool = listed.is_some_and(|service| !service.local_addresses.is_empty());
        let service = listed.map(|service| service.built.id);
        let slot = self.server_ids.take(REAL_SERVERS_MAX);
        let id = RealServerId(slot.ok_or(ServiceError::TooManyServers)?);
        let service = match service {
            Some(service) => service,
            None => self.take_service(key).inspect_err(|_| self.server_ids.free(id.0))?,
        };
        let server = DesiredServer { id, spec, last_weight };
        let trashed = Trashed {
            service,
            server,
            built: server.built(has_pool),
            idle_since_sec: None,
        };
        self.trash.insert((*key, spec.addr, spec.port), trashed);
        Ok(())
    }

    /// Frees the slots of deleted servers that have had no connection for the trash period.
    ///
    /// Call it every few seconds. `now_sec` comes from any clock that does not go back. `is_idle` says whether no
    /// worker has a connection of this server. Returns how many slots were freed.
    pub fn collect_trash(&mut self, now_sec: u64, is_idle: impl Fn(RealServerId) -> bool) -> usize {
        let before = self.trash.len();
        let mut emptied = Vec::new();
        let server_ids = &mut self.server_ids;
        self.trash.retain(|(key, ..), trashed| {
            if !is_idle(trashed.server.id) {
                trashed.idle_since_sec = None;
                return true;
            }
            let since_sec = *trashed.idle_since_sec.get_or_insert(now_sec);
            let keep = now_sec.saturating_sub(since_sec) < u64::from(TRASH_PERIOD_SEC);
            if !keep {
                server_ids.free(trashed.server.id.0);
                emptied.push((*key, trashed.service));
            }
            keep
        });
        for (key, service) in emptied {
            if !self.by_key.contains_key(&key) && self.trashed_service(&key).is_none() {
                self.service_ids.free(service.0);
            }
        }
        before - self.trash.len()
    }

    /// The table for workers.
    pub fn build(&self) -> ServiceTable {
        let services = self.services.values().map(|service| service.built.clone()).collect();
        let deleted = self.trash.iter().map(|((key, ..), trashed)| {
            let slot = ServerSlot::gone(trashed.service, trashed.built.clone());
            (*key, slot)
        });
        ServiceTable::new(services, deleted)
    }

    /// Every service in the order of addition.
    pub fn services(&self) -> impl DoubleEndedIterator<Item = ServiceListing<'_>> + ExactSizeIterator {
        self.services.values().map(DesiredService::listing)
    }

    /// One service.
    pub fn listing(&self, key: &ServiceKey) -> Result<ServiceListing<'_>, ServiceError> {
        self.service(key).map(DesiredService::listing)
    }

    /// Grows with every change.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    fn service(&self, key: &ServiceKey) -> Result<&DesiredService, ServiceError> {
        let born = self.by_key.get(key);
        born.and_then(|born| self.services.get(born))
            .ok_or(ServiceError::NoSuchService { service: *key })
    }

    fn service_mut(&mut self, key: &ServiceKey) -> Result<&mut DesiredService, ServiceError> {
        let born = self.by_key.get(key);
        born.and_then(|born| self.services.get_mut(born))
            .ok_or(ServiceError::NoSuchService { service: *key })
    }

    /// Changes the servers of a service.
    fn change(&mut self, key: &ServiceKey, change: impl FnOnce(&mut DesiredService)) -> Result<(), ServiceError> {
        let revision = self.revision + 1;
        let service = self.service_mut(key)?;
        change(service);
        service.rebuild(revision, true);
        self.revision = revision;
        Ok(())
    }

    /// Deletes the servers of a service that is gone already.
    fn bury(&mut self, service: DesiredService) {
        let key = service.spec.key;
        for (position, server) in service.servers.iter().enumerate() {
            self.trash
                .insert((key, server.spec.addr, server.spec.port), service.trashed(position));
        }
        if self.trashed_service(&key).is_none() {
            self.service_ids.free(service.built.id.0);
        }
    }

    /// A slot for a service that is not listed: the one of deleted servers of it, or a free one.
    fn take_service(&mut self, key: &ServiceKey) -> Result<ServiceId, ServiceError> {
        let trashed = self.trashed_service(key);
        trashed
            .or_else(|| self.service_ids.take(SERVICES_MAX).map(ServiceId))
            .ok_or(ServiceError::TooManyServices)
    }

    /// The slot of a service that is listed, or that was deleted while deleted servers of it are remembered.
    fn trashed_service(&self, key: &ServiceKey) -> Option<ServiceId> {
        let lowest = (*key, IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let ((first, ..), trashed) = self.trash.range(lowest..).next()?;
        (first == key).then_some(trashed.service)
    }

    fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }
}

impl DesiredServer {
    /// As workers see it; `has_pool` says whether its service has local addresses.
    fn built(&self, has_pool: bool) -> RealServer {
        let spec = &self.spec;
        let mode = if has_pool && spec.mode == ForwardingMode::Nat {
            ForwardingMode::FullNat
        } else {
            spec.mode
        };
        RealServer {
            id: self.id,
            addr: spec.addr,
            port: spec.port,
            weight: spec.weight,
            mode,
            tunnel: spec.tunnel,
            upper_threshold: spec.upper_threshold,
            lower_threshold: spec.lower_threshold,
        }
    }
}

impl DesiredService {
    fn find(&self, addr: IpAddr, port: u16) -> Option<usize> {
        self.servers
            .iter()
            .position(|server| (server.spec.addr, server.spec.port) == (addr, port))
    }

    fn position(&self, key: &ServiceKey, addr: IpAddr, port: u16) -> Result<usize, ServiceError> {
        self.find(addr, port).ok_or(ServiceError::NoSuchServer {
            service: *key,
            addr,
            port,
        })
    }

    fn listing(&self) -> ServiceListing<'_> {
        ServiceListing {
            id: self.built.id,
            spec: &self.spec,
            local_addresses: &self.local_addresses,
            servers: &self.servers,
        }
    }

    fn trashed(&self, position: usize) -> Trashed {
        let server = self.servers[position];
        Trashed {
            service: self.built.id,
            server,
            built: self.real_server(&server),
            idle_since_sec: None,
        }
    }

    fn real_server(&self, server: &DesiredServer) -> RealServer {
        server.built(!self.local_addresses.is_empty())
    }

    /// Updates what workers will see.
    fn rebuild(&mut self, revision: u64, servers_changed: bool) {
        let servers: Arc<[RealServer]> = self
            .servers
            .iter()
            .rev()
            .map(|server| self.real_server(server))
            .collect();
        let new_scheduler = self.built.scheduler != self.spec.scheduler;
        let new_flags = self.built.scheduler_flags != self.spec.scheduler_flags;
        if servers_changed || new_scheduler || new_flags {
            let last_weights: Vec<u32> = self.servers.iter().rev().map(|server| server.last_weight).collect();
            let previous: Option<&SchedulerTable> = (!new_scheduler).then_some(&self.built.table);
            let inputs = TableInputs {
                flags: self.spec.scheduler_flags,
                servers: &servers,
                last_weights: &last_weights,
                previous,
            };
            self.built.table = scheduler::table(self.spec.scheduler, &inputs);
        }
        self.built.servers = servers;
        self.built.spec = self.spec;
        self.built.revision = revision;
        if servers_changed {
            self.built.servers_revision = revision;
        }
        let addresses = &self.local_addresses;
        self.built.local_addresses = (!addresses.is_empty()).then(|| LocalAddressPool {
            addresses: Arc::clone(addresses),
        });
    }
}

#[cfg(test)]
mod tests;

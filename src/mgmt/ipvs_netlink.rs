//! `/run/lvsd/ipvs.sock`: the kernel's IPVS protocol for unmodified ipvsadm, keepalived and ldirectord.
//!
//! [`crate::mgmt::unix_socket`] opens it, [`serve`] bounds what a client may cost, [`answer`] does what `ip_vs_ctl.c` does with
//! a request, on an [`IpvsTable`]; `director::ipvs_table` makes the director one.
//! Never: decides anything about services that the kernel leaves to its table.

use std::net::IpAddr;

use lvs_api::netlink::{
    DaemonRequest, DaemonRow, Errno, Info, ServerOptions, ServerRow, ServiceKey, ServiceOptions, ServiceRow,
    TimeoutsRequest, TimeoutsRow,
};

pub mod answer;
pub mod families;
pub mod file_names;
pub mod kernel_options;
pub mod proc_files;
pub mod serve;

/// What the protocol needs of whoever keeps the services. Each change is whole or refused.
pub trait IpvsTable {
    /// Version and size of the connection table.
    fn info(&self) -> Info;

    /// The timeouts that `--set` sets.
    fn timeouts(&self) -> TimeoutsRow;

    /// Sets those that are named and not 0.
    fn set_timeouts(&mut self, request: &TimeoutsRequest) -> Result<(), Errno>;

    /// Whether there is a scheduler of this name.
    fn knows_scheduler(&self, name: &str) -> bool;

    /// Whether there is a persistence engine of this name.
    fn knows_engine(&self, name: &str) -> bool;

    /// The `IP_VS_SVC_F_*` of a service that is there; asked before every change.
    fn flags(&self, key: &ServiceKey) -> Option<u32>;

    /// One service with its counters.
    fn service(&mut self, key: &ServiceKey) -> Option<ServiceRow>;

    /// All services.
    fn services(&mut self) -> Vec<ServiceRow>;

    /// Adds a service that is not there; its scheduler and engine are known.
    fn add_service(&mut self, key: &ServiceKey, options: &ServiceOptions) -> Result<(), Errno>;

    /// Changes a service that is there, flags merged already.
    fn edit_service(&mut self, key: &ServiceKey, options: &ServiceOptions) -> Result<(), Errno>;

    /// Deletes a service that is there.
    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), Errno>;

    /// Deletes all.
    fn flush(&mut self) -> Result<(), Errno>;

    /// The real servers of a service, newest first; none when there is no such service.
    fn servers(&mut self, key: &ServiceKey) -> Vec<ServerRow>;

    /// `EEXIST` when it is there.
    fn add_server(&mut self, key: &ServiceKey, addr: IpAddr, port: u16, options: &ServerOptions) -> Result<(), Errno>;

    /// `ENOENT` when it is not there.
    fn edit_server(&mut self, key: &ServiceKey, addr: IpAddr, port: u16, options: &ServerOptions) -> Result<(), Errno>;

    /// `ENOENT` when it is not there.
    fn delete_server(&mut self, key: &ServiceKey, addr: IpAddr, port: u16) -> Result<(), Errno>;

    /// Running sync daemons.
    fn daemons(&self) -> Vec<DaemonRow>;

    /// Starts one.
    fn start_daemon(&mut self, request: &DaemonRequest) -> Result<(), Errno>;

    /// Stops one.
    fn stop_daemon(&mut self, state: u32) -> Result<(), Errno>;

    /// A kernel setting by its name below `net.ipv4.vs`, as `sysctl` prints it.
    fn sysctl(&self, name: &str) -> Option<String>;

    /// Sets one.
    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), Errno>;

    /// Sets the counters of one service and its servers to 0, or all.
    fn zero(&mut self, key: Option<&ServiceKey>) -> Result<(), Errno>;
}

//! A table that keeps all that the protocol can say, as the kernel's does, and balances nothing.

use std::net::IpAddr;

use lvs_api::netlink::{
    DaemonRequest, DaemonRow, Errno, Info, ServerOptions, ServerRow, ServiceKey, ServiceOptions, ServiceRow,
    Statistics, TimeoutsRequest, TimeoutsRow,
};
use lvs_core::ipvs::sysctl::Sysctls;
use lvsd::mgmt::ipvs_netlink::IpvsTable;

const SCHEDULERS: [&str; 14] = [
    "none", "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf",
];

pub struct MemoryTable {
    timeouts: TimeoutsRow,
    services: Vec<(ServiceRow, Vec<ServerRow>)>,
    daemons: Vec<DaemonRow>,
    sysctls: Sysctls,
}

impl Default for MemoryTable {
    fn default() -> Self {
        Self {
            timeouts: TimeoutsRow {
                tcp_sec: 900,
                tcp_fin_sec: 120,
                udp_sec: 300,
            },
            services: Vec::new(),
            daemons: Vec::new(),
            sysctls: Sysctls::default(),
        }
    }
}

impl MemoryTable {
    fn find(&mut self, key: &ServiceKey) -> Option<&mut (ServiceRow, Vec<ServerRow>)> {
        self.services.iter_mut().find(|(service, _)| service.key == *key)
    }

    fn server(&mut self, key: &ServiceKey, addr: IpAddr, port: u16) -> Result<&mut ServerRow, Errno> {
        let (_, servers) = self.find(key).ok_or(Errno::NoService)?;
        let found = servers.iter_mut().find(|row| (row.addr, row.port) == (addr, port));
        found.ok_or(Errno::NoEntry)
    }
}

fn row(addr: IpAddr, port: u16, options: &ServerOptions) -> ServerRow {
    ServerRow {
        addr,
        port,
        method: options.method,
        weight: options.weight.unsigned_abs(),
        upper_threshold: options.upper_threshold,
        lower_threshold: options.lower_threshold,
        tunnel: options.tunnel,
        active: 0,
        inactive: 0,
        persistent: 0,
        statistics: Statistics::default(),
    }
}

impl IpvsTable for MemoryTable {
    fn info(&self) -> Info {
        Info {
            version: Info::VERSION_1_2_1,
            table_size: 4096,
        }
    }

    fn timeouts(&self) -> TimeoutsRow {
        self.timeouts
    }

    fn set_timeouts(&mut self, wanted: &TimeoutsRequest) -> Result<(), Errno> {
        let set = |to: &mut u32, from: Option<u32>| {
            if let Some(seconds @ 1..) = from {
                *to = seconds;
            }
        };
        set(&mut self.timeouts.tcp_sec, wanted.tcp_sec);
        set(&mut self.timeouts.tcp_fin_sec, wanted.tcp_fin_sec);
        set(&mut self.timeouts.udp_sec, wanted.udp_sec);
        Ok(())
    }

    fn knows_scheduler(&self, name: &str) -> bool {
        SCHEDULERS.contains(&name)
    }

    fn knows_engine(&self, name: &str) -> bool {
        name == "sip"
    }

    fn flags(&self, key: &ServiceKey) -> Option<u32> {
        let found = self.services.iter().find(|(service, _)| service.key == *key);
        found.map(|(service, _)| service.flags)
    }

    fn service(&mut self, key: &ServiceKey) -> Option<ServiceRow> {
        self.find(key).map(|(service, _)| service.clone())
    }

    fn services(&mut self) -> Vec<ServiceRow> {
        self.services.iter().map(|(service, _)| service.clone()).collect()
    }

    fn add_service(&mut self, key: &ServiceKey, options: &ServiceOptions) -> Result<(), Errno> {
        let service = ServiceRow {
            key: *key,
            scheduler: options.scheduler.clone(),
            engine: options.engine.clone(),
            flags: options.flags,
            timeout_sec: options.timeout_sec,
            granularity: options.granularity,
            statistics: Statistics::default(),
        };
        self.services.push((service, Vec::new()));
        Ok(())
    }

    fn edit_service(&mut self, key: &ServiceKey, options: &ServiceOptions) -> Result<(), Errno> {
        let (service, _) = self.find(key).ok_or(Errno::NoService)?;
        service.scheduler.clone_from(&options.scheduler);
        service.engine.clone_from(&options.engine);
        service.flags = options.flags;
        service.timeout_sec = options.timeout_sec;
        service.granularity = options.granularity;
        Ok(())
    }

    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), Errno> {
        self.services.retain(|(service, _)| service.key != *key);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Errno> {
        self.services.clear();
        Ok(())
    }

    fn servers(&mut self, key: &ServiceKey) -> Vec<ServerRow> {
        self.find(key).map(|(_, servers)| servers.clone()).unwrap_or_default()
    }

    fn add_server(&mut self, key: &ServiceKey, addr: IpAddr, port: u16, options: &ServerOptions) -> Result<(), Errno> {
        if self.server(key, addr, port).is_ok() {
            return Err(Errno::Exists);
        }
        if addr.is_unspecified() || addr.is_multicast() {
            return Err(Errno::Invalid);
        }
        let (_, servers) = self.find(key).ok_or(Errno::NoService)?;
        servers.insert(0, row(addr, port, options));
        Ok(())
    }

    fn edit_server(&mut self, key: &ServiceKey, addr: IpAddr, port: u16, options: &ServerOptions) -> Result<(), Errno> {
        *self.server(key, addr, port)? = row(addr, port, options);
        Ok(())
    }

    fn delete_server(&mut self, key: &ServiceKey, addr: IpAddr, port: u16) -> Result<(), Errno> {
        self.server(key, addr, port)?;
        let (_, servers) = self.find(key).ok_or(Errno::NoService)?;
        servers.retain(|row| (row.addr, row.port) != (addr, port));
        Ok(())
    }

    fn daemons(&self) -> Vec<DaemonRow> {
        self.daemons.clone()
    }

    fn start_daemon(&mut self, wanted: &DaemonRequest) -> Result<(), Errno> {
        if !matches!(wanted.state, 1 | 2) || wanted.sync_id > 255 {
            return Err(Errno::Invalid);
        }
        if wanted.interface.starts_with("nosuch") {
            return Err(Errno::NoDevice);
        }
        if self.daemons.iter().any(|daemon| daemon.state == wanted.state) {
            return Err(Errno::Exists);
        }
        self.daemons.push(DaemonRow {
            state: wanted.state,
            interface: wanted.interface.clone(),
            sync_id: wanted.sync_id,
            max_len: if wanted.max_len == 0 { 1472 } else { wanted.max_len },
            group: wanted.group.unwrap_or([224, 0, 0, 81].into()),
            port: if wanted.port == 0 { 8848 } else { wanted.port },
            ttl: wanted.ttl.max(1),
        });
        self.daemons.sort_by_key(|daemon| daemon.state);
        Ok(())
    }

    fn stop_daemon(&mut self, state: u32) -> Result<(), Errno> {
        if !matches!(state, 1 | 2) {
            return Err(Errno::Invalid);
        }
        let count = self.daemons.len();
        self.daemons.retain(|daemon| daemon.state != state);
        if self.daemons.len() == count {
            Err(Errno::NoService)
        } else {
            Ok(())
        }
    }

    fn sysctl(&self, name: &str) -> Option<String> {
        self.sysctls.get(name)
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), Errno> {
        if self.sysctls.get(name).is_none() {
            return Err(Errno::NoEntry);
        }
        self.sysctls.set(name, value).map_err(|_| Errno::Invalid)
    }

    fn zero(&mut self, _key: Option<&ServiceKey>) -> Result<(), Errno> {
        Ok(())
    }
}

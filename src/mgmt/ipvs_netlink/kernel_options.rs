//! What a call with one of the old socket options does, check by check in the kernel's order.
//!
//! In:  a [`Call`]. Out: an error number, and the bytes of the caller's buffer.
//! Ref: Linux net/netfilter/ipvs/ip_vs_ctl.c `do_ip_vs_set_ctl()`, `do_ip_vs_get_ctl()`.

use std::net::IpAddr;

use lvs_api::kernel_options::{Answer, Asked, Call, DaemonCall, ServerCall, ServiceCall};
use lvs_api::netlink::{
    DaemonRequest, Errno, Family, Granularity, Request, ServerOptions, ServerRequest, ServiceKey, ServiceOptions,
    ServiceRow, TimeoutsRequest, TunnelRow,
};

use super::IpvsTable;
use super::answer::change_table;

/// The protocols that the kernel's IPVS balances: TCP, UDP, SCTP.
const PROTOCOLS: [u16; 3] = [6, 17, 132];

/// What came of a call.
pub struct CallOutcome {
    /// Error number, 0 for none, then what the caller's buffer begins with.
    pub answer: Vec<u8>,
    /// The table is not what it was.
    pub changed: bool,
}

/// Does what `call` asks for.
pub fn answer(table: &mut impl IpvsTable, call: &Call) -> CallOutcome {
    let outcome = call.asked().and_then(|asked| {
        if call.is_set {
            change(table, asked).map(|()| Vec::new())
        } else {
            answer_question(table, call, &asked)
        }
    });
    let changed = call.is_set && outcome.is_ok();
    let (errno, data) = match outcome {
        Ok(data) => (0, data),
        Err(errno) => (errno as i32, Vec::new()),
    };
    let mut answer = errno.to_ne_bytes().to_vec();
    answer.extend_from_slice(&data);
    CallOutcome { answer, changed }
}

fn change(table: &mut impl IpvsTable, asked: Asked) -> Result<(), Errno> {
    let request = match asked {
        Asked::Flush => Request::Flush,
        Asked::SetTimeouts([tcp, tcp_fin, udp]) => Request::SetTimeouts(TimeoutsRequest {
            tcp_sec: Some(tcp),
            tcp_fin_sec: Some(tcp_fin),
            udp_sec: Some(udp),
        }),
        Asked::StartDaemon(daemon) => Request::AddDaemon(daemon_request(daemon)),
        Asked::StopDaemon(daemon) => Request::DeleteDaemon { state: daemon.state },
        Asked::Zero(service) if service.names_none() => Request::ZeroAll,
        Asked::Zero(service) => Request::Zero {
            key: existing(table, &service)?,
        },
        Asked::AddService(service) => Request::AddService {
            key: checked(&service)?,
            options: options(&service),
        },
        Asked::EditService(service) => Request::EditService {
            key: existing(table, &service)?,
            options: options(&service),
        },
        Asked::DeleteService(service) => Request::DeleteService {
            key: existing(table, &service)?,
        },
        Asked::AddServer(service, server) => Request::AddServer {
            service: existing(table, &service)?,
            server: Ok(server_request(&server)),
        },
        Asked::EditServer(service, server) => Request::EditServer {
            service: existing(table, &service)?,
            server: Ok(server_request(&server)),
        },
        Asked::DeleteServer(service, server) => Request::DeleteServer {
            service: existing(table, &service)?,
            server: Ok(server_request(&server)),
        },
        _ => return Err(Errno::Invalid),
    };
    change_table(table, request)
}

fn checked(service: &ServiceCall) -> Result<ServiceKey, Errno> {
    if PROTOCOLS.contains(&service.protocol) {
        Ok(service.key)
    } else {
        Err(Errno::Fault)
    }
}

fn existing(table: &impl IpvsTable, service: &ServiceCall) -> Result<ServiceKey, Errno> {
    let key = checked(service)?;
    table.flags(&key).map(|_| key).ok_or(Errno::NoService)
}

fn options(service: &ServiceCall) -> ServiceOptions {
    ServiceOptions {
        scheduler: service.scheduler.clone(),
        engine: None,
        flags: service.flags,
        flags_mask: u32::MAX,
        timeout_sec: service.timeout_sec,
        granularity: Granularity::V4(service.netmask),
    }
}

fn server_request(server: &ServerCall) -> ServerRequest {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(server.addr.octets()) {
        *to = from;
    }
    ServerRequest {
        family: Family::V4 as u16,
        bytes,
        port: server.port,
        options: Some(ServerOptions {
            method: server.method & lvs_api::netlink::ServerRow::METHOD_MASK,
            weight: server.weight,
            upper_threshold: server.upper_threshold,
            lower_threshold: server.lower_threshold,
            tunnel: TunnelRow::default(),
        }),
    }
}

fn daemon_request(daemon: DaemonCall) -> DaemonRequest {
    DaemonRequest {
        state: daemon.state,
        interface: daemon.interface,
        sync_id: daemon.sync_id,
        max_len: 0,
        group: None,
        port: 0,
        ttl: 0,
    }
}

fn answer_question(table: &mut impl IpvsTable, call: &Call, asked: &Asked) -> Result<Vec<u8>, Errno> {
    if !call.fits(asked) {
        return Err(Errno::Invalid);
    }
    let mut answer = Answer::new(call);
    let info = table.info();
    match asked {
        Asked::Version => answer.version(info.version, info.table_size),
        Asked::Info => {
            let count = v4_services(table).len();
            answer.info(info.version, info.table_size, number(count));
        }
        Asked::Services { count } => {
            let rows = v4_services(table);
            answer.services_head(*count);
            for row in rows.iter().take(usize::try_from(*count).unwrap_or(usize::MAX)) {
                let servers = v4_servers(table, &row.key).len();
                answer.service(row, number(servers));
            }
        }
        Asked::Service(service) => {
            let row = table.service(&service.key).ok_or(Errno::NoService)?;
            let servers = v4_servers(table, &row.key).len();
            answer.service(&row, number(servers));
        }
        Asked::Servers { service, count } => {
            table.flags(&service.key).ok_or(Errno::NoService)?;
            answer.servers_head(service, *count);
            let rows = v4_servers(table, &service.key);
            for row in rows.iter().take(usize::try_from(*count).unwrap_or(usize::MAX)) {
                answer.server(row);
            }
        }
        Asked::Timeouts => answer.timeouts(&table.timeouts()),
        Asked::Daemons => {
            let rows = table.daemons();
            for state in [1, 2] {
                match rows.iter().find(|row| row.state == state) {
                    Some(row) => answer.daemon(row.state, &row.interface, row.sync_id),
                    None => answer.daemon(0, "", 0),
                }
            }
        }
        _ => return Err(Errno::Invalid),
    }
    Ok(answer.into_bytes())
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn v4_services(table: &mut impl IpvsTable) -> Vec<ServiceRow> {
    let rows = table.services().into_iter();
    rows.filter(|row| row.key.family() == Family::V4).collect()
}

fn v4_servers(table: &mut impl IpvsTable, key: &ServiceKey) -> Vec<lvs_api::netlink::ServerRow> {
    let rows = table.servers(key).into_iter();
    rows.filter(|row| matches!(row.addr, IpAddr::V4(_))).collect()
}

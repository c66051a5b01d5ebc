//! What a request does and what is answered, check by check in the kernel's order.
//!
//! In:  one netlink message. Out: the datagrams of its answer, made as they are taken.
//! Ref: Linux net/netfilter/ipvs/ip_vs_ctl.c `ip_vs_genl_set_cmd()`, `ip_vs_genl_get_cmd()`, `ip_vs_add_dest()`.

use std::iter;
use std::net::IpAddr;

use lvs_api::netlink::{
    Addressee, Dump, Errno, Family, Granularity, Message, Request, ServerOptions, ServerRequest, ServerRow, ServiceKey,
    ServiceOptions, ServiceRow, TunnelRow, acknowledge, daemon, family, info, policy, refuse, server, service,
    timeouts,
};

use super::{IpvsTable, families};

/// Datagrams of an answer; none when the client wants no word of success.
pub type Answer = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// What came of a request.
pub struct Answered {
    /// To be sent to who asked.
    pub answer: Answer,
    /// The table is not what it was.
    pub changed: bool,
}

/// Does what `message` asks for.
pub fn answer(table: &mut impl IpvsTable, message: &Message<'_>, port_id: u32) -> Answered {
    let mut changed = false;
    let answer = if message.is_request() {
        let outcome = Request::parse(message).and_then(|request| carry_out(table, request, message, port_id));
        changed = matches!(outcome, Ok(Outcome::Done));
        match outcome {
            Ok(Outcome::Done) => acknowledged(message, port_id, None),
            Ok(Outcome::Row(row)) => acknowledged(message, port_id, Some(row)),
            Ok(Outcome::Rows(rows)) => Box::new(Dump::new(rows, message.sequence, port_id)),
            Err(errno) => Box::new(iter::once(refuse(message, port_id, errno))),
        }
    } else {
        acknowledged(message, port_id, None)
    };
    Answered { answer, changed }
}

fn acknowledged(message: &Message<'_>, port_id: u32, row: Option<Vec<u8>>) -> Answer {
    let word = message.wants_acknowledgement().then(|| acknowledge(message, port_id));
    Box::new(row.into_iter().chain(word))
}

enum Outcome {
    Done,
    Row(Vec<u8>),
    Rows(Answer),
}

fn carry_out(
    table: &mut impl IpvsTable,
    request: Request,
    message: &Message<'_>,
    port_id: u32,
) -> Result<Outcome, Errno> {
    let one = Addressee {
        sequence: message.sequence,
        port_id,
        multi: false,
    };
    let many = Addressee { multi: true, ..one };
    let row = match request {
        Request::GetFamily => family(one),
        Request::GetInfo => info(one, &table.info()),
        Request::GetTimeouts => timeouts(one, &table.timeouts()),
        Request::GetService { key } => service(one, &table.service(&key).ok_or(Errno::NoService)?),
        Request::DumpFamilies => return Ok(Outcome::Rows(Box::new(families::all(many).into_iter()))),
        Request::DumpPolicy { command } => return Ok(Outcome::Rows(Box::new(policy(many, command).into_iter()))),
        Request::DumpServices => {
            let rows = table.services().into_iter();
            return Ok(Outcome::Rows(Box::new(rows.map(move |row| service(many, &row)))));
        }
        Request::DumpServers { service: key } => {
            let rows = key.map_or_else(Vec::new, |key| table.servers(&key)).into_iter();
            return Ok(Outcome::Rows(Box::new(rows.map(move |row| server(many, &row)))));
        }
        Request::DumpDaemons => {
            let rows = table.daemons().into_iter();
            return Ok(Outcome::Rows(Box::new(rows.map(move |row| daemon(many, &row)))));
        }
        change => return change_table(table, change).map(|()| Outcome::Done),
    };
    Ok(Outcome::Row(row))
}

pub(super) fn change_table(table: &mut impl IpvsTable, request: Request) -> Result<(), Errno> {
    match request {
        Request::Flush => table.flush(),
        Request::SetTimeouts(request) => table.set_timeouts(&request),
        Request::ZeroAll => table.zero(None),
        Request::Zero { key } => existing(table, &key).and_then(|_| table.zero(Some(&key))),
        Request::AddDaemon(request) => table.start_daemon(&request),
        Request::DeleteDaemon { state } => table.stop_daemon(state),
        Request::AddService { key, options } => {
            if table.flags(&key).is_some() {
                return Err(Errno::Exists);
            }
            check_service(table, &options)?;
            table.add_service(&key, &with_flags(options, 0))
        }
        Request::EditService { key, options } => {
            let old_flags = existing(table, &key)?;
            check_service(table, &options)?;
            table.edit_service(&key, &with_flags(options, old_flags))
        }
        Request::DeleteService { key } => existing(table, &key).and_then(|_| table.delete_service(&key)),
        Request::AddServer { service, server } => {
            let (addr, port, options) = whole(table, &service, server)?;
            table.add_server(&service, addr, port, &options)
        }
        Request::EditServer { service, server } => {
            let (addr, port, options) = whole(table, &service, server)?;
            table.edit_server(&service, addr, port, &options)
        }
        Request::DeleteServer { service, server } => {
            existing(table, &service)?;
            let server = server?;
            table.delete_server(&service, server.address(service.family())?, server.port)
        }
        // Answered above: they change nothing.
        Request::GetFamily
        | Request::DumpFamilies
        | Request::DumpPolicy { .. }
        | Request::GetService { .. }
        | Request::DumpServices
        | Request::DumpServers { .. }
        | Request::DumpDaemons
        | Request::GetTimeouts
        | Request::GetInfo => Err(Errno::NotSupported),
    }
}

/// The flags of a service that must be there.
fn existing(table: &impl IpvsTable, key: &ServiceKey) -> Result<u32, Errno> {
    table.flags(key).ok_or(Errno::NoService)
}

fn with_flags(options: ServiceOptions, old: u32) -> ServiceOptions {
    ServiceOptions {
        flags: options.merge_flags(old) | ServiceRow::HASHED,
        flags_mask: u32::MAX,
        ..options
    }
}

/// `ip_vs_add_service()`, `ip_vs_edit_service()`.
fn check_service(table: &impl IpvsTable, options: &ServiceOptions) -> Result<(), Errno> {
    if !table.knows_scheduler(&options.scheduler) {
        return Err(Errno::NoEntry);
    }
    if options
        .engine
        .as_ref()
        .is_some_and(|engine| !table.knows_engine(engine))
    {
        return Err(Errno::NoEntry);
    }
    match options.granularity {
        Granularity::V6(length) if !(1..=128).contains(&length) => Err(Errno::Invalid),
        _ => Ok(()),
    }
}

/// The server of a request that adds or edits it, checked as far as the kernel does before it looks for it.
fn whole(
    table: &impl IpvsTable,
    key: &ServiceKey,
    server: Result<ServerRequest, Errno>,
) -> Result<(IpAddr, u16, ServerOptions), Errno> {
    existing(table, key)?;
    let server = server?;
    let addr = server.address(key.family())?;
    let options = server.options.ok_or(Errno::Invalid)?;
    if Family::of(&addr) != key.family() && (options.method != ServerRow::TUNNEL || !table.daemons().is_empty()) {
        return Err(Errno::Invalid);
    }
    if options.weight < 0 || options.lower_threshold > options.upper_threshold {
        return Err(Errno::Range);
    }
    if options.tunnel.kind == TunnelRow::KIND_GUE && options.tunnel.port == 0 {
        return Err(Errno::Invalid);
    }
    Ok((addr, server.port, options))
}

//! From a message's bytes to what it asks for.
//!
//! In:  a [`Message`]. Out: a [`Request`], or the error number the kernel gives before it looks at its table.
//! The order of checks is the kernel's: a fault in a destination shows only once its service was found, so
//! it travels inside the request. Ref: ip_vs_ctl.c `ip_vs_genl_set_cmd()`, `ip_vs_genl_parse_service()`.

use std::net::{IpAddr, Ipv4Addr};

use super::attribute::{Attribute, Attributes};
use super::message::{GENERIC_BYTES, Message};
use super::row::{Family, Granularity, McastGroup, ServiceKey, TunnelRow};
use super::{Errno, FAMILY_ID, FAMILY_NAME, command};

/// The family of families, `GENL_ID_CTRL`.
const CONTROL_ID: u16 = 16;
/// Without the NUL: `IP_VS_SCHEDNAME_MAXLEN`, `IP_VS_PENAME_MAXLEN`, `IP_VS_IFNAME_MAXLEN`.
const NAME_MAX: usize = 15;

/// Parts of the full description of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceOptions {
    /// Name of the scheduler; `none` for none.
    pub scheduler: String,
    /// Name of the persistence engine.
    pub engine: Option<String>,
    /// Flags to set or clear …
    pub flags: u32,
    /// … where this has a 1.
    pub flags_mask: u32,
    /// Of persistence.
    pub timeout_sec: u32,
    /// Of persistence.
    pub granularity: Granularity,
}

impl ServiceOptions {
    /// The flags of a service that had `old` ones.
    pub const fn merge_flags(&self, old: u32) -> u32 {
        (old & !self.flags_mask) | (self.flags & self.flags_mask)
    }
}

/// Parts of the full description of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// `IP_VS_CONN_F_*`.
    pub method: u32,
    /// Negative ones are for the table to refuse.
    pub weight: i32,
    /// `-x`.
    pub upper_threshold: u32,
    /// `-y`.
    pub lower_threshold: u32,
    /// Of tunnelling.
    pub tunnel: TunnelRow,
}

/// A destination as the request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerRequest {
    /// Family number; 0: the service's.
    pub family: u16,
    /// IPv4 in the first four.
    pub bytes: [u8; 16],
    /// Its port.
    pub port: u16,
    /// Present when adding and editing.
    pub options: Option<ServerOptions>,
}

impl ServerRequest {
    /// Its address, for a service of `family`.
    pub fn address(&self, family: Family) -> Result<IpAddr, Errno> {
        let family = if self.family == 0 {
            family
        } else {
            Family::from_number(self.family).ok_or(Errno::NoFamily)?
        };
        Ok(family.address(self.bytes))
    }
}

/// New timeouts in seconds; `None` and 0 leave one as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "named as in TimeoutsRow")]
pub struct TimeoutsRequest {
    pub tcp_sec: Option<u32>,
    pub tcp_fin_sec: Option<u32>,
    pub udp_sec: Option<u32>,
}

/// A sync daemon to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonRequest {
    /// 1 master, 2 backup; others are for the table to refuse.
    pub state: u32,
    /// Interface.
    pub interface: String,
    /// 0 to 255; others are for the table to refuse.
    pub sync_id: u32,
    /// Bytes; 0 for the default.
    pub max_len: u16,
    /// `None` for 224.0.0.81.
    pub group: Option<McastGroup>,
    /// 0 for 8848.
    pub port: u16,
    /// 0 for 1.
    pub ttl: u8,
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what the command's name says")]
pub enum Request {
    /// `CTRL_CMD_GETFAMILY` of IPVS.
    GetFamily,
    /// Every family there is here: IPVS.
    DumpFamilies,
    /// `CTRL_CMD_GETPOLICY` of IPVS: of one command, or of all.
    DumpPolicy { command: Option<u32> },
    /// `-A`.
    AddService { key: ServiceKey, options: ServiceOptions },
    /// `-E`.
    EditService { key: ServiceKey, options: ServiceOptions },
    /// `-D`.
    DeleteService { key: ServiceKey },
    /// One service.
    GetService { key: ServiceKey },
    /// Every service.
    DumpServices,
    /// `-a`.
    AddServer {
        service: ServiceKey,
        server: Result<ServerRequest, Errno>,
    },
    /// `-e`.
    EditServer {
        service: ServiceKey,
        server: Result<ServerRequest, Errno>,
    },
    /// `-d`.
    DeleteServer {
        service: ServiceKey,
        server: Result<ServerRequest, Errno>,
    },
    /// The servers of one service; `None` when the request names none properly, which gets an empty dump.
    DumpServers { service: Option<ServiceKey> },
    /// `--start-daemon`.
    AddDaemon(DaemonRequest),
    /// `--stop-daemon`.
    DeleteDaemon { state: u32 },
    /// `-L --daemon`.
    DumpDaemons,
    /// `--set`.
    SetTimeouts(TimeoutsRequest),
    /// `-L --timeout`.
    GetTimeouts,
    /// Version and size.
    GetInfo,
    /// `-Z`.
    ZeroAll,
    /// `-Z` of one service.
    Zero { key: ServiceKey },
    /// `-C`.
    Flush,
}

impl Request {
    /// What `message` asks for.
    pub fn parse(message: &Message<'_>) -> Result<Self, Errno> {
        let Some([command, ..]) = message.body().first_chunk::<GENERIC_BYTES>().copied() else {
            return Err(if matches!(message.kind, FAMILY_ID | CONTROL_ID) {
                Errno::Invalid
            } else {
                Errno::NoEntry
            });
        };
        let attributes = Attributes::new(message.body().get(GENERIC_BYTES..).unwrap_or_default());
        match (message.kind, message.is_dump()) {
            (CONTROL_ID, dump) => control(command, dump, attributes),
            (FAMILY_ID, true) => dump(command, attributes),
            (FAMILY_ID, false) => one(command, attributes),
            _ => Err(Errno::NoEntry),
        }
    }
}

fn control(command: u8, dump: bool, attributes: Attributes<'_>) -> Result<Request, Errno> {
    match (command, dump) {
        (command::CTRL_GET_FAMILY, true) => Ok(Request::DumpFamilies),
        (command::CTRL_GET_FAMILY, false) => family(attributes).map(|()| Request::GetFamily),
        (command::CTRL_GET_POLICY, true) => {
            family(attributes)?;
            let command = may(attributes.find(ATTRIBUTE_COMMAND), Attribute::u32)?;
            match command {
                Some(command) if !super::policy::knows(command) => Err(Errno::NoEntry),
                command => Ok(Request::DumpPolicy { command }),
            }
        }
        _ => Err(Errno::NotSupported),
    }
}

/// `CTRL_ATTR_OP`.
const ATTRIBUTE_COMMAND: u16 = 10;

/// Whether the family that a request names is IPVS.
fn family(attributes: Attributes<'_>) -> Result<(), Errno> {
    let by_id = attributes.find(1).and_then(|id| id.u16());
    let by_name = attributes.find(2).and_then(|name| name.text(NAME_MAX));
    match (by_id, by_name) {
        (None, None) => Err(Errno::Invalid),
        (Some(FAMILY_ID), None) => Ok(()),
        (_, Some(name)) if name == FAMILY_NAME => Ok(()),
        _ => Err(Errno::NoEntry),
    }
}

/// Whether a message is for lvsd: it has the id of its family, or it asks about the family of that id or name, or about all
/// families, which lvsd lists with the kernel's.
pub fn is_for_ipvs(message: &Message<'_>) -> bool {
    let asks = || {
        let command = *message.body().first()?;
        let attributes = Attributes::new(message.body().get(GENERIC_BYTES..)?);
        let is_dump = message.is_dump();
        let is_ours = match command {
            command::CTRL_GET_FAMILY => is_dump || family(attributes).is_ok(),
            command => command == command::CTRL_GET_POLICY && family(attributes).is_ok(),
        };
        is_ours.then_some(())
    };
    message.kind == FAMILY_ID || (message.kind == CONTROL_ID && asks().is_some())
}

fn dump(command: u8, attributes: Attributes<'_>) -> Result<Request, Errno> {
    match command {
        command::GET_SERVICE => Ok(Request::DumpServices),
        command::GET_DEST => Ok(Request::DumpServers {
            service: service_key(attributes).ok(),
        }),
        command::GET_DAEMON => Ok(Request::DumpDaemons),
        _ => Err(Errno::NotSupported),
    }
}

fn one(command: u8, attributes: Attributes<'_>) -> Result<Request, Errno> {
    match command {
        command::FLUSH => Ok(Request::Flush),
        command::SET_CONFIG => new_timeouts(attributes).map(Request::SetTimeouts),
        command::GET_CONFIG => Ok(Request::GetTimeouts),
        command::GET_INFO => Ok(Request::GetInfo),
        command::NEW_DAEMON => new_daemon(attributes).map(Request::AddDaemon),
        command::DEL_DAEMON => Ok(Request::DeleteDaemon {
            state: daemon_state(attributes)?,
        }),
        command::ZERO if attributes.find(1).is_none() => Ok(Request::ZeroAll),
        command::ZERO => service_key(attributes).map(|key| Request::Zero { key }),
        command::NEW_SERVICE => service(attributes).map(|(key, options)| Request::AddService { key, options }),
        command::SET_SERVICE => service(attributes).map(|(key, options)| Request::EditService { key, options }),
        command::DEL_SERVICE => service_key(attributes).map(|key| Request::DeleteService { key }),
        command::GET_SERVICE => service_key(attributes).map(|key| Request::GetService { key }),
        command::NEW_DEST => service_key(attributes).map(|service| Request::AddServer {
            service,
            server: server(attributes, true),
        }),
        command::SET_DEST => service_key(attributes).map(|service| Request::EditServer {
            service,
            server: server(attributes, true),
        }),
        command::DEL_DEST => service_key(attributes).map(|service| Request::DeleteServer {
            service,
            server: server(attributes, false),
        }),
        // GET_DEST and GET_DAEMON exist as dumps only, SET_INFO only as an answer.
        _ => Err(Errno::NotSupported),
    }
}

/// A mandatory number: absent or too short is `EINVAL`.
fn must<'b, T>(attribute: Option<Attribute<'b>>, read: impl FnOnce(&Attribute<'b>) -> Option<T>) -> Result<T, Errno> {
    attribute.as_ref().and_then(read).ok_or(Errno::Invalid)
}

/// An optional number: too short is `EINVAL`.
fn may<'b, T>(
    attribute: Option<Attribute<'b>>,
    read: impl FnOnce(&Attribute<'b>) -> Option<T>,
) -> Result<Option<T>, Errno> {
    attribute
        .as_ref()
        .map(|present| read(present).ok_or(Errno::Invalid))
        .transpose()
}

/// An address of 4 or 16 bytes. Missing bytes are zeros, as after `nla_memcpy()`.
fn bytes(attribute: &Attribute<'_>) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    bytes
        .get_mut(..attribute.payload.len())?
        .copy_from_slice(attribute.payload);
    Some(bytes)
}

fn service_key(attributes: Attributes<'_>) -> Result<ServiceKey, Errno> {
    let nest = attributes.find(1).ok_or(Errno::Invalid)?.nested();
    let family = may(nest.find(1), Attribute::u16)?;
    let protocol = may(nest.find(2), Attribute::u16)?;
    let addr = may(nest.find(3), bytes)?;
    let port = may(nest.find(4), Attribute::be16)?;
    let mark = may(nest.find(5), Attribute::u32)?;
    let family = family.ok_or(Errno::Invalid)?;
    let place = protocol.zip(addr).zip(port);
    if mark.is_none() && place.is_none() {
        return Err(Errno::Invalid);
    }
    let family = Family::from_number(family).ok_or(Errno::NoFamily)?;
    match (mark, place) {
        (Some(mark @ 1..), _) => Ok(ServiceKey::Mark { family, mark }),
        // The kernel reads a mark of 0 as TCP on no address.
        (Some(0), _) => Ok(ServiceKey::Address {
            protocol: 6,
            addr: family.address([0; 16]),
            port: 0,
        }),
        (None, Some(((protocol, addr), port))) => Ok(ServiceKey::Address {
            protocol,
            addr: family.address(addr),
            port,
        }),
        (None, None) => Err(Errno::Invalid),
    }
}

fn service(attributes: Attributes<'_>) -> Result<(ServiceKey, ServiceOptions), Errno> {
    let key = service_key(attributes)?;
    let nest = attributes.find(1).ok_or(Errno::Invalid)?.nested();
    let name = |attribute: &Attribute<'_>| attribute.text(NAME_MAX);
    let (flags, flags_mask) = must(nest.find(7), |attribute| {
        let bytes: [u8; 8] = attribute.payload.try_into().ok()?;
        let [a, b, c, d, e, f, g, h] = bytes;
        Some((u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])))
    })?;
    let netmask = must(nest.find(9), |attribute| attribute.payload.first_chunk::<4>().copied())?;
    let options = ServiceOptions {
        scheduler: must(nest.find(6), name)?,
        engine: may(nest.find(11), name)?.filter(|engine| !engine.is_empty()),
        flags,
        flags_mask,
        timeout_sec: must(nest.find(8), Attribute::u32)?,
        granularity: match key.family() {
            Family::V4 => Granularity::V4(Ipv4Addr::from(netmask)),
            Family::V6 => Granularity::V6(u32::from_ne_bytes(netmask)),
        },
    };
    Ok((key, options))
}

fn server(attributes: Attributes<'_>, full: bool) -> Result<ServerRequest, Errno> {
    let nest = attributes.find(2).ok_or(Errno::Invalid)?.nested();
    let bytes = must(nest.find(1), bytes)?;
    let port = must(nest.find(2), Attribute::be16)?;
    let family = may(nest.find(11), Attribute::u16)?.unwrap_or(0);
    let options = full.then(|| server_options(nest)).transpose()?;
    Ok(ServerRequest {
        family,
        bytes,
        port,
        options,
    })
}

fn server_options(nest: Attributes<'_>) -> Result<ServerOptions, Errno> {
    Ok(ServerOptions {
        method: must(nest.find(3), Attribute::u32)? & super::row::ServerRow::METHOD_MASK,
        weight: must(nest.find(4), Attribute::u32)?.cast_signed(),
        upper_threshold: must(nest.find(5), Attribute::u32)?,
        lower_threshold: must(nest.find(6), Attribute::u32)?,
        tunnel: TunnelRow {
            kind: may(nest.find(13), Attribute::u8)?.unwrap_or(0),
            port: may(nest.find(14), Attribute::be16)?.unwrap_or(0),
            flags: may(nest.find(15), Attribute::u16)?.unwrap_or(0),
        },
    })
}

fn new_timeouts(attributes: Attributes<'_>) -> Result<TimeoutsRequest, Errno> {
    let seconds = |kind| may(attributes.find(kind), Attribute::u32).map_err(|_| Errno::Range);
    Ok(TimeoutsRequest {
        tcp_sec: seconds(4)?,
        tcp_fin_sec: seconds(5)?,
        udp_sec: seconds(6)?,
    })
}

fn daemon_state(attributes: Attributes<'_>) -> Result<u32, Errno> {
    let nest = attributes.find(3).ok_or(Errno::Invalid)?.nested();
    must(nest.find(1), Attribute::u32)
}

fn new_daemon(attributes: Attributes<'_>) -> Result<DaemonRequest, Errno> {
    let nest = attributes.find(3).ok_or(Errno::Invalid)?.nested();
    let group4 = may(nest.find(5), |group| {
        group.payload.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes))
    })?;
    let group6 = may(nest.find(6), |group| {
        group.payload.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes))
    })?;
    let group = group4.or(group6);
    if group.is_some_and(|group| !group.is_multicast()) {
        return Err(Errno::Invalid);
    }
    Ok(DaemonRequest {
        state: must(nest.find(1), Attribute::u32)?,
        interface: must(nest.find(2), |name| name.text(NAME_MAX))?,
        sync_id: must(nest.find(3), Attribute::u32)?,
        max_len: may(nest.find(4), Attribute::u16)?.unwrap_or(0),
        group,
        port: may(nest.find(7), Attribute::u16)?.unwrap_or(0),
        ttl: may(nest.find(8), Attribute::u8)?.unwrap_or(0),
    })
}

//! The socket options by which tools programmed IPVS before it had netlink: `IP_VS_SO_SET_*`, `IP_VS_SO_GET_*`.
//!
//! In:  a call as the library or the supervisor sends it. Out: a [`Call`] with typed fields, and the bytes of its answer.
//! The structs are those of the caller's ABI: 64-bit and 32-bit ones differ in alignment. IPv4 only, as in the kernel.
//! Ref: Linux include/uapi/linux/ip_vs.h; net/netfilter/ipvs/ip_vs_ctl.c `do_ip_vs_set_ctl()`, `do_ip_vs_get_ctl()`.

use std::net::{IpAddr, Ipv4Addr};

use crate::netlink::{Errno, ServerRow, ServiceKey, ServiceRow, Statistics, TimeoutsRow};

/// `IP_VS_BASE_CTL`.
pub const BASE: u16 = 1152;
/// The options: `BASE` and the next fifteen.
pub const COUNT: u16 = 16;
/// Bytes of a struct at most, as a call carries them.
pub const DATA_MAX_BYTES: usize = 8 << 10;

const NAME_BYTES: usize = 16;
const SERVICE_BYTES: usize = 44;
const SERVER_BYTES: usize = 24;
const TIMEOUTS_BYTES: usize = 12;
const DAEMON_BYTES: usize = 24;
/// Of `IP_VS_SO_GET_VERSION`.
const VERSION_BYTES: usize = 64;

/// A call as it travels: ABI, direction, option, the length of the caller's buffer, the buffer's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The caller's `long` has 64 bits.
    pub is_64_bit: bool,
    /// `setsockopt`.
    pub is_set: bool,
    /// From [`BASE`].
    pub option: u16,
    /// What the caller says its buffer holds.
    pub len: u32,
    /// The buffer, up to [`DATA_MAX_BYTES`].
    pub data: Vec<u8>,
}

impl Call {
    /// Reads a call behind its magic.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, data) = bytes.split_first_chunk::<8>()?;
        let [wide, set, o0, o1, l0, l1, l2, l3] = *head;
        Some(Self {
            is_64_bit: wide != 0,
            is_set: set != 0,
            option: u16::from_ne_bytes([o0, o1]),
            len: u32::from_ne_bytes([l0, l1, l2, l3]),
            data: data.to_vec(),
        })
    }

    /// As it travels, behind its magic.
    pub fn to_bytes(&self) -> Vec<u8> {
        let [o0, o1] = self.option.to_ne_bytes();
        let mut bytes = vec![u8::from(self.is_64_bit), u8::from(self.is_set), o0, o1];
        bytes.extend_from_slice(&self.len.to_ne_bytes());
        bytes.extend_from_slice(&self.data);
        bytes
    }

    fn has_exactly(&self, len: usize) -> Result<&[u8], Errno> {
        let is_exact = usize::try_from(self.len) == Ok(len);
        self.data.get(..len).filter(|_| is_exact).ok_or(Errno::Invalid)
    }

    fn has_at_least(&self, len: usize) -> Result<&[u8], Errno> {
        let fits = usize::try_from(self.len).is_ok_and(|found| found >= len);
        if fits {
            Ok(self.data.get(..len).unwrap_or(&self.data))
        } else {
            Err(Errno::Invalid)
        }
    }

    /// What the call asks for.
    pub fn asked(&self) -> Result<Asked, Errno> {
        let index = self.option.checked_sub(BASE).filter(|index| *index < COUNT);
        match (self.is_set, index.ok_or(Errno::Invalid)?) {
            (true, index) => self.change(index),
            (false, index) => self.question(index),
        }
    }

    fn change(&self, index: u16) -> Result<Asked, Errno> {
        let service = || self.has_exactly(SERVICE_BYTES).map(ServiceCall::read);
        let both = || {
            let bytes = self.has_exactly(SERVICE_BYTES + SERVER_BYTES)?;
            let (service, server) = bytes.split_at(SERVICE_BYTES);
            Ok((ServiceCall::read(service), ServerCall::read(server)))
        };
        Ok(match index {
            2 => Asked::AddService(service()?),
            3 => Asked::EditService(service()?),
            4 => Asked::DeleteService(service()?),
            5 => self.has_exactly(0).map(|_| Asked::Flush)?,
            7 => both().map(|(service, server)| Asked::AddServer(service, server))?,
            8 => both().map(|(service, server)| Asked::DeleteServer(service, server))?,
            9 => both().map(|(service, server)| Asked::EditServer(service, server))?,
            10 => {
                let bytes = self.has_exactly(TIMEOUTS_BYTES)?;
                Asked::SetTimeouts([u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8)])
            }
            11 | 12 => {
                let bytes = self.has_exactly(DAEMON_BYTES)?;
                let daemon = DaemonCall {
                    state: u32_at(bytes, 0),
                    interface: text_at(bytes, 4),
                    sync_id: u32_at(bytes, 20),
                };
                if index == 11 {
                    Asked::StartDaemon(daemon)
                } else {
                    Asked::StopDaemon(daemon)
                }
            }
            15 => Asked::Zero(service()?),
            _ => return Err(Errno::Invalid),
        })
    }

    fn question(&self, index: u16) -> Result<Asked, Errno> {
        let layout = Layout::of(self.is_64_bit);
        Ok(match index {
            0 => self.has_at_least(VERSION_BYTES).map(|_| Asked::Version)?,
            1 => self.has_at_least(12).map(|_| Asked::Info)?,
            2 => Asked::Services {
                count: u32_at(self.has_at_least(layout.services_head)?, 0),
            },
            3 => Asked::Service(ServiceCall::read(self.has_at_least(layout.service_bytes())?)),
            4 => {
                let bytes = self.has_at_least(layout.servers_head)?;
                Asked::Servers {
                    service: ServiceCall {
                        key: key(bytes, 0, 4, 8, 12),
                        protocol: u16_at(bytes, 0),
                        ..ServiceCall::default()
                    },
                    count: u32_at(bytes, 16),
                }
            }
            6 => self.has_at_least(TIMEOUTS_BYTES).map(|_| Asked::Timeouts)?,
            7 => self.has_at_least(2 * DAEMON_BYTES).map(|_| Asked::Daemons)?,
            _ => return Err(Errno::Invalid),
        })
    }

    /// Whether the caller's buffer has just the length that so many entries need.
    pub fn fits(&self, asked: &Asked) -> bool {
        let layout = Layout::of(self.is_64_bit);
        let (head, entry, count) = match asked {
            Asked::Services { count } => (layout.services_head, layout.service_bytes(), *count),
            Asked::Servers { count, .. } => (layout.servers_head, layout.server_bytes(), *count),
            _ => return true,
        };
        let len = u64::from(count) * entry as u64 + head as u64;
        u64::from(self.len) == len
    }
}

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after the options")]
pub enum Asked {
    AddService(ServiceCall),
    EditService(ServiceCall),
    DeleteService(ServiceCall),
    Flush,
    AddServer(ServiceCall, ServerCall),
    EditServer(ServiceCall, ServerCall),
    DeleteServer(ServiceCall, ServerCall),
    /// TCP, TCP after a FIN, UDP; 0 leaves one as it is.
    SetTimeouts([u32; 3]),
    StartDaemon(DaemonCall),
    StopDaemon(DaemonCall),
    Zero(ServiceCall),
    Version,
    Info,
    Services {
        count: u32,
    },
    Service(ServiceCall),
    Servers {
        service: ServiceCall,
        count: u32,
    },
    Timeouts,
    Daemons,
}

/// `struct ip_vs_service_user`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's fields")]
pub struct ServiceCall {
    pub protocol: u16,
    pub key: ServiceKey,
    pub scheduler: String,
    pub flags: u32,
    pub timeout_sec: u32,
    pub netmask: Ipv4Addr,
}

impl Default for ServiceCall {
    fn default() -> Self {
        Self {
            protocol: 0,
            key: key(&[], 0, 4, 8, 12),
            scheduler: String::new(),
            flags: 0,
            timeout_sec: 0,
            netmask: Ipv4Addr::UNSPECIFIED,
        }
    }
}

impl ServiceCall {
    fn read(bytes: &[u8]) -> Self {
        Self {
            protocol: u16_at(bytes, 0),
            key: key(bytes, 0, 4, 8, 12),
            scheduler: text_at(bytes, 16),
            flags: u32_at(bytes, 32),
            timeout_sec: u32_at(bytes, 36),
            netmask: address_at(bytes, 40),
        }
    }

    /// Whether it names no service: neither mark, nor address, nor port.
    pub fn names_none(&self) -> bool {
        matches!(self.key, ServiceKey::Address { addr, port: 0, .. } if addr.is_unspecified())
    }
}

/// `struct ip_vs_dest_user`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's fields")]
pub struct ServerCall {
    pub addr: Ipv4Addr,
    pub port: u16,
    pub method: u32,
    pub weight: i32,
    pub upper_threshold: u32,
    pub lower_threshold: u32,
}

impl ServerCall {
    fn read(bytes: &[u8]) -> Self {
        Self {
            addr: address_at(bytes, 0),
            port: u16::from_be(u16_at(bytes, 4)),
            method: u32_at(bytes, 8),
            weight: u32_at(bytes, 12).cast_signed(),
            upper_threshold: u32_at(bytes, 16),
            lower_threshold: u32_at(bytes, 20),
        }
    }
}

/// `struct ip_vs_daemon_user`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's fields")]
pub struct DaemonCall {
    pub state: u32,
    pub interface: String,
    pub sync_id: u32,
}

fn key(bytes: &[u8], protocol: usize, addr: usize, port: usize, mark: usize) -> ServiceKey {
    match u32_at(bytes, mark) {
        0 => ServiceKey::Address {
            protocol: u16_at(bytes, protocol),
            addr: IpAddr::V4(address_at(bytes, addr)),
            port: u16::from_be(u16_at(bytes, port)),
        },
        mark => ServiceKey::Mark {
            family: crate::netlink::Family::V4,
            mark,
        },
    }
}

fn chunk<const LEN: usize>(bytes: &[u8], offset: usize) -> [u8; LEN] {
    let found = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    found.copied().unwrap_or([0; LEN])
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes(chunk(bytes, offset))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(chunk(bytes, offset))
}

fn address_at(bytes: &[u8], offset: usize) -> Ipv4Addr {
    Ipv4Addr::from(chunk::<4>(bytes, offset))
}

fn text_at(bytes: &[u8], offset: usize) -> String {
    let name = chunk::<NAME_BYTES>(bytes, offset);
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// Where an ABI puts fields: `u64` is aligned to 8 bytes on 64-bit machines and to 4 on 32-bit x86.
#[derive(Clone, Copy, Debug)]
struct Layout {
    align: usize,
    services_head: usize,
    servers_head: usize,
}

impl Layout {
    const fn of(is_64_bit: bool) -> Self {
        if is_64_bit {
            Self {
                align: 8,
                services_head: 8,
                servers_head: 24,
            }
        } else {
            Self {
                align: 4,
                services_head: 4,
                servers_head: 20,
            }
        }
    }

    const fn statistics_bytes(self) -> usize {
        (12_usize.next_multiple_of(self.align) + 36).next_multiple_of(self.align)
    }

    const fn service_bytes(self) -> usize {
        (48_usize.next_multiple_of(self.align) + self.statistics_bytes()).next_multiple_of(self.align)
    }

    const fn server_bytes(self) -> usize {
        (36_usize.next_multiple_of(self.align) + self.statistics_bytes()).next_multiple_of(self.align)
    }
}

/// The bytes of an answer.
#[derive(Clone, Debug)]
pub struct Answer {
    layout: Layout,
    bytes: Vec<u8>,
}

impl Answer {
    /// An empty one, for the ABI of a call.
    pub fn new(call: &Call) -> Self {
        Self {
            layout: Layout::of(call.is_64_bit),
            bytes: Vec::new(),
        }
    }

    /// What the caller's buffer begins with afterwards.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn pad(&mut self) -> &mut Self {
        let len = self.bytes.len().next_multiple_of(self.layout.align);
        self.bytes.resize(len, 0);
        self
    }

    fn name(&mut self, text: &str) -> &mut Self {
        let mut name = [0; NAME_BYTES];
        for (to, from) in name.iter_mut().take(NAME_BYTES - 1).zip(text.bytes()) {
            *to = from;
        }
        self.bytes.extend_from_slice(&name);
        self
    }

    fn statistics(&mut self, statistics: &Statistics) -> &mut Self {
        let low = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        self.pad()
            .u32(low(statistics.connections))
            .u32(low(statistics.in_packets))
            .u32(low(statistics.out_packets))
            .pad()
            .u64(statistics.in_bytes)
            .u64(statistics.out_bytes)
            .u32(low(statistics.connections_per_sec))
            .u32(low(statistics.in_packets_per_sec))
            .u32(low(statistics.out_packets_per_sec))
            .u32(low(statistics.in_bytes_per_sec))
            .u32(low(statistics.out_bytes_per_sec))
            .pad()
    }

    fn key(&mut self, key: &ServiceKey, protocol: u16) -> &mut Self {
        let (addr, port, mark) = match *key {
            ServiceKey::Address { addr, port, .. } => (addr, port, 0),
            ServiceKey::Mark { mark, .. } => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, mark),
        };
        let addr = match addr {
            IpAddr::V4(addr) => addr.octets(),
            IpAddr::V6(_) => [0; 4],
        };
        self.bytes.extend_from_slice(&protocol.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&addr);
        self.bytes.extend_from_slice(&port.to_be_bytes());
        self.bytes.extend_from_slice(&[0; 2]);
        self.u32(mark)
    }

    /// `struct ip_vs_getinfo`.
    pub fn info(&mut self, version: u32, table_size: u32, services: u32) {
        self.u32(version).u32(table_size).u32(services);
    }

    /// What `IP_VS_SO_GET_VERSION` says.
    pub fn version(&mut self, version: u32, table_size: u32) {
        let [_, major, minor, patch] = version.to_be_bytes();
        let text = format!("IP Virtual Server version {major}.{minor}.{patch} (size={table_size})\0");
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// The head of `struct ip_vs_get_services`.
    pub fn services_head(&mut self, count: u32) {
        self.u32(count).pad();
    }

    /// The head of `struct ip_vs_get_dests`.
    pub fn servers_head(&mut self, service: &ServiceCall, count: u32) {
        self.key(&service.key, service.protocol).u32(count).pad();
    }

    /// `struct ip_vs_service_entry`.
    pub fn service(&mut self, row: &ServiceRow, servers: u32) {
        let protocol = match row.key {
            ServiceKey::Address { protocol, .. } => protocol,
            // The kernel keeps a mark's services as TCP.
            ServiceKey::Mark { .. } => 6,
        };
        let netmask = match row.granularity {
            crate::netlink::Granularity::V4(mask) => mask.octets(),
            crate::netlink::Granularity::V6(_) => [0xff; 4],
        };
        self.key(&row.key, protocol)
            .name(&row.scheduler)
            .u32(row.flags)
            .u32(row.timeout_sec);
        self.bytes.extend_from_slice(&netmask);
        self.u32(servers).statistics(&row.statistics);
    }

    /// `struct ip_vs_dest_entry`.
    pub fn server(&mut self, row: &ServerRow) {
        let IpAddr::V4(addr) = row.addr else {
            return;
        };
        self.bytes.extend_from_slice(&addr.octets());
        self.bytes.extend_from_slice(&row.port.to_be_bytes());
        self.bytes.extend_from_slice(&[0; 2]);
        self.u32(row.method)
            .u32(row.weight)
            .u32(row.upper_threshold)
            .u32(row.lower_threshold)
            .u32(row.active)
            .u32(row.inactive)
            .u32(row.persistent)
            .statistics(&row.statistics);
    }

    /// `struct ip_vs_timeout_user`.
    pub fn timeouts(&mut self, row: &TimeoutsRow) {
        self.u32(row.tcp_sec).u32(row.tcp_fin_sec).u32(row.udp_sec);
    }

    /// One `struct ip_vs_daemon_user`.
    pub fn daemon(&mut self, state: u32, interface: &str, sync_id: u32) {
        self.u32(state).name(interface).u32(sync_id);
    }
}

#[cfg(test)]
mod tests;

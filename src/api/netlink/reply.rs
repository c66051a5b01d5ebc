//! From rows to the bytes of answers, attribute for attribute in the kernel's order.
//!
//! In:  a row, the sequence and port id of who asked. Out: one message.
//! Ref: ip_vs_ctl.c `ip_vs_genl_fill_service()`, `_fill_dest()`, `_fill_stats()`, `_fill_daemon()`.

use std::net::IpAddr;

use super::attribute::{Attributes, Writer};
use super::message::{HEADER_BYTES, Message, frame};
use super::row::{DaemonRow, Family, Granularity, Info, ServerRow, ServiceKey, ServiceRow, Statistics, TimeoutsRow};
use super::{FAMILY_ID, FAMILY_NAME, command};

/// To whom an answer goes.
#[derive(Clone, Copy, Debug)]
pub struct Addressee {
    /// Of the request.
    pub sequence: u32,
    /// Of the client's socket.
    pub port_id: u32,
    /// Part of a dump.
    pub multi: bool,
}

fn generic(to: Addressee, kind: u16, command: u8, version: u8, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let flags = if to.multi { super::FLAG_MULTI } else { 0 };
    let mut writer = Writer::after(frame(kind, flags, to.sequence, to.port_id, &[command, version, 0, 0]));
    fill(&mut writer);
    let mut bytes = writer.into_bytes();
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    if let Some(start) = bytes.first_chunk_mut::<4>() {
        *start = len.to_ne_bytes();
    }
    debug_assert!(bytes.len() > HEADER_BYTES);
    bytes
}

fn ipvs(to: Addressee, command: u8, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    generic(to, FAMILY_ID, command, 1, fill)
}

/// Commands a client may send, with `GENL_CMD_CAP_*`: admin 1, do 2, dump 4, has a policy 8.
pub(super) const OPERATIONS: [(u8, u32); 16] = [
    (command::NEW_SERVICE, 0x0b),
    (command::SET_SERVICE, 0x0b),
    (command::DEL_SERVICE, 0x0b),
    (command::GET_SERVICE, 0x0f),
    (command::NEW_DEST, 0x0b),
    (command::SET_DEST, 0x0b),
    (command::DEL_DEST, 0x0b),
    (command::GET_DEST, 0x0d),
    (command::NEW_DAEMON, 0x0b),
    (command::DEL_DAEMON, 0x0b),
    (command::GET_DAEMON, 0x0d),
    (command::SET_CONFIG, 0x0b),
    (command::GET_CONFIG, 0x0b),
    (command::GET_INFO, 0x0b),
    (command::ZERO, 0x0b),
    (command::FLUSH, 0x0b),
];

/// A message of the family of families.
pub(super) fn control(to: Addressee, command: u8, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    const CONTROL_ID: u16 = 16;
    const VERSION: u8 = 2;
    generic(to, CONTROL_ID, command, VERSION, fill)
}

/// `CTRL_CMD_NEWFAMILY`: where IPVS is to be found.
pub fn family(to: Addressee) -> Vec<u8> {
    control(to, command::CTRL_NEW_FAMILY, |answer| {
        answer
            .put_text(2, FAMILY_NAME)
            .put_u16(1, FAMILY_ID)
            .put_u32(3, 1)
            .put_u32(4, 0)
            .put_u32(5, 6)
            .put_nested(6, |operations| {
                for (index, (command, capabilities)) in (1..).zip(OPERATIONS) {
                    operations.put_nested(index, |operation| {
                        operation.put_u32(1, u32::from(command)).put_u32(2, capabilities);
                    });
                }
            });
    })
}

/// A kernel's answer about its families as lvsd passes it on; `None` for IPVS, which is lvsd's here, and for what is no
/// description of a family.
pub fn family_of_kernel(to: Addressee, message: &Message<'_>) -> Option<Vec<u8>> {
    const CONTROL_ID: u16 = 16;
    let body = message.body();
    let name = Attributes::new(body.get(4..)?).find(2)?.text(15)?;
    (message.kind == CONTROL_ID && name != FAMILY_NAME)
        .then(|| frame(CONTROL_ID, super::FLAG_MULTI, to.sequence, to.port_id, body))
}

/// Asks a kernel for all its families.
pub fn ask_families() -> Vec<u8> {
    const CONTROL_ID: u16 = 16;
    frame(
        CONTROL_ID,
        super::FLAG_REQUEST | super::FLAG_DUMP,
        1,
        0,
        &[command::CTRL_GET_FAMILY, 1, 0, 0],
    )
}

/// `SET_INFO`.
pub fn info(to: Addressee, info: &Info) -> Vec<u8> {
    ipvs(to, command::SET_INFO, |answer| {
        answer.put_u32(1, info.version).put_u32(2, info.table_size);
    })
}

/// `SET_CONFIG`.
pub fn timeouts(to: Addressee, timeouts: &TimeoutsRow) -> Vec<u8> {
    ipvs(to, command::SET_CONFIG, |answer| {
        answer
            .put_u32(4, timeouts.tcp_sec)
            .put_u32(5, timeouts.tcp_fin_sec)
            .put_u32(6, timeouts.udp_sec);
    })
}

/// `NEW_SERVICE`.
pub fn service(to: Addressee, row: &ServiceRow) -> Vec<u8> {
    ipvs(to, command::NEW_SERVICE, |answer| {
        answer.put_nested(1, |nest| fill_service(nest, row));
    })
}

fn fill_service(nest: &mut Writer, row: &ServiceRow) {
    nest.put_u16(1, row.key.family() as u16);
    match row.key {
        ServiceKey::Mark { mark, .. } => nest.put_u32(5, mark),
        ServiceKey::Address { protocol, addr, port } => {
            nest.put_u16(2, protocol).put(3, &sixteen(addr)).put_be16(4, port)
        }
    };
    nest.put_text(6, &row.scheduler);
    if let Some(engine) = &row.engine {
        nest.put_text(11, engine);
    }
    let [a, b, c, d] = row.flags.to_ne_bytes();
    nest.put(7, &[a, b, c, d, 0xff, 0xff, 0xff, 0xff])
        .put_u32(8, row.timeout_sec);
    match row.granularity {
        Granularity::V4(mask) => nest.put(9, &mask.octets()),
        Granularity::V6(length) => nest.put_u32(9, length),
    };
    fill_statistics(nest, 10, 12, &row.statistics);
}

/// `NEW_DEST`.
pub fn server(to: Addressee, row: &ServerRow) -> Vec<u8> {
    ipvs(to, command::NEW_DEST, |answer| {
        answer.put_nested(2, |nest| {
            nest.put(1, &sixteen(row.addr))
                .put_be16(2, row.port)
                .put_u32(3, row.method)
                .put_u32(4, row.weight)
                .put_u8(13, row.tunnel.kind)
                .put_be16(14, row.tunnel.port)
                .put_u16(15, row.tunnel.flags)
                .put_u32(5, row.upper_threshold)
                .put_u32(6, row.lower_threshold)
                .put_u32(7, row.active)
                .put_u32(8, row.inactive)
                .put_u32(9, row.persistent)
                .put_u16(11, Family::of(&row.addr) as u16);
            fill_statistics(nest, 10, 12, &row.statistics);
        });
    })
}

/// `NEW_DAEMON`.
pub fn daemon(to: Addressee, row: &DaemonRow) -> Vec<u8> {
    ipvs(to, command::NEW_DAEMON, |answer| {
        answer.put_nested(3, |nest| {
            nest.put_u32(1, row.state)
                .put_text(2, &row.interface)
                .put_u32(3, row.sync_id)
                .put_u16(4, row.max_len)
                .put_u16(7, row.port)
                .put_u8(8, row.ttl);
            match row.group {
                IpAddr::V4(group) => nest.put(5, &group.octets()),
                IpAddr::V6(group) => nest.put(6, &group.octets()),
            };
        });
    })
}

fn sixteen(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// `IPVS_STATS_ATTR_INBYTES` and `IPVS_STATS_ATTR_OUTBYTES`: they have 64 bits even in the narrow statistics.
const STATISTIC_IN_BYTES: u16 = 4;
const STATISTIC_OUT_BYTES: u16 = 5;

fn fill_statistics(nest: &mut Writer, narrow: u16, wide: u16, statistics: &Statistics) {
    let values = statistics.in_order();
    let low = |value: u64| {
        let [a, b, c, d, ..] = value.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    };
    nest.put_nested(narrow, |nest| {
        for (kind, value) in (1..).zip(values) {
            match kind {
                STATISTIC_IN_BYTES | STATISTIC_OUT_BYTES => nest.put_u64(kind, value),
                _ => nest.put_u32(kind, low(value)),
            };
        }
    });
    nest.put_nested(wide, |nest| {
        for (kind, value) in (1..).zip(values) {
            nest.put_u64(kind, value);
        }
    });
}

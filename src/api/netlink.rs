//! The kernel's IPVS generic-netlink protocol, as ipvsadm, keepalived and Go libraries speak it.
//!
//! In:  datagrams of any bytes. Out: typed [`Request`]s, and the bytes of answers, errors and dumps.
//! Pure and total: no I/O, no panic on any input. What a table does with a request is not decided here.
//! Ref: Linux include/uapi/linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c `ip_vs_genl_*`, net/netlink/genetlink.c.

mod attribute;
mod dump;
mod hello;
mod message;
mod policy;
mod reply;
mod request;
mod row;

#[cfg(test)]
mod tests;

pub use attribute::{Attribute, Attributes};
pub use dump::{DATAGRAM_MAX_BYTES, Dump};
pub use hello::{
    CANCEL_MAGIC, FILE_MAGIC, HELLO_BYTES, HELLO_MAGIC, Hello, OPTION_MAGIC, Opening, WRITE_MAGIC, cancelled_sequence,
};
pub use message::{Message, Messages, acknowledge, cap, done, refuse};
pub use policy::policy;
pub use reply::{Addressee, ask_families, daemon, family, family_of_kernel, info, server, service, timeouts};
pub use request::{DaemonRequest, Request, ServerOptions, ServerRequest, ServiceOptions, TimeoutsRequest, is_for_ipvs};
pub use row::{
    DaemonRow, Family, Granularity, Info, McastGroup, ServerRow, ServiceKey, ServiceRow, Statistics, TimeoutsRow,
    TunnelRow,
};

/// Id of the family: above the kernel's greatest (1023), so that it can never be a kernel family's.
pub const FAMILY_ID: u16 = 0xf1b5;
/// Its name, without the closing NUL.
pub const FAMILY_NAME: &str = "IPVS";
/// Where the daemon listens by default.
pub const SOCKET_DEFAULT: &str = "/run/lvsd/ipvs.sock";

/// `NLM_F_REQUEST`.
pub(crate) const FLAG_REQUEST: u16 = 0x01;
/// `NLM_F_MULTI`.
pub(crate) const FLAG_MULTI: u16 = 0x02;
/// `NLM_F_ACK`.
pub(crate) const FLAG_ACK: u16 = 0x04;
/// `NLM_F_DUMP`.
pub(crate) const FLAG_DUMP: u16 = 0x300;
/// `NLM_F_CAPPED`: the request is not echoed whole.
pub(crate) const FLAG_CAPPED: u16 = 0x100;

/// `IPVS_CMD_*`, `CTRL_CMD_*`: the numbers of commands.
pub(crate) mod command {
    pub(crate) const CTRL_NEW_FAMILY: u8 = 1;
    pub(crate) const CTRL_GET_FAMILY: u8 = 3;
    pub(crate) const CTRL_GET_POLICY: u8 = 10;
    pub(crate) const NEW_SERVICE: u8 = 1;
    pub(crate) const SET_SERVICE: u8 = 2;
    pub(crate) const DEL_SERVICE: u8 = 3;
    pub(crate) const GET_SERVICE: u8 = 4;
    pub(crate) const NEW_DEST: u8 = 5;
    pub(crate) const SET_DEST: u8 = 6;
    pub(crate) const DEL_DEST: u8 = 7;
    pub(crate) const GET_DEST: u8 = 8;
    pub(crate) const NEW_DAEMON: u8 = 9;
    pub(crate) const DEL_DAEMON: u8 = 10;
    pub(crate) const GET_DAEMON: u8 = 11;
    pub(crate) const SET_CONFIG: u8 = 12;
    pub(crate) const GET_CONFIG: u8 = 13;
    pub(crate) const SET_INFO: u8 = 14;
    pub(crate) const GET_INFO: u8 = 15;
    pub(crate) const ZERO: u8 = 16;
    pub(crate) const FLUSH: u8 = 17;
}

/// Error numbers that answers carry, as Linux numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Errno {
    /// The peer may not do this.
    NotPermitted = 1,
    /// `ENOENT`: no such real server, scheduler, persistence engine or family.
    NoEntry = 2,
    /// `ESRCH`: no such service.
    NoService = 3,
    /// `EFAULT`: what the old socket options answer to a protocol that cannot be balanced.
    Fault = 14,
    /// `ENOMEM`: a limit is reached.
    NoMemory = 12,
    /// `EBUSY`.
    Busy = 16,
    /// `EEXIST`.
    Exists = 17,
    /// `ENODEV`: no such interface; also the answer when the director is gone.
    NoDevice = 19,
    /// `EINVAL`.
    Invalid = 22,
    /// `ERANGE`: weight or thresholds out of range.
    Range = 34,
    /// `EPROTONOSUPPORT`: a protocol that cannot be balanced.
    NoProtocol = 93,
    /// `EOPNOTSUPP`: no such command, or one that this director cannot do.
    NotSupported = 95,
    /// `EAFNOSUPPORT`: neither IPv4 nor IPv6.
    NoFamily = 97,
}

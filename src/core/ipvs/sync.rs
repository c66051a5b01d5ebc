//! Connection synchronisation: what one director sends another about its connections.
//!
//! [`daemon`] is what an operator starts, [`policy`] what it syncs out and believes. [`message`] reads and writes the
//! kernel's datagrams. [`assembly`] gathers entries into messages, a [`notice`] says how many there were. The path puts
//! connections into the [`outbox`] and imports those of another director. The sockets belong to the management core.
//! Ref: Linux net/netfilter/ipvs/ip_vs_sync.c.

use std::net::IpAddr;

use crate::address::{Address, Endpoint};
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags, SequenceShift};
use crate::ipvs::forwarding::ForwardingMode;

pub mod assembly;
pub mod daemon;
pub mod message;
mod message_v0;
pub mod notice;
pub mod outbox;
pub mod policy;

/// Which daemons run; workers read it through the snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncRoles {
    /// This director syncs its connections out.
    pub master: bool,
    /// This director imports connections of others.
    pub backup: bool,
}

/// The forwarding method in an entry's flags (`IP_VS_CONN_F_FWD_MASK`).
pub const FLAGS_METHOD: u32 = 0x0007;
const METHOD_MASQUERADING: u32 = 0;
const METHOD_LOCAL: u32 = 1;
const METHOD_TUNNEL: u32 = 2;
const METHOD_DIRECT_ROUTING: u32 = 3;
const METHOD_BYPASS: u32 = 4;

/// The flags that a master sends as they are.
const FLAGS_SENT: ConnFlags = FLAGS_IMPORTED.union(ConnFlags::SYNCED).union(ConnFlags::ONE_PACKET);
/// The flags that a backup imports (`IP_VS_CONN_F_BACKUP_MASK`).
pub const FLAGS_IMPORTED: ConnFlags = FLAGS_UPDATED
    .union(ConnFlags::NO_OUTPUT)
    .union(ConnFlags::NO_CLIENT_PORT)
    .union(ConnFlags::TEMPLATE);
/// Those of them that change a connection that is known (`IP_VS_CONN_F_BACKUP_UPD_MASK`).
pub const FLAGS_UPDATED: ConnFlags = ConnFlags::INACTIVE.union(ConnFlags::SHIFTED);

/// An address and a port.
pub type SyncedEnd = (IpAddr, u16);

/// A connection or template as one director sends it to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncConn {
    /// IP protocol number; 0 for the template of a fwmark service.
    pub protocol: u8,
    /// The kernel's `IP_VS_CONN_F_*`: method, direction, activity, template.
    pub flags: u32,
    /// Protocol state, or of a template [`crate::ipvs::persistence::STATE_ASSURED`].
    pub state: u16,
    /// CIP and client port.
    pub client: SyncedEnd,
    /// VIP and service port; of a fwmark template the mark and 0.
    pub virt: SyncedEnd,
    /// RIP and real port. All ends are of one family.
    pub real: SyncedEnd,
    /// FULLNAT's local address and port, which the kernel does not know.
    pub local: Option<SyncedEnd>,
    /// Mark of its service; 0 for none, and always with version 0.
    pub fwmark: u32,
    /// Idle timeout in seconds; 0 for that of its state, as always with version 0.
    pub timeout_sec: u32,
    /// Shift of sequence numbers, inbound and outbound.
    pub shifts: Option<[SequenceShift; 2]>,
}

impl SyncConn {
    /// The entry of a connection; `None` when the protocol cannot express it, because the real server is of another family.
    pub fn of<A: Address>((conn, cold): (&Conn<A>, &ColdConn)) -> Option<Self> {
        let mode = conn.mode();
        if mode == ForwardingMode::Tunnel && conn.real().addr == A::default() {
            return None;
        }
        let end = |endpoint: Endpoint<A>| (endpoint.addr.to_ip(), endpoint.port);
        let method = match mode {
            ForwardingMode::Nat | ForwardingMode::FullNat => METHOD_MASQUERADING,
            ForwardingMode::Local => METHOD_LOCAL,
            ForwardingMode::Tunnel => METHOD_TUNNEL,
            ForwardingMode::DirectRouting => METHOD_DIRECT_ROUTING,
            ForwardingMode::Bypass => METHOD_BYPASS,
        };
        let is_template = conn.flags.contains(ConnFlags::TEMPLATE);
        // A template counts as inactive on the wire.
        let inactive = if is_template {
            ConnFlags::INACTIVE
        } else {
            ConnFlags::empty()
        };
        let is_shifted = conn.flags.intersects(ConnFlags::SHIFTED);
        Some(Self {
            protocol: conn.ip_protocol(),
            flags: method | u32::from(conn.flags & FLAGS_SENT | inactive),
            state: u16::from(conn.state),
            client: end(conn.client()),
            virt: end(conn.virt()),
            real: end(conn.real()),
            local: (mode == ForwardingMode::FullNat && !is_template).then(|| end(conn.local())),
            fwmark: cold.fwmark,
            timeout_sec: conn.timeout_ms / 1_000,
            shifts: is_shifted.then_some([cold.shift, SequenceShift::default()]),
        })
    }

    /// Whether it is a persistence template.
    pub const fn is_template(&self) -> bool {
        self.conn_flags().contains(ConnFlags::TEMPLATE)
    }

    /// The flags without the forwarding method.
    pub const fn conn_flags(&self) -> ConnFlags {
        ConnFlags::from_bits_truncate((self.flags & !FLAGS_METHOD) as u16)
    }

    /// How it is forwarded when this director has no such real server.
    pub const fn mode(&self) -> ForwardingMode {
        match self.flags & FLAGS_METHOD {
            METHOD_MASQUERADING if self.local.is_some() => ForwardingMode::FullNat,
            METHOD_MASQUERADING => ForwardingMode::Nat,
            METHOD_TUNNEL => ForwardingMode::Tunnel,
            METHOD_DIRECT_ROUTING => ForwardingMode::DirectRouting,
            METHOD_BYPASS => ForwardingMode::Bypass,
            _ => ForwardingMode::Local,
        }
    }
}

//! A tracked connection: its four ends, its rewrite, its state. [`table::ConnTable`] finds it by packet.
//!
//! Laid out for the memory, because at a million flows a director is bound by cache misses:
//!
//! ```text
//! IPv4, 128 B   |<- line 0: all that an established packet reads and writes ->|<- line 1: timer, counts ->|
//! IPv6, 192 B   |<- lines 0, 1: the same with longer addresses ->|<- rest and line 2: timer, counts ->|
//! ```
//!
//! Never: holds an address of the process; all references are indices. Ref: net/ip_vs.h `struct ip_vs_conn`.

use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::address::{Addr4, Addr6, Address, Endpoint, FlowKey};
use crate::ipvs::client_address::ClientAddressState;
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::persistence;
use crate::ipvs::protocol::sctp::SctpState;
use crate::ipvs::protocol::tcp::TcpState;
use crate::ipvs::real_server::RealServerId;
use crate::ipvs::service::ServiceId;
use crate::tick::Tick;

mod flags;
mod key;
mod key_index;
pub mod table;
mod timer_wheel;

pub use flags::ConnFlags;

/// The direction of a packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Client to real server.
    Inbound = 0,
    /// Real server to client.
    Outbound = 1,
}

impl Direction {
    /// The other direction.
    #[inline]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Inbound => Self::Outbound,
            Self::Outbound => Self::Inbound,
        }
    }
}

/// Slot of a connection in its worker's table; valid until that connection is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnIndex(pub u32);

/// What replies and their sequence numbers were shifted by, from a point on (`struct ip_vs_seq`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SequenceShift {
    /// Sequence numbers after this one are shifted by `delta`, earlier ones by `previous_delta`.
    pub from: u32,
    /// Bytes inserted (or removed, negative) up to and including the last change.
    pub delta: i32,
    /// The same before the last change.
    pub previous_delta: i32,
}

/// A connection's place in the timer wheel. Only the table uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TimerLink {
    /// The next connection in the wheel slot.
    next: u32,
    previous: u32,
    /// The wheel's unit of time at which it fires.
    fires_at: u32,
    /// Wheel slot plus one; 0 when the timer is not armed, which means that this slot holds no connection.
    slot: u32,
}

/// See the module. Create one with `Conn { client, virt, ..Default::default() }`.
///
/// While it is in a table, the four ends, `protocol`, [`ConnFlags::OUTBOUND_INDEXED`] and `timer` must stay as they
/// are: the table finds the connection by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, KnownLayout)]
#[repr(C, align(64))]
pub struct Conn<A: Address> {
    /// The client.
    pub client: Endpoint<A>,
    /// The virtual service's address and port.
    pub virt: Endpoint<A>,
    /// The real server.
    pub real: Endpoint<A>,
    /// What the real server takes for the client: the client itself, or a local address in FULLNAT.
    pub local: Endpoint<A>,
    /// When the last packet came. The only thing about timers that a packet writes.
    pub last_seen: Tick,
    /// Generation of the [`crate::l3::L3`] that `hops` belong to.
    pub hop_generation: u32,
    /// [`crate::l3::HopId`] of the next hop, by [`Direction`]; [`Conn::NO_HOP`] when it is not looked up.
    pub hops: [u16; 2],
    /// The real server it goes to.
    pub real_server: RealServerId,
    /// Packets from the client, modulo 2³² (synchronisation counts them).
    pub in_packets: u32,
    /// What the inbound rewrite adds to the IPv4 header checksum; outbound its complement.
    pub l3_delta: u16,
    /// What the inbound rewrite adds to the TCP or UDP checksum; outbound its complement.
    pub l4_delta: u16,
    /// What is true of it, bit by bit.
    pub flags: ConnFlags,
    /// IP protocol number.
    pub protocol: u8,
    /// State of the protocol's machine ([`crate::ipvs::protocol`]): see [`Conn::tcp_state`], [`Conn::sctp_state`].
    pub state: u8,
    /// [`ForwardingMode`] as a number: see [`Conn::mode`].
    pub mode: u8,
    /// What its packets still have to carry about the client, or to change in SYN segments.
    pub client_address: ClientAddressState,
    /// Bytes put in front of the client's TCP stream (PROXY protocol): `shift.delta` less `isn_delta`.
    pub proxy_header_len: u8,
    /// State in which it was last synced out.
    pub synced_state: u8,
    /// What the director adds to the client's sequence numbers, those of the SYN too: the connection has an initial
    /// sequence number of its own. 0 for nothing. `shift.previous_delta`, in the first line.
    pub isn_delta: u32,
    /// Idle time in milliseconds after which it expires in its present state. Change it by
    /// [`table::ConnTable::set_timeout`].
    pub timeout_ms: u32,

    /// Its place in the timer wheel. From here on the fields are cold.
    pub timer: TimerLink,
    /// The service it was made for.
    pub service: ServiceId,
    /// The sequence number behind the client's FIN as the real server knows it, with [`ConnFlags::CLIENT_ENDED`].
    pub client_end: u32,
    /// [`ConnIndex`] of the persistence template that controls it, or [`Conn::NO_CONTROL`].
    pub control: u32,
    /// How many connections it controls, as a template.
    pub controlled: u32,
    /// Firewall mark of its service; 0 for none.
    pub fwmark: u32,
    /// When the client's request passed, in microseconds modulo 2³²; valid while [`ConnFlags::TIMED`] is set.
    pub asked_us: u32,
    /// When it expires at the director that it was synced out to, in ticks; the low two bits count repetitions. 0: it
    /// was never synced out.
    pub synced_until: u32,
    /// Shift of the client's sequence numbers; the server's are never shifted.
    pub shift: SequenceShift,
    /// [`ConnIndex`] of the next older connection with the same outbound key, or [`Conn::NO_CONTROL`]. The older one
    /// gets the key back when this one ends. Only the table uses it.
    pub shadowed: u32,
}

const _: () = assert!(size_of::<Conn<Addr4>>() == 128 && offset_of!(Conn<Addr4>, timer) == 64);
const _: () = assert!(size_of::<Conn<Addr6>>() <= 192 && offset_of!(Conn<Addr6>, timer) <= 128);

impl<A: Address> Conn<A> {
    /// No next hop has been looked up.
    pub const NO_HOP: u16 = u16::MAX;
    /// No template controls this connection.
    pub const NO_CONTROL: u32 = u32::MAX;

    /// The IP protocol of its packets. A template has the protocol of the connections that it controls, 0 for any.
    pub const fn ip_protocol(&self) -> u8 {
        if self.flags.contains(ConnFlags::TEMPLATE) {
            persistence::controlled_protocol(self.protocol)
        } else {
            self.protocol
        }
    }

    /// The local end that the next connection of the same client may have; `None` outside of FULLNAT.
    pub fn former_end(&self) -> Option<Endpoint<A>> {
        (self.mode() == ForwardingMode::FullNat).then_some(self.local)
    }

    /// How its packets reach the real server.
    #[inline]
    pub const fn mode(&self) -> ForwardingMode {
        ForwardingMode::from_u8(self.mode)
    }

    /// Its state, if its protocol is TCP; `None` for a number that is no state.
    #[inline]
    pub const fn tcp_state(&self) -> Option<TcpState> {
        TcpState::from_u8(self.state)
    }

    /// Its state, if its protocol is SCTP; `None` for a number that is no state.
    #[inline]
    pub const fn sctp_state(&self) -> Option<SctpState> {
        SctpState::from_u8(self.state)
    }

    /// The key of a packet from the client.
    #[inline]
    pub const fn inbound_key(&self) -> FlowKey<A> {
        FlowKey {
            src: self.client,
            dst: self.virt,
            protocol: self.protocol,
        }
    }

    /// The key of a packet from the real server.
    #[inline]
    pub const fn outbound_key(&self) -> FlowKey<A> {
        FlowKey {
            src: self.real,
            dst: self.local,
            protocol: self.protocol,
        }
    }

    /// Whether a packet of `key` going `direction` belongs to this connection.
    #[inline(always)]
    fn is(&self, key: &FlowKey<A>, direction: Direction) -> bool {
        // Chosen by address, not by branch: directions alternate unpredictably.
        let (src, dst) = match direction {
            Direction::Inbound => (&self.client, &self.virt),
            Direction::Outbound => (&self.real, &self.local),
        };
        let protocol = u64::from(self.protocol ^ key.protocol);
        src.difference(&key.src) | dst.difference(&key.dst) | protocol == 0
    }
}

impl<A: Address> Default for Conn<A> {
    fn default() -> Self {
        let nowhere = Endpoint::default();
        Self {
            client: nowhere,
            virt: nowhere,
            real: nowhere,
            local: nowhere,
            last_seen: Tick::default(),
            hop_generation: 0,
            hops: [Self::NO_HOP; 2],
            real_server: RealServerId(0),
            in_packets: 0,
            l3_delta: 0,
            l4_delta: 0,
            flags: ConnFlags::empty(),
            protocol: 0,
            state: 0,
            mode: 0,
            client_address: ClientAddressState::OVER,
            proxy_header_len: 0,
            synced_state: 0,
            isn_delta: 0,
            timeout_ms: 0,
            timer: TimerLink::default(),
            service: ServiceId(0),
            client_end: 0,
            control: Self::NO_CONTROL,
            controlled: 0,
            fwmark: 0,
            asked_us: 0,
            synced_until: 0,
            shift: SequenceShift::default(),
            shadowed: Self::NO_CONTROL,
        }
    }
}

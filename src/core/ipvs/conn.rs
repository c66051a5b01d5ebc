//! A tracked connection: its four ends, its rewrite, its state. [`table::ConnTable`] finds it by packet.
//!
//! Laid out for the memory, because at a million flows a director is bound by cache misses. All that an established
//! packet reads and writes is one [`Conn`], a line in IPv4 and two in IPv6, dense beside its neighbours; all else is its
//! [`ColdConn`], a line elsewhere:
//!
//! ```text
//! conns  | Conn 0, 64 B (IPv6 128 B) | Conn 1 | Conn 2 | ...        cold  | ColdConn 0, 64 B | ColdConn 1 | ...
//! ```
//!
//! Never: holds an address of the process; all references are indices. Ref: net/ip_vs.h `struct ip_vs_conn`.

use std::ops::{Deref, DerefMut};

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

/// The ends of packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, KnownLayout)]
#[repr(C)]
pub struct Ends<A: Address> {
    /// Where they come from.
    pub src: Endpoint<A>,
    /// Where they go.
    pub dst: Endpoint<A>,
}

/// See the module. Create one with `Conn { protocol, ..Conn::between(client, virt, real, local) }`.
///
/// While it is in a table, the four ends, `protocol`, [`ConnFlags::OUTBOUND_INDEXED`] and `timer` must stay as they
/// are: the table finds the connection by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, KnownLayout)]
#[repr(C, align(64))]
pub struct Conn<A: Address> {
    /// The ends of its packets as they arrive, by [`Direction`]: see [`Conn::between`].
    pub ends: [Ends<A>; 2],
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
}

/// What only the beginning, the end and rare packets of a connection read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, KnownLayout)]
#[repr(C, align(64))]
pub struct ColdConn {
    /// Its place in the timer wheel.
    pub timer: TimerLink,
    /// The service it was made for.
    pub service: ServiceId,
    /// The sequence number behind the client's FIN as the real server knows it, with [`ConnFlags::CLIENT_ENDED`].
    pub client_end: u32,
    /// [`ConnIndex`] of the persistence template that controls it, or [`ColdConn::NO_CONTROL`].
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
    /// [`ConnIndex`] of the next older connection with the same outbound key, or [`ColdConn::NO_CONTROL`]. The older one
    /// gets the key back when this one ends. Only the table uses it.
    pub shadowed: u32,
    /// [`ColdConn::commit_word`] while the connection is in the table; 0 before it is whole and from the moment at which
    /// it ends. Only the table uses it.
    pub commit: u32,
}

const _: () = assert!(size_of::<Conn<Addr4>>() == 64 && size_of::<Conn<Addr6>>() == 128);
const _: () = assert!(size_of::<ColdConn>() == 64);

/// A connection in its table, with both of its parts. Reads and writes go to [`Conn`] unless they say `cold`.
pub struct ConnMut<'t, A: Address> {
    hot: &'t mut Conn<A>,
    /// What few packets touch.
    pub cold: &'t mut ColdConn,
}

impl<'t, A: Address> ConnMut<'t, A> {
    /// Of two parts of one connection.
    pub const fn of(hot: &'t mut Conn<A>, cold: &'t mut ColdConn) -> Self {
        Self { hot, cold }
    }
}

impl<A: Address> Deref for ConnMut<'_, A> {
    type Target = Conn<A>;

    #[inline(always)]
    fn deref(&self) -> &Conn<A> {
        self.hot
    }
}

impl<A: Address> DerefMut for ConnMut<'_, A> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Conn<A> {
        self.hot
    }
}

impl<A: Address> Conn<A> {
    /// No next hop has been looked up.
    pub const NO_HOP: u16 = u16::MAX;

    /// A connection of the client with a virtual service's address and port, that goes to the real server `real`, which
    /// takes `local` for the client: the client itself, or a local address in FULLNAT.
    pub fn between(client: Endpoint<A>, virt: Endpoint<A>, real: Endpoint<A>, local: Endpoint<A>) -> Self {
        let ends = [Ends { src: client, dst: virt }, Ends { src: real, dst: local }];
        Self {
            ends,
            ..Self::default()
        }
    }

    /// The client.
    #[inline(always)]
    pub const fn client(&self) -> Endpoint<A> {
        self.ends[0].src
    }

    /// The virtual service's address and port.
    #[inline(always)]
    pub const fn virt(&self) -> Endpoint<A> {
        self.ends[0].dst
    }

    /// The real server.
    #[inline(always)]
    pub const fn real(&self) -> Endpoint<A> {
        self.ends[1].src
    }

    /// What the real server takes for the client.
    #[inline(always)]
    pub const fn local(&self) -> Endpoint<A> {
        self.ends[1].dst
    }

    /// The ends of packets that arrive in `direction`.
    #[inline(always)]
    pub const fn ends(&self, direction: Direction) -> &Ends<A> {
        &self.ends[direction as usize]
    }

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
        (self.mode() == ForwardingMode::FullNat).then_some(self.local())
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
        self.key(Direction::Inbound)
    }

    /// The key of a packet from the real server.
    #[inline]
    pub const fn outbound_key(&self) -> FlowKey<A> {
        self.key(Direction::Outbound)
    }

    #[inline(always)]
    const fn key(&self, direction: Direction) -> FlowKey<A> {
        let Ends { src, dst } = *self.ends(direction);
        FlowKey {
            src,
            dst,
            protocol: self.protocol,
        }
    }

    /// Whether the table leads packets in `direction` to it.
    #[inline(always)]
    fn is_found(&self, direction: Direction) -> bool {
        const BOTH: ConnFlags = ConnFlags::OUTBOUND_INDEXED.union(ConnFlags::SHADOWED);
        (direction as u8 == 0) | ((self.flags & BOTH).bits() == ConnFlags::OUTBOUND_INDEXED.bits())
    }

    /// Whether a packet of `key` going `direction` belongs to this connection. It does not branch: directions alternate
    /// unpredictably.
    #[inline(always)]
    fn is(&self, key: &FlowKey<A>, direction: Direction) -> bool {
        let ends = self.ends(direction);
        let protocol = u64::from(self.protocol ^ key.protocol);
        ends.src.difference(&key.src) | ends.dst.difference(&key.dst) | protocol == 0
    }
}

impl<A: Address> Default for Conn<A> {
    fn default() -> Self {
        Self {
            ends: [Ends::default(); 2],
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
        }
    }
}

impl ColdConn {
    /// No template controls this connection.
    pub const NO_CONTROL: u32 = u32::MAX;

    /// A check of what `conn` is found by, and of what decides how it is found: its keys (by their hashes; 0 for an
    /// outbound key that is not indexed), mode and kind. None of it changes as long as it is in the table. Never 0.
    #[inline]
    fn commit_word<A: Address>(conn: &Conn<A>, inbound_hash: u64, outbound_hash: u64) -> u32 {
        const KIND: ConnFlags = ConnFlags::TEMPLATE
            .union(ConnFlags::OUTBOUND_INDEXED)
            .union(ConnFlags::RETIRED);
        let kind = u32::from((conn.flags & KIND).bits()) | u32::from(conn.mode);
        (inbound_hash >> 32) as u32 ^ outbound_hash as u32 ^ kind | 1
    }
}

impl Default for ColdConn {
    fn default() -> Self {
        Self {
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
            commit: 0,
        }
    }
}

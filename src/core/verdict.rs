//! What became of a packet. Every way to die is one [`DropReason`]; its name is what counters, metrics,
//! `lvsctl drops` and tests show.

use crate::l3::DeviceId;

/// Index of a worker: 0 up to the configured count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u8);

/// Names one of the neighbours that frames were last held for, so that a verdict stays small enough for a register.
/// The worker's state says which one it is, until after the worker's next call of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitId(pub u8);

/// What the worker must do with a frame after the path has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it: the frame is complete, Ethernet header included.
    Transmit(DeviceId),
    /// Not ours: hand it unchanged to the kernel twin of the device it came from.
    Punt,
    /// Another worker owns its connection.
    Handoff(WorkerId),
    /// Complete but for the MAC addresses: hold it until the kernel has resolved this neighbour.
    Hold(WaitId),
    /// The path has taken what was in it (a fragment of a datagram that is being put together, a packet that
    /// leaves in pieces): free the buffer. Nothing is lost and nothing is dropped.
    Consumed,
    /// Free it and count the reason.
    Drop(DropReason),
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)* }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name of its counter.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means, in a sentence for operators: that of its documentation.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)* }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its headers say.
    Truncated = "truncated",
    /// A header that contradicts itself (version, header length, total length).
    Malformed = "malformed",
    /// More VLAN tags or IPv6 extension headers than are walked.
    TooManyHeaders = "too_many_headers",
    /// Wrong IPv4 header checksum (RFC 1812 5.2.2).
    Ipv4Checksum = "ipv4_checksum",
    /// The buffer is in several segments (larger than the configured frame size).
    MultiSegment = "multi_segment",
    /// Addressed to another host's MAC (a flooding switch, promiscuous mode).
    OtherHost = "other_host",
    /// Repeats what an earlier fragment of its datagram brought.
    FragmentDuplicate = "fragment_duplicate",
    /// Overlaps other fragments of its datagram, all of which are given up (RFC 5722, CVE-2018-5391).
    FragmentOverlap = "fragment_overlap",
    /// The rest of its datagram did not come in time; the sender got an ICMP error.
    FragmentTimeout = "fragment_timeout",
    /// Contradicts other fragments of its datagram, or is one of too many.
    FragmentMalformed = "fragment_malformed",
    /// One burst led to more pieces of packets than there is space for.
    GeneratedFramesFull = "generated_frames_full",
    /// No buffer for a frame that the path generated.
    NoMbuf = "no_mbuf",
    /// An ICMP error about a connection with a wrong checksum.
    IcmpChecksum = "icmp_checksum",
    /// A router on the path of a tunnel refused a packet; the client got an ICMP error if its packet allows one.
    TunnelPath = "tunnel_path",
    /// TTL or hop limit used up; the sender got an ICMP error unless that was rate-limited.
    TtlExpired = "ttl_expired",
    /// Larger than the MTU of the next hop; the sender got an ICMP error.
    MtuExceeded = "mtu_exceeded",
    /// A service without an available real server; the client got an ICMP error.
    NoRealServer = "no_real_server",
    /// The connection's real server was deleted, and the client got no reset (`reset_unknown`).
    RealServerGone = "real_server_gone",
    /// A client's segment that cannot go on, while this worker sends as many resets as it may (`reset_unknown`).
    ResetLimited = "reset_limited",
    /// The connection table holds as many connections as configured.
    ConnTableFull = "conn_table_full",
    /// No free (local address, port) towards the chosen real server.
    LocalPortsExhausted = "local_ports_exhausted",
    /// A reply of a real server that belongs to no connection; it got an ICMP error (`nat_icmp_send`).
    NoConnection = "no_connection",
    /// One of those that `drop_packet` takes when the table fills.
    DropPacketDefence = "drop_packet_defence",
    /// The route to its source is not by the interface that received it, or there is none (`rp_filter`).
    ReversePath = "reverse_path",
    /// A real server's packet while the interface that received it does not forward (`forwarding`, `ip_forward`).
    NotForwarding = "not_forwarding",
    /// No route to the next hop.
    NoRoute = "no_route",
    /// The kernel would send it by an interface that is no device of lvsd, or in a form that is not followed, and does
    /// not take it to forward.
    RouteElsewhere = "route_elsewhere",
    /// Tagged for a VLAN of which the kernel has no interface.
    UnknownVlan = "unknown_vlan",
    /// The real server is the director itself, and masquerading to itself cannot bring the reply back.
    LocalRealServer = "local_real_server",
    /// The next hop does not answer ARP or ND.
    NeighbourFailed = "neighbour_failed",
    /// Too many packets already wait for this or any neighbour.
    HeldQueueFull = "held_queue_full",
    /// No headroom in front of the packet for a tunnel or ICMP header.
    NoHeadroom = "no_headroom",
    /// An ICMP error was due but the packet must not be answered by one (RFC 1122 3.2.2, RFC 4443 2.4 e).
    IcmpForbidden = "icmp_forbidden",
    /// The ring to the owning worker is full.
    HandoffRingFull = "handoff_ring_full",
    /// The ring to the kernel twin is full.
    PuntRingFull = "punt_ring_full",
    /// The device took fewer packets than offered.
    TxQueueFull = "tx_queue_full",
    /// For the kernel, but its device has no kernel twin.
    NoTwin = "no_twin",
    /// The kernel twin refused the packet.
    TwinWriteFailed = "twin_write_failed",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_fits_a_register() {
        assert!(size_of::<Verdict>() <= 2);
    }

    #[test]
    fn names_are_unique_and_fit_a_metric() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert!(names.iter().all(|name| {
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        }));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
    }
}

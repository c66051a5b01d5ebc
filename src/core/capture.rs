//! Which frames `lvsctl capture` records, and what it reports about them.
//!
//! In:  a frame, before the path has seen it or as it leaves, and its verdict. Out: whether the capture records it.
//! Never: costs a frame anything while nothing is captured; allocates.

use std::net::IpAddr;

use crate::address::{Address, AddressFamily, Endpoint, FlowKey};
use crate::conn_record::ConnRecord;
use crate::headers::Flow;
use crate::ipvs::conn::table::ConnTable;
use crate::l3::DeviceId;
use crate::path::parse::{Parsed, parse};
use crate::tick::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::worker_state::WorkerState;

/// Conditions that a frame must meet. A condition that is not given is met by every frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureFilter {
    /// Where it arrives, or leaves.
    pub device: Option<DeviceId>,
    /// Protocol number of its connection, or without one its own.
    pub protocol: Option<u8>,
    /// Its source or destination, as it is on the wire.
    pub addr: Option<EndPattern>,
    /// The client of its connection; without a connection its source.
    pub client: Option<EndPattern>,
    /// The VIP of its connection; without a connection its destination.
    pub virt: Option<EndPattern>,
    /// The real server of its connection; without a connection its source or destination.
    pub real: Option<EndPattern>,
    /// What became of it.
    pub verdict: Option<VerdictName>,
    /// Why it was dropped.
    pub reason: Option<DropReason>,
}

/// An address, and a port if it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndPattern {
    /// The address.
    pub addr: IpAddr,
    /// The port; `None` for any.
    pub port: Option<u16>,
}

impl EndPattern {
    fn is(&self, end: (IpAddr, u16)) -> bool {
        self.addr == end.0 && self.port.is_none_or(|port| port == end.1)
    }
}

/// A [`Verdict`] without its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictName {
    /// [`Verdict::Transmit`]
    Transmit,
    /// [`Verdict::Punt`]
    Punt,
    /// [`Verdict::Handoff`]
    Handoff,
    /// [`Verdict::Hold`]
    Hold,
    /// [`Verdict::Consumed`]
    Consumed,
    /// [`Verdict::Drop`]
    Drop,
}

impl VerdictName {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::Transmit,
        Self::Punt,
        Self::Handoff,
        Self::Hold,
        Self::Consumed,
        Self::Drop,
    ];

    /// Which one it is.
    pub const fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Transmit(_) => Self::Transmit,
            Verdict::Punt => Self::Punt,
            Verdict::Handoff(_) => Self::Handoff,
            Verdict::Hold(_) => Self::Hold,
            Verdict::Consumed => Self::Consumed,
            Verdict::Drop(_) => Self::Drop,
        }
    }

    /// As comments and filters write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transmit => "transmit",
            Self::Punt => "punt",
            Self::Handoff => "handoff",
            Self::Hold => "hold",
            Self::Consumed => "consumed",
            Self::Drop => "drop",
        }
    }
}

/// Protocol and ends of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEnds {
    /// IP protocol number.
    pub protocol: u8,
    /// Source; port 0 where there is none.
    pub src: (IpAddr, u16),
    /// Destination, likewise.
    pub dst: (IpAddr, u16),
}

impl FrameEnds {
    /// Those of a frame; `None` when it is not an IP packet or is damaged.
    pub fn of(frame: &[u8]) -> Option<Self> {
        match parse(frame) {
            Ok(Parsed::Ip(_, Flow::V4(key))) => Some(Self::of_key(&key)),
            Ok(Parsed::Ip(_, Flow::V6(key))) => Some(Self::of_key(&key)),
            _ => None,
        }
    }

    fn of_key<A: Address>(key: &FlowKey<A>) -> Self {
        Self {
            protocol: key.protocol,
            src: (key.src.addr.to_ip(), key.src.port),
            dst: (key.dst.addr.to_ip(), key.dst.port),
        }
    }
}

impl CaptureFilter {
    /// The conditions that need no look into the frame.
    pub fn admits(&self, device: DeviceId, verdict: Verdict) -> bool {
        self.device.is_none_or(|wanted| wanted == device)
            && self.verdict.is_none_or(|wanted| wanted == VerdictName::of(verdict))
            && self.reason.is_none_or(|wanted| verdict == Verdict::Drop(wanted))
    }

    /// The other conditions, by the frame's ends and its connection.
    pub fn matches(&self, ends: Option<&FrameEnds>, conn: Option<&ConnRecord>) -> bool {
        let protocol = conn.map(|conn| conn.protocol).or(ends.map(|ends| ends.protocol));
        let either = |wanted: &EndPattern| ends.is_some_and(|ends| wanted.is(ends.src) || wanted.is(ends.dst));
        let client = conn.map(|conn| conn.client).or(ends.map(|ends| ends.src));
        let virt = conn.map(|conn| conn.virt).or(ends.map(|ends| ends.dst));
        let real = |wanted: &EndPattern| conn.map_or_else(|| either(wanted), |conn| wanted.is(conn.real));
        self.protocol.is_none_or(|wanted| protocol == Some(wanted))
            && self.addr.as_ref().is_none_or(either)
            && self
                .client
                .is_none_or(|wanted| client.is_some_and(|end| wanted.is(end)))
            && self.virt.is_none_or(|wanted| virt.is_some_and(|end| wanted.is(end)))
            && self.real.as_ref().is_none_or(real)
    }
}

impl WorkerState {
    /// The connection that a frame with these ends belongs to, in either direction. Nothing changes.
    pub fn conn_of(&self, ends: &FrameEnds, now: Tick) -> Option<ConnRecord> {
        // Later fragments have no ports; without this test they could match a template, whose client has no port
        // either.
        if ends.src.1 == 0 && ends.dst.1 == 0 {
            return None;
        }
        match AddressFamily::of(&ends.src.0) {
            AddressFamily::Ipv4 => self.record_of(&self.families().v4.table, ends, now),
            AddressFamily::Ipv6 => self.record_of(&self.families().v6.table, ends, now),
        }
    }

    fn record_of<A: Address>(&self, table: &ConnTable<A>, ends: &FrameEnds, now: Tick) -> Option<ConnRecord> {
        let end = |(addr, port): (IpAddr, u16)| Some(Endpoint::new(A::from_ip(addr)?, port));
        let key = FlowKey {
            src: end(ends.src)?,
            dst: end(ends.dst)?,
            protocol: ends.protocol,
        };
        let (index, _) = table.lookup(&key)?;
        Some(ConnRecord::of(self.snapshot(), table.both(index), now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs::conn::ConnFlags;
    use crate::ipvs::forwarding::ForwardingMode;
    use crate::ipvs::real_server::RealServerId;
    use crate::ipvs::service::ServiceId;
    use crate::testing::{tcp4, udp6};

    fn end(text: &str) -> Option<EndPattern> {
        let (addr, port) = text.split_once('/').unwrap_or((text, ""));
        Some(EndPattern {
            addr: addr.parse().unwrap(),
            port: port.parse().ok(),
        })
    }

    fn conn() -> ConnRecord {
        let end = |text: &str, port| (text.parse().unwrap(), port);
        ConnRecord {
            protocol: 6,
            client: end("198.51.100.1", 40_000),
            virt: end("192.0.2.1", 80),
            local: end("203.0.113.5", 5_000),
            real: end("203.0.113.9", 8_080),
            mode: ForwardingMode::FullNat,
            state: 1,
            expires_in_ms: 0,
            in_packets: 1,
            service: ServiceId(0),
            real_server: RealServerId(0),
            flags: ConnFlags::empty(),
        }
    }

    #[test]
    fn a_frame_must_match_all_that_is_given() {
        let syn = FrameEnds::of(&tcp4("198.51.100.1:40000 > 192.0.2.1:80").syn().build()).unwrap();
        let filter = CaptureFilter {
            client: end("198.51.100.1/40000"),
            virt: end("192.0.2.1"),
            addr: end("192.0.2.1/80"),
            protocol: Some(6),
            ..CaptureFilter::default()
        };
        assert!(filter.matches(Some(&syn), None));
        for other in [
            CaptureFilter {
                client: end("198.51.100.1/40001"),
                ..filter
            },
            CaptureFilter {
                virt: end("198.51.100.1"),
                ..filter
            },
            CaptureFilter {
                real: end("203.0.113.9"),
                ..filter
            },
            CaptureFilter {
                addr: end("203.0.113.9"),
                ..filter
            },
            CaptureFilter {
                protocol: Some(17),
                ..filter
            },
        ] {
            assert!(!other.matches(Some(&syn), None), "{other:?}");
        }
        assert!(
            !filter.matches(None, None),
            "ARP has no addresses that a filter could mean"
        );
        let datagram = FrameEnds::of(&udp6("[2001:db8::1]:53 > [2001:db8::2]:40000").build());
        assert!(!filter.matches(datagram.as_ref(), None));
        assert!(CaptureFilter::default().matches(None, None));
    }

    #[test]
    fn a_connection_says_who_client_vip_and_real_server_of_a_rewritten_frame_are() {
        let towards_server = FrameEnds::of(&tcp4("203.0.113.5:5000 > 203.0.113.9:8080").build()).unwrap();
        let all = CaptureFilter {
            client: end("198.51.100.1/40000"),
            virt: end("192.0.2.1/80"),
            real: end("203.0.113.9/8080"),
            ..CaptureFilter::default()
        };
        assert!(all.matches(Some(&towards_server), Some(&conn())));
        assert!(!all.matches(Some(&towards_server), None));
        let on_the_wire = CaptureFilter {
            addr: end("198.51.100.1"),
            ..CaptureFilter::default()
        };
        assert!(!on_the_wire.matches(Some(&towards_server), Some(&conn())));
    }

    #[test]
    fn verdicts_and_reasons_can_be_asked_for_by_name() {
        let only = |verdict, reason| CaptureFilter {
            verdict: Some(verdict),
            reason,
            ..CaptureFilter::default()
        };
        let (device, no_route) = (DeviceId(0), Verdict::Drop(DropReason::NoRoute));
        assert!(only(VerdictName::Drop, None).admits(device, no_route));
        assert!(only(VerdictName::Drop, Some(DropReason::NoRoute)).admits(device, no_route));
        assert!(!only(VerdictName::Drop, Some(DropReason::Truncated)).admits(device, no_route));
        assert!(!only(VerdictName::Drop, None).admits(device, Verdict::Punt));
        assert!(only(VerdictName::Punt, None).admits(device, Verdict::Punt));
        let on_lan = CaptureFilter {
            device: Some(DeviceId(1)),
            ..CaptureFilter::default()
        };
        assert!(on_lan.admits(DeviceId(1), no_route) && !on_lan.admits(device, no_route));
    }
}

//! Persistence: which clients stick together, and the templates that remember their server.
//!
//! A template is a connection without a client port that remembers the real server of a client (or of a
//! network of clients). It lies in the connection table under a protocol number that no packet's key has, so that no
//! packet finds it. Follows Linux ip_vs_core.c `ip_vs_sched_persist()`, ip_vs_conn.c `ip_vs_check_template()`.

use std::net::Ipv4Addr;

use crate::address::{Addr4, Addr6, Address, AddressFamily, Endpoint, FlowKey};
use crate::ipvs::service::{ServiceKey, VirtualService};

/// Distinguishes the keys of templates from those of packets: TCP, UDP, SCTP and IP become numbers that
/// the path never looks up.
const TEMPLATE_SPACE: u8 = 0x80;

/// Port 21: its templates are valid for all ports, because data connections go to other ports.
pub const PORT_FTP: u16 = 21;
/// Port of a retired template's virtual and real end, as the kernel shows it.
pub const PORT_RETIRED: u16 = 0xFFFF;

/// State of a template none of whose connections has been established yet.
pub const STATE_NONE: u8 = 0;
/// State of a template that had an established connection (`IP_VS_CTPL_S_ASSURED`).
pub const STATE_ASSURED: u8 = 1;

/// A template's state as `ipvsadm -Lnc` prints it. Another director may have sent a number that is no state.
pub const fn state_name(state: u8) -> &'static str {
    match state {
        STATE_NONE => "NONE",
        STATE_ASSURED => "ASSURED",
        _ => "ERR!",
    }
}

/// Which part of a client's address counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientMask {
    /// A netmask, as `ipvsadm -M` takes it. 255.255.255.255 separates all clients, 0.0.0.0 joins them all.
    Ipv4(Ipv4Addr),
    /// A prefix length, 1 to 128.
    Ipv6(u8),
}

impl ClientMask {
    /// Every client counts on its own.
    pub const fn whole(family: AddressFamily) -> Self {
        match family {
            AddressFamily::Ipv4 => Self::Ipv4(Ipv4Addr::BROADCAST),
            AddressFamily::Ipv6 => Self::Ipv6(128),
        }
    }

    /// The family whose clients it is for.
    pub const fn family(self) -> AddressFamily {
        match self {
            Self::Ipv4(_) => AddressFamily::Ipv4,
            Self::Ipv6(_) => AddressFamily::Ipv6,
        }
    }

    /// Whether every client counts on its own.
    pub fn is_whole(self) -> bool {
        self == Self::whole(self.family())
    }

    /// The mask as [`Address::words`] gives an address.
    pub fn words(self) -> (u64, u64) {
        match self {
            Self::Ipv4(mask) => Addr4(mask.octets()).words(),
            Self::Ipv6(len) => {
                let host_bits = 128 - u32::from(len.min(128));
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                Addr6(mask.to_be_bytes()).words()
            }
        }
    }

    /// The part of `client` that counts, the rest 0.
    pub fn apply<A: Address>(self, client: A) -> A {
        let mut masked = client;
        let mask = match self {
            Self::Ipv4(mask) => u128::from(u32::from(mask)) << 96,
            Self::Ipv6(len) => u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0),
        };
        for (byte, mask) in masked.as_mut_bytes().iter_mut().zip(mask.to_be_bytes()) {
            *byte &= mask;
        }
        masked
    }
}

/// Persistence of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// How long a template without connections lives, in seconds: 1 to [`crate::limits::TIMEOUT_CONFIGURED_MAX_SEC`].
    pub timeout_sec: u32,
    /// Granularity.
    pub mask: ClientMask,
}

/// The key of the template of `client` for packets to `dst`.
pub fn template_key<A: Address>(
    service: &VirtualService,
    persistence: &Persistence,
    protocol: u8,
    client: A,
    dst: Endpoint<A>,
) -> FlowKey<A> {
    let client = Endpoint::new(persistence.mask.apply(client), 0);
    let (virt, protocol) = match service.key {
        ServiceKey::Fwmark { mark, .. } => (Endpoint::new(mark_as_address(mark), 0), 0),
        ServiceKey::Address { port, .. } => {
            let exact = port == dst.port && port != PORT_FTP;
            (Endpoint::new(dst.addr, if exact { port } else { 0 }), protocol)
        }
    };
    FlowKey {
        src: client,
        dst: virt,
        protocol: template_protocol(protocol),
    }
}

/// The mark in the first four bytes, as the kernel writes it into a template's virtual address.
fn mark_as_address<A: Address>(mark: u32) -> A {
    let mut addr = A::default();
    for (byte, of_mark) in addr.as_mut_bytes().iter_mut().zip(mark.to_be_bytes()) {
        *byte = of_mark;
    }
    addr
}

/// The IP protocol of the connections that a template controls, from the number in its key; 0 for any.
pub const fn controlled_protocol(template_protocol: u8) -> u8 {
    template_protocol ^ TEMPLATE_SPACE
}

/// The number in the key of a template for connections of `protocol`, 0 for any.
pub const fn template_protocol(protocol: u8) -> u8 {
    protocol ^ TEMPLATE_SPACE
}

/// Which parts of a client's address and port decide which worker owns its packets.
///
/// Without persistence every client port may have an owner of its own. A template belongs to one worker, so all packets
/// of its clients must arrive there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The part of the client's address that counts, as [`Address::words`].
    pub words: (u64, u64),
    /// Whether the client's port counts.
    pub by_port: bool,
}

impl Spread {
    /// Address and port count in full.
    pub const ENDS: Self = Self {
        words: (u64::MAX, u64::MAX),
        by_port: true,
    };

    /// What the service itself asks for.
    pub fn of(persistence: Option<&Persistence>) -> Self {
        persistence.map_or(Self::ENDS, |persistence| Self {
            words: persistence.mask.words(),
            by_port: false,
        })
    }

    /// The spread that serves both.
    #[must_use]
    pub const fn meet(self, other: Self) -> Self {
        Self {
            words: (self.words.0 & other.words.0, self.words.1 & other.words.1),
            by_port: self.by_port && other.by_port,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr4(text: &str) -> Addr4 {
        Addr4::from_ip(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn masks_keep_the_network_of_a_client() {
        let mask = ClientMask::Ipv4("255.255.255.0".parse().unwrap());
        assert_eq!(mask.apply(addr4("203.0.113.200")), addr4("203.0.113.0"));
        let v6 = |text: &str| Addr6::from_ip(text.parse().unwrap()).unwrap();
        assert_eq!(ClientMask::Ipv6(64).apply(v6("2001:db8:1:2::5")), v6("2001:db8:1:2::"));
        assert_eq!(ClientMask::Ipv6(128).apply(v6("2001:db8::5")), v6("2001:db8::5"));
        assert!(ClientMask::whole(AddressFamily::Ipv4).is_whole() && !mask.is_whole());
    }

    #[test]
    fn a_mask_in_words_means_the_same_as_on_the_address() {
        for mask in [
            ClientMask::Ipv6(0),
            ClientMask::Ipv6(1),
            ClientMask::Ipv6(47),
            ClientMask::Ipv6(128),
        ] {
            let addr = Addr6([0xF7; 16]);
            let (low, high) = addr.words();
            let masked = (low & mask.words().0, high & mask.words().1);
            assert_eq!(masked, mask.apply(addr).words(), "{mask:?}");
        }
    }

    #[test]
    fn keys_of_templates_are_none_that_a_packet_is_looked_up_with() {
        let balanced = [6, 17, 132];
        for protocol in [0, 6, 17, 132] {
            let template = protocol ^ TEMPLATE_SPACE;
            assert!(!balanced.contains(&template));
            assert_eq!(controlled_protocol(template), protocol);
        }
    }

    #[test]
    fn a_spread_for_two_services_separates_no_clients_that_either_keeps_together() {
        let network = Persistence {
            timeout_sec: 300,
            mask: ClientMask::Ipv4("255.255.255.0".parse().unwrap()),
        };
        let both = Spread::ENDS.meet(Spread::of(Some(&network)));
        assert_eq!(both, Spread::of(Some(&network)));
        assert!(!both.by_port);
    }
}

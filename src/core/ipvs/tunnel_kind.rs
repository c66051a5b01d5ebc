//! How packets to a TUN real server are wrapped (`ipvsadm --tun-type`).
//!
//! Ref: Linux net/netfilter/ipvs/ip_vs_xmit.c `ip_vs_tunnel_xmit`, ip_vs_ctl.c `ip_vs_add_dest`.

use std::fmt;

/// The encapsulation of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// IP in IP (RFC 2003, RFC 2473, RFC 4213).
    #[default]
    IpIp,
    /// GRE (RFC 2784).
    Gre {
        /// `--tun-csum`: the checksum field is there.
        checksum: bool,
    },
    /// Generic UDP encapsulation (draft-ietf-intarea-gue, version 0).
    Gue {
        /// `--tun-port`: UDP destination port, not 0.
        port: u16,
        /// What protects the packet.
        checksum: GueChecksum,
    },
}

/// Checksum of a GUE packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GueChecksum {
    /// `--tun-nocsum`: the UDP checksum is 0.
    #[default]
    No,
    /// `--tun-csum`: a full UDP checksum.
    Full,
    /// `--tun-remcsum`: senders that offload their own checksum announce remote checksum offload. For forwarded packets
    /// the kernel sends a full UDP checksum and no option, and so does the director.
    RemoteOffload,
}

impl TunnelKind {
    /// Bytes between the outer IP header and the inner packet.
    #[inline]
    pub const fn header_len(self) -> u16 {
        match self {
            Self::IpIp => 0,
            Self::Gre { checksum: false } => 4,
            Self::Gre { checksum: true } => 8,
            // UDP header and GUE base header.
            Self::Gue { .. } => 8 + 4,
        }
    }
}

impl fmt::Display for TunnelKind {
    /// As `ipvsadm --tun-info` names it: `ipip`, `gre:+c`, `gue:6080:-c`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IpIp => formatter.write_str("ipip"),
            Self::Gre { checksum } => write!(formatter, "gre:{}", if *checksum { "+c" } else { "-c" }),
            Self::Gue { port, checksum } => {
                let flag = match checksum {
                    GueChecksum::No => "-c",
                    GueChecksum::Full => "+c",
                    GueChecksum::RemoteOffload => "r+c",
                };
                write!(formatter, "gue:{port}:{flag}")
            }
        }
    }
}

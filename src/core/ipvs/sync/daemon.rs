//! What an operator starts with `ipvsadm --start-daemon`: a role, an interface, and how messages are sent.
//!
//! Ref: Linux ip_vs_sync.c `start_sync_thread()`, ip_vs_ctl.c `ip_vs_genl_new_daemon()`.

use std::net::{IpAddr, Ipv4Addr};

use thiserror::Error;

use crate::address::AddressFamily;

/// Group of messages unless another is given (`IP_VS_SYNC_GROUP`).
pub const GROUP_DEFAULT: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 81));
/// UDP port of messages unless another is given (`IP_VS_SYNC_PORT`).
pub const PORT_DEFAULT: u16 = 8_848;
/// TTL of messages unless another is given: they stay on their link.
pub const TTL_DEFAULT: u8 = 1;
/// `IFNAMSIZ` less the terminating byte.
const INTERFACE_NAME_MAX: usize = 15;
/// Longest message, in bytes: what an IPv4 datagram of UDP carries.
pub const MESSAGE_MAX: u16 = u16::MAX - 28;
/// The MTU that a master fits its messages to, whatever its interface has.
const MTU_ASSUMED: u16 = 1_500;
/// Shortest message that a backup allocates a buffer for, in bytes.
const BACKUP_LEN_MIN: u16 = 1_024;

/// Whether a daemon sends or receives connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncRole {
    /// Sends.
    Master,
    /// Receives.
    Backup,
}

impl SyncRole {
    /// As `ipvsadm --start-daemon` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Backup => "backup",
        }
    }
}

/// Why a daemon cannot be started.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SyncDaemonError {
    /// Not a name that an interface can have.
    #[error("{name:?} is no interface name: give 1 to {INTERFACE_NAME_MAX} characters")]
    InterfaceName {
        /// As given.
        name: String,
    },
    /// Not a multicast address.
    #[error("{group} is no multicast group: give one like {GROUP_DEFAULT}")]
    Group {
        /// As given.
        group: IpAddr,
    },
    /// Longer than a datagram.
    #[error("messages of {len} bytes are too long: give at most {MESSAGE_MAX}, or 0 for what fits the link")]
    Length {
        /// As given.
        len: u16,
    },
    /// ipvsadm: `illegal mcast-port specified`.
    #[error("messages cannot go to port 0: give 1 to 65535, like {PORT_DEFAULT}")]
    Port,
    /// ipvsadm: `illegal mcast-ttl specified`.
    #[error("messages with a TTL of 0 do not leave: give 1 to 255, like {TTL_DEFAULT}")]
    Ttl,
    /// One daemon of each role.
    #[error("a {} daemon runs already: stop it first", role.name())]
    Exists {
        /// Which.
        role: SyncRole,
    },
    /// None runs.
    #[error("no {} daemon runs: there is nothing to stop", role.name())]
    Missing {
        /// Which.
        role: SyncRole,
    },
    /// Messages cannot name a real server of another family than its service's.
    #[error("a real server has another address family than its service, which sync cannot express: delete it first")]
    MixedFamilies,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncDaemon {
    /// Whether it sends or receives.
    pub role: SyncRole,
    /// The interface that messages leave or arrive by.
    pub interface: String,
    /// The number of its messages. A backup ignores messages with another number, unless its own is 0.
    pub sync_id: u8,
    /// Largest message in bytes; 0 for what fits the link.
    pub max_len: u16,
    /// Multicast group.
    pub group: IpAddr,
    /// UDP port; with several `sync_ports` the first.
    pub port: u16,
    /// TTL or hop limit of messages.
    pub ttl: u8,
}

impl SyncDaemon {
    /// A daemon with the kernel's defaults.
    pub fn new(role: SyncRole, interface: &str) -> Self {
        Self {
            role,
            interface: interface.to_owned(),
            sync_id: 0,
            max_len: 0,
            group: GROUP_DEFAULT,
            port: PORT_DEFAULT,
            ttl: TTL_DEFAULT,
        }
    }

    /// Checks what can be checked without the machine.
    ///
    /// # Errors
    /// A name, group, port, TTL or length that cannot be.
    pub fn check(&self) -> Result<(), SyncDaemonError> {
        let name = &self.interface;
        let is_name = (1..=INTERFACE_NAME_MAX).contains(&name.len())
            && !name.contains(|one: char| one == '/' || one == '\0' || one.is_whitespace());
        if !is_name {
            return Err(SyncDaemonError::InterfaceName { name: name.clone() });
        }
        if !self.group.is_multicast() {
            return Err(SyncDaemonError::Group { group: self.group });
        }
        if self.max_len > MESSAGE_MAX {
            return Err(SyncDaemonError::Length { len: self.max_len });
        }
        if self.port == 0 {
            return Err(SyncDaemonError::Port);
        }
        if self.ttl == 0 {
            return Err(SyncDaemonError::Ttl);
        }
        Ok(())
    }

    /// Largest message in bytes on an interface of this MTU.
    pub fn effective_max_len(&self, interface_mtu: u16) -> u16 {
        let headers = match AddressFamily::of(&self.group) {
            AddressFamily::Ipv4 => 28,
            AddressFamily::Ipv6 => 48,
        };
        let (mtu, least) = match self.role {
            SyncRole::Master => (MTU_ASSUMED, 1),
            SyncRole::Backup => (interface_mtu.max(MTU_ASSUMED), BACKUP_LEN_MIN),
        };
        if self.max_len == 0 {
            mtu - headers
        } else {
            self.max_len.clamp(least, u16::MAX - headers)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_fits_its_messages_to_1500_and_a_backup_makes_room_for_its_link() {
        let max_len = |role, group: &str, given, mtu| {
            let daemon = SyncDaemon {
                group: group.parse().unwrap(),
                max_len: given,
                ..SyncDaemon::new(role, "lan")
            };
            daemon.effective_max_len(mtu)
        };
        use SyncRole::{Backup, Master};
        assert_eq!(max_len(Master, "224.0.0.81", 0, 9_000), 1_472);
        assert_eq!(max_len(Master, "ff02::81", 0, 1_500), 1_452);
        assert_eq!(max_len(Backup, "224.0.0.81", 0, 9_000), 8_972);
        assert_eq!(max_len(Backup, "224.0.0.81", 0, 1_280), 1_472);
        assert_eq!(max_len(Master, "224.0.0.81", 200, 1_500), 200);
        assert_eq!(max_len(Backup, "224.0.0.81", 200, 1_500), 1_024);
        assert_eq!(max_len(Backup, "224.0.0.81", 65_535, 1_500), 65_507);
    }

    #[test]
    fn names_and_groups_that_cannot_be_are_refused() {
        let daemon = SyncDaemon::new(SyncRole::Master, "lan");
        assert_eq!(daemon.check(), Ok(()));
        for name in ["", "sixteen-letters-", "a b", "a/b"] {
            let wrong = SyncDaemon {
                interface: name.to_owned(),
                ..daemon.clone()
            };
            assert!(
                wrong.check().unwrap_err().to_string().contains("interface name"),
                "{name}"
            );
        }
        let wrong = SyncDaemon {
            group: "192.0.2.1".parse().unwrap(),
            ..daemon
        };
        assert!(wrong.check().unwrap_err().to_string().contains("224.0.0.81"));
    }
}

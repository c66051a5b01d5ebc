//! The defences of one worker against a full connection table, and the state of its sweeps through the tables.
//!
//! In:  the settings `drop_entry`, `drop_packet`, `secure_tcp` and the free slots of the tables.
//! Out: which packets the worker drops and which connections it removes.
//! Ref: Linux ip_vs_ctl.c `update_defense_level`, ip_vs_conn.c `ip_vs_random_dropentry`, `todrop_entry`. The trigger
//!      is the number of free slots in the table, not the machine's free memory.

use crate::address::Address;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags};
use crate::ipvs::persistence;
use crate::ipvs::protocol::sctp::SctpState;
use crate::ipvs::protocol::tcp::TcpState;
use crate::ipvs::sysctl::Sysctls;
use crate::limits::{DEFENCE_PERIOD_MS, DEFENCE_RESERVE_PARTS, DROP_ENTRY_PARTS};
use crate::tick::Tick;
use crate::wire::{sctp, tcp};

/// `drop_entry` spares a connection whose last packet is younger than this (`todrop_entry`).
const IDLE_MIN_MS: u32 = 60_000;
/// `drop_entry` spares connections that have received more packets than this.
const IN_PACKETS_MAX: usize = 8;

/// The defences that are active now.
#[derive(Clone, Debug, Default)]
pub struct Defence {
    checked: Tick,
    /// The worker drops one of this many packets that would open a connection; 0 drops none.
    drop_rate: u32,
    drop_countdown: u32,
    secure_tcp: bool,
    drop_entry: bool,
    /// Whether the next check starts a sweep: every second check does, one check each [`DEFENCE_PERIOD_MS`].
    sweeps_next: bool,
    /// Indexed by the number of packets that a connection has received: how many more such connections to spare.
    spared: [u8; IN_PACKETS_MAX + 1],
}

/// A walk through a connection table that continues where the last pass of the worker stopped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    pub(crate) next: u32,
    /// The number of slots that the walk has still to visit.
    pub(crate) left: usize,
}

impl Defence {
    /// Decides from the settings and the fuller table which defences are active. `free` counts that table's free slots
    /// and `capacity` all of its slots.
    pub fn update(&mut self, sysctls: &Sysctls, free: usize, capacity: usize) {
        let reserve = capacity / DEFENCE_RESERVE_PARTS;
        let is_short = free < reserve;
        let acts = |mode: u32| mode == 3 || mode != 0 && is_short;
        self.secure_tcp = acts(sysctls.secure_tcp);
        self.drop_entry = acts(sysctls.drop_entry);
        self.drop_rate = match sysctls.drop_packet {
            3 => sysctls.am_droprate,
            mode if acts(mode) => (reserve / (reserve - free)) as u32,
            _ => 0,
        };
    }

    /// Whether this packet, which would begin a connection, has to go (`ip_vs_todrop`).
    #[inline]
    pub fn takes_packet(&mut self) -> bool {
        if self.drop_rate == 0 {
            return false;
        }
        self.drop_countdown = self.drop_countdown.saturating_sub(1);
        if self.drop_countdown > 0 {
            return false;
        }
        self.drop_countdown = self.drop_rate;
        true
    }

    /// Whether TCP follows the stricter table.
    #[inline]
    pub const fn is_tcp_secure(&self) -> bool {
        self.secure_tcp
    }

    /// Whether it is time to look at the tables again.
    pub fn is_due(&mut self, now: Tick) -> bool {
        let due = now.is_past(self.checked, DEFENCE_PERIOD_MS);
        if due {
            self.checked = now;
        }
        due
    }

    /// Whether `drop_entry` begins a walk through a part of the tables now.
    pub const fn begins_sweep(&mut self) -> bool {
        self.sweeps_next = !self.sweeps_next;
        self.drop_entry && !self.sweeps_next
    }

    /// Whether an idle connection of few packets has to go: of those with n packets every nth (`todrop_entry`).
    fn takes_idle<A: Address>(&mut self, conn: &Conn<A>, now: Tick) -> bool {
        let packets = conn.in_packets as usize;
        if now.since_ms(conn.last_seen) < IDLE_MIN_MS || packets == 0 {
            return false;
        }
        let Some(spared) = self.spared.get_mut(packets) else {
            return false;
        };
        if *spared > 1 {
            *spared -= 1;
            return false;
        }
        *spared = packets as u8;
        true
    }

    /// Whether `drop_entry` ends this connection.
    pub(crate) fn takes<A: Address>(&mut self, (conn, cold): (&Conn<A>, &ColdConn), now: Tick) -> bool {
        if cold.controlled > 0 {
            return false;
        }
        if conn.flags.contains(ConnFlags::TEMPLATE) {
            let of_one_packet_service = conn.flags.contains(ConnFlags::ONE_PACKET);
            return if of_one_packet_service {
                self.takes_idle(conn, now)
            } else {
                conn.state != persistence::STATE_ASSURED
            };
        }
        match conn.protocol {
            tcp::PROTOCOL => match conn.tcp_state() {
                Some(TcpState::SynRecv | TcpState::SynAck) => true,
                Some(TcpState::Established) => self.takes_idle(conn, now),
                _ => false,
            },
            sctp::PROTOCOL => match conn.sctp_state() {
                Some(SctpState::Init1 | SctpState::Init) => true,
                Some(SctpState::Established) => self.takes_idle(conn, now),
                _ => false,
            },
            _ => self.takes_idle(conn, now),
        }
    }
}

impl Sweep {
    /// Begins a walk over `slots`, from where the last one ended.
    pub const fn begin(&mut self, slots: usize) {
        self.left = slots;
    }

    /// A walk over a part of the table, as `drop_entry` makes it.
    pub fn begin_part<A: Address>(&mut self, table: &ConnTable<A>) {
        self.begin(table.capacity() / DROP_ENTRY_PARTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Addr4;

    fn sysctls(name: &str, value: &str) -> Sysctls {
        let mut sysctls = Sysctls::default();
        sysctls.set(name, value).unwrap();
        sysctls
    }

    #[test]
    fn automatic_defences_begin_when_an_eighth_of_the_table_is_left() {
        let mut defence = Defence::default();
        let automatic = sysctls("secure_tcp", "1");
        defence.update(&automatic, 125, 1_000);
        assert!(!defence.is_tcp_secure());
        defence.update(&automatic, 124, 1_000);
        assert!(defence.is_tcp_secure());
        defence.update(&sysctls("secure_tcp", "3"), 1_000, 1_000);
        assert!(defence.is_tcp_secure());
        defence.update(&Sysctls::default(), 0, 1_000);
        assert!(!defence.is_tcp_secure());
    }

    #[test]
    fn drop_packet_takes_one_in_ten_always_and_more_the_fuller_the_table() {
        let taken = |defence: &mut Defence| (0..100).filter(|_| defence.takes_packet()).count();
        let mut defence = Defence::default();
        defence.update(&sysctls("drop_packet", "3"), 1_000, 1_000);
        assert!((10..=11).contains(&taken(&mut defence)));
        defence.update(&sysctls("drop_packet", "1"), 0, 1_000);
        assert!(taken(&mut defence) >= 91, "nothing is left");
        defence.update(&sysctls("drop_packet", "1"), 900, 1_000);
        assert_eq!(taken(&mut defence), 0);
    }

    #[test]
    fn drop_entry_takes_half_open_connections_and_a_share_of_idle_ones() {
        let mut defence = Defence::default();
        let now = Tick(1_000_000);
        let conn = |state: TcpState, in_packets, idle_ms| Conn::<Addr4> {
            protocol: tcp::PROTOCOL,
            state: state as u8,
            in_packets,
            last_seen: Tick(now.0 - idle_ms),
            ..Conn::default()
        };
        let free = ColdConn::default();
        assert!(defence.takes((&conn(TcpState::SynRecv, 1, 0), &free), now));
        assert!(!defence.takes((&conn(TcpState::FinWait, 1, 90_000), &free), now));
        assert!(
            !defence.takes((&conn(TcpState::Established, 9, 90_000), &free), now),
            "busy"
        );
        assert!(
            !defence.takes((&conn(TcpState::Established, 4, 59_999), &free), now),
            "not idle"
        );
        let idle = conn(TcpState::Established, 4, 60_000);
        let taken = (0..40).filter(|_| defence.takes((&idle, &free), now)).count();
        assert_eq!(taken, 10);
        let mut template = Conn::<Addr4> {
            flags: ConnFlags::TEMPLATE,
            ..Conn::default()
        };
        assert!(defence.takes((&template, &free), now), "nobody got through");
        template.state = persistence::STATE_ASSURED;
        assert!(!defence.takes((&template, &free), now));
        template.state = persistence::STATE_NONE;
        let in_control = ColdConn {
            controlled: 1,
            ..ColdConn::default()
        };
        assert!(!defence.takes((&template, &in_control), now));
    }
}

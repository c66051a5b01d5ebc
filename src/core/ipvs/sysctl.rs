//! The kernel's IPVS settings by their names (`net.ipv4.vs.*`), with its defaults.
//!
//! In: a name and the text of a value. Out: one set of [`Sysctls`] that workers read through the snapshot.
//! Names and defaults follow Linux Documentation/networking/ipvs-sysctl.rst, ip_vs_ctl.c `vs_vars[]`.
//! `amemthresh` and settings of the kernel's memory or conntrack are stored and shown, but have no effect: here the
//! occupancy of the connection table triggers the defences.

use thiserror::Error;

/// Why a setting is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SysctlError {
    /// No such name.
    #[error("there is no setting {name:?}; known are: {}", Sysctls::NAMES.join(", "))]
    Unknown {
        /// As given.
        name: String,
    },
    /// Not a value that it takes.
    #[error("{value:?} is no value of {name}: give {allowed}")]
    Invalid {
        /// Which setting.
        name: &'static str,
        /// As given.
        value: String,
        /// What it takes.
        allowed: &'static str,
    },
}

/// A type of value: how it is read and shown, and what is allowed.
trait SysctlValue: Sized + Copy {
    fn read(text: &str, allowed: &Allowed) -> Option<Self>;
    fn show(self) -> String;
}

struct Allowed {
    least: i64,
    most: i64,
    words: &'static str,
}

impl Allowed {
    const fn range(least: i64, most: i64, words: &'static str) -> Self {
        Self { least, most, words }
    }
}

impl SysctlValue for u32 {
    fn read(text: &str, allowed: &Allowed) -> Option<Self> {
        let value: i64 = text.trim().parse().ok()?;
        (allowed.least..=allowed.most)
            .contains(&value)
            .then(|| Self::try_from(value).ok())?
    }

    fn show(self) -> String {
        self.to_string()
    }
}

impl SysctlValue for i32 {
    fn read(text: &str, allowed: &Allowed) -> Option<Self> {
        let value: Self = text.trim().parse().ok()?;
        (allowed.least..=allowed.most)
            .contains(&i64::from(value))
            .then_some(value)
    }

    fn show(self) -> String {
        self.to_string()
    }
}

impl SysctlValue for bool {
    /// As the kernel's `proc_dointvec`: every number but 0 means yes.
    fn read(text: &str, _allowed: &Allowed) -> Option<Self> {
        text.trim().parse::<i32>().ok().map(|value| value != 0)
    }

    fn show(self) -> String {
        u8::from(self).to_string()
    }
}

/// `sync_threshold`: the packet at which a connection is first synced, and after how many packets it is synced again.
impl SysctlValue for [u32; 2] {
    fn read(text: &str, _allowed: &Allowed) -> Option<Self> {
        let mut words = text.split_whitespace().map(|word| word.parse::<i32>().ok());
        let (threshold, period) = (words.next()??, words.next()??);
        let fits = threshold >= 0 && period >= 0 && (period == 0 || threshold < period) && words.next().is_none();
        fits.then_some([threshold as u32, period as u32])
    }

    fn show(self) -> String {
        format!("{}\t{}", self[0], self[1])
    }
}

/// CPUs 0 to 127 as a list: `0-3,8`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuList(u128);

impl SysctlValue for CpuList {
    fn read(text: &str, _allowed: &Allowed) -> Option<Self> {
        let mut cpus = 0;
        for range in text.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= u128::BITS {
                return None;
            }
            cpus |= u128::MAX >> (u128::BITS - 1 - (last - first)) << first;
        }
        Some(Self(cpus))
    }

    fn show(self) -> String {
        let has = |cpu: u32| cpu < u128::BITS && self.0 >> cpu & 1 == 1;
        let firsts = (0..u128::BITS).filter(|&cpu| has(cpu) && (cpu == 0 || !has(cpu - 1)));
        let ranges = firsts.map(|first| {
            let last = (first..).take_while(|&cpu| has(cpu)).last().unwrap_or(first);
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        });
        ranges.collect::<Vec<_>>().join(",")
    }
}

const NUMBER: Allowed = Allowed::range(0, i32::MAX as i64, "a number from 0 to 2147483647");
const POSITIVE: Allowed = Allowed::range(1, i32::MAX as i64, "a number from 1 to 2147483647");
const SWITCH: Allowed = Allowed::range(0, 1, "0 or 1");
const DEFENCE: Allowed = Allowed::range(
    0,
    3,
    "0 (off), 1 (when the table fills), 2 (the same, at present on) or 3 (always)",
);
const PORTS: Allowed = Allowed::range(1, 64, "a number from 1 to 64");
const RETRIES: Allowed = Allowed::range(0, 8, "a number from 0 to 8");
const LOAD_FACTOR: Allowed = Allowed::range(-8, 8, "a number from -8 to 8");
const CONNS: Allowed = Allowed::range(0, 1 << 30, "a number from 0 to 1073741824");
const NICE: Allowed = Allowed::range(-20, 19, "a number from -20 to 19");
const CPUS: Allowed = Allowed::range(0, 127, "CPUs from 0 to 127 like \"0-3,8\", or \"\"");
const PAIR: Allowed = Allowed::range(0, 0, "two numbers, the first below the second (or the second 0)");

macro_rules! sysctls {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $default:expr, $allowed:ident;)*) => {
        /// See the module. All fields are public; [`Self::set`] also checks ranges.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Sysctls { $($(#[$doc])* pub $name: $kind,)* }

        impl Default for Sysctls {
            /// The kernel's.
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Sysctls {
            /// Every name, in alphabetical order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];

            /// Sets one by name, with or without `net.ipv4.vs.` in front.
            ///
            /// # Errors
            /// See [`SysctlError`]; nothing is changed then.
            pub fn set(&mut self, name: &str, value: &str) -> Result<(), SysctlError> {
                match short(name) {
                    $(stringify!($name) => {
                        self.$name = SysctlValue::read(value, &$allowed).ok_or_else(|| SysctlError::Invalid {
                            name: stringify!($name),
                            value: value.to_owned(),
                            allowed: $allowed.words,
                        })?;
                    })*
                    _ => return Err(SysctlError::Unknown { name: name.to_owned() }),
                }
                Ok(())
            }

            /// The value of one as `sysctl` prints it; `None` for a name that does not exist.
            pub fn get(&self, name: &str) -> Option<String> {
                match short(name) {
                    $(stringify!($name) => Some(self.$name.show()),)*
                    _ => None,
                }
            }
        }
    };
}

fn short(name: &str) -> &str {
    let name = name.strip_prefix("net.ipv4.vs.").unwrap_or(name);
    name.strip_prefix("/proc/sys/net/ipv4/vs/").unwrap_or(name)
}

sysctls! {
    /// `drop_packet` 3 drops one new connection in so many.
    am_droprate: u32 = 10, POSITIVE;
    /// Free memory, in pages, below which the kernel defends itself. Stored and shown only.
    amemthresh: u32 = 1_024, NUMBER;
    /// While a sync backup runs, the director leaves clients' packets to the kernel.
    backup_only: bool = false, SWITCH;
    /// A fwmark service without servers lets its packets go to where they are addressed.
    cache_bypass: bool = false, SWITCH;
    /// Connections for a bucket of the kernel's table, as a power of two. Stored and shown only.
    conn_lfactor: i32 = -4, LOAD_FACTOR;
    /// Connections that the kernel would hold. Stored and shown only: `[connections]` sizes the tables.
    conn_max: u32 = 1 << 30, CONNS;
    /// When a SYN meets a finished connection: 0 keeps its server, 1 picks anew, bit 2 also in FIN_WAIT of DR and TUN.
    conn_reuse_mode: u32 = 1, NUMBER;
    /// Netfilter connection tracking. Stored and shown only.
    conntrack: bool = false, SWITCH;
    /// Removes idle connections when the table fills.
    drop_entry: u32 = 0, DEFENCE;
    /// Drops some packets that would begin connections when the table fills.
    drop_packet: u32 = 0, DEFENCE;
    /// CPUs of the kernel's estimators. Stored and shown only.
    est_cpulist: CpuList = CpuList::default(), CPUS;
    /// Nice value of the kernel's estimators. Stored and shown only.
    est_nice: i32 = 0, NICE;
    /// Connections of deleted servers end at once.
    expire_nodest_conn: bool = false, SWITCH;
    /// Templates do not lead to servers of weight 0.
    expire_quiescent_template: bool = false, SWITCH;
    /// Does not look into tunnels that end here. Stored and shown only.
    ignore_tunneled: bool = false, SWITCH;
    /// Seconds that lblc remembers a destination.
    lblc_expiration: u32 = 86_400, NUMBER;
    /// Seconds after which lblcr takes the most loaded server out of a destination's set.
    lblcr_expiration: u32 = 86_400, NUMBER;
    /// Sends real servers an ICMP error when their reply belongs to no connection.
    nat_icmp_send: bool = false, SWITCH;
    /// Sends senders an ICMP error when packets are too big, and honours DF in tunnels.
    pmtu_disc: bool = true, SWITCH;
    /// Computes rates.
    run_estimation: bool = true, SWITCH;
    /// ICMP begins connections.
    schedule_icmp: bool = false, SWITCH;
    /// The stricter TCP state table.
    secure_tcp: u32 = 0, DEFENCE;
    /// Any SCTP packet but ABORT begins a connection.
    sloppy_sctp: bool = false, SWITCH;
    /// Any TCP packet but RST begins a connection.
    sloppy_tcp: bool = false, SWITCH;
    /// Routes replies again by their rewritten source address.
    snat_reroute: bool = true, SWITCH;
    /// Services for a bucket of the kernel's table, as a power of two. Stored and shown only.
    svc_lfactor: i32 = -3, LOAD_FACTOR;
    /// Sync sends templates of persistent services only.
    sync_persist_mode: bool = false, SWITCH;
    /// Ports that sync spreads its messages over.
    sync_ports: u32 = 1, PORTS;
    /// Sync messages that wait to be sent.
    sync_qlen_max: u32 = 4_096, NUMBER;
    /// Seconds after which an unchanged connection is sent again.
    sync_refresh_period: u32 = 0, NUMBER;
    /// How often a refresh is repeated.
    sync_retries: u32 = 0, RETRIES;
    /// Bytes of the sync socket's buffer; 0 for the system's default.
    sync_sock_size: u32 = 0, NUMBER;
    /// The packet of a connection at which it is synced, and after how many packets it is synced again.
    sync_threshold: [u32; 2] = [3, 50], PAIR;
    /// Version of sync messages.
    sync_version: u32 = 1, SWITCH;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_read_and_set_to_what_it_shows() {
        let mut sysctls = Sysctls::default();
        for name in Sysctls::NAMES {
            let shown = sysctls.get(name).unwrap();
            sysctls.set(&format!("net.ipv4.vs.{name}"), &shown).unwrap();
        }
        assert_eq!(sysctls, Sysctls::default());
        assert!(Sysctls::NAMES.is_sorted());
    }

    #[test]
    fn refusals_name_the_setting_and_what_it_takes_and_change_nothing() {
        let mut sysctls = Sysctls::default();
        for (name, value) in [
            ("drop_entry", "4"),
            ("sync_threshold", "5 5"),
            ("secure_tcp", "-1"),
            ("sync_ports", "x"),
            ("est_nice", "-21"),
            ("est_cpulist", "3-1"),
            ("est_cpulist", "128"),
        ] {
            let error = sysctls.set(name, value).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("give"), "{error}");
        }
        assert!(
            sysctls
                .set("conn_min", "1")
                .unwrap_err()
                .to_string()
                .contains("sloppy_tcp")
        );
        assert_eq!(sysctls, Sysctls::default());
    }

    #[test]
    fn lists_of_cpus_are_shown_in_ranges() {
        let mut sysctls = Sysctls::default();
        for (given, shown) in [("", ""), ("0", "0"), ("7,0-1,2", "0-2,7"), ("0-127", "0-127")] {
            sysctls.set("est_cpulist", given).unwrap();
            assert_eq!(sysctls.get("est_cpulist").unwrap(), shown);
        }
    }

    #[test]
    fn thresholds_of_sync_are_shown_as_the_kernel_shows_them() {
        let mut sysctls = Sysctls::default();
        assert_eq!(sysctls.get("sync_threshold").unwrap(), "3\t50");
        sysctls.set("sync_threshold", "0 0").unwrap();
        assert_eq!(sysctls.sync_threshold, [0, 0]);
    }
}

//! Prints what ipvsadm would print about a director, and compares it with what was recorded.
//!
//! When within two seconds the estimator took its sample, no run of a kernel repeats: every phase of it is a
//! hypothesis that lives until a listing refutes it.

use std::collections::HashMap;
use std::net::SocketAddr;

use lvs_api::ipvsadm_text::{self, Columns, ListedPersistence, ListedServer, ListedService, Name, Style};
use lvs_core::address::AddressFamily;
use lvs_core::ipvs::desired::{ServerListing, ServiceListing};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::persistence::ClientMask;
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::scheduler::SchedulerFlags;
use lvs_core::ipvs::service::{ServiceId, ServiceKey};
use lvs_core::ipvs::stats::{Estimator, Totals};
use lvs_core::ipvs::sysctl::Sysctls;
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::TestDirector;

use crate::commands;
use crate::scenario::Command;
use crate::text::{self, EXPIRY_TOLERANCE_SEC};

/// Time between two hypotheses, in milliseconds.
pub const GRID_MS: u64 = 100;
/// Phases of a period of two seconds.
const PHASES: u64 = 2_000 / GRID_MS;
/// Buckets of the recorded kernel's connection table.
const TABLE_SIZE: u64 = 4_096;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Counted {
    Server(RealServerId),
    /// The slot of a service and its birth, which differs when a new service reuses the slot.
    Service(ServiceId, u64),
}

#[derive(Clone, Copy, Default)]
struct Stat {
    /// Of the service that lists a server: in a new one it counts anew, from the last sample
    /// (`__ip_vs_update_dest`, `ip_vs_zero_stats`).
    born: u64,
    last: Totals,
    zero: Totals,
    estimator: Estimator,
}

/// The estimator, if it samples in this phase.
#[derive(Clone, Default)]
struct Hypothesis {
    phase: u64,
    stats: HashMap<Counted, Stat>,
}

/// What `--stats` and `--rate` show, by every phase that is still possible.
pub struct Listings {
    hypotheses: Vec<Hypothesis>,
    /// The workers' counters at the last look.
    seen: HashMap<RealServerId, Totals>,
    /// What has been counted: a service keeps the counts of servers it lost.
    counted: HashMap<Counted, Totals>,
}

impl Listings {
    pub fn new() -> Self {
        let hypothesis = |phase| Hypothesis {
            phase,
            ..Hypothesis::default()
        };
        Self {
            hypotheses: (0..PHASES).map(hypothesis).collect(),
            seen: HashMap::new(),
            counted: HashMap::new(),
        }
    }

    /// The time is `grid` times [`GRID_MS`].
    pub fn tick(&mut self, director: &TestDirector, grid: u64) {
        self.collect(director);
        let due = |hypothesis: &&mut Hypothesis| hypothesis.phase == grid % PHASES;
        let mut due = self.hypotheses.iter_mut().filter(due).peekable();
        if due.peek().is_none() {
            return;
        }
        let table = director.desired.build();
        // Of a deleted server nobody takes samples.
        let is_sampled = |counted: &Counted| match counted {
            Counted::Server(id) => table.real_server(*id).is_some_and(|slot| slot.available),
            Counted::Service(..) => true,
        };
        for hypothesis in due {
            for (counted, totals) in self.counted.iter().filter(|(counted, _)| is_sampled(counted)) {
                let stat = hypothesis.stats.entry(*counted).or_default();
                stat.last = *totals;
                stat.estimator.sample(*totals);
            }
        }
    }

    /// Adds what was counted since the last look; to be called before services change.
    pub fn collect(&mut self, director: &TestDirector) {
        let table = director.desired.build();
        for slot in table.real_servers() {
            let workers = director.counters.iter();
            let now = workers
                .map(|worker| worker.server(slot.server.id).totals())
                .fold(Totals::default(), Totals::plus);
            let seen = self.seen.insert(slot.server.id, now).unwrap_or_default();
            let growth = now.since(seen);
            let service = table.service(slot.service);
            if let Some(service) = service.filter(|_| slot.available) {
                for hypothesis in &mut self.hypotheses {
                    let stat = hypothesis.stats.entry(Counted::Server(slot.server.id)).or_default();
                    if stat.born != service.born {
                        stat.born = service.born;
                        stat.zero = stat.last;
                        stat.estimator = Estimator::starting_at(stat.last);
                    }
                }
            }
            let service = service.map(|service| Counted::Service(service.id, service.born));
            for counted in [Some(Counted::Server(slot.server.id)), service].into_iter().flatten() {
                let totals = self.counted.entry(counted).or_default();
                *totals = totals.plus(growth);
            }
        }
    }

    /// `ipvsadm -Z`, of one service or of all.
    pub fn zero(&mut self, director: &TestDirector, key: Option<&ServiceKey>) {
        let table = director.desired.build();
        let of_service = |id: ServiceId| key.is_none_or(|key| table.service(id).is_some_and(|one| one.key == *key));
        for (counted, stat) in self.hypotheses.iter_mut().flat_map(|one| one.stats.iter_mut()) {
            let concerned = match counted {
                Counted::Service(id, _) => of_service(*id),
                Counted::Server(id) => table.real_server(*id).is_some_and(|slot| of_service(slot.service)),
            };
            if concerned {
                stat.zero = stat.last;
                stat.estimator = Estimator::starting_at(stat.last);
            }
        }
    }

    /// Compares what a command prints with what it printed; commands that are about something else than
    /// services and connections are not looked at.
    ///
    /// # Errors
    /// Both texts.
    pub fn compare(&mut self, director: &TestDirector, command: &Command) -> Result<(), String> {
        if command.command.starts_with("sysctl ") {
            let ours = settings(director, &command.command);
            let is_same = text::is_same(&command.command, &ours, &command.output, 0);
            return if is_same {
                Ok(())
            } else {
                Err(format!("  kernel:\n{}  lvsd:\n{ours}", command.output))
            };
        }
        const USAGE: i32 = 2;
        if command.rc == USAGE {
            // What ipvsadm refuses without asking the kernel.
            return Ok(());
        }
        let Some(request) = ListingRequest::read(&command.command) else {
            return Ok(());
        };
        let key = match request.service {
            Some(ref service) => match commands::service_of(service) {
                Err(_) if command.rc != 0 => return Ok(()),
                named => Some(named?),
            },
            None => None,
        };
        let exists = key.is_none_or(|key| director.desired.listing(&key).is_ok());
        if !exists || command.rc != 0 {
            return if exists == (command.rc == 0) {
                Ok(())
            } else {
                Err(format!(
                    "  kernel: {}  lvsd: the service exists: {exists}",
                    command.output
                ))
            };
        }
        self.collect(director);
        let mut refutation = None;
        self.hypotheses.retain(|hypothesis| {
            let ours = request.print(director, hypothesis, key.as_ref());
            let same = text::is_same(&command.command, &ours, &command.output, EXPIRY_TOLERANCE_SEC);
            if !same {
                refutation = Some(ours);
            }
            same
        });
        match refutation {
            Some(ours) if self.hypotheses.is_empty() => Err(format!("  kernel:\n{}  lvsd:\n{ours}", command.output)),
            _ => Ok(()),
        }
    }
}

/// Settings as `sysctl -a`, or `sysctl` with a name, shows them.
fn settings(director: &TestDirector, command: &str) -> String {
    let names = Sysctls::NAMES.iter();
    let named = names.filter(|name| command.starts_with("sysctl -a") || command.ends_with(&format!(".{name}")));
    let line = |name: &&str| {
        format!(
            "net.ipv4.vs.{name} = {}\n",
            director.sysctls().get(name).unwrap_or_default()
        )
    };
    named.map(line).collect()
}

/// What a command asks for.
enum What {
    Services(Style),
    Save,
    Conns,
    Timeouts,
}

struct ListingRequest {
    what: What,
    /// As on the command line: `-t 10.0.0.100:80`.
    service: Option<String>,
}

impl ListingRequest {
    fn read(command: &str) -> Option<Self> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let has = |word: &str| words.contains(&word);
        let service = words
            .iter()
            .position(|word| matches!(*word, "-t" | "-u" | "-f" | "--sctp-service"));
        let service = service
            .and_then(|at| words.get(at..at + 2))
            .map(|named| named.join(" "));
        let service = service.map(|named| if has("-6") { named + " -6" } else { named });
        let what = match words.get(..2)? {
            ["ipvsadm", _] if has("--timeout") => What::Timeouts,
            ["ipvsadm", _] if has("--daemon") => return None,
            ["ipvsadm", "-Lnc"] if words.len() == 2 || has("--sort") || has("--exact") => What::Conns,
            ["ipvsadm", "-Sn"] | ["ipvsadm-save", "-n"] => What::Save,
            ["ipvsadm", "-Ln" | "-l"] => What::Services(style(&words)),
            _ => return None,
        };
        Some(Self { what, service })
    }

    fn print(&self, director: &TestDirector, hypothesis: &Hypothesis, key: Option<&ServiceKey>) -> String {
        let services = || {
            let all = director.desired.services();
            let shown = all.filter(|listing| key.is_none_or(|key| listing.spec.key == *key));
            shown.map(|listing| service(director, hypothesis, &listing)).collect()
        };
        match self.what {
            What::Services(style) => ipvsadm_text::list(services(), key.is_none().then_some(TABLE_SIZE), style),
            What::Save => ipvsadm_text::save(services()),
            What::Conns => ipvsadm_text::CONNECTIONS_TITLE.to_owned() + &conns(director),
            What::Timeouts => {
                let (tcp_sec, tcp_fin_sec, udp_sec) = director.timeouts().shown();
                ipvsadm_text::timeouts(tcp_sec, tcp_fin_sec, udp_sec)
            }
        }
    }
}

fn style(words: &[&str]) -> Style {
    let has = |word: &str| words.contains(&word);
    let columns = if has("--stats") {
        Columns::Stats
    } else if has("--rate") {
        Columns::Rate
    } else if has("--thresholds") {
        Columns::Thresholds
    } else if has("--persistent-conn") {
        Columns::PersistentConns
    } else if has("--tun-info") {
        Columns::TunnelInfo
    } else {
        Columns::Conns
    };
    Style {
        columns,
        exact: has("--exact"),
        sorted: !has("--nosort"),
    }
}

fn conns(director: &TestDirector) -> String {
    let line = |record: &lvs_core::conn_record::ConnRecord| {
        let end = |(addr, port)| SocketAddr::new(addr, port);
        ipvsadm_text::conn(&ipvsadm_text::Conn {
            protocol: ipvsadm_text::protocol_name(record.protocol),
            expires_sec: record.expires_in_ms / 1_000,
            state: record.state_name().to_owned(),
            client: end(record.client),
            virt: end(record.virt),
            real: end(record.real),
        })
    };
    director.conns().iter().map(line).collect()
}

fn service(director: &TestDirector, hypothesis: &Hypothesis, listing: &ServiceListing<'_>) -> ListedService {
    let spec = listing.spec;
    let name = match spec.key {
        ServiceKey::Address { protocol, addr, port } => Name::Address {
            protocol: protocol.number(),
            end: SocketAddr::new(addr, port),
        },
        ServiceKey::Fwmark { mark, family } => Name::Fwmark {
            mark,
            is_ipv6: family == AddressFamily::Ipv6,
        },
    };
    let set = (0..3).filter(|bit| spec.scheduler_flags.contains(SchedulerFlags(1 << bit)));
    let names = set.filter_map(|bit| spec.scheduler.flag_name(bit));
    let table = director.desired.build();
    let born = table.service(listing.id).map_or(0, |service| service.born);
    let (totals, rates) = numbers(hypothesis, Counted::Service(listing.id, born));
    ListedService {
        name,
        scheduler: spec.scheduler.name().to_owned(),
        scheduler_flags: names.map(str::to_owned).collect(),
        persistence: spec.persistence.map(|persistence| ListedPersistence {
            timeout_sec: persistence.timeout_sec,
            mask: (!persistence.mask.is_whole()).then(|| match persistence.mask {
                ClientMask::Ipv4(mask) => mask.to_string(),
                ClientMask::Ipv6(len) => len.to_string(),
            }),
        }),
        one_packet: spec.one_packet,
        totals,
        rates,
        servers: listing
            .servers()
            .rev()
            .map(|listing| server(director, hypothesis, &listing))
            .collect(),
    }
}

fn server(director: &TestDirector, hypothesis: &Hypothesis, listing: &ServerListing) -> ListedServer {
    let spec = &listing.spec;
    let sum = |gauge: fn(&lvs_core::counters::ServerCounters) -> u32| {
        let workers = director.counters.iter();
        workers.map(|worker| gauge(worker.server(listing.id))).sum()
    };
    let (totals, rates) = numbers(hypothesis, Counted::Server(listing.id));
    ListedServer {
        end: SocketAddr::new(spec.addr, spec.port),
        forward: spec.mode.name().to_owned(),
        weight: spec.weight,
        upper_threshold: spec.upper_threshold,
        lower_threshold: spec.lower_threshold,
        tunnel: (spec.mode == ForwardingMode::Tunnel).then(|| spec.tunnel.to_string()),
        active_conns: sum(|server| server.active.get()),
        inactive_conns: sum(|server| server.inactive.get()),
        persistent_conns: sum(|server| server.persistent.get()),
        totals,
        rates,
    }
}

fn numbers(hypothesis: &Hypothesis, counted: Counted) -> ([u64; 5], [u64; 5]) {
    let stat = hypothesis.stats.get(&counted).copied().unwrap_or_default();
    let totals = stat.last.since(stat.zero);
    let rates = stat.estimator.rates();
    let totals = [
        totals.connections,
        totals.in_packets,
        totals.out_packets,
        totals.in_bytes,
        totals.out_bytes,
    ];
    let rates = [
        rates.connections_per_sec,
        rates.in_packets_per_sec,
        rates.out_packets_per_sec,
        rates.in_bytes_per_sec,
        rates.out_bytes_per_sec,
    ];
    (totals, rates)
}

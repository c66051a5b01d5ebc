//! Which of the present workers gets which connection of the former ones.
//!
//! In:  former workers, how flows are spread now, how many connections each worker can have. Out: a [`Plan`].
//!
//! A connection goes to the worker to which its client's packets lead. If its replies lead to another one, that one gets
//! a copy which serves them, as of a FULLNAT connection that another director announced. Where a worker cannot have all,
//! it gets those that were seen last; a template is as new as what it controls.
//!
//! A [`Survey`] of each former worker can be made side by side. Takes some 100 ns a connection, and allocates.

use crate::address::Address;
use crate::former::FormerWorker;
use crate::ipvs::conn::table::{FormerPlace, FormerSlot, FormerTable};
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags};
use crate::ipvs::rebinder;
use crate::ipvs::resting_ports::FormerRestingPorts;
use crate::ipvs::service_table::ServiceTable;
use crate::rss::RssHash;
use crate::snapshot::Snapshot;
use crate::tick::Tick;
use crate::verdict::WorkerId;
use crate::worker_state::WorkerSettings;
use crate::worker_state::context::Ownership;

/// How flows are spread over the present workers.
#[derive(Clone, Copy)]
pub struct Spreading<'a> {
    services: &'a ServiceTable,
    ownership: Ownership<'a>,
}

/// The connections of one former worker, and where they lead.
#[derive(Default)]
pub struct Survey {
    v4: FamilySurvey,
    v6: FamilySurvey,
}

#[derive(Default)]
struct FamilySurvey {
    /// By slot.
    ways: Vec<Way>,
    torn: usize,
}

/// A connection on its way.
struct Way {
    slot: u32,
    /// Since its last packet; [`Way::OVER`] when its time has passed.
    age_ms: u32,
    home: WorkerId,
    /// Where its replies lead, if not to its home as well.
    replies: Option<WorkerId>,
}

impl Way {
    const OVER: u32 = u32::MAX;
}

/// See the module.
pub struct Plan<'p, 'm> {
    former: &'p [Option<FormerWorker<'m>>],
    /// By present worker, of IPv4 and of IPv6.
    origins: Vec<[Vec<FormerPlace>; 2]>,
    /// Connections that go on.
    pub conns: usize,
    /// Connections for which their worker has no space.
    pub no_space: usize,
    /// Records that were torn or damaged.
    pub torn: usize,
}

/// The former tables of one family, and what of them goes to a worker.
type Part<'p, 'm, A> = (Vec<Option<&'p FormerTable<'m, A>>>, &'p [FormerPlace]);

/// What a worker gets.
pub(crate) struct Share<'p, 'm> {
    pub(crate) v4: Part<'p, 'm, crate::address::Addr4>,
    pub(crate) v6: Part<'p, 'm, crate::address::Addr6>,
    pub(crate) resting: Vec<&'p FormerRestingPorts<'m>>,
}

impl<'a> Spreading<'a> {
    /// Over the workers of which `settings` are one's, by `snapshot`. `rss` if devices spread flows by it.
    pub fn new(snapshot: &'a Snapshot, settings: &WorkerSettings, rss: Option<&'a RssHash>) -> Self {
        let ownership = Ownership {
            worker: settings.id,
            workers_count: settings.workers_count,
            secret: settings.secret[0],
            rss: rss.filter(|_| settings.workers_count > 1),
            is_handoff: false,
        };
        Self {
            services: &snapshot.services,
            ownership,
        }
    }

    /// The worker to which a connection's client leads, and that of its replies if it is another one.
    fn homes<A: Address>(&self, conn: &Conn<A>, cold: &ColdConn) -> (WorkerId, Option<WorkerId>) {
        let service = rebinder::services_of(self.services, conn, cold.fwmark).next();
        let home = self.ownership.of_inbound(self.services, service, &conn.inbound_key());
        let has_replies = conn.flags.contains(ConnFlags::OUTBOUND_INDEXED);
        let replies = has_replies.then(|| self.ownership.of_replies(self.services, &conn.outbound_key()));
        (home, replies.flatten().filter(|replies| *replies != home))
    }
}

impl Survey {
    /// Reads all of `former`. `now` goes on from its ticks.
    pub fn of(former: &FormerWorker<'_>, spreading: &Spreading<'_>, now: Tick) -> Self {
        Self {
            v4: survey(&former.v4, spreading, now),
            v6: survey(&former.v6, spreading, now),
        }
    }
}

fn survey<A: Address>(table: &FormerTable<'_, A>, spreading: &Spreading<'_>, now: Tick) -> FamilySurvey {
    let mut found = FamilySurvey::default();
    let mut controlled = Vec::new();
    for slot in 0..table.slots() {
        let (conn, cold) = match table.get(slot) {
            FormerSlot::Free => continue,
            FormerSlot::Torn => {
                found.torn += 1;
                continue;
            }
            FormerSlot::Whole(conn, cold) => (conn, cold),
        };
        // Copies are made anew, from the connections themselves.
        if conn.flags.contains(ConnFlags::REPLIES_ONLY) {
            continue;
        }
        let idle_ms = now.since_ms(conn.last_seen);
        let age_ms = if idle_ms > conn.timeout_ms { Way::OVER } else { idle_ms };
        if conn.flags.contains(ConnFlags::CONTROLLED) {
            controlled.push((cold.control, age_ms));
        }
        let (home, replies) = spreading.homes(&conn, &cold);
        found.ways.push(Way {
            slot,
            age_ms,
            home,
            replies,
        });
    }
    for (template, age_ms) in controlled {
        if let Ok(place) = found.ways.binary_search_by_key(&template, |way| way.slot) {
            let way = &mut found.ways[place];
            way.age_ms = way.age_ms.min(age_ms);
        }
    }
    found
}

impl<'p, 'm> Plan<'p, 'm> {
    /// For workers with `settings`. `surveys` are those of the `former` workers, empty where there is none.
    pub fn new(former: &'p [Option<FormerWorker<'m>>], surveys: &[Survey], settings: &[WorkerSettings]) -> Self {
        let space = |of: fn(&WorkerSettings) -> usize| settings.iter().map(of).collect();
        let v4: Vec<_> = surveys.iter().map(|survey| &survey.v4).collect();
        let v6: Vec<_> = surveys.iter().map(|survey| &survey.v6).collect();
        let (v4, v4_without) = distribute(&v4, space(|worker| worker.conns4_max));
        let (v6, v6_without) = distribute(&v6, space(|worker| worker.conns6_max));
        let conns = v4.iter().chain(&v6).flatten().filter(|origin| !origin.is_copy).count();
        Self {
            former,
            conns,
            origins: v4.into_iter().zip(v6).map(|(v4, v6)| [v4, v6]).collect(),
            no_space: v4_without + v6_without,
            torn: surveys.iter().map(|survey| survey.v4.torn + survey.v6.torn).sum(),
        }
    }

    pub(crate) fn of(&self, worker: WorkerId) -> Share<'_, 'm> {
        let [v4, v6] = match self.origins.get(usize::from(worker.0)) {
            Some([v4, v6]) => [v4.as_slice(), v6.as_slice()],
            None => [[].as_slice(); 2],
        };
        let former = || self.former.iter().map(Option::as_ref);
        Share {
            v4: (former().map(|worker| worker.map(|worker| &worker.v4)).collect(), v4),
            v6: (former().map(|worker| worker.map(|worker| &worker.v6)).collect(), v6),
            resting: former().flatten().map(|worker| &worker.resting).collect(),
        }
    }
}

/// By present worker what it gets, in order; and how many connections none has space for. `space` is by worker.
fn distribute(surveys: &[&FamilySurvey], mut space: Vec<usize>) -> (Vec<Vec<FormerPlace>>, usize) {
    let mut origins: Vec<Vec<FormerPlace>> = space.iter().map(|_| Vec::new()).collect();
    let mut without_space = 0;
    for (table, way) in in_order(surveys, &space) {
        let homes = [Some(way.home), way.replies].into_iter().flatten();
        let has_space = |home: WorkerId| space.get(usize::from(home.0)).is_some_and(|space| *space > 0);
        if !homes.clone().all(has_space) {
            without_space += 1;
            continue;
        }
        for home in homes.map(|home| usize::from(home.0)) {
            space[home] -= 1;
            origins[home].push(FormerPlace {
                is_copy: home != usize::from(way.home.0),
                table,
                slot: way.slot,
            });
        }
    }
    // Whoever names a slot is found by that; most of it is in order already.
    origins.iter_mut().for_each(|origins| origins.sort());
    (origins, without_space)
}

/// All connections with the number of their former worker: those seen last first, if some worker has too little space.
fn in_order<'s>(surveys: &[&'s FamilySurvey], space: &[usize]) -> Vec<(u16, &'s Way)> {
    let of = |(table, survey): (u16, &&'s FamilySurvey)| survey.ways.iter().map(move |way| (table, way));
    let mut ways: Vec<(u16, &Way)> = (0..).zip(surveys).flat_map(of).collect();
    let mut needed = vec![0; space.len()];
    for home in ways.iter().flat_map(|(_, way)| [Some(way.home), way.replies]).flatten() {
        if let Some(needed) = needed.get_mut(usize::from(home.0)) {
            *needed += 1;
        }
    }
    if needed.iter().zip(space).any(|(needed, space)| needed > space) {
        ways.sort_by_key(|(_, way)| way.age_ms);
    }
    ways
}

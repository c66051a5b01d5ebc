//! Part of stage 5: the director's own end towards the real server.
//!
//! In:  a new connection of FULLNAT and the real server that was picked for it.
//! Out: a local address and port, and what the connection has to respect there. In order of preference: the end that
//!      the same client had before; an end that has rested; an end whose connection is finished or gone. Candidates come in the order in which they were given, so the first one has usually rested
//!      longest. Several are looked at until one has not rested, then only one for each connection: who looked at more
//!      would come round sooner.
//! Never: looks at more than `LOCAL_PORT_TRIES_MAX` candidates; takes an end from a connection that is not finished.

use crate::address::{Address, Endpoint, FlowKey};
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags, ConnIndex, Direction};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::local_address::{AheadOf, LocalAddressPool, ReplyHome, owner_of};
use crate::ipvs::protocol::tcp::TcpState;
use crate::ipvs::resting_ports::{Predecessor, RestingPorts, client_of};
use crate::limits::{LOCAL_PORT_IDLE_MIN_MS, LOCAL_PORT_REST_TRIES_MAX, LOCAL_PORT_TRIES_MAX, RSS_PORT_TRIES_MAX};
use crate::path::schedule::{Chosen, Opening};
use crate::tick::Tick;
use crate::wire::tcp;
use crate::worker_state::context::{Context, PoolState, Scheduling};

/// See the module.
#[derive(Clone, Copy)]
pub(crate) struct LocalEnd<A: Address> {
    pub(crate) end: Endpoint<A>,
    /// The table's hash of the replies to it, which no connection has; `None` where that is not known.
    pub(crate) free: Option<u64>,
    /// Of an end that was another connection's a short time ago, or is until now.
    offer: Option<Offer>,
}

impl<A: Address> LocalEnd<A> {
    /// The end of a connection without one of the director's own: its client.
    pub(crate) const fn of_client(client: Endpoint<A>) -> Self {
        Self {
            end: client,
            free: None,
            offer: None,
        }
    }

    /// The finished connection that has to give the end up.
    pub(crate) fn holder(&self) -> Option<ConnIndex> {
        self.offer.as_ref()?.holder
    }

    /// The connection before, if the end has not rested since.
    pub(crate) fn predecessor(&self) -> Option<&Predecessor> {
        let offer = self.offer.as_ref()?;
        (!offer.has_rested).then_some(&offer.predecessor)
    }
}

/// What a candidate is.
enum Candidate {
    /// Free, and no server remembers anything that matters.
    Good,
    /// Its connection is finished or gone.
    Offered(Offer),
    /// A connection has it.
    Taken,
}

/// An end whose connection is finished or gone.
#[derive(Clone, Copy)]
struct Offer {
    holder: Option<ConnIndex>,
    predecessor: Predecessor,
    has_rested: bool,
}

impl Offer {
    /// Whether a connection had better take this one: the number that its own has to be above is known, or it has
    /// rested longer.
    const fn is_better(&self, other: &Self, now: Tick) -> bool {
        let (before, other) = (&self.predecessor, &other.predecessor);
        match (before.end.is_some(), other.end.is_some()) {
            (true, false) => true,
            (false, true) => false,
            _ => now.since_ms(before.last_seen) > now.since_ms(other.last_seen),
        }
    }
}

/// The end of a FULLNAT connection. `None` when no candidate can be had.
pub(crate) fn choose<A: Address>(
    ctx: &mut Context<'_>,
    table: &ConnTable<A>,
    opening: &Opening<'_, '_, A>,
    chosen: &Chosen<'_>,
) -> Option<LocalEnd<A>> {
    let Opening { service, key, .. } = *opening;
    let server = chosen.server;
    let pool = service.local_addresses.as_ref()?;
    let real = Endpoint::new(A::from_ip(server.addr)?, chosen.port);
    let (worker, workers_count) = (ctx.ownership.worker, ctx.ownership.workers_count);
    let home = ctx.ownership.rss.map(|rss| ReplyHome {
        rss,
        real,
        worker,
        workers_count,
    });
    let reply_to = |local| FlowKey {
        src: real,
        dst: local,
        protocol: key.protocol,
    };
    let now = ctx.now;
    let Scheduling {
        pools,
        ports_ahead,
        resting,
        ..
    } = &mut *ctx.scheduling;
    let look = Look {
        table,
        resting,
        key,
        now,
    };
    if let Some(former) = opening.former {
        let comes_home = match &home {
            Some(home) => home.brings(former),
            None => owner_of(former.port, workers_count) == worker,
        };
        if comes_home && let Some(again) = look.former(pool, former, &reply_to(former)) {
            return Some(again);
        }
    }
    let PoolState { cursor, is_short } = pools.get_mut(service.id.0 as usize)?;
    let mut rss_tries = RSS_PORT_TRIES_MAX;
    let mut advance = || match &home {
        Some(home) => pool.advance_by_rss(cursor, home, &mut rss_tries),
        None => pool.advance(cursor, worker, workers_count),
    };
    let of = AheadOf::new(server.id.0, chosen.port, key.protocol, service.revision);
    let is_any_resting = resting.is_any_resting(now);
    let fetch = |ahead| {
        let hash = table.hash(&reply_to(ahead));
        table.prefetch_bucket(hash);
        if is_any_resting {
            resting.prefetch(hash);
        }
        hash
    };
    let mut search = Search {
        best: None,
        tries: 0,
        was_short: *is_short,
    };
    while let Some((candidate, hash)) = ports_ahead.next(of, pool, &mut advance, fetch) {
        let holder = table.find(hash, &reply_to(candidate));
        let found = if holder.is_none() && !(is_any_resting && resting.has_record(hash)) {
            Some(LocalEnd {
                end: candidate,
                free: Some(hash),
                offer: None,
            })
        } else {
            search.consider(&look, candidate, (hash, holder))
        };
        if found.is_some() {
            *is_short = false;
            return found;
        }
        if search.is_over() {
            break;
        }
    }
    *is_short |= search.best.is_some();
    search.best
}

/// The candidates that a new connection has looked at.
struct Search<A: Address> {
    /// The best that has not rested.
    best: Option<LocalEnd<A>>,
    tries: u32,
    /// Whether the search before found none that had rested.
    was_short: bool,
}

impl<A: Address> Search<A> {
    #[inline]
    const fn is_over(&self) -> bool {
        let is_best_enough = match &self.best {
            Some(LocalEnd { offer: Some(offer), .. }) => {
                self.tries >= LOCAL_PORT_REST_TRIES_MAX || self.was_short && offer.predecessor.end.is_some()
            }
            _ => false,
        };
        is_best_enough || self.tries >= LOCAL_PORT_TRIES_MAX
    }

    /// The candidate, whose reply has this hash and this holder, if it has rested.
    #[cold]
    fn consider(
        &mut self,
        look: &Look<'_, A>,
        candidate: Endpoint<A>,
        (hash, holder): (u64, Option<(ConnIndex, Direction)>),
    ) -> Option<LocalEnd<A>> {
        self.tries += 1;
        let offer = match look.at(hash, holder) {
            Candidate::Good => None,
            Candidate::Offered(offer) => Some(offer),
            Candidate::Taken => return None,
        };
        let found = LocalEnd {
            end: candidate,
            free: Some(hash),
            offer,
        };
        let Some(offer) = offer.filter(|offer| !offer.has_rested) else {
            return Some(found);
        };
        let best = self.best.and_then(|best| best.offer);
        if best.is_none_or(|best| offer.is_better(&best, look.now)) {
            self.best = Some(found);
        }
        None
    }
}

/// What a new connection looks at in its candidates.
struct Look<'a, A: Address> {
    table: &'a ConnTable<A>,
    resting: &'a RestingPorts,
    /// The flow of the client's packets.
    key: &'a FlowKey<A>,
    now: Tick,
}

impl<A: Address> Look<'_, A> {
    /// The end whose replies have this hash and belong to this holder.
    fn at(&self, hash: u64, holder: Option<(ConnIndex, Direction)>) -> Candidate {
        match holder {
            None => match self.resting.find(hash, self.now) {
                None => Candidate::Good,
                Some(predecessor) => self.resting_end(predecessor),
            },
            Some((holder, Direction::Outbound)) => self.held(holder),
            Some(_) => Candidate::Taken,
        }
    }

    /// Sequence numbers and timestamps of one client and service grow from connection to connection.
    #[cold]
    fn resting_end(&self, predecessor: Predecessor) -> Candidate {
        if self.is_same_client(&predecessor) && !predecessor.is_shifted {
            return Candidate::Good;
        }
        Candidate::Offered(Offer {
            holder: None,
            predecessor,
            has_rested: false,
        })
    }

    /// A connection that is over gives its end up when nothing of it can still be on its way. Where no ports rest, it
    /// keeps its end.
    #[cold]
    fn held(&self, holder: ConnIndex) -> Candidate {
        let conn = self.table.conn(holder);
        let is_reset = conn.state == TcpState::Close as u8;
        let may_go = self.resting.is_on()
            && (is_reset || conn.state == TcpState::TimeWait as u8)
            && conn.protocol == tcp::PROTOCOL
            && conn.mode() == ForwardingMode::FullNat
            && !conn.flags.contains(ConnFlags::REPLIES_ONLY)
            && self.now.since_ms(conn.last_seen) >= LOCAL_PORT_IDLE_MIN_MS;
        if !may_go {
            return Candidate::Taken;
        }
        Candidate::Offered(Offer {
            holder: Some(holder),
            predecessor: predecessor(self.table.hasher(), self.table.both(holder)),
            // Of a connection that was reset, a server keeps nothing.
            has_rested: is_reset || self.resting.has_rested(conn.last_seen, self.now),
        })
    }

    /// The end that this client's connection before had, if it is free for it.
    #[cold]
    fn former(&self, pool: &LocalAddressPool, former: Endpoint<A>, reply: &FlowKey<A>) -> Option<LocalEnd<A>> {
        if !self.resting.is_on() || !pool.addresses.contains(&former.addr.to_ip()) {
            return None;
        }
        let hash = self.table.hash(reply);
        match self.at(hash, self.table.find(hash, reply)) {
            Candidate::Good => Some(LocalEnd {
                end: former,
                free: Some(hash),
                offer: None,
            }),
            Candidate::Offered(offer) if offer.holder.is_none() && self.is_same_client(&offer.predecessor) => {
                Some(LocalEnd {
                    end: former,
                    free: Some(hash),
                    offer: Some(offer),
                })
            }
            Candidate::Offered(_) | Candidate::Taken => None,
        }
    }

    fn is_same_client(&self, predecessor: &Predecessor) -> bool {
        predecessor.client == client_of(self.table.hash(self.key))
    }
}

/// What the server of `conn` may still know when `conn` has gone.
fn predecessor<A: Address>(hash: impl Fn(&FlowKey<A>) -> u64, (conn, cold): (&Conn<A>, &ColdConn)) -> Predecessor {
    Predecessor {
        client: client_of(hash(&conn.inbound_key())),
        end: conn.flags.contains(ConnFlags::CLIENT_ENDED).then_some(cold.client_end),
        is_shifted: conn.isn_delta != 0,
        last_seen: conn.last_seen,
    }
}

/// The local end of `conn`, which goes now, has to rest. A server that reset the connection or was reset keeps nothing.
#[inline]
pub(crate) fn give_up<A: Address>(
    resting: &mut RestingPorts,
    hash: impl Fn(&FlowKey<A>) -> u64,
    (conn, cold): (&Conn<A>, &ColdConn),
    now: Tick,
) {
    if !resting.has_rested(conn.last_seen, now)
        && conn.protocol == tcp::PROTOCOL
        && conn.mode() == ForwardingMode::FullNat
        && conn.state != TcpState::Close as u8
        && !conn.flags.contains(ConnFlags::TEMPLATE)
    {
        resting.give_up(hash(&conn.outbound_key()), &predecessor(hash, (conn, cold)), now);
    }
}

//! The kernel's routing, as a pure function: policy rules, tables, nexthop objects.
//!
//! In:  what rtnetlink reports, change by change; a [`RouteQuery`].
//! Out: the [`Decision`] that the kernel's stack would come to for it.
//! A copy costs as much as there are rules, tables and nexthop objects, not routes: see `trie`.
//! Known differences: of several equal paths the kernel picks one by a secret hash (see `nexthop`); equal default routes
//! without weights, which the kernel picks by their neighbours, are taken in their order. The kernel forgets all IPv6
//! routes of a prefix that has routes for certain sources only when the one that came last is deleted, and goes on to
//! list them; here they count.
//! Ref:  Linux net/core/fib_rules.c `fib_rules_lookup`, net/ipv4/fib_trie.c `fib_table_lookup`, net/ipv6/route.c
//! `fib6_table_lookup`.

mod nexthop;
mod query;
mod rule;
mod table;
mod trie;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::IpNet;

use crate::l3::InterfaceId;
pub use nexthop::{Leg, NexthopObject, Path, Target};
pub use query::{RouteQuery, Vrf};
use rule::RuleSet;
pub use rule::{Rule, RuleAction, Selectors};
pub use table::{Placement, RouteAction, RouteEntry, insert};
use table::{Routes, Table};

/// `RT_TABLE_DEFAULT`, `RT_TABLE_MAIN` and `RT_TABLE_LOCAL` (uapi/linux/rtnetlink.h).
pub const TABLE_DEFAULT: u32 = 253;
/// See [`TABLE_DEFAULT`].
pub const TABLE_MAIN: u32 = 254;
/// See [`TABLE_DEFAULT`].
pub const TABLE_LOCAL: u32 = 255;

/// Nexthop objects by id.
pub type Objects = HashMap<u32, NexthopObject>;

/// What routing says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'f> {
    /// It leaves.
    Forward {
        /// By this path.
        path: &'f Path,
        /// Of this route.
        leg: &'f Leg,
    },
    /// It is for the director itself.
    Local,
    /// It is for the director and others.
    Broadcast,
    /// No route, or a rule that says so.
    NoRoute,
    /// A route that says so.
    Unreachable,
    /// Not allowed.
    Prohibit,
    /// To be dropped silently.
    Blackhole,
    /// The kernel knows, but the director cannot follow it there.
    Unfollowed,
}

/// Prefixes with routes that more decides about than the destination.
#[derive(Clone, Copy, Debug, Default)]
struct SpecialPrefixes {
    v4: u32,
    v6: u32,
}

impl SpecialPrefixes {
    #[inline]
    fn of(self, is_v4: bool) -> u32 {
        if is_v4 { self.v4 } else { self.v6 }
    }

    fn of_mut(&mut self, prefix: &IpNet) -> &mut u32 {
        match prefix {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        }
    }
}

fn is_special(prefix: &IpNet, routes: &[RouteEntry]) -> bool {
    // Every interface has these, and nothing that is balanced goes there.
    let is_of_links = matches!(prefix.addr(), IpAddr::V6(addr) if addr.is_unicast_link_local() || addr.is_multicast());
    let are_equal = |pair: &[RouteEntry]| matches!(pair, [one, next] if one.is_equal(next));
    let has_equals = matches!(prefix, IpNet::V6(_)) && !is_of_links && routes.windows(2).any(are_equal);
    routes.iter().any(RouteEntry::is_special) || has_equals
}

/// Whether the kernel skips this prefix: routes from certain sources hide those from everywhere, until a route of a
/// longer prefix has led nowhere (`fib6_node_lookup_1`, `fib6_backtrack`).
#[inline]
fn hides_its_routes(routes: &[RouteEntry], query: &RouteQuery) -> bool {
    let mut of_sources = routes.iter().filter(|route| route.from.is_some()).peekable();
    of_sources.peek().is_some() && !of_sources.any(|route| route.is_from(query))
}

/// The first route of the longest prefix that contains `addr`, for packets without TOS (`__ip_dev_find`).
#[inline]
fn longest(table: &Table, addr: IpAddr) -> Option<(u8, RouteAction)> {
    table.find(addr, &mut |prefix_len, routes: &Routes| {
        Some((prefix_len, routes.iter().find(|route| route.tos == 0)?.action))
    })
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Fib {
    rules_v4: Arc<RuleSet>,
    rules_v6: Arc<RuleSet>,
    /// Sorted by id.
    tables: Vec<(u32, Table)>,
    /// Where the table of local addresses is among them, once it is there: each new connection asks it.
    local_table: usize,
    objects: Arc<Objects>,
    /// Groups of interfaces, where they are not 0.
    groups: Arc<HashMap<InterfaceId, u32>>,
    /// Routes of one TOS or for one source network.
    special_prefixes: SpecialPrefixes,
    /// How many routes impose each MTU.
    mtus: Arc<BTreeMap<u16, u32>>,
}

impl Default for Fib {
    fn default() -> Self {
        let v4 = RuleSet::new(Self::default_rules(true), &Self::default_rules(true));
        let v6 = RuleSet::new(Self::default_rules(false), &Self::default_rules(false));
        Self {
            rules_v4: Arc::new(v4),
            rules_v6: Arc::new(v6),
            tables: Vec::new(),
            local_table: 0,
            objects: Arc::default(),
            groups: Arc::default(),
            special_prefixes: SpecialPrefixes::default(),
            mtus: Arc::default(),
        }
    }
}

impl Fib {
    /// The rules of a fresh kernel.
    pub fn default_rules(is_v4: bool) -> Vec<Rule> {
        let rule = |priority, table| Rule::new(priority, RuleAction::Table(table));
        let mut rules = vec![rule(0, TABLE_LOCAL), rule(32_766, TABLE_MAIN)];
        if is_v4 {
            rules.push(rule(32_767, TABLE_DEFAULT));
        }
        rules
    }

    /// Replaces the rules of a family. Once IPv4 had others than a fresh kernel's, its tables `local` and `main` stay
    /// apart (`fib_unmerge`).
    pub fn set_rules(&mut self, is_v4: bool, rules: Vec<Rule>) {
        let defaults = Self::default_rules(is_v4);
        let known = if is_v4 { &mut self.rules_v4 } else { &mut self.rules_v6 };
        let mut set = RuleSet::new(rules, &defaults);
        set.is_untouched &= known.is_untouched || !is_v4;
        *known = Arc::new(set);
    }

    /// Replaces the nexthop objects.
    pub fn set_objects(&mut self, objects: Objects) {
        self.objects = Arc::new(objects);
    }

    /// Adds a nexthop object or replaces it.
    pub fn set_object(&mut self, id: u32, object: NexthopObject) {
        Arc::make_mut(&mut self.objects).insert(id, object);
    }

    /// Removes a nexthop object. Routes to it lead nowhere.
    pub fn remove_object(&mut self, id: u32) {
        Arc::make_mut(&mut self.objects).remove(&id);
    }

    /// The nexthop objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Takes rules, nexthop objects and groups of `other`, and keeps its own routes.
    pub fn take_all_but_routes_of(&mut self, other: &Self) {
        self.rules_v4 = Arc::clone(&other.rules_v4);
        self.rules_v6 = Arc::clone(&other.rules_v6);
        self.objects = Arc::clone(&other.objects);
        self.groups = Arc::clone(&other.groups);
    }

    /// Takes from `known` the routes that it has too, so that one who holds both holds them once.
    pub fn reuse_routes_of(&mut self, known: &Self) {
        for (id, table) in &mut self.tables {
            if let Ok(position) = known.tables.binary_search_by_key(id, |(id, _)| *id)
                && let Some((_, known)) = known.tables.get(position)
            {
                table.reuse(known);
            }
        }
    }

    /// Replaces the groups of interfaces.
    pub fn set_groups(&mut self, groups: HashMap<InterfaceId, u32>) {
        self.groups = Arc::new(groups);
    }

    /// Adds a route.
    pub fn add(&mut self, table: u32, prefix: IpNet, route: RouteEntry, placement: Placement) {
        self.change(table, prefix, |routes| insert(routes, route, placement));
    }

    /// Changes the routes of a prefix, which are in the order in which they count.
    pub fn change(&mut self, table: u32, prefix: IpNet, change: impl FnOnce(&mut Vec<RouteEntry>)) {
        let position = match self.tables.binary_search_by_key(&table, |(id, _)| *id) {
            Ok(position) => position,
            Err(position) => {
                self.tables.insert(position, (table, Table::default()));
                let local_table = self.tables.binary_search_by_key(&TABLE_LOCAL, |(id, _)| *id);
                self.local_table = local_table.unwrap_or_default();
                position
            }
        };
        let Some((_, table)) = self.tables.get_mut(position) else {
            return;
        };
        let (special_prefixes, mtus) = (self.special_prefixes.of_mut(&prefix), &mut self.mtus);
        let mut count = |routes: &[RouteEntry], is_there: bool| {
            let special = u32::from(is_special(&prefix, routes));
            *special_prefixes = if is_there {
                *special_prefixes + special
            } else {
                *special_prefixes - special
            };
            for route in routes {
                if let Some(mtu) = route.leg.mtu {
                    count_mtu(Arc::make_mut(mtus), mtu, is_there);
                }
            }
        };
        table.update(prefix, |routes| {
            count(routes, false);
            change(routes);
            count(routes, true);
        });
    }

    /// The MTUs that routes impose.
    pub fn mtus(&self) -> Vec<u16> {
        self.mtus.keys().copied().collect()
    }

    /// What a lookup of a family must know besides the destination.
    pub fn selectors(&self, is_v4: bool) -> Selectors {
        let mut selectors = self.rules(is_v4).selectors;
        if self.special_prefixes.of(is_v4) > 0 {
            (selectors.src, selectors.tos, selectors.iif) = (true, true, true);
        }
        selectors
    }

    /// Whether the destination alone decides the lookups of a family.
    #[inline]
    pub fn is_by_destination(&self, is_v4: bool) -> bool {
        self.rules(is_v4).is_by_destination & (self.special_prefixes.of(is_v4) == 0)
    }

    #[inline]
    fn rules(&self, is_v4: bool) -> &RuleSet {
        if is_v4 { &self.rules_v4 } else { &self.rules_v6 }
    }

    /// See the module. Of several equal paths one that `is_good` likes is taken, if there is one.
    pub fn lookup(&self, query: &RouteQuery, is_good: impl Fn(&Path) -> bool) -> Decision<'_> {
        match self.ask_rules(query, is_good) {
            Decision::Forward { path, .. } if path.unfollowed => Decision::Unfollowed,
            decision => decision,
        }
    }

    fn ask_rules(&self, query: &RouteQuery, is_good: impl Fn(&Path) -> bool) -> Decision<'_> {
        let rules = self.rules(query.dst.is_ipv4());
        if rules.is_untouched && query.dst.is_ipv4() {
            return self.lookup_merged(query, &is_good);
        }
        let mut at = 0;
        while let Some(rule) = rules.rules().get(at) {
            let is_taken = rule.is_for(query);
            if is_taken && let Some(decision) = self.apply(rule, query, &is_good) {
                return decision;
            }
            at = rules.next(at, rule, is_taken);
        }
        Decision::NoRoute
    }

    /// `None` if the next rule is to be asked.
    fn apply(&self, rule: &Rule, query: &RouteQuery, is_good: &impl Fn(&Path) -> bool) -> Option<Decision<'_>> {
        let id = match rule.action {
            RuleAction::Table(id) => id,
            RuleAction::VrfTable => query.vrf?.table,
            RuleAction::Goto(_) | RuleAction::Nop => return None,
            // Other than a route of this name (`fib4_rule_action`).
            RuleAction::Unreachable => return Some(Decision::NoRoute),
            RuleAction::Prohibit => return Some(Decision::Prohibit),
            RuleAction::Blackhole => return Some(Decision::Blackhole),
            RuleAction::Unfollowed => return Some(Decision::Unfollowed),
        };
        let (decision, prefix_len) = self.ask(id, query, is_good)?;
        let is_short = rule.suppress_prefix_len.is_some_and(|longest| prefix_len <= longest);
        let group = match decision {
            Decision::Forward { path, leg } => {
                // IPv4 suppresses before it chooses among equal paths (`fib4_rule_suppress`).
                let first = self.paths(leg).find(|path| !path.is_dead && query.dst.is_ipv4());
                let interface = first.unwrap_or(path).interface;
                Some(self.groups.get(&interface).copied().unwrap_or(0))
            }
            _ => None,
        };
        let is_of_group = rule.suppress_group.is_some() && rule.suppress_group == group;
        // What is no route at all cannot be suppressed (`fib_rules_lookup`).
        let is_route = matches!(
            decision,
            Decision::Forward { .. } | Decision::Local | Decision::Broadcast
        );
        (!is_route || !is_short && !is_of_group).then_some(decision)
    }

    /// The paths of a leg, the dead too.
    pub fn paths<'f>(&'f self, leg: &'f Leg) -> impl Iterator<Item = &'f Path> {
        let (own, id) = match &leg.target {
            Target::Nowhere => (&[][..], None),
            Target::Paths(paths) => (&**paths, None),
            Target::Object(id) => (&[][..], Some(id)),
        };
        let object = id.and_then(|id| self.objects.get(id));
        let members = match object {
            Some(NexthopObject::Group(members)) => &**members,
            _ => &[],
        };
        let of_members = members.iter().filter_map(|(id, _)| self.objects.get(id));
        own.iter()
            .chain(object.into_iter().chain(of_members).filter_map(NexthopObject::path))
    }

    /// As long as nobody touched the rules of IPv4, its tables `local` and `main` are one (`fib_trie_unmerge`).
    #[inline]
    fn lookup_merged(&self, query: &RouteQuery, is_good: &impl Fn(&Path) -> bool) -> Decision<'_> {
        let local = self.ask_raw(TABLE_LOCAL, query, is_good);
        let main = match local {
            Some((_, 32)) => None,
            _ => self.ask_raw(TABLE_MAIN, query, is_good),
        };
        let found = match (local, main) {
            (Some(local), Some(main)) if main.1 > local.1 => Some(main),
            (local, main) => local.or(main),
        };
        match found {
            Some((Some(decision), _)) => decision,
            // Nothing, or thrown.
            Some((None, _)) | None => self
                .ask(TABLE_DEFAULT, query, is_good)
                .map_or(Decision::NoRoute, |(decision, _)| decision),
        }
    }

    /// What a table says, with the length of the prefix; `None` if the next rule is to be asked.
    fn ask(&self, table: u32, query: &RouteQuery, is_good: &impl Fn(&Path) -> bool) -> Option<(Decision<'_>, u8)> {
        let (decision, prefix_len) = self.ask_raw(table, query, is_good)?;
        Some((decision?, prefix_len))
    }

    /// What a table says, with the length of the prefix; `Some((None, _))` when it throws.
    fn ask_raw(
        &self,
        table: u32,
        query: &RouteQuery,
        is_good: &impl Fn(&Path) -> bool,
    ) -> Option<(Option<Decision<'_>>, u8)> {
        let position = self.tables.binary_search_by_key(&table, |(id, _)| *id).ok()?;
        let (_, table) = self.tables.get(position)?;
        let mut is_going_back = false;
        table.find(query.dst, &mut |prefix_len, routes: &Routes| {
            if !is_going_back && prefix_len > 0 && hides_its_routes(routes, query) {
                return None;
            }
            is_going_back = true;
            let taken = routes.iter().find_map(|route| {
                let taken = self.take(route, query, is_good)?;
                Some(self.take_where_it_came(route, routes, query, is_good).unwrap_or(taken))
            })?;
            Some((taken, prefix_len))
        })
    }

    /// Of equal routes of IPv6 that do not share, the one that leads back to where the packet came from goes first
    /// (`ip6_pol_route_input`, `rt6_score_route`).
    #[inline]
    fn take_where_it_came<'f>(
        &'f self,
        first: &RouteEntry,
        routes: &'f [RouteEntry],
        query: &RouteQuery,
        is_good: &impl Fn(&Path) -> bool,
    ) -> Option<Option<Decision<'f>>> {
        if routes.len() == 1 || query.dst.is_ipv4() || query.iif == InterfaceId::LOOPBACK {
            return None;
        }
        let is_there = |route: &&RouteEntry| {
            let is_there = |path: &Path| path.interface == query.iif && !path.is_dead;
            route.is_equal(first) && self.paths(&route.leg).any(is_there)
        };
        routes
            .iter()
            .filter(is_there)
            .find_map(|route| self.take(route, query, is_good))
    }

    /// What a route does with the packet: `None` if it is not for it, `Some(None)` if it throws.
    fn take<'f>(
        &'f self,
        route: &'f RouteEntry,
        query: &RouteQuery,
        is_good: &impl Fn(&Path) -> bool,
    ) -> Option<Option<Decision<'f>>> {
        if route.tos != 0 && route.tos != query.tos || !route.is_from(query) {
            return None;
        }
        Some(match route.action {
            RouteAction::Local => Some(Decision::Local),
            RouteAction::Broadcast => Some(Decision::Broadcast),
            RouteAction::Unreachable => Some(Decision::Unreachable),
            RouteAction::Prohibit => Some(Decision::Prohibit),
            RouteAction::Blackhole => Some(Decision::Blackhole),
            RouteAction::Throw => None,
            RouteAction::Forward => Some(self.forward(&route.leg, query, is_good)?),
        })
    }

    /// `None` when no path lives.
    fn forward<'f>(
        &'f self,
        leg: &'f Leg,
        query: &RouteQuery,
        is_good: &impl Fn(&Path) -> bool,
    ) -> Option<Decision<'f>> {
        let path = match &leg.target {
            Target::Nowhere => return None,
            Target::Paths(paths) => match &**paths {
                [path] => Some(path).filter(|path| !path.is_dead),
                paths => nexthop::pick(paths.iter().map(|path| (path, path.weight)), query.hash(), is_good),
            },
            Target::Object(id) => match self.objects.get(id)? {
                NexthopObject::Blackhole => return Some(Decision::Blackhole),
                NexthopObject::Path(path) => Some(path).filter(|path| !path.is_dead),
                NexthopObject::Group(members) => {
                    if let [(only, _)] = &**members
                        && self.objects.get(only) == Some(&NexthopObject::Blackhole)
                    {
                        return Some(Decision::Blackhole);
                    }
                    let paths = members
                        .iter()
                        .filter_map(|(id, weight)| Some((self.objects.get(id)?.path()?, *weight)));
                    nexthop::pick(paths, query.hash(), is_good)
                }
            },
        }?;
        Some(Decision::Forward { path, leg })
    }

    /// Whether the kernel's table of local addresses has `addr`, as an address of its own or as a broadcast address.
    pub fn local(&self, addr: IpAddr) -> Option<RouteAction> {
        let (TABLE_LOCAL, table) = self.tables.get(self.local_table)? else {
            return None;
        };
        let (prefix_len, action) = longest(table, addr)?;
        let is_hidden = prefix_len < 32 && addr.is_ipv4() && self.is_hidden(addr, prefix_len);
        (matches!(action, RouteAction::Local | RouteAction::Broadcast) && !is_hidden).then_some(action)
    }

    /// Whether a longer prefix of table `main`, where that is merged with the table of local addresses, goes before
    /// the local prefix of this length.
    #[cold]
    fn is_hidden(&self, addr: IpAddr, prefix_len: u8) -> bool {
        let main = self.tables.iter().find(|(id, _)| *id == TABLE_MAIN);
        let longest = main.and_then(|(_, table)| longest(table, addr));
        self.rules_v4.is_untouched && longest.is_some_and(|(len, _)| len > prefix_len)
    }

    /// Calls `look` with every route, for tests and reports.
    pub fn for_each(&self, mut look: impl FnMut(u32, IpNet, &RouteEntry)) {
        for (id, table) in &self.tables {
            table.v4.for_each(&mut |bits, len, routes| {
                let net = IpNet::new(IpAddr::V4(bits.into()), len);
                routes
                    .iter()
                    .for_each(|route| net.iter().for_each(|net| look(*id, *net, route)));
            });
            table.v6.for_each(&mut |bits, len, routes| {
                let net = IpNet::new(IpAddr::V6(bits.into()), len);
                routes
                    .iter()
                    .for_each(|route| net.iter().for_each(|net| look(*id, *net, route)));
            });
        }
    }
}

fn count_mtu(mtus: &mut BTreeMap<u16, u32>, mtu: u16, is_there: bool) {
    let count = mtus.entry(mtu).or_default();
    *count = if is_there { *count + 1 } else { count.saturating_sub(1) };
    if *count == 0 {
        mtus.remove(&mtu);
    }
}

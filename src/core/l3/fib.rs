//! The kernel's routing, as a pure function: policy rules, tables, nexthop objects.
//!
//! In:  what rtnetlink reports, change by change; a [`RouteQuery`].
//! Out: the [`Decision`] that the kernel's stack would come to for it.
//! A copy costs as much as there are rules, tables and nexthop objects, not routes: see `trie`.
//! Known differences: of several equal paths the kernel picks one by a secret hash (see `nexthop`); equal default routes
//! without weights, which the kernel picks by their neighbours, are taken in their order.
//! Ref:  Linux net/core/fib_rules.c `fib_rules_lookup`, net/ipv4/fib_trie.c `fib_table_lookup`, net/ipv6/route.c
//! `fib6_table_lookup`.

mod nexthop;
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

/// The VRF of the interface that a packet came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vrf {
    /// The VRF's own interface.
    pub interface: InterfaceId,
    /// Its table.
    pub table: u32,
}

/// A question to the kernel's routing, its `flowi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteQuery {
    /// Where to.
    pub dst: IpAddr,
    /// From where; `None` while the route decides it.
    pub src: Option<IpAddr>,
    /// The packet's firewall mark.
    pub mark: u32,
    /// The interface that received it; [`InterfaceId::LOOPBACK`] for what the director itself sends.
    pub iif: InterfaceId,
    /// The VRF of that interface.
    pub vrf: Option<Vrf>,
    /// TOS or traffic class, without the ECN bits.
    pub tos: u8,
    /// Protocol number; 0 where the kernel does not look.
    pub protocol: u8,
    /// Source and destination port; 0 where the kernel does not look.
    pub ports: (u16, u16),
}

impl RouteQuery {
    /// About a packet that the director itself sends, as IPVS does to real servers.
    pub const fn output(dst: IpAddr) -> Self {
        Self {
            dst,
            src: None,
            mark: 0,
            iif: InterfaceId::LOOPBACK,
            vrf: None,
            tos: 0,
            protocol: 0,
            ports: (0, 0),
        }
    }

    /// The same from a source address.
    #[must_use]
    pub const fn from(mut self, src: IpAddr) -> Self {
        self.src = Some(src);
        self
    }

    /// Without what `selectors` do not look at: questions with the same answer become equal.
    #[must_use]
    pub fn normalised(self, selectors: Selectors) -> Self {
        let plain = Self::output(self.dst);
        Self {
            dst: self.dst,
            src: self.src.filter(|_| selectors.src),
            mark: if selectors.mark { self.mark } else { 0 },
            iif: if selectors.iif { self.iif } else { plain.iif },
            vrf: self.vrf.filter(|_| selectors.iif),
            tos: if selectors.tos { self.tos } else { 0 },
            protocol: if selectors.ports { self.protocol } else { 0 },
            ports: if selectors.ports { self.ports } else { (0, 0) },
        }
    }

    /// 31 bits that are the same for all packets of a flow.
    fn hash(&self) -> u32 {
        const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
        let fold = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => u64::from(addr.to_bits()),
            IpAddr::V6(addr) => (addr.to_bits() >> 64) as u64 ^ (addr.to_bits() as u64).rotate_left(32),
        };
        let words = [
            fold(self.dst),
            self.src.map_or(0, fold),
            u64::from(self.ports.0) << 16 | u64::from(self.ports.1),
        ];
        let mixed = words
            .iter()
            .fold(0_u64, |mixed, word| (mixed ^ word).wrapping_mul(MIX).rotate_left(29));
        (mixed.wrapping_mul(MIX) >> 33) as u32
    }
}

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
    /// No route, or one that says so.
    Unreachable,
    /// Not allowed.
    Prohibit,
    /// To be dropped silently.
    Blackhole,
    /// The kernel knows, but the director cannot follow it there.
    Unfollowed,
}

/// What one table says.
enum Verdict<'f> {
    /// See there.
    Found(Decision<'f>, u8),
    /// Nothing, so that the next rule is asked.
    Nothing,
}

/// The first route of the longest prefix that contains `addr`.
#[inline]
fn longest(table: &Table, addr: IpAddr) -> Option<(u8, RouteAction)> {
    table.find(addr, &mut |prefix_len, routes: &Routes| {
        Some((prefix_len, routes.first()?.action))
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
    special_routes: u32,
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
            special_routes: 0,
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
    pub fn keep_frame_of(&mut self, other: &Self) {
        self.rules_v4 = Arc::clone(&other.rules_v4);
        self.rules_v6 = Arc::clone(&other.rules_v6);
        self.objects = Arc::clone(&other.objects);
        self.groups = Arc::clone(&other.groups);
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
        let (special_routes, mtus) = (&mut self.special_routes, &mut self.mtus);
        let mut count = |routes: &[RouteEntry], is_there: bool| {
            for route in routes {
                let special = u32::from(route.is_special());
                *special_routes = if is_there {
                    *special_routes + special
                } else {
                    *special_routes - special
                };
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
        if self.special_routes > 0 {
            (selectors.src, selectors.tos) = (true, true);
        }
        selectors
    }

    /// Whether the destination alone decides the lookups of a family.
    #[inline]
    pub fn is_by_destination(&self, is_v4: bool) -> bool {
        self.rules(is_v4).is_by_destination & (self.special_routes == 0)
    }

    #[inline]
    fn rules(&self, is_v4: bool) -> &RuleSet {
        if is_v4 { &self.rules_v4 } else { &self.rules_v6 }
    }

    /// See the module. Of several equal paths one that `is_good` likes is taken, if there is one.
    pub fn lookup(&self, query: &RouteQuery, is_good: impl Fn(&Path) -> bool) -> Decision<'_> {
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
        Decision::Unreachable
    }

    /// `None` if the next rule is to be asked.
    fn apply(&self, rule: &Rule, query: &RouteQuery, is_good: &impl Fn(&Path) -> bool) -> Option<Decision<'_>> {
        let id = match rule.action {
            RuleAction::Table(id) => id,
            RuleAction::VrfTable => query.vrf?.table,
            RuleAction::Goto(_) | RuleAction::Nop => return None,
            RuleAction::Unreachable => return Some(Decision::Unreachable),
            RuleAction::Prohibit => return Some(Decision::Prohibit),
            RuleAction::Blackhole => return Some(Decision::Blackhole),
            RuleAction::Unfollowed => return Some(Decision::Unfollowed),
        };
        let Verdict::Found(decision, prefix_len) = self.ask(id, query, is_good) else {
            return None;
        };
        let is_short = rule.suppress_prefix_len.is_some_and(|longest| prefix_len <= longest);
        let group = match decision {
            Decision::Forward { path, .. } => Some(self.groups.get(&path.interface).copied().unwrap_or(0)),
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
            Some((None, _)) | None => match self.ask(TABLE_DEFAULT, query, is_good) {
                Verdict::Found(decision, _) => decision,
                Verdict::Nothing => Decision::Unreachable,
            },
        }
    }

    fn ask(&self, table: u32, query: &RouteQuery, is_good: &impl Fn(&Path) -> bool) -> Verdict<'_> {
        match self.ask_raw(table, query, is_good) {
            Some((Some(decision), prefix_len)) => Verdict::Found(decision, prefix_len),
            Some((None, _)) | None => Verdict::Nothing,
        }
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
        table.find(query.dst, &mut |prefix_len, routes: &Routes| {
            let taken = routes.iter().find_map(|route| self.take(route, query, is_good))?;
            Some((taken, prefix_len))
        })
    }

    /// What a route does with the packet: `None` if it is not for it, `Some(None)` if it throws.
    fn take<'f>(
        &'f self,
        route: &'f RouteEntry,
        query: &RouteQuery,
        is_good: &impl Fn(&Path) -> bool,
    ) -> Option<Option<Decision<'f>>> {
        let is_from = |from: &ipnet::Ipv6Net| matches!(query.src, Some(IpAddr::V6(src)) if from.contains(&src));
        if route.tos != 0 && route.tos != query.tos || route.from.as_deref().is_some_and(|from| !is_from(from)) {
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
                    let paths = members.iter().filter_map(|(id, weight)| match self.objects.get(id)? {
                        NexthopObject::Path(path) => Some((path, *weight)),
                        NexthopObject::Group(_) | NexthopObject::Blackhole => None,
                    });
                    nexthop::pick(paths, query.hash(), is_good)
                }
            },
        }?;
        Some(if path.unfollowed {
            Decision::Unfollowed
        } else {
            Decision::Forward { path, leg }
        })
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

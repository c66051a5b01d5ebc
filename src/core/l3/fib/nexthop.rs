//! Where routes lead: paths, groups of equal paths by weight, and nexthop objects.
//!
//! In:  a route's paths or the id of an object. Out: the path of one packet.
//! The kernel hashes with a secret of its own, so which of several paths it takes for a flow cannot be known. Here too
//! a flow keeps its path, and each path gets its share by weight, exactly as the kernel divides the hash.
//! Ref:  Linux net/ipv4/fib_semantics.c `fib_rebalance`, `fib_select_multipath`; net/ipv4/nexthop.c
//! `nexthop_select_path_hthr`.

use std::net::IpAddr;

use crate::l3::InterfaceId;

/// One path of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// The outgoing interface.
    pub interface: InterfaceId,
    /// The router, of either family; `None` when the destination itself is on the link.
    pub gateway: Option<IpAddr>,
    /// Its share, from 1.
    pub weight: u32,
    /// Whether its interface is down.
    pub is_dead: bool,
    /// Why packets cannot take it here, if so.
    pub unfollowed: bool,
}

impl Path {
    /// A living path of weight 1.
    pub const fn new(interface: InterfaceId, gateway: Option<IpAddr>) -> Self {
        Self {
            interface,
            gateway,
            weight: 1,
            is_dead: false,
            unfollowed: false,
        }
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One path, or several that share.
    Paths(Box<[Path]>),
    /// To the nexthop object of this id.
    Object(u32),
    /// Nowhere: unreachable routes, and local ones of no interface.
    Nowhere,
}

/// What many routes have in common: where they lead and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leg {
    /// Where to.
    pub target: Target,
    /// Largest IP packet in bytes, if the route allows less than the interface.
    pub mtu: Option<u16>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

/// A nexthop object (`ip nexthop`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NexthopObject {
    /// One path.
    Path(Path),
    /// Objects with their weights.
    Group(Vec<(u32, u32)>),
    /// Packets are dropped.
    Blackhole,
}

impl NexthopObject {
    /// Its path, if it is one.
    pub(super) const fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Group(_) | Self::Blackhole => None,
        }
    }
}

/// Picks by `hash`, of 31 bits, one of the paths with their weights, which `is_good` likes; any living one if it likes
/// none.
pub(super) fn pick<'p>(
    paths: impl Iterator<Item = (&'p Path, u32)> + Clone,
    hash: u32,
    is_good: impl Fn(&Path) -> bool,
) -> Option<&'p Path> {
    let living = || paths.clone().filter(|(path, _)| !path.is_dead);
    let total: u64 = living().map(|(_, weight)| u64::from(weight)).sum();
    let mut sum = 0;
    let is_before = |&(_, weight): &(&Path, u32)| {
        sum += u64::from(weight);
        // DIV_ROUND_CLOSEST
        let bound = ((sum << 31) + total / 2) / total.max(1);
        u64::from(hash) >= bound
    };
    let start = living().take_while(is_before).count();
    let in_turn = || living().skip(start).chain(living().take(start)).map(|(path, _)| path);
    in_turn().find(|path| is_good(path)).or_else(|| in_turn().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn path(interface: u32, weight: u32) -> Path {
        let mut path = Path::new(InterfaceId(interface), None);
        path.weight = weight;
        path
    }

    /// Of 2^16 equal steps of the hash, how many fall to each path.
    fn shares(paths: &[Path], is_good: impl Fn(&Path) -> bool) -> Vec<u32> {
        let mut shares = vec![0; paths.len()];
        for step in 0..1 << 16 {
            let weighted = paths.iter().map(|path| (path, path.weight));
            if let Some(taken) = pick(weighted, step << 15, &is_good) {
                let at = paths.iter().position(|path| path == taken).unwrap();
                shares[at] += 1;
            }
        }
        shares
    }

    #[test]
    fn each_living_path_has_its_share_to_the_last_bit() {
        let paths = [path(1, 3), path(2, 1), path(3, 4)];
        assert_eq!(shares(&paths, |_| true), [24_576, 8_192, 32_768]);
        let mut dead = paths;
        dead[2].is_dead = true;
        assert_eq!(shares(&dead, |_| true), [49_152, 16_384, 0]);
        assert_eq!(shares(&[path(1, 1), path(2, 256)], |_| true), [256, 65_280]);
    }

    #[test]
    fn a_path_that_is_not_good_stands_back_unless_all_do() {
        let paths = [path(1, 1), path(2, 1)];
        assert_eq!(shares(&paths, |path| path.interface == InterfaceId(2)), [0, 65_536]);
        assert_eq!(shares(&paths, |_| false), [32_768, 32_768]);
        let mut dead = paths;
        dead.iter_mut().for_each(|path| path.is_dead = true);
        assert_eq!(shares(&dead, |_| true), [0, 0]);
    }
}

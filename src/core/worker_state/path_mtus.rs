//! Paths to the ends of tunnels that are narrower than their first link, as routers reported them to this worker.
//!
//! In:  the MTU quoted by "fragmentation needed" about an outer packet. Out: the MTU to hold packets against.
//! A direct-mapped table of fixed size: two servers that meet in a slot forget each other's, and learn again.
//! Ref: RFC 1191; Linux net/ipv4/route.c `ip_rt_update_pmtu`, ip_vs_xmit.c `__ip_vs_dst_check`.

use std::net::IpAddr;

use crate::limits::{PATH_MTU_MIN, PATH_MTU_SEC, PATH_MTUS_MAX};
use crate::tick::Tick;

#[derive(Clone, Copy, Debug)]
struct Learned {
    towards: IpAddr,
    mtu: u16,
    at: Tick,
    /// Whether a packet was held against it already. Before that clients get the MTU of the link, as the
    /// kernel takes it from the route of the server's last packet.
    in_use: bool,
}

/// See the module.
#[derive(Debug)]
pub struct PathMtus {
    slots: Box<[Option<Learned>]>,
    is_empty: bool,
}

impl PathMtus {
    pub(crate) fn new() -> Self {
        Self {
            slots: vec![None; PATH_MTUS_MAX].into_boxed_slice(),
            is_empty: true,
        }
    }

    /// Whether no router has reported anything since the start.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// The MTU of the way to `server`, whose first link has `link_mtu`.
    #[inline]
    pub(crate) fn towards(&mut self, server: IpAddr, link_mtu: u16, now: Tick) -> u16 {
        if self.is_empty {
            return link_mtu;
        }
        match self.find(server, now) {
            Some(learned) => {
                learned.in_use = true;
                learned.mtu.min(link_mtu)
            }
            None => link_mtu,
        }
    }

    /// Notes that a router on the way to `server` lets through packets of `mtu` bytes only. The MTU that the
    /// sender is to get: that of the path once it is in use.
    pub(crate) fn learn(&mut self, server: IpAddr, mtu: u16, link_mtu: u16, now: Tick) -> u16 {
        let mtu = mtu.max(PATH_MTU_MIN);
        if let Some(learned) = self.find(server, now) {
            if mtu < learned.mtu {
                (learned.mtu, learned.at) = (mtu, now);
            }
            return if learned.in_use {
                learned.mtu.min(link_mtu)
            } else {
                link_mtu
            };
        }
        if mtu < link_mtu
            && let Some(slot) = self.slots.get_mut(slot_of(server))
        {
            self.is_empty = false;
            *slot = Some(Learned {
                towards: server,
                mtu,
                at: now,
                in_use: false,
            });
        }
        link_mtu
    }

    #[cold]
    fn find(&mut self, server: IpAddr, now: Tick) -> Option<&mut Learned> {
        let slot = self.slots.get_mut(slot_of(server))?;
        let is_old = slot.is_some_and(|learned| now.since_ms(learned.at) >= PATH_MTU_SEC * 1_000);
        if is_old {
            *slot = None;
        }
        slot.as_mut().filter(|learned| learned.towards == server)
    }
}

fn slot_of(server: IpAddr) -> usize {
    let fold = match server {
        IpAddr::V4(v4) => u32::from(v4),
        IpAddr::V6(v6) => v6
            .octets()
            .as_chunks::<4>()
            .0
            .iter()
            .fold(0, |fold, &word| fold ^ u32::from_be_bytes(word)),
    };
    (fold.wrapping_mul(0x9e37_79b9) >> 16) as usize % PATH_MTUS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 11));

    /// tun_icmp_outer: the errors themselves are answered with the old MTU, the next packet meets the new one.
    #[test]
    fn a_learned_mtu_holds_from_the_next_packet_on_and_for_ten_minutes() {
        let mut mtus = PathMtus::new();
        assert_eq!(mtus.towards(SERVER, 1_500, Tick(0)), 1_500);
        assert_eq!(mtus.learn(SERVER, 1_400, 1_500, Tick(0)), 1_500);
        assert_eq!(mtus.learn(SERVER, 1_400, 1_500, Tick(1)), 1_500);
        assert_eq!(mtus.towards(SERVER, 1_500, Tick(2)), 1_400);
        assert_eq!(mtus.learn(SERVER, 1_400, 1_500, Tick(3)), 1_400);
        assert_eq!(
            mtus.learn(SERVER, 1_450, 1_500, Tick(4)),
            1_400,
            "a larger one is no news"
        );
        assert_eq!(mtus.learn(SERVER, 1_350, 1_500, Tick(4)), 1_350, "in use already");
        assert_eq!(mtus.towards(SERVER, 1_300, Tick(5)), 1_300);
        assert_eq!(mtus.towards(SERVER, 1_500, Tick(4 + PATH_MTU_SEC * 1_000)), 1_500);
    }

    #[test]
    fn nobody_can_teach_an_absurdly_small_mtu() {
        let mut mtus = PathMtus::new();
        mtus.learn(SERVER, 68, 1_500, Tick(0));
        assert_eq!(mtus.towards(SERVER, 1_500, Tick(0)), PATH_MTU_MIN);
    }
}

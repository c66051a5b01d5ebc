//! Nexthop objects, which the netlink crate does not know.
//!
//! In:  the bytes of an RTM_NEWNEXTHOP or RTM_DELNEXTHOP behind the netlink header.
//! Out: the object's id and what it is.
//! Ref:  Linux include/uapi/linux/nexthop.h.

use std::net::IpAddr;

use lvs_core::l3::InterfaceId;
use lvs_core::l3::fib::{NexthopObject, Path};
use rtnetlink::packet_core::NlasIterator;
use rtnetlink::packet_route::route::RouteNextHopFlags;

/// `struct nhmsg`.
const HEADER_LEN: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP_TYPE: u16 = 7;
/// `struct nexthop_grp`.
const MEMBER_LEN: usize = 8;

/// See the module.
pub(crate) fn object(message: &[u8]) -> Option<(u32, NexthopObject)> {
    let flags = number(message.get(4..HEADER_LEN)?)?;
    let (mut id, mut members, mut is_blackhole) = (None, None, false);
    let mut path = Path::new(InterfaceId::NONE, None);
    path.is_dead = flags & u32::from(RouteNextHopFlags::Dead.bits()) != 0;
    for attribute in NlasIterator::new(message.get(HEADER_LEN..)?) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            NHA_ID => id = number(value),
            NHA_GROUP => members = Some(value.chunks_exact(MEMBER_LEN).filter_map(member).collect()),
            NHA_BLACKHOLE => is_blackhole = true,
            NHA_OIF => path.interface = InterfaceId(number(value)?),
            NHA_GATEWAY => path.gateway = address(value),
            NHA_ENCAP_TYPE => path.unfollowed = true,
            _ => {}
        }
    }
    let object = match members {
        Some(members) => NexthopObject::Group(members),
        None if is_blackhole => NexthopObject::Blackhole,
        None => NexthopObject::Path(path),
    };
    Some((id?, object))
}

/// The id of a member, and its weight, of which the kernel names one less, the high byte apart.
fn member(bytes: &[u8]) -> Option<(u32, u32)> {
    let weight = u32::from(*bytes.get(4)?) | u32::from(*bytes.get(5)?) << 8;
    Some((number(bytes)?, weight + 1))
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.first_chunk()?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    }
}

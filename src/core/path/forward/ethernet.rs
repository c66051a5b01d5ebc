//! Stage 7, last: the Ethernet header that carries the packet to its next hop.
//!
//! In:  a finished IP packet somewhere in its frame, and a resolved hop.
//! Out: a complete frame: MAC addresses, a VLAN tag where the hop has one, ethertype, packet.
//! Never: touches the packet itself; padding behind it is the caller's to cut.

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::address::AddressFamily;
use crate::frame::Frame;
use crate::l3::Hop;
use crate::verdict::DropReason;
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, EthernetHeader};
use crate::wire::vlan::VlanTag;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct TaggedHeader {
    ethernet: EthernetHeader,
    tag: VlanTag,
}

/// Makes `frame`, whose IP packet of family `ethertype_of` begins at `l3_offset`, begin with exactly the header
/// that `hop` needs: 14 bytes, 18 with a VLAN tag.
#[inline]
pub fn write<F: Frame>(
    frame: &mut F,
    l3_offset: u16,
    hop: &Hop,
    ethertype_of: AddressFamily,
) -> Result<(), DropReason> {
    let ethertype = U16::new(match ethertype_of {
        AddressFamily::Ipv4 => ETHERTYPE_IPV4,
        AddressFamily::Ipv6 => ETHERTYPE_IPV6,
    });
    if hop.vlan != 0 {
        return write_tagged(frame, l3_offset, hop, ethertype);
    }
    resize_front(frame, usize::from(l3_offset), EthernetHeader::LEN)?;
    let (header, _) = EthernetHeader::mut_from_prefix(frame.bytes_mut()).map_err(|_| DropReason::Truncated)?;
    *header = EthernetHeader {
        dst: hop.dst_mac,
        src: hop.src_mac,
        ethertype,
    };
    Ok(())
}

fn write_tagged<F: Frame>(frame: &mut F, l3_offset: u16, hop: &Hop, ethertype: U16) -> Result<(), DropReason> {
    resize_front(frame, usize::from(l3_offset), EthernetHeader::LEN + VlanTag::LEN)?;
    let (header, _) = TaggedHeader::mut_from_prefix(frame.bytes_mut()).map_err(|_| DropReason::Truncated)?;
    *header = TaggedHeader {
        ethernet: EthernetHeader {
            dst: hop.dst_mac,
            src: hop.src_mac,
            ethertype: U16::new(ETHERTYPE_VLAN),
        },
        tag: VlanTag {
            control: U16::new(hop.vlan),
            ethertype,
        },
    };
    Ok(())
}

/// Moves the beginning of `frame` so that what lies at `offset` lies at `target` afterwards.
#[inline]
pub(crate) fn resize_front<F: Frame>(frame: &mut F, offset: usize, target: usize) -> Result<(), DropReason> {
    if let Some(missing) = target.checked_sub(offset) {
        if missing == 0 || frame.prepend(missing) {
            Ok(())
        } else {
            Err(DropReason::NoHeadroom)
        }
    } else if frame.trim_front(offset - target) {
        Ok(())
    } else {
        Err(DropReason::Truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::vec::VecFrame;
    use crate::l3::DeviceId;
    use crate::testing::{tcp4, tcp6};

    fn hop(vlan: u16) -> Hop {
        Hop {
            device: DeviceId(0),
            mtu: 1_500,
            vlan,
            src_mac: [2, 0, 0, 0, 0, 1],
            dst_mac: [2, 0, 0, 0, 1, 2],
        }
    }

    #[test]
    fn an_untagged_frame_keeps_its_length_and_gets_the_macs_of_the_hop() {
        let mut frame = tcp4("198.51.100.1:40000 > 192.0.2.1:80").frame();
        let packet = frame.bytes()[14..].to_vec();
        write(&mut frame, 14, &hop(0), AddressFamily::Ipv4).unwrap();
        assert_eq!(frame.bytes()[..14], [2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!(frame.bytes()[14..], packet);
    }

    #[test]
    fn the_tag_is_that_of_the_hop_whatever_the_frame_came_with() {
        for (tags, l3_offset) in [(0, 14), (1, 18), (2, 22)] {
            let mut packet = tcp6("[2001:db8::1]:1 > [2001:db8::2]:2").payload(b"same");
            for _ in 0..tags {
                packet = packet.vlan(9);
            }
            let untagged = tcp6("[2001:db8::1]:1 > [2001:db8::2]:2").payload(b"same").build();
            let mut frame = packet.frame();
            write(&mut frame, l3_offset, &hop(7), AddressFamily::Ipv6).unwrap();
            assert_eq!(frame.bytes()[12..18], [0x81, 0, 0, 7, 0x86, 0xdd], "{tags} tags");
            assert_eq!(frame.bytes()[18..], untagged[14..], "{tags} tags");
            write(&mut frame, 18, &hop(0), AddressFamily::Ipv6).unwrap();
            assert_eq!(frame.bytes()[12..], untagged[12..], "{tags} tags");
        }
    }

    #[test]
    fn a_tag_without_headroom_is_refused() {
        let mut frame = VecFrame::with_headroom(&tcp4("198.51.100.1:1 > 192.0.2.1:2").build(), 3, 0);
        assert_eq!(
            write(&mut frame, 14, &hop(7), AddressFamily::Ipv4),
            Err(DropReason::NoHeadroom)
        );
    }
}

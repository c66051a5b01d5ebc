//! The VLAN tag behind an 802.1Q or 802.1ad ethertype (IEEE 802.1Q clause 9.6).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The low twelve bits of the tag control information.
const ID_MASK: u16 = 0x0fff;

/// What follows the tag's own ethertype.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligible (1 bit), VLAN id (12 bits).
    pub control: U16,
    /// What follows the tag.
    pub ethertype: U16,
}

impl VlanTag {
    /// Bytes a tag adds to the frame.
    pub const LEN: usize = 4;

    /// The VLAN id; 0 is a priority tag of untagged traffic.
    #[inline]
    pub const fn id(&self) -> u16 {
        self.control.get() & ID_MASK
    }
}

const _: () = assert!(size_of::<VlanTag>() == VlanTag::LEN);

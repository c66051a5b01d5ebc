//! What the protocols with states have in common: how their states are listed, and which table of transitions counts.
//!
//! In:  a list of states; the direction of a packet. Out: an enum with its numbers and names; a table.
//! Never: decides a transition; the tables are in the files of the protocols.

use crate::ipvs::conn::Direction;

/// Defines the states of a protocol. Each line names a state and the word that `ipvsadm -Lnc` prints for it. A state's
/// number is its place in the list, as in the kernel, whose sync messages carry it.
macro_rules! states {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$state_doc:meta])* $state:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$state_doc])* $state,)+
        }

        impl $name {
            /// Every state by its number.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$state),+];

            /// The state of that number; `None` from the length of [`Self::ALL`] on.
            #[inline]
            pub const fn from_u8(number: u8) -> Option<Self> {
                if (number as usize) < Self::ALL.len() {
                    Some(Self::ALL[number as usize])
                } else {
                    None
                }
            }

            /// As `ipvsadm -Lnc` prints it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$state => $text,)+
                }
            }
        }
    };
}
pub(super) use states;

/// The transition tables of a protocol, by the packets that the director sees.
pub(super) struct Tables<'t, T> {
    /// For a packet of the client.
    pub(super) inbound: &'t T,
    /// For a packet of the client while no packet of the real server has passed (DR, TUN).
    pub(super) inbound_only: &'t T,
    /// For a packet of the real server.
    pub(super) outbound: &'t T,
}

impl<'t, T> Tables<'t, T> {
    /// The table for a packet in `direction`. `no_output`: no packet of the real server has passed.
    #[inline]
    pub(super) const fn of(&self, direction: Direction, no_output: bool) -> &'t T {
        match direction {
            Direction::Outbound => self.outbound,
            Direction::Inbound if no_output => self.inbound_only,
            Direction::Inbound => self.inbound,
        }
    }
}

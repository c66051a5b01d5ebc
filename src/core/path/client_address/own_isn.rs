//! An initial sequence number of the director's own, for a FULLNAT connection whose local port has not rested.
//!
//! The real server may have the port in TIME_WAIT. It takes a SYN then if its number is above the last one of the
//! connection before and if no timestamp says that it is old. So the client's numbers are shifted to above that one,
//! and the SYN offers no timestamps.
//!
//! In:  segments of the connection in either direction. Out: the client's numbers shifted, the server's
//!      acknowledgements and SACK blocks shifted back; the number behind the client's FIN is remembered for whoever
//!      gets the port next.
//! Never: leaves a number to guess to who does not see the connection before.
//! Ref:  RFC 6191, RFC 6528; Linux tcp_minisocks.c `tcp_timewait_state_process`; DPVS ip_vs_proto_tcp.c
//!      `tcp_in_adjust_seq`, `tcp_in_remove_ts`.

use crate::address::Address;
use crate::headers::Headers;
use crate::ipvs::client_address::ClientAddressState;
use crate::ipvs::conn::{Conn, ConnFlags, ConnMut, Direction};
use crate::ipvs::resting_ports::Predecessor;
use crate::limits::ISN_GAP_BITS;
use crate::path::client_address::segment::Segment;
use crate::random::Random;
use crate::wire::tcp::{ACK, FIN, RST, SYN, TcpHeader};

/// Gives `conn`, whose first packet has `headers`, a number above those of the connection before. Its SYN gets it. A
/// stream that is joined in the middle keeps its numbers.
pub(crate) fn begin<A: Address>(
    random: &mut Random,
    conn: &mut ConnMut<'_, A>,
    headers: &Headers,
    predecessor: &Predecessor,
) {
    if headers.tcp_flags & (SYN | ACK) != SYN {
        return;
    }
    let isn = match predecessor.end {
        Some(end) => end
            .wrapping_add(1)
            .wrapping_add(random.next_u32() >> (u32::BITS - ISN_GAP_BITS)),
        None => random.next_u32(),
    };
    conn.cold.client_end = isn;
    conn.client_address.note(ClientAddressState::OWN_ISN);
}

/// The client's SYN, whose number decides what is shifted by.
pub(super) fn inbound_syn<A: Address>(conn: &mut ConnMut<'_, A>, segment: &Segment<'_>) {
    if segment.header.flags & ACK == 0 && conn.client_address.take_own_isn() {
        conn.isn_delta = conn.cold.client_end.wrapping_sub(segment.header.sequence.get());
        conn.flags.insert(ConnFlags::INBOUND_SHIFTED);
    }
}

/// A segment of the client, with its PROXY header counted.
pub(super) fn inbound<A: Address>(conn: &mut ConnMut<'_, A>, headers: &Headers, frame: &mut [u8]) {
    let Some(mut segment) = Segment::of(frame, headers) else {
        return;
    };
    if conn.isn_delta != 0 {
        if segment.header.flags & SYN != 0 {
            segment.remove_timestamps();
        }
        let sequence = segment.header.sequence.get();
        segment.set_sequence(sequence.wrapping_add(conn.isn_delta));
    }
    if segment.header.flags & (FIN | SYN | RST) == FIN {
        let behind = segment.header.sequence.get().wrapping_add(segment.payload_len as u32);
        conn.cold.client_end = behind.wrapping_add(1);
        conn.flags.insert(ConnFlags::CLIENT_ENDED);
    }
}

/// A segment of the real server.
pub(super) fn outbound<A: Address>(conn: &Conn<A>, segment: &mut Segment<'_>) {
    if conn.isn_delta == 0 || segment.header.flags & ACK == 0 {
        return;
    }
    let acknowledged = segment.header.acknowledgement.get();
    segment.set_acknowledgement(acknowledged.wrapping_sub(conn.isn_delta));
    if segment.header.header_len() > TcpHeader::LEN {
        segment.map_sack(|edge| edge.wrapping_sub(conn.isn_delta));
    }
}

/// What [`inbound`] and [`outbound`] do to data of an established connection, on the fast path. `false`, and nothing is
/// changed, for a segment with options, which may be SACK blocks, and where more than these numbers is to be seen to.
#[inline(never)]
pub(crate) fn in_place<A: Address>(conn: &Conn<A>, direction: Direction, headers: &Headers, frame: &mut [u8]) -> bool {
    const MORE: ConnFlags = ConnFlags::TIMED.union(ConnFlags::OUTBOUND_SHIFTED);
    if conn.isn_delta == 0 || conn.flags.intersects(MORE) {
        return false;
    }
    let Some(mut segment) = Segment::of(frame, headers) else {
        return false;
    };
    if segment.header.header_len() != TcpHeader::LEN {
        return false;
    }
    match direction {
        Direction::Inbound => {
            let sequence = segment.header.sequence.get();
            segment.set_sequence(sequence.wrapping_add(conn.isn_delta));
        }
        Direction::Outbound => outbound(conn, &mut segment),
    }
    true
}

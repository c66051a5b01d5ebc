//! The property of fragments, in every mode and family: in any order, with duplicates, whoever polls them, they amount
//! to the datagram that they are of, there and back; overlaps end it by name; places are as many as there are.
//!
//! The twin is the same datagram in one piece, sent behind it on the same connection.

use lvs_core::ipvs::desired::ServerSpec;
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::ipvs::tunnel_kind::{GueChecksum, TunnelKind};
use lvs_core::l3::DeviceId;
use lvs_core::limits::DATAGRAMS_MAX;
use lvs_core::random::Random;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac};
use lvs_core::testing::{PacketBuilder, checksum_faults, udp4, udp6};
use lvs_core::verdict::DropReason;

use super::{addr, counts, director, packet, service};

/// Bytes of a datagram of these tests, UDP header included: 27 units of 8 and a bit.
const UPPER: usize = 220;

/// One way of forwarding.
#[derive(Clone, Copy, Debug)]
struct Way {
    mode: ForwardingMode,
    tunnel: TunnelKind,
    is_ipv6: bool,
    server: &'static str,
}

const SERVER4: &str = "198.51.100.11";
const SERVER6: &str = "2001:db8:b::11";

fn ways() -> Vec<Way> {
    let gue = |checksum| TunnelKind::Gue { port: 6_080, checksum };
    let tunnels = [
        TunnelKind::IpIp,
        TunnelKind::Gre { checksum: false },
        TunnelKind::Gre { checksum: true },
        gue(GueChecksum::No),
        gue(GueChecksum::Full),
        gue(GueChecksum::RemoteOffload),
    ];
    let mut ways = Vec::new();
    for (is_ipv6, server, other) in [(false, SERVER4, SERVER6), (true, SERVER6, SERVER4)] {
        let way = |mode, tunnel, server| Way {
            mode,
            tunnel,
            is_ipv6,
            server,
        };
        for mode in [
            ForwardingMode::Nat,
            ForwardingMode::FullNat,
            ForwardingMode::DirectRouting,
        ] {
            ways.push(way(mode, TunnelKind::IpIp, server));
        }
        for tunnel in tunnels {
            ways.push(way(ForwardingMode::Tunnel, tunnel, server));
            ways.push(way(ForwardingMode::Tunnel, tunnel, other));
        }
    }
    ways
}

impl Way {
    fn director(self, workers: u8) -> TestDirector {
        let vip = if self.is_ipv6 { "2001:db8:a::100" } else { "192.0.2.100" };
        let key = service(ServiceProtocol::Udp, vip, 53);
        let port = if self.mode.sees_replies() { 5_353 } else { 53 };
        let mut director = director(workers, key, self.mode, &[self.server], port);
        if self.mode == ForwardingMode::Tunnel {
            director.change(|desired| {
                let mut spec = ServerSpec::new(addr(self.server), port, self.mode, 1);
                spec.tunnel = self.tunnel;
                desired.edit_server(&key, spec).unwrap();
            });
        }
        director
    }

    /// A request of the client of this number.
    fn request(self, client: u16) -> PacketBuilder {
        let port = 10_000 + client;
        if self.is_ipv6 {
            udp6(&format!("[2001:db8:a::2]:{port} > [2001:db8:a::100]:53"))
        } else {
            udp4(&format!("192.0.2.2:{port} > 192.0.2.100:53")).identification(client)
        }
        .payload_len(UPPER - 8)
    }

    /// What the server answers to `to_server`.
    fn reply(self, to_server: &[u8], client: u16) -> PacketBuilder {
        let words = packet(to_server);
        let words: Vec<&str> = words.split(' ').collect();
        let ends = format!("{} > {}", words[3], words[1]);
        let reply = if self.is_ipv6 {
            udp6(&ends)
        } else {
            udp4(&ends).identification(client)
        };
        reply.dst_mac(director_mac(LAN)).payload_len(UPPER - 8)
    }
}

/// Makes the fragment of `frame` that holds `begin` to `end` of its upper layer. `id` identifies the datagram.
fn piece(frame: &[u8], is_ipv6: bool, id: u16, begin: usize, end: usize) -> Vec<u8> {
    let at = if is_ipv6 { 54 } else { 34 };
    let upper = &frame[at..];
    let more = end < upper.len();
    let mut piece = frame[..at].to_vec();
    if is_ipv6 {
        let offset = begin as u16 | u16::from(more);
        piece.extend([frame[20], 0]);
        piece.extend(offset.to_be_bytes());
        piece.extend(u32::from(id).to_be_bytes());
        piece[20] = 44;
    } else {
        let offset = (begin / 8) as u16 | if more { 0x2000 } else { 0 };
        piece[18..20].copy_from_slice(&id.to_be_bytes());
        piece[20..22].copy_from_slice(&offset.to_be_bytes());
    }
    piece.extend_from_slice(&upper[begin..end]);
    let (field, header) = if is_ipv6 { (18, 54) } else { (16, 14) };
    let len = (piece.len() - header) as u16;
    piece[field..field + 2].copy_from_slice(&len.to_be_bytes());
    if !is_ipv6 {
        super::fragments::fill_header_checksum(&mut piece);
    }
    piece
}

fn pieces(frame: &[u8], is_ipv6: bool, id: u16, cuts: &[usize]) -> Vec<Vec<u8>> {
    let bounds: Vec<usize> = [&[0], cuts, &[UPPER]].concat();
    let one = |two: &[usize]| piece(frame, is_ipv6, id, two[0], two[1]);
    bounds.windows(2).map(one).collect()
}

/// What came out as one packet, without what differs from packet to packet: the identification of a tunnel's
/// outer packet and of fragments, and the header checksum over it.
fn amounts_to(made: &[Vec<u8>]) -> Vec<u8> {
    let is_ipv6 = made[0][12..14] == [0x86, 0xdd];
    let mut whole = match (is_ipv6, made) {
        (true, [one]) if one[20] != 44 => one.clone(),
        (true, made) => joined6(made),
        (false, made) => super::fragments::joined(made),
    };
    if !is_ipv6 {
        whole[18..20].fill(0);
        whole[24..26].fill(0);
    }
    whole
}

fn joined6(made: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = made[0][..54].to_vec();
    whole[20] = made[0][54];
    for (index, piece) in made.iter().enumerate() {
        let offset = u16::from_be_bytes([piece[56], piece[57]]);
        assert_eq!(usize::from(offset & 0xfff8), whole.len() - 54, "in order, without gaps");
        assert_eq!(offset & 1 == 1, index + 1 < made.len());
        whole.extend_from_slice(&piece[62..]);
    }
    let len = (whole.len() - 54) as u16;
    whole[18..20].copy_from_slice(&len.to_be_bytes());
    whole
}

/// What was transmitted, all of it by `device`.
fn sent(outcomes: Vec<Outcome>, device: DeviceId) -> Vec<Vec<u8>> {
    let one = |outcome: Outcome| {
        let (by, bytes) = outcome.transmitted();
        assert_eq!(by, device);
        bytes
    };
    outcomes.into_iter().map(one).collect()
}

/// How fragments arrive.
struct Arrival<'a> {
    order: &'a [usize],
    /// Behind the fragment at this place of the order, the fragment of this number once more.
    again: Option<(usize, usize)>,
    /// The worker that polls the first one; the others are polled by those behind it.
    poll: usize,
}

/// Sends a datagram in fragments and whole; what both amount to must be the same, which it gives.
fn as_if_whole(
    director: &mut TestDirector,
    from: DeviceId,
    frame: &[u8],
    cuts: &[usize],
    id: u16,
    how: &Arrival<'_>,
) -> Vec<u8> {
    let is_ipv6 = frame[12..14] == [0x86, 0xdd];
    let pieces = pieces(frame, is_ipv6, id, cuts);
    let workers = director.workers.len();
    let mut made = Vec::new();
    for (place, &number) in how.order.iter().enumerate() {
        let outcome = director.inject_at((how.poll + place) % workers, from, &pieces[number]);
        assert_eq!(outcome, Outcome::Consumed);
        let complete = place + 1 == how.order.len();
        made = director.take_generated();
        assert!(complete || made.is_empty(), "complete before the last fragment");
        if let Some((_, number)) = how.again.filter(|(behind, _)| *behind == place) {
            let outcome = director.inject_at((how.poll + place + 1) % workers, from, &pieces[number]);
            assert_eq!(outcome, Outcome::Dropped(DropReason::FragmentDuplicate));
            assert!(director.take_generated().is_empty());
        }
    }
    let to = if from == WAN { LAN } else { WAN };
    let made = sent(made, to);
    assert!(!made.is_empty(), "the last fragment completes it");
    let (by, whole) = director.inject_at(how.poll % workers, from, frame).transmitted();
    assert_eq!(by, to);
    assert_eq!(amounts_to(&made), amounts_to(std::slice::from_ref(&whole)));
    whole
}

fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in orders(count - 1) {
        for place in 0..count {
            let mut order = shorter.clone();
            order.insert(place, count - 1);
            all.push(order);
        }
    }
    all
}

#[test]
fn every_order_of_four_fragments_with_any_duplicate_is_the_datagram_in_every_mode() {
    let duplicates = |order: &[usize], workers: u8| {
        let (first, second, third) = (order[0], order[1], order[2]);
        let again = [(0, first), (1, first), (1, second), (2, first), (2, second), (2, third)];
        let again = again.map(Some).into_iter().filter(|_| workers > 1);
        again.chain([None]).collect::<Vec<_>>()
    };
    for way in ways() {
        for workers in [1, 3] {
            let mut director = way.director(workers);
            let mut client = 0;
            for order in orders(4) {
                for again in duplicates(&order, workers) {
                    client += 1;
                    let poll = usize::from(client);
                    let how = Arrival {
                        order: &order,
                        again,
                        poll,
                    };
                    let request = way.request(client).build();
                    let whole = as_if_whole(&mut director, WAN, &request, &[48, 96, 160], client, &how);
                    if way.mode.sees_replies() {
                        assert_eq!(checksum_faults(&whole), Vec::<String>::new());
                        let reply = way.reply(&whole, client).build();
                        let back = as_if_whole(&mut director, LAN, &reply, &[8, 16, 200], client, &how);
                        let expected = request[request.len() - UPPER + 8..].to_vec();
                        assert_eq!(back[back.len() - UPPER + 8..], expected, "{way:?}");
                        assert!(packet(&back).contains(&ends_reversed(&request)), "{}", packet(&back));
                    }
                }
            }
            assert_eq!(counts(&director, 0)[0], u64::from(client), "{way:?}: a connection each");
            assert_eq!(
                workers > 1,
                director.handoffs > 0,
                "{way:?}: fragments go to their owner"
            );
        }
    }
}

/// `virtual > client` of a request: what its reply must show.
fn ends_reversed(request: &[u8]) -> String {
    let words = packet(request);
    let words: Vec<&str> = words.split(' ').collect();
    format!("{} > {}", words[3], words[1])
}

#[test]
fn any_cuts_in_any_order_whoever_polls_them_are_the_datagram() {
    let mut random = Random::new(11);
    for way in ways() {
        for workers in [1, 2, 5] {
            let mut director = way.director(workers);
            for client in 0..60 {
                let mut cuts: Vec<usize> = (0..random.below(7))
                    .map(|_| 8 + 8 * random.below(26) as usize)
                    .collect();
                cuts.push(8 + 8 * random.below(26) as usize);
                cuts.sort_unstable();
                cuts.dedup();
                let mut order: Vec<usize> = (0..=cuts.len()).collect();
                for place in (1..order.len()).rev() {
                    order.swap(place, random.below(place as u32 + 1) as usize);
                }
                let how = Arrival {
                    order: &order,
                    again: None,
                    poll: random.below(64) as usize,
                };
                as_if_whole(&mut director, WAN, &way.request(client).build(), &cuts, client, &how);
            }
        }
    }
}

#[test]
fn an_overlap_is_dropped_by_name_and_ends_its_datagram_in_every_mode() {
    const BOUNDS: [usize; 5] = [0, 48, 96, 160, UPPER];
    for way in ways() {
        for workers in [1, 3] {
            let mut director = way.director(workers);
            for first in 0..4 {
                let request = way.request(first as u16).build();
                let piece = |begin, end| piece(&request, way.is_ipv6, 7 + first as u16, begin, end);
                let (begin, end) = (BOUNDS[first], BOUNDS[first + 1]);
                // It reaches into the fragment that is there, and over one of its ends.
                let overlap = if first == 3 {
                    (begin - 8, end - 4)
                } else {
                    (begin + 8, end + 8)
                };
                let overlap = (overlap.0, overlap.1 / 8 * 8);
                assert_eq!(director.inject_at(0, WAN, &piece(begin, end)), Outcome::Consumed);
                assert_eq!(
                    director.inject_at(1 % usize::from(workers), WAN, &piece(overlap.0, overlap.1)),
                    Outcome::Dropped(DropReason::FragmentOverlap),
                    "{way:?}: {overlap:?} over {begin} to {end}"
                );
                for other in (0..4).filter(|other| *other != first) {
                    let outcome = director.inject_at(
                        other % usize::from(workers),
                        WAN,
                        &piece(BOUNDS[other], BOUNDS[other + 1]),
                    );
                    assert_eq!(outcome, Outcome::Consumed);
                }
                assert!(director.take_generated().is_empty(), "{way:?}: nothing of it goes on");
            }
            assert_eq!(counts(&director, 0)[0], 0, "{way:?}: no connection began");
        }
    }
}

#[test]
fn the_oldest_datagram_gives_way_when_all_places_are_taken_in_every_mode() {
    for way in ways() {
        let mut director = way.director(1);
        let begin = |director: &mut TestDirector, client: u16| {
            let first = pieces(&way.request(client).build(), way.is_ipv6, client, &[48]).remove(0);
            assert_eq!(director.inject(WAN, &first), Outcome::Consumed);
            director.advance_us(1_000);
        };
        let end = |director: &mut TestDirector, client: u16| {
            let last = pieces(&way.request(client).build(), way.is_ipv6, client, &[48]).remove(1);
            assert_eq!(director.inject(WAN, &last), Outcome::Consumed);
            director.take_generated().len()
        };
        let all = DATAGRAMS_MAX as u16;
        for client in 0..=all {
            begin(&mut director, client);
        }
        assert_eq!(end(&mut director, 0), 0, "{way:?}: nothing is left of the first");
        // Its last fragment took the place of the second.
        for client in 2..=all {
            assert_ne!(end(&mut director, client), 0, "{way:?}: datagram {client}");
        }
    }
}

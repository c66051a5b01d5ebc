//! The PROXY protocol as a law: whatever is lost, doubled, reordered or cut anew on the way, the server reads the
//! header and then the client's bytes, and the client believes nothing that is not so.

use std::collections::VecDeque;

use lvs_core::random::Random;

use super::*;

const STREAM_LEN: usize = 6_000;

/// A client that sends, a server that acknowledges, and links that lose one packet in four.
struct World {
    pair: Pair,
    random: Random,
    stream: Vec<u8>,
    isn: u32,
    /// The same as the server knows it.
    server_isn: u32,
    /// Bytes that the client knows to have arrived.
    acknowledged: usize,
    /// What the server has of header and stream.
    received: Vec<Option<u8>>,
    to_server: VecDeque<Vec<u8>>,
    to_client: VecDeque<Vec<u8>>,
}

impl World {
    fn new(seed: u64, pair: Pair) -> Self {
        let mut random = Random::new(seed);
        let stream = (0..STREAM_LEN).map(|_| random.next_u32() as u8).collect();
        // Half of them cross the end of the numbers.
        let isn = if seed.is_multiple_of(2) {
            random.next_u32()
        } else {
            random.below(5_000).wrapping_neg()
        };
        let mut world = Self {
            pair,
            random,
            stream,
            isn,
            server_isn: 0,
            acknowledged: 0,
            received: vec![None; STREAM_LEN + 128],
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
        };
        let syn = world.pair.client().syn().sequence(isn).mss(1_460);
        world.server_isn = segment(&world.pair.inbound(&syn)[0]).sequence;
        let syn_ack = world.pair.server().syn().ack().sequence(7_000);
        world
            .pair
            .outbound(&syn_ack.acknowledgement(world.server_isn.wrapping_add(1)));
        world
    }

    /// The client sends from anywhere that is not acknowledged, any length; nothing is a pure ACK.
    fn client_sends(&mut self) {
        let left = (STREAM_LEN - self.acknowledged) as u32;
        let window = left.min(4_000);
        let begin = self.acknowledged + self.random.below(window + 1) as usize;
        let begin = if self.random.below(3) == 0 {
            self.acknowledged
        } else {
            begin
        };
        let longest = if self.pair.is_v6 { 1_440 } else { 1_460 };
        let len = (self.random.below(longest + 1) as usize).min(STREAM_LEN - begin);
        let packet = self.pair.client().ack().acknowledgement(7_001);
        let packet = packet.sequence(self.isn.wrapping_add(1 + begin as u32));
        let frames = self.pair.inbound(&packet.payload(&self.stream[begin..begin + len]));
        for frame in frames {
            let copies = [0, 1, 1, 2][self.random.below(4) as usize];
            for _ in 0..copies {
                self.to_server.push_back(frame.clone());
            }
        }
    }

    /// One of the packets on the way arrives; the server acknowledges what it has, or a part of it as it was before.
    fn server_receives(&mut self) {
        let Some(frame) = any_of(&mut self.to_server, &mut self.random) else {
            return;
        };
        let segment = segment(&frame);
        let at = segment.sequence.wrapping_sub(self.server_isn.wrapping_add(1)) as usize;
        for (offset, &byte) in segment.payload.iter().enumerate() {
            let had = self.received[at + offset].replace(byte);
            assert!(had.is_none_or(|had| had == byte), "byte {} changed", at + offset);
        }
        let number = |at: usize| self.server_isn.wrapping_add(1 + at as u32);
        let next = self
            .received
            .iter()
            .position(Option::is_none)
            .expect("the test stream is long enough");
        let mut packet = self.pair.server().ack().sequence(7_001).acknowledgement(number(next));
        let begin = (next..self.received.len()).find(|&at| self.received[at].is_some());
        if let Some(begin) = begin {
            let end = (begin..)
                .find(|&at| self.received[at].is_none())
                .expect("the test stream is long enough");
            let mut option = vec![1, 1, 5, 10];
            option.extend(number(begin).to_be_bytes());
            option.extend(number(end).to_be_bytes());
            packet = packet.tcp_option(&option);
        }
        let frame = self.pair.outbound(&packet);
        if self.random.below(4) > 0 {
            self.to_client.push_back(frame);
        }
    }

    /// The client reads one of the acknowledgements on the way.
    fn client_receives(&mut self, header_len: usize) {
        let Some(frame) = any_of(&mut self.to_client, &mut self.random) else {
            return;
        };
        let segment = segment(&frame);
        let at = |number: u32| number.wrapping_sub(self.isn.wrapping_add(1)).cast_signed();
        let has = |at: usize| self.received[header_len + at].is_some();
        let acknowledged = at(segment.acknowledgement);
        assert!((0..=STREAM_LEN as i32).contains(&acknowledged), "{acknowledged}");
        assert!((0..acknowledged as usize).all(has), "acknowledged before it was there");
        for (_, value) in &segment.options {
            let edge = |from: usize| at(u32::from_be_bytes(value[from..from + 4].try_into().expect("four")));
            let (left, right) = (edge(0), edge(4));
            assert!(
                0 <= left && left < right && right <= STREAM_LEN as i32,
                "{left}..{right}"
            );
            assert!((left as usize..right as usize).all(has), "selected before it was there");
        }
        self.acknowledged = self.acknowledged.max(acknowledged as usize);
    }
}

/// Mostly the oldest, so that packets overtake each other at times.
fn any_of(link: &mut VecDeque<Vec<u8>>, random: &mut Random) -> Option<Vec<u8>> {
    let last = link.len().checked_sub(1)? as u32;
    let index = if random.below(4) == 0 {
        random.below(last + 1)
    } else {
        0
    };
    link.remove(index as usize)
}

/// Lets the client send everything; what the server has read.
fn read(seed: u64, pair: Pair, header_len: usize) -> (Vec<u8>, World) {
    let mut world = World::new(seed, pair);
    let mut rounds = 0;
    while world.acknowledged < STREAM_LEN {
        rounds += 1;
        assert!(
            rounds < 20_000,
            "seed {seed}: nothing goes on at {}",
            world.acknowledged
        );
        match world.random.below(3) {
            0 => world.client_sends(),
            1 => world.server_receives(),
            _ => world.client_receives(header_len),
        }
    }
    (world.received.iter().map_while(|byte| *byte).collect(), world)
}

/// Length of the header.
const fn header_len(is_v6: bool, carrier: ClientAddress) -> usize {
    match (is_v6, carrier) {
        (false, ClientAddress::ProxyV1) => 43,
        (true, ClientAddress::ProxyV1) => 51,
        (false, ClientAddress::ProxyV2) => 28,
        (true, ClientAddress::ProxyV2) => 52,
        _ => 0,
    }
}

#[test]
fn the_server_reads_header_and_stream_whatever_happens_on_the_way() {
    for seed in 0..60 {
        let carriers = [ClientAddress::ProxyV1, ClientAddress::ProxyV2];
        let (is_v6, carrier) = (seed % 4 < 2, carriers[usize::from(seed % 8 >= 4)]);
        let header_len = header_len(is_v6, carrier);
        let pair = Pair::new(ServiceProtocol::Tcp, is_v6, carrier, 0);
        let (read, world) = read(seed, pair, header_len);
        assert_eq!(read.len(), header_len + STREAM_LEN, "seed {seed}");
        assert!(read[..header_len].starts_with(if carrier == ClientAddress::ProxyV1 {
            b"PROXY TCP"
        } else {
            b"\r\n\r\n\0\r\nQU"
        }));
        assert_eq!(read[header_len..], world.stream, "seed {seed}");
    }
}

#[test]
fn the_same_holds_with_an_initial_sequence_number_of_the_directors() {
    let carriers = [
        ClientAddress::None,
        ClientAddress::ProxyV1,
        ClientAddress::ProxyV2,
        ClientAddress::Toa,
    ];
    for (seed, carrier) in (0..).zip(carriers) {
        let is_v6 = seed % 2 == 1;
        let header_len = header_len(is_v6, carrier);
        let (read, world) = read(seed, Pair::without_rested_port(is_v6, carrier), header_len);
        assert!(world.isn != world.server_isn, "{carrier:?}: the director's number");
        assert_eq!(read.len(), header_len + STREAM_LEN, "{carrier:?}");
        assert_eq!(read[header_len..], world.stream, "{carrier:?}");
    }
}

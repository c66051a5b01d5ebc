//! Writes the pcap files that feed the benches: 60-byte frames of N flows towards one VIP.
//!
//! Flow i comes from client 10.0.1.0 + (i mod 16384), port 1024 + i div 16384, and goes to
//! 198.18.0.1:80; real servers are 198.18.100.1–4. Frames are addressed to the fixed MAC that the
//! net_pcap driver gives its k-th device, and come from 02:00:00:00:c1:00. Data frames are written in
//! shuffled order, so that packet order has nothing to do with table order.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// What each flow contributes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// One SYN with an MSS option, flows in order.
    Syn,
    /// One PSH+ACK with 6 bytes of payload, shuffled.
    Ack,
    /// One UDP datagram with 18 bytes of payload, shuffled.
    Udp,
    /// What real server 198.18.100.1, the only one and masqueraded to, answers to `Ack`, shuffled.
    Reply,
    /// Both, 2N frames, shuffled.
    Both,
}

/// Writes a pcap file of N flows for the benches.
#[derive(Parser)]
struct Arguments {
    /// File to write.
    out: PathBuf,
    /// What each flow contributes.
    #[arg(value_enum)]
    kind: Kind,
    /// Flows, 1 to 16384 * 64000.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_048_576_000))]
    flows: u32,
    /// Which net_pcap device of the process the frames are addressed to.
    #[arg(long, default_value_t = 0)]
    device: u8,
    /// Seed of the shuffle.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// First flow.
    #[arg(long, default_value_t = 0)]
    base: u32,
}

const CLIENTS: u32 = 16_384;
const CLIENT_FIRST: u32 = 0x0A00_0100;
const VIP: u32 = 0xC612_0001;
const VIRTUAL_PORT: u16 = 80;
const REAL_SERVER: u32 = 0xC612_6401;
const FRAME_LEN: usize = 60;

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    // Twice the flow, plus one for a frame of the real server.
    let (base, flows) = (u64::from(arguments.base), u64::from(arguments.flows));
    let mut order: Vec<u64> = (2 * base..2 * (base + flows)).collect();
    order.retain(|packet| match arguments.kind {
        Kind::Both => true,
        Kind::Reply => packet % 2 == 1,
        Kind::Syn | Kind::Ack | Kind::Udp => packet % 2 == 0,
    });
    if arguments.kind != Kind::Syn {
        shuffle(&mut order, arguments.seed);
    }
    let mut out = BufWriter::with_capacity(1 << 22, File::create(&arguments.out)?);
    out.write_all(&pcap_header())?;
    for packet in order {
        out.write_all(&record_header())?;
        let (flow, is_reply) = ((packet / 2) as u32, packet % 2 == 1);
        out.write_all(&frame(arguments.kind, flow, is_reply, arguments.device))?;
    }
    out.flush()
}

/// Fisher–Yates with an xorshift generator.
fn shuffle(order: &mut [u64], seed: u64) {
    let mut state = seed | 1;
    for last in (1..order.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(last, (state % (last as u64 + 1)) as usize);
    }
}

fn pcap_header() -> [u8; 24] {
    let mut header = [0; 24];
    header[0..4].copy_from_slice(&0xA1B2_C3D4_u32.to_le_bytes());
    header[4..6].copy_from_slice(&2_u16.to_le_bytes());
    header[6..8].copy_from_slice(&4_u16.to_le_bytes());
    header[16..20].copy_from_slice(&65_535_u32.to_le_bytes());
    header[20..24].copy_from_slice(&1_u32.to_le_bytes());
    header
}

fn record_header() -> [u8; 16] {
    let mut header = [0; 16];
    header[8..12].copy_from_slice(&(FRAME_LEN as u32).to_le_bytes());
    header[12..16].copy_from_slice(&(FRAME_LEN as u32).to_le_bytes());
    header
}

fn frame(kind: Kind, flow: u32, is_reply: bool, device: u8) -> [u8; FRAME_LEN] {
    let client = CLIENT_FIRST + flow % CLIENTS;
    let client_port = (1_024 + flow / CLIENTS) as u16;
    let client_end = (client, client_port);
    let ((src, src_port), (dst, dst_port)) = if is_reply {
        ((REAL_SERVER, VIRTUAL_PORT), client_end)
    } else {
        (client_end, (VIP, VIRTUAL_PORT))
    };
    let ports = (src_port, dst_port);
    let segment = match kind {
        Kind::Syn => tcp(ports, 0x02, 1_000, 0, &[2, 4, 5, 0xB4], b""),
        Kind::Ack | Kind::Reply | Kind::Both => tcp(ports, 0x18, 1_001, 5_001, &[], b"lvfeed"),
        Kind::Udp => udp(ports, b"lv-bench-udp-feed!"),
    };
    let protocol = if kind == Kind::Udp { 17 } else { 6 };
    let mut packet = ipv4_header(src, dst, protocol, segment.len() as u16);
    packet.extend(segment);
    let pseudo = pseudo_sum(src, dst, protocol, packet.len() as u32 - 20);
    let checksum_at = 20 + if protocol == 6 { 16 } else { 6 };
    let sum = !fold(pseudo + sum(&packet[20..]));
    packet[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());

    let mut frame = [0; FRAME_LEN];
    frame[0..6].copy_from_slice(&[0x02, 0x70, 0x63, 0x61, 0x70, device]);
    frame[6..12].copy_from_slice(&[0x02, 0, 0, 0, 0xC1, 0]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..14 + packet.len()].copy_from_slice(&packet);
    frame
}

fn ipv4_header(src: u32, dst: u32, protocol: u8, payload_len: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header[2..4].copy_from_slice(&(20 + payload_len).to_be_bytes());
    header.extend(src.to_be_bytes());
    header.extend(dst.to_be_bytes());
    let checksum = !fold(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

fn tcp(
    (src_port, dst_port): (u16, u16),
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::with_capacity(32);
    segment.extend(src_port.to_be_bytes());
    segment.extend(dst_port.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgement.to_be_bytes());
    segment.extend([((20 + options.len()) as u8 / 4) << 4, flags]);
    segment.extend(64_240_u16.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(options);
    segment.extend(payload);
    segment
}

fn udp((src_port, dst_port): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(26);
    datagram.extend(src_port.to_be_bytes());
    datagram.extend(dst_port.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0; 2]);
    datagram.extend(payload);
    datagram
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

const fn pseudo_sum(src: u32, dst: u32, protocol: u8, len: u32) -> u32 {
    (src >> 16) + (src & 0xFFFF) + (dst >> 16) + (dst & 0xFFFF) + protocol as u32 + len
}

const fn fold(mut sum: u32) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

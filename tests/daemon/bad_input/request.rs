//! Netlink requests in words: `add-server d.weight=-1` is `ipvsadm -a`'s request with that weight.
//!
//! A word sets an attribute (`key=value`), takes it away (`-key`), or gives it a payload of 0, 1 or 17 bytes
//! (`key:empty`, `key:short`, `key:long`). `d.` is the real server's part. `-service`, `-dest`, `-daemon` leave a
//! nest out, `service:empty` and `dest:empty` leave it empty. What is not said is as of a sound request.

use std::collections::BTreeMap;
use std::net::IpAddr;

#[derive(Clone, Copy)]
enum Kind {
    U8,
    U16,
    Port,
    U32,
    Text,
    Flags,
    Mask,
    Group,
    Address,
}

type Attributes = &'static [(&'static str, u16, Kind)];

const SERVICE: Attributes = &[
    ("af", 1, Kind::U16),
    ("proto", 2, Kind::U16),
    ("addr", 3, Kind::Address),
    ("port", 4, Kind::Port),
    ("fwmark", 5, Kind::U32),
    ("sched", 6, Kind::Text),
    ("flags", 7, Kind::Flags),
    ("timeout", 8, Kind::U32),
    ("netmask", 9, Kind::Mask),
    ("pe", 11, Kind::Text),
    ("junk", 60, Kind::U32),
];
const SERVER: Attributes = &[
    ("addr", 1, Kind::Address),
    ("port", 2, Kind::Port),
    ("fwd", 3, Kind::U32),
    ("weight", 4, Kind::U32),
    ("u", 5, Kind::U32),
    ("l", 6, Kind::U32),
    ("af", 11, Kind::U16),
    ("tun_type", 13, Kind::U8),
    ("tun_port", 14, Kind::Port),
    ("tun_flags", 15, Kind::U16),
];
const DAEMON: Attributes = &[
    ("state", 1, Kind::U32),
    ("ifn", 2, Kind::Text),
    ("id", 3, Kind::U32),
    ("maxlen", 4, Kind::U16),
    ("group", 5, Kind::Group),
    ("group6", 6, Kind::Group),
    ("dport", 7, Kind::U16),
    ("ttl", 8, Kind::U8),
];
const TIMEOUTS: Attributes = &[("tcp", 4, Kind::U32), ("fin", 5, Kind::U32), ("udp", 6, Kind::U32)];

type Fields = BTreeMap<String, String>;

fn fields(text: &str) -> Fields {
    let pair = |word: &str| {
        word.split_once('=')
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
    };
    text.split_whitespace().filter_map(pair).collect()
}

fn bytes(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn payload(kind: Kind, value: &str) -> Vec<u8> {
    // Numbers below 0 wrap as C's do.
    let number = || {
        value
            .parse::<i64>()
            .unwrap_or_else(|_| panic!("{value:?} is no number"))
    };
    match kind {
        Kind::U8 => vec![number() as u8],
        Kind::U16 => (number() as u16).to_ne_bytes().to_vec(),
        Kind::Port => (number() as u16).to_be_bytes().to_vec(),
        Kind::U32 => (number() as u32).to_ne_bytes().to_vec(),
        Kind::Text => [value.as_bytes(), b"\0"].concat(),
        Kind::Flags => {
            let (flags, mask) = value.split_once('/').expect("FLAGS/MASK");
            let hex = |text| u32::from_str_radix(text, 16).unwrap().to_ne_bytes();
            [hex(flags), hex(mask)].concat()
        }
        Kind::Mask if !value.contains('.') => (number() as u32).to_ne_bytes().to_vec(),
        Kind::Mask | Kind::Group => bytes(value.parse().unwrap()),
        Kind::Address => {
            let mut bytes = bytes(value.parse().unwrap());
            bytes.resize(16, 0);
            bytes
        }
    }
}

fn attribute(number: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + payload.len()).unwrap();
    let mut bytes = [&len.to_ne_bytes()[..], &number.to_ne_bytes(), payload].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn attributes(known: Attributes, fields: &Fields) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, number, kind) in known {
        if let Some(value) = fields.get(*name) {
            let payload = match value.as_str() {
                ":empty" => Vec::new(),
                ":short" => vec![1],
                ":long" => vec![1; 17],
                value => payload(*kind, value),
            };
            bytes.extend(attribute(*number, &payload));
        }
    }
    bytes
}

/// `IPVS_CMD_*`.
fn number(command: &str) -> u8 {
    match command {
        "add-service" => 1,
        "edit-service" => 2,
        "delete-service" => 3,
        "get-service" => 4,
        "add-server" => 5,
        "edit-server" => 6,
        "delete-server" => 7,
        "start-daemon" => 9,
        "stop-daemon" => 10,
        "set-config" => 12,
        "zero" => 16,
        other => other
            .strip_prefix("command=")
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("{other}")),
    }
}

/// The request's parts before anything is said of it.
fn sound(command: &str) -> [Fields; 4] {
    let mut service = fields("af=2 proto=6 addr=192.0.2.100 port=80");
    if command == "add-service" || command == "edit-service" {
        service.extend(fields("sched=rr flags=0/ffffffff timeout=0 netmask=255.255.255.255"));
    }
    let mut server = fields("addr=198.51.100.12 port=80");
    if command != "delete-server" {
        server.extend(fields("fwd=0 weight=1 u=0 l=0"));
    }
    let mut daemon = fields("state=1");
    if command == "start-daemon" {
        daemon.extend(fields("ifn=cable id=0"));
    }
    [service, server, daemon, Fields::new()]
}

/// The netlink message that asks for what `text` says, with an acknowledgement.
pub fn message(text: &str) -> Vec<u8> {
    let (command, words) = text.split_once(' ').unwrap_or((text, ""));
    let [mut service, mut server, mut daemon, mut timeouts] = sound(command);
    let nests = ["service", "dest", "daemon"];
    let mut left_out = Vec::new();
    let mut left_empty = Vec::new();
    for word in words.split_whitespace() {
        let bare = word.trim_start_matches('-');
        if word.starts_with('-') && nests.contains(&bare) {
            left_out.push(bare);
            continue;
        }
        if let Some(nest) = word.strip_suffix(":empty").filter(|nest| nests.contains(nest)) {
            left_empty.push(nest);
            continue;
        }
        let (part, bare) = match (bare.strip_prefix("d."), command) {
            (Some(bare), _) => (&mut server, bare),
            (None, "start-daemon" | "stop-daemon") => (&mut daemon, bare),
            (None, "set-config") => (&mut timeouts, bare),
            (None, _) => (&mut service, bare),
        };
        if word.starts_with('-') {
            assert!(part.remove(bare).is_some(), "{word}");
        } else if let Some((key, value)) = bare.split_once('=') {
            part.insert(key.to_owned(), value.to_owned());
        } else {
            let (key, size) = bare.split_once(':').unwrap_or_else(|| panic!("{word}"));
            part.insert(key.to_owned(), format!(":{size}"));
        }
    }
    let mut body = vec![number(command), 1, 0, 0];
    let mut nest = |name: &str, number: u16, known, fields: &Fields| {
        if !left_out.contains(&name) {
            let inside = if left_empty.contains(&name) {
                Vec::new()
            } else {
                attributes(known, fields)
            };
            body.extend(attribute(number | 0x8000, &inside));
        }
    };
    match command {
        "set-config" => body.extend(attributes(TIMEOUTS, &timeouts)),
        "start-daemon" | "stop-daemon" => nest("daemon", 3, DAEMON, &daemon),
        _ if command.starts_with("command=") => {}
        _ => {
            nest("service", 1, SERVICE, &service);
            if command.ends_with("server") {
                nest("dest", 2, SERVER, &server);
            }
        }
    }
    let len = u32::try_from(16 + body.len()).unwrap();
    let head = [&len.to_ne_bytes()[..], &[0xb5, 0xf1, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0]].concat();
    [head, body].concat()
}

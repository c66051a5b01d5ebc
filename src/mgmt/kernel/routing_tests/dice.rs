//! Random commands and questions.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use lvs_core::l3::InterfaceId;
use lvs_core::l3::fib::RouteQuery;
use lvs_core::random::Random;

use super::TAKEN;

pub(super) struct Dice(pub(super) Random);

impl Dice {
    pub(super) fn below(&mut self, count: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(count)) >> 32) as u32
    }

    pub(super) fn one_in(&mut self, count: u32) -> bool {
        self.below(count) == 0
    }

    pub(super) fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u32) as usize]
    }

    /// Somewhere in few networks, so that prefixes and questions meet.
    fn v4(&mut self) -> Ipv4Addr {
        let (second, third, fourth) = (
            self.of(&[0, 1, 2, 16, 17]),
            self.of(&[0, 1, 128]),
            self.of(&[0, 1, 2, 9, 129]),
        );
        Ipv4Addr::new(10, second, third, fourth)
    }

    fn v6(&mut self) -> Ipv6Addr {
        let (third, fourth) = (self.of(&[0xa, 0xb, 0xc, 0x10, 0x11]), self.of(&[0, 1, 0x8000]));
        Ipv6Addr::new(0x2001, 0xdb8, third, fourth, 0, 0, 0, self.of(&[0, 1, 2, 9]))
    }

    pub(super) fn prefix(&mut self, is_v4: bool) -> String {
        if self.one_in(8) {
            return "default".to_owned();
        }
        if is_v4 {
            let len = self.of(&[8, 12, 16, 17, 24, 25, 32]);
            let net = ipnet::Ipv4Net::new(self.v4(), len).unwrap().trunc();
            return net.to_string();
        }
        let len = self.of(&[32, 40, 48, 49, 64, 65, 128]);
        ipnet::Ipv6Net::new(self.v6(), len).unwrap().trunc().to_string()
    }

    fn gateway(&mut self, is_v4: bool) -> String {
        let net = self.below(3);
        let host = 3 + self.below(4);
        if is_v4 {
            format!("via 10.{net}.0.{host} dev v{net}")
        } else {
            format!("via 2001:db8:{:x}::{host} dev v{net}", 0xa + net)
        }
    }

    pub(super) fn table(&mut self) -> &'static str {
        self.of(&["main", "main", "main", "5", "6", "7", "700", "local", "default"])
    }

    fn route(&mut self, is_v4: bool) -> String {
        let verb = self.of(&["add", "add", "add", "add", "append", "prepend", "replace", "del"]);
        let table = self.table();
        let mut line = format!("{} route {verb} ", if is_v4 { "-4" } else { "-6" });
        let prefix = self.prefix(is_v4);
        let mut legs = String::new();
        let kind = if table == "local" { 4 } else { self.below(16) };
        let _ = match kind {
            0 => write!(line, "unreachable {prefix}"),
            1 => write!(line, "prohibit {prefix}"),
            2 => write!(line, "blackhole {prefix}"),
            3 => write!(line, "throw {prefix}"),
            4 => write!(line, "local {prefix} dev lo"),
            5 => write!(line, "{prefix} nhid {}", self.of(&[1, 2, 3, 4, 5, 10, 11])),
            6 | 7 => {
                for _ in 0..2 + self.below(2) {
                    let _ = write!(legs, " nexthop {} weight {}", self.gateway(is_v4), 1 + self.below(5));
                }
                write!(line, "{prefix}")
            }
            8 => write!(line, "{prefix} dev {}", self.of(&TAKEN)),
            9 if is_v4 => write!(line, "{prefix} {} onlink", self.gateway(true)),
            10 if is_v4 => write!(line, "{prefix} {} src 10.{}.0.1", self.gateway(true), self.below(3)),
            11 if is_v4 => write!(line, "{prefix} via inet6 2001:db8:a::{} dev v0", 3 + self.below(4)),
            _ => write!(line, "{prefix} {}", self.gateway(is_v4)),
        };
        if self.one_in(3) {
            let _ = write!(line, " metric {}", 5 + self.below(3));
        }
        if is_v4 && self.one_in(6) {
            let _ = write!(line, " tos {}", self.of(&["0x10", "0x08"]));
        }
        if !is_v4 && self.one_in(6) {
            let from = self.prefix(false);
            let _ = write!(line, " from {from}");
        }
        let _ = write!(line, " table {table}{legs}");
        line
    }

    fn rule(&mut self, is_v4: bool) -> String {
        let mut line = format!("{} rule add ", if is_v4 { "-4" } else { "-6" });
        if self.one_in(8) {
            line += "not ";
        }
        if self.one_in(2) {
            let prefix = self.prefix(is_v4).replace("default", "all");
            let _ = write!(line, "from {prefix} ");
        }
        if self.one_in(3) {
            let prefix = self.prefix(is_v4).replace("default", "all");
            let _ = write!(line, "to {prefix} ");
        }
        let conditions = [
            "fwmark 1 ",
            "fwmark 2/3 ",
            "iif v0 ",
            "iif v1 ",
            "iif lo ",
            "iif nobody ",
            "oif v1 ",
            "ipproto tcp ",
            "ipproto udp dport 53 ",
            "sport 1000-2000 ",
            "tos 0x10 ",
            "uidrange 0-0 ",
            "uidrange 5-9 ",
        ];
        for _ in 0..self.below(3) {
            line += self.of(&conditions);
        }
        let preference = 1 + self.below(60);
        let _ = match self.below(12) {
            0 => write!(line, "unreachable"),
            1 => write!(line, "prohibit"),
            2 => write!(line, "blackhole"),
            3 => write!(line, "goto {}", preference + 1 + self.below(30)),
            4 => write!(line, "nop"),
            5 => write!(
                line,
                "lookup {} suppress_prefixlength {}",
                self.table(),
                self.of(&[0, 8, 16, 24])
            ),
            6 => write!(line, "lookup {} suppress_ifgroup 7", self.table()),
            _ => write!(line, "lookup {}", self.table()),
        };
        let _ = write!(line, " pref {preference}");
        line
    }

    pub(super) fn commands(&mut self) -> String {
        let mut lines = Vec::new();
        for id in 1..4 {
            lines.push(format!("nexthop add id {id} {}", self.gateway(true)));
        }
        lines.push(format!("nexthop add id 4 {}", self.gateway(false)));
        lines.push("nexthop add id 5 blackhole".to_owned());
        lines.push("nexthop add id 10 group 1,3/2,1".to_owned());
        lines.push("nexthop add id 11 group 1/3,254".to_owned());
        // Now and then nobody touches the rules, of which the kernel takes notice.
        let rules = if self.one_in(4) { 0 } else { self.below(14) };
        for _ in 0..20 + self.below(30) {
            let is_v4 = !self.one_in(3);
            lines.push(self.route(is_v4));
        }
        for _ in 0..rules {
            let is_v4 = !self.one_in(3);
            lines.push(self.rule(is_v4));
        }
        match self.below(8) {
            0 => lines.push(format!("link set {} down", self.of(&TAKEN))),
            1 => lines.push("nexthop del id 1".to_owned()),
            2 => lines.push(format!("nexthop replace id 2 {}", self.gateway(true))),
            3 => lines.push(format!("addr del 10.{0}.0.1/24 dev v{0}", self.below(3))),
            4 => lines.push("link del v2".to_owned()),
            _ => {}
        }
        lines.join("\n")
    }

    pub(super) fn question(&mut self) -> Question {
        let is_v4 = !self.one_in(3);
        let mut query = RouteQuery::output(if is_v4 { self.v4().into() } else { self.v6().into() });
        if self.one_in(2) {
            query.iif = InterfaceId(0);
            query.src = Some(if is_v4 { self.v4().into() } else { self.v6().into() });
        } else if self.one_in(2) {
            let net = self.below(3) as u16;
            query.src = Some(if is_v4 {
                Ipv4Addr::new(10, net as u8, 0, 1).into()
            } else {
                Ipv6Addr::new(0x2001, 0xdb8, 0xa + net, 0, 0, 0, 0, 1).into()
            });
        }
        query.mark = self.of(&[0, 0, 1, 2, 3, 6]);
        query.tos = if is_v4 { self.of(&[0, 0, 0x10, 0x08]) } else { 0 };
        if self.one_in(2) {
            query.protocol = self.of(&[6, 17]);
            query.ports = (self.of(&[1_000, 1_500, 40_000]), self.of(&[53, 80]));
        }
        Question {
            query,
            input: self.of(&["v0", "v1"]),
        }
    }
}

pub(super) struct Question {
    pub(super) query: RouteQuery,
    /// By which it came, if it came.
    pub(super) input: &'static str,
}

//! Interfaces and routes that some kernels are built without.

use std::fmt::Write;

use super::dice::Dice;
use super::{TAKEN, batch};

/// What a network has besides, where the kernel knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extras {
    /// `m0` on `v0`.
    macvlan: bool,
    /// `v1.7` on `v1`.
    vlan: bool,
    /// `red`, to which `v2` belongs.
    vrf: bool,
    /// Routes that impose a header.
    headers: bool,
}

impl Extras {
    /// Those that this kernel has: some are built without a kind of interface. Leaves traces, so that the namespace is
    /// good for nothing else.
    pub(super) fn of_kernel() -> Self {
        const KINDS: [&str; 4] = [
            "link add probe link below type macvlan",
            "link add link below name probe type vlan id 7",
            "link add probe type vrf table 9",
            "-6 route add 2001:db8:ff::/64 encap seg6 mode encap segs ::9 dev lo",
        ];
        assert_eq!(batch("link add below type veth peer name other"), 0);
        let [macvlan, vlan, vrf, headers] = KINDS.map(|line| {
            let is_known = batch(line) == 0;
            batch("link del probe");
            is_known
        });
        Self {
            macvlan,
            vlan,
            vrf,
            headers,
        }
    }

    pub(super) fn some(self, dice: &mut Dice) -> Self {
        Self {
            macvlan: self.macvlan && dice.one_in(2),
            vlan: self.vlan && dice.one_in(2),
            vrf: self.vrf && dice.one_in(2),
            headers: self.headers && dice.one_in(2),
        }
    }

    /// Interfaces with their networks' numbers.
    pub(super) fn interfaces(self) -> impl Iterator<Item = (u16, &'static str)> {
        let macvlan = self.macvlan.then_some((16, "m0"));
        macvlan.into_iter().chain(self.vlan.then_some((17, "v1.7")))
    }

    /// By which packets come.
    pub(super) fn inputs(self) -> Vec<&'static str> {
        let mut inputs = vec!["v0", "v1"];
        inputs.extend(self.interfaces().map(|(_, name)| name));
        inputs.extend(self.vrf.then_some("v2"));
        inputs
    }

    /// Lays them, before addresses come.
    pub(super) fn lay(self) -> String {
        let mut lines = String::new();
        if self.macvlan {
            lines += "link add m0 link v0 type macvlan mode bridge\n";
        }
        if self.vlan {
            lines += "link add link v1 name v1.7 type vlan id 7\n";
        }
        if self.vrf {
            lines += "link add red type vrf table 5\nlink set red up\nlink set v2 master red\n";
        }
        for (net, name) in self.interfaces() {
            let _ = writeln!(lines, "link set {name} up");
            let _ = writeln!(lines, "addr add 10.{net}.0.1/24 dev {name}");
            let _ = writeln!(lines, "-6 addr add 2001:db8:{net:x}::1/64 dev {name} nodad");
        }
        lines
    }

    /// Routes and rules about them, in between the others.
    pub(super) fn mix_in(self, dice: &mut Dice, commands: String) -> String {
        let mut lines: Vec<String> = commands.lines().map(str::to_owned).collect();
        let inputs = self.inputs();
        for _ in 0..dice.below(8) {
            let is_v4 = !dice.one_in(2);
            let family = if is_v4 { "-4" } else { "-6" };
            let (prefix, table, input) = (dice.prefix(is_v4), dice.table(), dice.of(&inputs));
            let preference = 1 + dice.below(60);
            let out = dice.of(&TAKEN);
            let line = match dice.below(4) {
                0 if self.headers => format!(
                    "{family} route add {prefix} encap seg6 mode encap segs 2001:db8:a::9 dev {out} metric 4 table {table}"
                ),
                1 => format!("{family} route add {prefix} dev {input} metric 3 table {table}"),
                2 if self.vrf => format!("{family} rule add iif red lookup {table} pref {preference}"),
                _ => format!("{family} rule add iif {input} lookup {table} pref {preference}"),
            };
            // Behind the nexthop objects.
            let place = 7 + dice.below((lines.len() - 7) as u32) as usize;
            lines.insert(place, line);
        }
        lines.join("\n")
    }
}

"""The pair of docs/deploy.md: the machine is master, a director in a namespace beside it the backup."""

import re
import time
from collections.abc import Callable

from rigs import REPOSITORY
from rigs.fault import Fault
from rigs.machine import addresses
from rigs.machine.beside import DirectorBeside
from rigs.machine.checks import say
from rigs.machine.director import Director
from rigs.machine.scene import Scene
from rigs.machine.steps.daemon import add_addresses

FAMILY = addresses.FAMILIES[4]
MASTER, BACKUP = 150, 100
DOWNLOADS = 4


def deploy_keepalived(document: str, priority: int) -> str:
    """The block of docs/deploy.md that begins with keepalived's global_defs, as an operator copies it; 'priority' is what
    is changed."""
    for block in re.findall(r"^```.*?\n(.*?)^```", document, re.M | re.S):
        if found := re.search(r"^global_defs", block, re.M):
            return block[found.start():].replace(f"priority {MASTER}", f"priority {priority}")
    raise Fault("docs/deploy.md has no keepalived.conf that begins with global_defs")


class Pair:
    """Both directors, with what is asked of either."""

    def __init__(self, scene: Scene):
        self.scene, self.checks, self.client = scene, scene.checks, scene.client
        self.machine = scene.director
        self.beside = DirectorBeside(scene.network, scene.settings.workers)
        self.document = (REPOSITORY / "docs/deploy.md").read_text()

    def is_master(self, director: Director) -> bool:
        return director.has_address(FAMILY.vip, "wan")

    def is_reached(self, director: Director) -> bool:
        """Whether the client's neighbour entry of the VIP is this director's."""
        return self.client.knows(FAMILY.vip, director.mac("wan"))

    def give_addresses(self, director: Director, number: int) -> None:
        for twin, own in addresses.own(number).items():
            director.twin_has(twin, *own)

    def lose_addresses(self) -> None:
        for twin in ("wan", "lan"):
            self.machine.output("ip", "address", "flush", "dev", twin, "scope", "global")

    def begin(self) -> None:
        self.beside.begin()
        self.give_addresses(self.beside, 2)
        text = deploy_keepalived(self.document, BACKUP)
        (self.beside.folder / "keepalived.conf").write_text(text)
        first, second = FAMILY.servers
        self.checks.check(f"docs/deploy.md's file is there, for {first} and {second}",
                          f"    real_server {first} 80 {{\n" in text)
        say("\n".join(line for line in text.splitlines() if "priority" in line))
        self.beside.start_keepalived()
        self.lose_addresses()
        self.give_addresses(self.machine, 1)
        (self.scene.folder / "keepalived.conf").write_text(deploy_keepalived(self.document, MASTER))
        self.machine.must("cp", "/run/machine/keepalived.conf", "/etc/keepalived/keepalived.conf")
        self.machine.must("keepalived", "--config-test")
        self.machine.must("systemctl", "enable", "--now", "keepalived")

    def end(self) -> None:
        self.machine.must("systemctl", "disable", "--now", "keepalived")
        self.beside.stop()
        self.lose_addresses()
        add_addresses(self.scene)

    def comes_up_as_deploy_says(self) -> None:
        checks, both = self.checks, [f"{FAMILY.server(number)}=1" for number in (1, 2)]
        for director in (self.machine, self.beside):
            checks.until(f"{director.name} has both servers", 60,
                         lambda of=director: of.servers(FAMILY.web) == both)
        checks.until(f"{self.machine.name} is master", 15, lambda: self.is_master(self.machine))
        self.machine.must("ip", "-br", "address")
        self.machine.ipvsadm("-Ln")
        self.check_sync(self.beside, "listens", "backup")
        self.check_sync(self.machine, "tells", "master")
        self.machine.ipvsadm("-L", "--daemon")
        self.machine.lvsctl("why", "203.0.113.7", "tcp:198.51.100.80:80")
        checks.check(f"{self.beside.name} is backup", not self.is_master(self.beside))
        self.client.pages_come("pages come", FAMILY, 10)
        checks.until("the client reaches the master's MAC", 10, lambda: self.is_reached(self.machine))
        checks.equal("both directors list the same", self.machine.rules(), self.beside.rules())

    def check_sync(self, director: Director, does: str, state: str) -> None:
        """keepalived has the sync daemons follow the VIP."""
        daemon = f"{state} sync daemon (mcast=lan, syncid=7"
        self.checks.until(f"{director.name} {does}: {daemon})", 10, lambda: director.sync_daemons().startswith(daemon))

    def check_takeover(self, sentence: str) -> None:
        """New connections work again. VRRP waits for three advertisements and a skew (RFC 5798 6.1), here 3.6 seconds. A busy
        machine takes longer, so the time is printed and not judged."""
        begun = time.monotonic()
        self.checks.until(f"{sentence}: new connections work again", 60, lambda: self.client.is_answered(FAMILY, 3))
        say(f"that took {time.monotonic() - begun:.1f} s")

    def leaves_with_downloads(self, sentence: str, by: Callable[[], object]) -> None:
        """The VIP goes to the backup, and with it downloads that run."""
        with self.client.downloads(FAMILY, DOWNLOADS) as downloads:
            self.checks.until("downloads run", 30, lambda: self.machine.active_connections(FAMILY.web) >= DOWNLOADS)
            self.checks.until(f"{self.beside.name} knows them", 30,
                              lambda: self.beside.established(FAMILY.web) >= DOWNLOADS)
            by()
            self.check_takeover(sentence)
            self.checks.until(f"{self.beside.name} is master", 60, lambda: self.is_master(self.beside))
            self.client.check_downloads(downloads)

    def comes_back_to_machine(self) -> None:
        self.checks.until("the machine is master again", 60, lambda: self.is_master(self.machine))
        self.checks.until("the client is told", 30, lambda: self.is_reached(self.machine))
        self.client.pages_come("pages come by it", FAMILY, 10)


def pair(scene: Scene) -> None:
    director = scene.director
    scene.checks.title("The pair of docs/deploy.md")
    scene.client.has_ports_of_its_own()
    scene.servers.gateway_is("director")
    of = Pair(scene)
    of.begin()
    of.comes_up_as_deploy_says()
    of.leaves_with_downloads("keepalived of the master stopped", lambda: director.must("systemctl", "stop", "keepalived"))
    director.must("systemctl", "start", "keepalived")
    of.comes_back_to_machine()
    of.leaves_with_downloads("the master's cable pulled", lambda: scene.qemu.monitor("set_link net1 off"))
    scene.qemu.monitor("set_link net1 on")
    of.comes_back_to_machine()
    # systemd starts another, so the VIP may be back before the backup has missed it.
    director.must("systemctl", "kill", "-s", "KILL", "lvsd")
    of.check_takeover("lvsd of the master killed")
    of.comes_back_to_machine()
    of.end()

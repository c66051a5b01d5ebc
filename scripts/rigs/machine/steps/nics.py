"""NICs: which lvs-nic does not take and why, which it binds, and how it gives them back."""

import re

from rigs.machine.scene import Scene
from rigs.processes import Word

NAMES = ("enp1s0", "enp2s0")


def is_refusal(said: str, words: str) -> bool:
    """Whether lvs-nic says why it refuses, in these words, and a cure."""
    return bool(re.search(words, said)) and bool(re.search(r"^ *cure: .", said, re.M))


def check_refused(scene: Scene, whom: str, words: str, *names: Word) -> str:
    """Each refusal names its cause and its cure; returns what was said."""
    said = scene.director.type("lvs-nic", "bind", *names).output
    scene.checks.check(f"{whom} is refused", is_refusal(said, words))
    return said


def refusals(scene: Scene) -> None:
    """Nothing is taken whose loss would cut the operator off."""
    checks, director = scene.checks, scene.director
    checks.title("IOMMU, NICs, and what is not taken")
    director.must("lvs-nic", "list")
    check_refused(scene, "the NIC that carries the ssh session", "carries an ssh session", "mgmt")
    director.output("ip", "link", "set", "enp1s0", "up")
    director.output("ip", "-6", "address", "add", "2001:db8:1::1/64", "dev", "enp1s0", "nodad")
    director.output("ip", "-6", "route", "add", "default", "via", "2001:db8:1::fe")
    check_refused(scene, "the NIC of the IPv6 default route", "carries the default route", "enp2s0", "enp1s0")
    director.output("ip", "-6", "route", "del", "default")
    director.output("ip", "-6", "address", "flush", "dev", "enp1s0", "scope", "global")
    director.output("ip", "address", "add", "198.51.100.1/24", "dev", "enp1s0")
    director.output("ip", "route", "add", "default", "via", "198.51.100.254")
    check_refused(scene, "the NIC of the IPv4 default route", "carries the default route", "enp2s0", "enp1s0")
    director.output("ip", "address", "flush", "dev", "enp1s0")
    checks.check("and none of those named with it is bound", director.succeeds("test", "-e", "/sys/class/net/enp2s0"))
    check_refused(scene, "one of two NICs in an IOMMU group", "its IOMMU group .* also holds", "enp4s1")
    checks.check("both together would not be", director.succeeds("lvs-nic", "bind", "--dry-run", "enp4s1", "enp4s2"))
    check_refused(scene, "what is no NIC", "is no network device", "0000:00:00.0")


def addresses_and_routes(scene: Scene) -> str:
    """What the kernel has on both NICs, without what changes by itself."""
    text = "\n".join(scene.director.output(*words) for name in NAMES for words in (
        ("ip", "-o", "address", "show", "dev", name, "scope", "global"), ("ip", "route", "show", "dev", name)))
    return settled(text)


def settled(text: str) -> str:
    """Lines of `ip` without index, lifetimes and the state of the link."""
    text = re.sub(r"^[0-9]+: ", "", text, flags=re.M)
    text = re.sub(r" *\\? *valid_lft.*", "", text)
    lines = [line.replace(" linkdown", "").rstrip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line)


def bind(scene: Scene) -> None:
    checks, director = scene.checks, scene.director
    checks.title("the NICs are bound")
    director.must("ip", "address", "add", "198.51.100.1/24", "dev", "enp1s0")
    director.must("ip", "address", "add", "192.0.2.1/24", "dev", "enp2s0")
    for name in NAMES:
        director.must("ip", "link", "set", name, "up")
    director.must("ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.254")
    (scene.folder / "nics-before").write_text(addresses_and_routes(scene))
    director.must("lvs-nic", "bind", *NAMES)
    status = director.must("lvs-nic", "status")
    (scene.folder / "nic-status").write_text(status)
    drivers = [line.split()[1] for line in status.splitlines() if line.startswith("0000:")]
    checks.equal("both NICs belong to vfio-pci", ["vfio-pci", "vfio-pci"], drivers)


def pci_address(status: str, name: str) -> str:
    """From `lvs-nic status`: of a NIC that was called so before it was bound."""
    rows = [line.split() for line in status.splitlines()]
    return next(row[0] for row in rows if row[2:3] == [name])


def unbind(scene: Scene) -> None:
    checks, director = scene.checks, scene.director
    checks.title("the NICs go back")
    director.must("systemctl", "disable", "--now", "lvsd")
    for twin in ("wan", "lan"):
        director.must("ip", "link", "del", twin)
    director.must("lvs-nic", "unbind", *NAMES)
    checks.equal("addresses and routes are as before", (scene.folder / "nics-before").read_text(),
                 addresses_and_routes(scene))
    checks.until("and the kernel's own stack answers on them", 30, lambda: scene.client.pings("198.51.100.1"))

"""What goes wrong or changes under a running director: a cable, a crash, an upgrade, a reboot."""

import re
import shutil

from rigs.machine import addresses
from rigs.machine.network import no_detection
from rigs.machine.scene import Scene
from rigs.machine.steps.modes import add_service
from rigs.processes import run

FAMILY = addresses.FAMILIES[4]
NEWER = "0.2.0-2"
# What sees devices come, driverctl's rule among it.
UDEV = ("systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-kernel.socket",
        "systemd-udevd-control.socket")


def link(scene: Scene) -> None:
    """The switch takes the cable out and puts it back."""
    checks, director = scene.checks, scene.director

    def device_is(up: bool) -> bool:
        wan = director.device("wan")
        return wan is not None and wan.is_up == up

    def carrier_is(text: str) -> bool:
        return director.output("cat", "/sys/class/net/wan/carrier") == text

    checks.title("a cable comes off")
    scene.qemu.monitor("set_link net1 off")
    checks.until("the director notices", 60, lambda: device_is(False))
    checks.until("its twin has no carrier", 10, lambda: carrier_is("0"))
    scene.qemu.monitor("set_link net1 on")
    checks.until("and notices its return", 60, lambda: device_is(True))
    checks.until("its twin has one again", 10, lambda: carrier_is("1"))
    add_service(scene, "nat", FAMILY)
    scene.client.pages_come("and pages come as before", FAMILY)
    director.ipvsadm("-C")


def another_runs(scene: Scene, before: str) -> bool:
    """Whether an lvsd runs that is not the one from before."""
    return scene.director.pid() not in ("", before) and scene.director.output("systemctl", "is-active", "lvsd") == "active"


def crash(scene: Scene) -> None:
    """kill -9 leaves NICs that the next start can use; systemd starts it."""
    scene.checks.title("kill -9")
    add_service(scene, "nat", FAMILY)
    scene.client.pages_come("before: a page comes", FAMILY)
    before = scene.director.pid()
    scene.director.must("systemctl", "kill", "-s", "KILL", "lvsd")
    scene.checks.until("systemd starts another", 60, lambda: another_runs(scene, before))
    scene.client.pages_come("its rules are back and pages come again", FAMILY)
    scene.director.ipvsadm("-Ln")
    scene.director.ipvsadm("-C")


def upgrade(scene: Scene) -> None:
    """A newer package over a running lvsd."""
    make_newer_package(scene)
    scene.checks.title("an upgrade")
    add_service(scene, "nat", FAMILY)
    before = scene.director.pid()
    scene.director.must("dpkg", "-i", "/run/machine/newer.deb")
    scene.checks.equal("the newer package is installed", NEWER,
                       scene.director.output("dpkg-query", "-W", "-f", "${Version}", "lvsd"))
    scene.checks.check("the new lvsd runs", another_runs(scene, before))
    scene.client.pages_come("with the rules of the old one", FAMILY)
    scene.director.ipvsadm("-C")


def make_newer_package(scene: Scene) -> None:
    """The one that was installed, with a higher version."""
    tree = scene.folder / "newer"
    shutil.rmtree(tree, ignore_errors=True)
    run("dpkg-deb", "-R", scene.folder / "lvsd.deb", tree)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub("^Version: .*", f"Version: {NEWER}", control.read_text(), flags=re.M))
    run("dpkg-deb", "-Zgzip", "-z1", "-b", tree, f"{tree}.deb")


def interfaces() -> str:
    """The twins, as ifupdown makes them at boot."""
    text = ""
    for twin, own in (("wan", addresses.WAN), ("lan", addresses.LAN)):
        text += f"auto {twin}\niface {twin} inet manual\n"
        text += f"    pre-up ip tuntap add dev {twin} mode tap\n    up ip link set {twin} up\n"
        for address in own:
            text += f"    up {' '.join(('ip address add', address, 'dev', twin, *no_detection(address)))}\n"
        text += f"    post-down ip tuntap del dev {twin} mode tap\n\n"
    return text


def reboot(scene: Scene) -> None:
    """NICs bound, twins with their addresses, lvsd with its rules: all of it comes back by itself."""
    checks, director = scene.checks, scene.director
    checks.title("from power-on to the first page nobody types anything")
    add_service(scene, "nat", FAMILY)
    # The packages by which a director keeps its bindings and its twins.
    scene.qemu.build.load_guest_packages(scene.folder)
    director.must("sh", "-c", "dpkg -i /run/machine/driverctl_*.deb /run/machine/ifupdown_*.deb")
    director.must("lvs-nic", "bind", "--persist", "0000:01:00.0", "0000:02:00.0")
    (scene.folder / "interfaces").write_text(interfaces())
    director.must("cp", "/run/machine/interfaces", "/etc/network/interfaces.d/lvsd")
    director.must("systemctl", "enable", "networking", "lvsd")
    director.output("systemctl", "--quiet", "unmask", *UDEV)
    scene.qemu.reboot()
    checks.until("both NICs are bound and lvsd runs", 120, director.links_are_up)
    director.must("lvs-nic", "status")
    scene.client.pages_come("its rules are back and pages come", FAMILY)
    director.ipvsadm("-Ln")
    director.ipvsadm("-C")

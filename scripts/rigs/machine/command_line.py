"""`scripts/dev machine [NIC] [OPTION...] [STEP...]`: one run, from building the package to the last check."""

import os
import shutil
import time
from pathlib import Path

from rigs.fault import Fault
from rigs.machine.checks import say
from rigs.machine.network import Network
from rigs.machine.scene import Scene
from rigs.machine.settings import Settings, parse
from rigs.machine.steps import STEPS
from rigs.processes import show

TOOLS = ("ip", "nft", "ethtool", "nginx", "curl", "ab", "ssh", "ssh-keygen", "ipvsadm", "cpio", "depmod", "mkfs.ext4")


def check_tools() -> None:
    if os.geteuid() != 0:
        raise Fault("needs root: it makes network namespaces")
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    if missing:
        raise Fault(f"missing: {' '.join(missing)}; scripts/dev setup installs them")
    if not Path("/dev/net/tun").is_char_device():
        raise Fault("/dev/net/tun is missing: modprobe tun")


def build(settings: Settings) -> None:
    """What the run needs of this repository: the package, and the programs that run outside the machine."""
    show("scripts/dev", "build")
    show("scripts/package", "build", "--profile", "dev", "--version", "0.2.0-1", "--output", settings.package)


def play(scene: Scene) -> int:
    """All steps; the exit status."""
    settings = scene.settings
    scene.checks.title(f"machine with {settings.nic}: {settings.workers} worker(s)")
    if settings.again:
        scene.resume()
    else:
        scene.begin(with_iommu="bare" not in settings.steps)
    for name in settings.steps:
        begun = time.monotonic()
        STEPS[name](scene)
        say(f"step {name} took {time.monotonic() - begun:.0f} s")
    return scene.checks.verdict()


def show_logs(network: Network) -> None:
    """The ends of what directors and keepalived have said."""
    for log in sorted([*network.state.glob("*-lvsd.log"), *network.state.glob("*-keepalived.log")]):
        lines = log.read_text(errors="replace").splitlines()[-30:]
        say("\n".join([f"--- the end of {log}", *lines]))


def say_what_is_kept(scene: Scene) -> None:
    say(f"\nThe machine is still there. Namespaces: {' '.join(host.name for host in scene.network.left())}\n"
        f"  its files:      {scene.folder}\n"
        "  more steps:     scripts/dev machine --again STEP...\n"
        "  take it away:   scripts/dev machine --clean")


def main(words: list[str]) -> int:
    settings = parse(words)
    check_tools()
    network = Network(settings)
    if settings.clean:
        network.clean_up()
        return 0
    if settings.again:
        if not settings.folder.exists():
            raise Fault("there is no machine to go on with: --keep leaves one")
    else:
        build(settings)
        network.refuse_what_is_left()
    scene = Scene(settings)
    status = 1
    try:
        status = play(scene)
        return status
    finally:
        if status:
            show_logs(network)
        if settings.keep:
            say_what_is_kept(scene)
        else:
            network.clean_up()

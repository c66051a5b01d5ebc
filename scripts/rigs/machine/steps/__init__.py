"""The steps of a run, by name. Each is a function of the scene, and tells what it sees as checks."""

from collections.abc import Callable

from rigs.machine.scene import Scene
from rigs.machine.steps import daemon, host, modes, nics, outages, pair

STEPS: dict[str, Callable[[Scene], None]] = {
    "install": host.install,
    "bare": host.bare,
    "refusals": nics.refusals,
    "bind": nics.bind,
    "start": daemon.start,
    "unit": daemon.unit,
    "nat": modes.nat,
    "fullnat": modes.fullnat,
    "dr": modes.dr,
    "tun": modes.tun,
    "rss": modes.rss,
    "workers": modes.workers,
    "interrupts": modes.interrupts,
    "link": outages.link,
    "crash": outages.crash,
    "upgrade": outages.upgrade,
    "pair": pair.pair,
    "reboot": outages.reboot,
    "unbind": nics.unbind,
    "revert": host.revert,
}

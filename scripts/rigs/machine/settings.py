"""What a run of the emulated machine is to be: from its command line and the environment."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rigs import REPOSITORY
from rigs.fault import Fault

# The steps, in the order of a run that names none.
STEPS = ("bare", "unit", "nat", "fullnat", "dr", "tun", "rss", "workers", "interrupts", "link", "crash", "upgrade", "pair",
         "reboot", "unbind", "revert")
# The steps before each of them but 'bare'. That one begins with a server as it comes, without an IOMMU in use.
INSTALLATION, PREPARATION = ("install",), ("refusals", "bind", "start")
FAMILIES = {"4": (4,), "6": (6,), "both": (4, 6)}
NICS = ("virtio-rss", "igb", "e1000e", "vmxnet3")


def select_steps(asked: list[str], again: bool) -> list[str]:
    """The steps of a run; of one that goes on with a machine that is there just those that are asked for."""
    unknown = [step for step in asked if step not in STEPS]
    if unknown:
        raise Fault(f"there is no step '{unknown[0]}'; steps are {' '.join(STEPS)}")
    if again:
        if not asked or "bare" in asked:
            raise Fault("--again needs the steps to play, and 'bare' begins with a new machine")
        return list(asked)
    steps = list(asked or STEPS)
    if "bare" in steps[1:]:
        raise Fault("'bare' must come first: it begins with a machine that nobody has prepared")
    first, rest = (["bare"], steps[1:]) if steps[0] == "bare" else ([], steps)
    return [*INSTALLATION, *first, *PREPARATION, *rest]


@dataclass
class Settings:
    """One run."""

    nic: str = "virtio-rss"
    workers: int = 2
    families: tuple[int, ...] = (4, 6)
    steps: list[str] = field(default_factory=list)
    keep: bool = False
    again: bool = False
    clean: bool = False
    # Queues of each NIC, and processors less one. They suffice for the largest number of workers in the run.
    queues: int = 4
    requests: int = 200
    memory_mb: int = 2_048
    hugepages_mb: int = 512
    boot_seconds: int = 300
    cache: Path = REPOSITORY / "target/machine"
    package: Path = REPOSITORY / "target/package-check/machine.deb"
    # Names the namespaces and the folder of state, so that two runs can go on side by side.
    prefix: str = "machine"

    @property
    def state(self) -> Path:
        return Path("/tmp") / f"{self.prefix}-state"

    @property
    def folder(self) -> Path:
        """What the machine shares with the host: /run/machine there."""
        return self.state / "machine"

    @property
    def spreads(self) -> bool:
        """Whether the NIC spreads frames by RSS; the others put all in one queue, whatever they claim."""
        return self.nic in ("virtio-rss", "igb")


NUMBERS = {"WORKERS": "workers", "MACHINE_QUEUES": "queues", "MACHINE_REQUESTS": "requests", "MACHINE_MB": "memory_mb",
           "MACHINE_HUGEPAGES_MB": "hugepages_mb", "MACHINE_BOOT_SECONDS": "boot_seconds"}


def number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise Fault(f"{name}={text}: a number above 0 is needed")
    return int(text)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/dev machine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [NIC] [OPTION...] [STEP...]",
        epilog=f"NIC: {', '.join(NICS)} (default {NICS[0]})\nSTEP: {' '.join(STEPS)} (default: all; without 'bare', which "
        f"must come\nfirst, the machine boots with its IOMMU on)\n\nEnvironment: {', '.join(NUMBERS)}, MACHINE_CACHE, "
        "MACHINE_PREFIX")
    parser.add_argument("words", nargs="*", metavar="WORD", help="a kind of NIC, then steps")
    parser.add_argument("--workers", metavar="N", help="polling cores of lvsd (default 2)")
    parser.add_argument("--family", choices=FAMILIES, default="both", help="IPv4, IPv6 or both (default both)")
    left = parser.add_mutually_exclusive_group()
    left.add_argument("--keep", action="store_true", help="leave everything running to play with")
    left.add_argument("--again", action="store_true", help="play steps on what --keep left")
    left.add_argument("--clean", action="store_true", help="take away what --keep left")
    return parser


def parse(words: list[str], environment: Mapping[str, str] = os.environ) -> Settings:
    options = command_line().parse_intermixed_args(words)
    settings = Settings(families=FAMILIES[options.family], keep=options.keep or options.again, again=options.again,
                        clean=options.clean)
    for name, attribute in NUMBERS.items():
        if name in environment:
            setattr(settings, attribute, number(name, environment[name]))
    if options.workers:
        settings.workers = number("--workers", options.workers)
    settings.cache = Path(environment.get("MACHINE_CACHE", settings.cache))
    settings.prefix = environment.get("MACHINE_PREFIX", settings.prefix)
    asked = list(options.words)
    if asked and asked[0] in NICS:
        settings.nic = asked.pop(0)
    if not settings.clean:
        settings.steps = select_steps(asked, settings.again)
    if settings.workers > settings.queues:
        raise Fault(f"{settings.workers} workers need as many queues: MACHINE_QUEUES is {settings.queues}")
    return settings

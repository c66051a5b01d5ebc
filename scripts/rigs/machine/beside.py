"""A second director beside the machine: lvsd in a namespace, with software devices, and the distribution's keepalived."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from rigs import REPOSITORY
from rigs.fault import Fault
from rigs.machine.checks import say
from rigs.machine.director import Director
from rigs.machine.network import Network
from rigs.machine.qemu import DEVICES
from rigs.machine.shell import Outcome
from rigs.processes import Word, end, wait_for, words_of

DEBUG = REPOSITORY / "target/debug"
TOOLS = ("ipvsadm", "keepalived")


def configuration(folder: Path, workers: int, cpus: int) -> str:
    """lvsd.toml: ordinary memory, and workers that sleep when idle, for they share this machine with all the others."""
    # The first CPU is taken last, and all of them again where there are fewer.
    cores = ", ".join(str(worker % cpus) for worker in range(1, workers + 1))
    text = f"""[eal]
hugepages = "never"
worker_cores = [{cores}]

[workers]
count = {workers}
idle = "sleep"

[connections]
keep = false
state_dir = "/dev/shm/lvsd-{folder.name}"

[api]
socket = "{folder}/api.sock"

[journal]
path = "{folder}/journal"
"""
    for index, device in enumerate(DEVICES):
        # Rings that outlast a moment in which the worker's core belongs to others.
        driver = f"net_af_packet{index},iface={device}0,qpairs={workers},blocksz=4096,framesz=2048,framecnt=4096"
        text += f'\n[[device]]\nname = "{device}"\ndpdk = "{driver}"\n'
    return text


class DirectorBeside(Director):
    """It dies with the run."""

    name = "director2"

    def __init__(self, network: Network, workers: int):
        self.network, self.workers_wanted = network, workers
        self.folder = network.state / self.name
        self.host = network.host(self.name)
        self.lvsd: subprocess.Popen | None = None
        self.keepalived: subprocess.Popen | None = None

    def run(self, *words: Word) -> Outcome:
        tools = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        done = subprocess.run(self.host.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, env={**os.environ, **tools}, check=False)
        return Outcome(done.returncode, done.stdout.rstrip("\n"))

    def begin(self) -> None:
        """lvsd runs on cables of its own when it returns."""
        self.network.new_host(self.name)
        for device, lan in DEVICES.items():
            self.network.plug_director(self.name, device, lan)
        (self.folder / "bin").mkdir(parents=True)
        text = configuration(self.folder, self.workers_wanted, os.cpu_count() or 1)
        (self.folder / "lvsd.toml").write_text(text)
        self.write_tools()
        lvsd = Path(os.environ.get("LVSD_BIN", DEBUG / "lvsd"))
        say(f"{self.name}$ lvsd --config {self.folder}/lvsd.toml")
        self.lvsd = self.network.start(self.name, "lvsd", lvsd, "--config", self.folder / "lvsd.toml")
        wait_for("lvsd answers beside the machine", 30, self.answers)

    def answers(self) -> bool:
        if self.lvsd.poll() is not None:
            raise Fault(f"lvsd has ended:\n{self.network.log(self.name, 'lvsd').read_text()}")
        return self.succeeds("lvsctl", "version")

    def write_tools(self) -> None:
        """The tools by their own names, led to this director's lvsd: what an installed lvs-run does for them."""
        lvsctl = Path(os.environ.get("LVSCTL_BIN", DEBUG / "lvsctl"))
        lvs_run = f"'{lvsctl.with_name('lvs-run')}' --socket '{self.folder}/ipvs.sock'"
        for tool in TOOLS:
            program = shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin")
            if not program:
                raise Fault(f"{tool} is missing: scripts/dev setup installs it")
            self.write_tool(tool, f"{lvs_run} '{program}'")
        self.write_tool("lvsctl", f"'{lvsctl}' --socket '{self.folder}/api.sock'")

    def write_tool(self, name: str, command: str) -> None:
        tool = self.folder / "bin" / name
        tool.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        tool.chmod(0o755)

    def start_keepalived(self) -> None:
        """With the keepalived.conf in its folder."""
        words = words_of(("--use-file", self.folder / "keepalived.conf"))
        say(f"{self.name}$ keepalived {' '.join(words)}")
        for option, name in (("--pid", "keepalived"), ("--checkers_pid", "checkers"), ("--vrrp_pid", "vrrp")):
            words += [option, str(self.folder / f"{name}.pid")]
        self.keepalived = self.network.start(self.name, "keepalived", self.folder / "bin/keepalived", "--dont-fork",
                                             "--log-console", "--log-detail", "--dump-conf", *words)

    def stop(self) -> None:
        for name, process in (("keepalived", self.keepalived), ("lvsd", self.lvsd)):
            say(f"{self.name}$ kill -TERM {name}")
            end(process, signal.SIGTERM)

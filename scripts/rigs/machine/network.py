"""Namespaces, LANs and the cables between them, and the programs that run there."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from rigs.fault import Fault
from rigs.machine.settings import Settings
from rigs.namespaces import Namespace, names
from rigs.processes import Word, succeeds

SWITCH = "switch"
# A virtual cable would carry frames with unfinished checksums or of 64 KiB, which no wire does.
OFFLOADS = ("tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off")
# No redirects, no source filter: replies take other routes here.
HOST_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": 0, "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.default.send_redirects": 0,
    "net.ipv6.conf.default.accept_dad": 0, "net.ipv6.conf.all.accept_dad": 0,
    "net.ipv4.ping_group_range": "0 2147483647", "net.ipv4.tcp_max_syn_backlog": 8192,
}


def has_ended(pid: int) -> bool:
    """Whether a process is gone; one that nobody has waited for yet is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class Network:
    """All namespaces of a run begin with its prefix; state says which programs it has started."""

    def __init__(self, settings: Settings):
        self.prefix = settings.prefix
        self.state = settings.state

    def refuse_what_is_left(self) -> None:
        """Or the end of this run would be the end of somebody else's."""
        if self.state.exists() or self.left():
            raise Fault("an emulated machine is already there; 'scripts/dev machine --clean' takes it away")

    def begin(self) -> None:
        self.state.mkdir(mode=0o755)
        self.pids.touch()

    @property
    def pids(self) -> Path:
        return self.state / "pids"

    def left(self) -> list[Namespace]:
        """Namespaces of this run that are there."""
        return [Namespace(name) for name in names() if name.startswith(f"{self.prefix}-")]

    def clean_up(self) -> None:
        """Ends what the run has started, first by pid, then whatever still lives in its namespaces."""
        if self.pids.exists():
            for line in self.pids.read_text().splitlines():
                succeeds("kill", line.split()[0])
        for namespace in self.left():
            namespace.end_processes()
            namespace.delete()
        succeeds("rm", "-rf", self.state)

    def host(self, name: str) -> Namespace:
        return Namespace(f"{self.prefix}-{name}")

    def new_host(self, name: str) -> Namespace:
        host = self.host(name)
        host.create()
        self.set_sysctls(name, HOST_SYSCTLS)
        return host

    def set_sysctls(self, host: str, values: Mapping[str, Word]) -> None:
        self.host(host).run("sysctl", "-qw", *(f"{key}={value}" for key, value in values.items()))

    def new_lan(self, name: str) -> None:
        """A bridge in the namespace 'switch'."""
        if not self.host(SWITCH).exists():
            self.new_host(SWITCH)
        self.host(SWITCH).ip("link", "add", name, "type", "bridge")
        self.host(SWITCH).ip("link", "set", name, "up")

    def plug(self, host: str, interface: str, lan: str) -> None:
        """A cable from the host to the LAN, without any offload."""
        namespace, switch, far_end = self.host(host), self.host(SWITCH), f"{host}-{interface}"
        namespace.ip("link", "add", interface, "type", "veth", "peer", "name", far_end, "netns", switch.name)
        switch.ip("link", "set", far_end, "master", lan, "up")
        namespace.run("ethtool", "-K", interface, *OFFLOADS)
        switch.run("ethtool", "-K", far_end, *OFFLOADS)
        namespace.ip("link", "set", interface, "up")

    def plug_director(self, host: str, device: str, lan: str) -> None:
        """A cable that belongs to the host's lvsd alone. The kernel must be deaf on it, or it would answer too; packet
        sockets see frames before the ingress hook."""
        namespace, cable = self.host(host), f"{device}0"
        self.plug(host, cable, lan)
        self.set_sysctls(host, {f"net.ipv6.conf.{cable}.disable_ipv6": 1})
        namespace.ip("link", "set", cable, "arp", "off", "promisc", "on")
        namespace.run("nft", "-f", "-", stdin=f"table netdev deaf_{cable} {{ chain ingress {{ "
                      f'type filter hook ingress device "{cable}" priority 0; policy drop; }}; }}')

    def address(self, host: str, interface: str, *addresses: str) -> None:
        for address in addresses:
            self.host(host).ip("addr", "add", address, "dev", interface, *no_detection(address))

    def gateway(self, host: str, *addresses: str) -> None:
        """Default routes, instead of those that are there."""
        namespace = self.host(host)
        for version in ("-4", "-6"):
            namespace.succeeds("ip", version, "route", "del", "default")
        for address in addresses:
            namespace.ip("route", "add", "default", "via", address)

    def start(self, host: str, name: str, *command: Word, environment: Mapping[str, str] | None = None) -> subprocess.Popen:
        """A program on a host, in the background, logged, remembered; it may outlive this one (--keep)."""
        with self.log(host, name).open("w") as log:
            process = subprocess.Popen(self.host(host).command(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env={**os.environ, **(environment or {})}, start_new_session=True)
        with self.pids.open("a") as pids:
            pids.write(f"{process.pid} {host}-{name}\n")
        return process

    def log(self, host: str, name: str) -> Path:
        return self.state / f"{host}-{name}.log"

    def pid_of(self, host: str, name: str) -> int:
        """Of the program of that name that was started last, maybe by a run before."""
        found = [int(line.split()[0]) for line in self.pids.read_text().splitlines() if line.split()[1] == f"{host}-{name}"]
        if not found:
            raise Fault(f"no {name} was started on {host}")
        return found[-1]


def no_detection(address: str) -> tuple[str, ...]:
    """IPv6 addresses are there at once."""
    return ("nodad",) if ":" in address else ()

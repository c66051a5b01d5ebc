"""The standing lab of one forwarding mode on which a soak runs: its ends, its director and what they count."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rigs import REPOSITORY
from rigs.fault import Fault
from rigs.namespaces import Namespace
from rigs.processes import run

PREFIX = "soak"
# As many connections as two minutes of TIME_WAIT hold at full speed.
CONNECTIONS = "ipv4_max = 4194304"
CLIENTS = 200
# The last bytes of their addresses; the others are the lab's own.
HOSTS = [*range(5, 76), *range(100, 255)]
LAB = REPOSITORY / "scripts/lab"
# SYNs that a server met in TIME_WAIT and refused, or challenged.
REFUSALS = ("TcpExtPAWSTimewait", "TcpExtTCPSYNChallenge")
CLIENT_COUNTERS = ("TcpExtTCPSynRetrans", "TcpOutRsts")


@dataclass
class Ground:
    """One standing lab."""

    state: Path
    client: Namespace
    servers: list[Namespace]
    director: Namespace
    pid: int
    vip: str

    @property
    def service(self) -> str:
        return f"tcp:{self.vip}:80"

    @staticmethod
    def client_address(number: int) -> str:
        """Of client 0 up to CLIENTS, in the network of the lab's client."""
        return f"198.51.100.{HOSTS[number]}"

    def has_clients(self) -> None:
        """Gives the client's host its further addresses."""
        for number in range(CLIENTS + 1):
            self.client.ip("addr", "add", f"{self.client_address(number)}/24", "dev", "eth0")

    def on_director(self, *words: str) -> str:
        """What one of the director's tools prints."""
        return self.director.run(self.state / "director/bin" / words[0], *words[1:])

    def listed(self, *words: str) -> list | dict:
        return json.loads(self.on_director("lvsctl", "--json", *words))

    def forget_requests(self) -> None:
        """The servers' logs would fill the disk."""
        for log in self.state.glob("nginx-*/access.log"):
            os.truncate(log, 0)

    def memory_mb(self) -> int:
        """Resident memory of the daemon."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) // 1024

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def counted(host: Namespace, names: tuple[str, ...]) -> dict[str, int]:
    """TCP counters of a host by name; those that it does not know count nothing."""
    lines = host.run("nstat", "-asz", *names).splitlines()
    found = {words[0]: int(words[1]) for line in lines if len(words := line.split()) > 1 and words[0] in names}
    return {name: found.get(name, 0) for name in names}


@contextmanager
def standing(mode: str) -> Iterator[Ground]:
    """Plays the lab of the mode and leaves its network standing; takes it away at the end."""
    state = Path(f"/tmp/{PREFIX}-lab")
    environment = {"LAB_PREFIX": PREFIX, "LAB_STATE": str(state), "LAB_CONNECTIONS": CONNECTIONS}
    with Path(f"/tmp/{PREFIX}-lab.log").open("w") as log:
        words = [str(LAB), mode, "--quick", "--family", "4", "--keep"]
        played = subprocess.run(words, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                check=False)
    try:
        if played.returncode:
            raise Fault(f"lab {mode} failed: {log.name} says why")
        yield found(state)
    finally:
        run(LAB, "--clean", environment=environment)


def found(state: Path) -> Ground:
    """The ends of the lab that stands."""
    director = Namespace(f"{PREFIX}-director")
    ground = Ground(state=state, client=Namespace(f"{PREFIX}-client"),
                    servers=[Namespace(f"{PREFIX}-rs{number}") for number in (1, 2)], director=director,
                    pid=daemon_of(director), vip="")
    services = [row["service"] for row in ground.listed("list")]
    web = next((name for name in services if name.startswith("tcp:") and name.endswith(":80")), None)
    if web is None:
        raise Fault(f"the lab left no service of port 80, but: {' '.join(services)}")
    ground.vip = web.split(":")[1]
    # The lab leaves what it tried last. sh refuses the clients of a server whose weight is 0, as the kernel does, and
    # reset_unknown resets those of a server that goes; here nobody must be refused.
    ground.on_director("ipvsadm", "-E", "-t", f"{ground.vip}:80", "-s", "rr")
    ground.on_director("lvsctl", "service", "edit", web, "--reset-unknown", "false")
    ground.has_clients()
    return ground


def daemon_of(director: Namespace) -> int:
    """The lvsd that runs on the director."""
    for pid in director.pids():
        if Path(f"/proc/{pid}/comm").read_text().strip() == "lvsd":
            return pid
    raise Fault(f"no lvsd runs in {director.name}: /tmp/{PREFIX}-lab.log says why")

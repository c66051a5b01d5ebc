"""The clients: how each is got and started, and by what one sees whom it has talked to."""

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rigs import REPOSITORY

# The service that lvsd has and no kernel: who prints this has read it from lvsd.
VIP = "192.0.2.77"
PORT = 7777
MARK = f"{VIP}:{PORT}"
HEX_MARK = "C000024D:1E61"
PROGRAMS = REPOSITORY / "tests" / "programs"
# What registries gave.
KEPT = REPOSITORY / "target" / "clients"


class Missing(Exception):
    """The client cannot be had here; the reason."""


@dataclass(frozen=True)
class Client:
    """A client. `prepare` gives its command line, in a folder of its own."""

    name: str
    prepare: Callable[[Path], list[str]]
    # What it prints when lvsd has answered.
    expected: str = MARK
    # Part of the short form.
    quick: bool = False
    # Gets what a registry has, before the network is left. `prepare` says `Missing` where that failed.
    fetch: Callable[[], None] | None = None


def installed(*command: str) -> Callable[[Path], list[str]]:
    """A program of the distribution."""

    def prepare(_folder: Path) -> list[str]:
        if subprocess.run(["which", command[0]], capture_output=True, check=False).returncode:
            raise Missing(f"{command[0]} is not installed")
        return list(command)

    return prepare


def go(*arguments: str, flags: tuple[str, ...] = (), **environment: str) -> Callable[[Path], list[str]]:
    """The Go program of the tests, on the libraries that Debian packages: mdlayher's and vishvananda's, which moby uses."""

    def prepare(folder: Path) -> list[str]:
        program = folder / "go_ipvs"
        variables = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(KEPT / "go-cache"), **environment}
        if "CGO_ENABLED" not in environment:
            variables["CGO_ENABLED"] = "0"
        build = ["go", "build", *flags, "-o", str(program), str(PROGRAMS / "go_ipvs" / "main.go")]
        outcome = subprocess.run(build, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
        if outcome.returncode:
            raise Missing(outcome.stderr.strip().splitlines()[-1] if outcome.stderr else "go does not build it")
        return [str(program), *arguments]

    return prepare


def python(name: str, packages: list[str], script: str, expected: str, quick: bool = False) -> Client:
    """A script on packages of PyPI, in an environment of its own that is kept."""
    place = KEPT / name.replace(" ", "-")
    interpreter = place / "bin" / "python"
    ready = place / "ready"

    def fetch() -> None:
        if ready.exists():
            return
        venv.create(place, with_pip=True)
        install = [str(interpreter), "-m", "pip", "install", "--quiet", "--retries=1", *packages]
        if subprocess.run(install, capture_output=True, check=False).returncode == 0:
            ready.touch()

    def prepare(_folder: Path) -> list[str]:
        if not ready.exists():
            raise Missing(f"PyPI does not give {packages[0]}")
        return [str(interpreter), "-c", script]

    return Client(name, prepare, expected, quick, fetch)


def c_program(source: str, *options: str, compiler: str = "gcc") -> Callable[[Path], list[str]]:
    """A C program of the tests."""

    def prepare(folder: Path) -> list[str]:
        program = folder / "program"
        build = [compiler, *options, "-o", str(program), str(PROGRAMS / source)]
        try:
            outcome = subprocess.run(build, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise Missing(f"{compiler} is not installed") from None
        if outcome.returncode:
            raise Missing(f"{' '.join(build[:2])} does not build it")
        return [str(program)]

    return prepare


def probe(way: str) -> Client:
    """One way to use netlink."""
    command = ["/usr/bin/python3", str(PROGRAMS / "netlink_probe.py"), way]
    return Client(f"probe: {way}", lambda _folder: command, "ok\n")


def node_exporter(folder: Path) -> list[str]:
    """Scraped once."""
    installed("prometheus-node-exporter")(folder)
    start = (
        "prometheus-node-exporter --collector.disable-defaults --collector.ipvs --web.listen-address=127.0.0.1:19100 "
        "2>/dev/null & p=$!; for i in $(seq 100); do curl -s 127.0.0.1:19100/metrics | grep node_ipvs_backend && break; "
        "sleep 0.1; done; kill $p"
    )
    return ["sh", "-c", start]


def collectd(folder: Path) -> list[str]:
    """Its ipvs plugin, whose values are written to files with the service in their names."""
    if not Path("/usr/lib/collectd/ipvs.so").exists():
        raise Missing("collectd-core is not installed")
    config = folder / "collectd.conf"
    config.write_text(
        f'BaseDir "{folder}"\nPIDFile "{folder}/pid"\nInterval 1\nLoadPlugin ipvs\nLoadPlugin csv\n'
        f'<Plugin csv>\nDataDir "{folder}/csv"\n</Plugin>\n'
    )
    start = (
        f"collectd -f -C {config} & p=$!; for i in $(seq 100); do "
        f"find {folder}/csv 2>/dev/null | grep 192.0.2.77 && break; sleep 0.1; done; kill $p; wait $p"
    )
    return ["sh", "-c", start]


def cargo(name: str, package: str, program: str, expected: str) -> Client:
    """A program of the tests on packages of crates.io."""
    target = KEPT / package
    built = target / "debug" / program

    def fetch() -> None:
        build = ["cargo", "build", "--quiet", "--locked", "--target-dir", str(target)]
        subprocess.run(build, cwd=PROGRAMS / package, capture_output=True, check=False)

    def prepare(_folder: Path) -> list[str]:
        if not built.exists():
            raise Missing("crates.io does not give its packages")
        return [str(built)]

    return Client(name, prepare, expected, fetch=fetch)


def keepalived(folder: Path) -> list[str]:
    """Adds a service of its own, of which ipvsadm in the same tree of processes is asked."""
    installed("keepalived")(folder)
    config = folder / "keepalived.conf"
    config.write_text(
        "virtual_server 192.0.2.78 78 {\n lb_algo rr\n lb_kind NAT\n protocol TCP\n"
        " real_server 198.51.100.1 80 {\n }\n}\n"
    )
    start = (
        f"keepalived -n -l -C -f {config} -p {folder}/pid -c {folder}/checkers 2>/dev/null & p=$!; for i in $(seq 100); do "
        "ipvsadm -Ln | grep 192.0.2.78:78 && break; sleep 0.1; done; kill $p; wait $p"
    )
    return ["sh", "-c", start]


PYROUTE2 = """
from pyroute2 import IPVS
with IPVS() as ipvs:
    for message in ipvs.service("dump"):
        service = message.get_attr("IPVS_CMD_ATTR_SERVICE")
        print(service.get_attr("IPVS_SVC_ATTR_ADDR"), service.get_attr("IPVS_SVC_ATTR_PORT"))
"""
# It uses names of arrays that Python 3.9 has dropped, and knows no attributes of real servers from after Linux 5.2.
GNLPY = """
import array
class Bytes(array.array):
    tostring = array.array.tobytes
    def fromstring(self, text):
        self.frombytes(text.encode() if isinstance(text, str) else text)
array.array = Bytes
from gnlpy.ipvs import IpvsClient, IpvsMessage, Service
from gnlpy.netlink import MessageFlags
query = IpvsMessage("get_service", flags=MessageFlags.MATCH_ROOT_REQUEST)
for message in IpvsClient().nlsock.query(query):
    service = Service.from_attr_list(message.get_attr_list().get("service"))
    print(f"{service.vip()}:{service.port()}")
"""
EXTERNAL = ("-ldflags=-linkmode=external",)
STRIPPED = ("-ldflags=-linkmode=external -s -w -buildid=",)
OLD = "deleted"

CLIENTS = [
    Client("ipvsadm", installed("ipvsadm", "-Ln"), quick=True),
    Client("ipvsadm -Lnc", installed("ipvsadm", "-Lnc"), "IPVS connection entries"),
    Client("keepalived", keepalived, "192.0.2.78:78"),
    Client("libnl: genl-ctrl-list", installed("genl-ctrl-list"), "0xf1b5 IPVS", quick=True),
    python("pyroute2 0.8", ["pyroute2<0.9", "setuptools"], PYROUTE2, VIP, quick=True),
    python("pyroute2 0.9", ["pyroute2>=0.9,<0.10", "setuptools"], PYROUTE2, VIP, quick=True),
    python("gnlpy", ["gnlpy", "six", "setuptools"], GNLPY, MARK),
    cargo("Rust tokio: genetlink", "tokio_ipvs", "tokio-ipvs", MARK),
    Client("Go static: mdlayher", go("mdlayher", "list"), "192.0.2.", quick=True),
    Client("Go static: vishvananda", go("vishvananda", "list"), "192.0.2.", quick=True),
    Client("Go cgo: mdlayher", go("mdlayher", "list", flags=EXTERNAL, CGO_ENABLED="1"), "192.0.2.", quick=True),
    Client("Go cgo, stripped", go("vishvananda", "list", flags=STRIPPED, CGO_ENABLED="1"), "192.0.2."),
    Client("Go 386: mdlayher", go("mdlayher", "list", GOARCH="386"), "192.0.2.", quick=True),
    Client("Go 386: vishvananda", go("vishvananda", "list", GOARCH="386"), "192.0.2."),
    Client("node_exporter", node_exporter, VIP),
    Client("collectd", collectd, VIP),
    Client("socket options, glibc", c_program("old_options.c"), OLD, quick=True),
    Client("socket options, 32-bit", c_program("old_options.c", "-m32"), OLD, quick=True),
    Client("socket options, static", c_program("old_options.c", "-static"), OLD),
    Client("socket options, musl", c_program("old_options.c", compiler="musl-gcc"), OLD),
    Client("sh: /proc/net/ip_vs", installed("sh", "-c", "cat /proc/self/net/ip_vs"), HEX_MARK, quick=True),
    Client("sysctl", installed("sysctl", "net.ipv4.vs.conn_reuse_mode"), "conn_reuse_mode = "),
    Client("modprobe, lsmod", installed("sh", "-c", "modprobe ip_vs && lsmod | grep '^ip_vs '"), "ip_vs"),
    *map(probe, subprocess.run(
        [sys.executable, str(PROGRAMS / "netlink_probe.py")], capture_output=True, text=True, check=True
    ).stdout.split()),
]

# Clients that are not run here, why, and by what they are stood for.
NOT_HAD = {
    "netdata": "it starts helpers that outlive it; it reads /proc/net/ip_vs_stats, as `cat` above does with ip_vs",
    "moby/ipvs": "in no registry that is used here; its netlink library is vishvananda's, above",
    "google/seesaw": "in no registry that is used here; Go with the C library and libnl's own tools are above",
}

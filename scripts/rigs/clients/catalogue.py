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
        variables = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(folder / "cache"), **environment}
        if "CGO_ENABLED" not in environment:
            variables["CGO_ENABLED"] = "0"
        build = ["go", "build", *flags, "-o", str(program), str(PROGRAMS / "go_ipvs" / "main.go")]
        outcome = subprocess.run(build, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
        if outcome.returncode:
            raise Missing(outcome.stderr.strip().splitlines()[-1] if outcome.stderr else "go does not build it")
        return [str(program), *arguments]

    return prepare


def python(package: str, script: str) -> Callable[[Path], list[str]]:
    """A script on a package of PyPI, in an environment of its own that is kept."""

    def prepare(_folder: Path) -> list[str]:
        place = REPOSITORY / "target" / "clients" / package.replace("=", "-").replace("<", "-")
        interpreter = place / "bin" / "python"
        if not interpreter.exists():
            venv.create(place, with_pip=True)
        install = [str(interpreter), "-m", "pip", "install", "--quiet", *package.split(",")]
        outcome = subprocess.run(install, capture_output=True, text=True, check=False)
        if outcome.returncode:
            raise Missing(f"PyPI does not give {package}")
        return [str(interpreter), "-c", script]

    return prepare


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


def netdata(folder: Path) -> list[str]:
    """Its chart of IPVS, which it makes of /proc/net/ip_vs_stats where the kernel has it."""
    installed("netdata")(folder)
    config = folder / "netdata.conf"
    places = "".join(f"{place} directory = {folder}\n" for place in ("cache", "lib", "log", "config"))
    config.write_text(
        f"[global]\nrun as user = root\n[directories]\n{places}[db]\nmode = ram\n[web]\nbind to = 127.0.0.1:19999\n"
        "[plugins]\nproc = yes\nenable running new plugins = no\n[ml]\nenabled = no\n"
    )
    start = (
        f"netdata -D -c {config} -P {folder}/pid >/dev/null 2>&1 & p=$!; for i in $(seq 300); do "
        "curl -s '127.0.0.1:19999/api/v1/charts' | grep -o '\"ipvs[.]sockets\"' | head -n 1 | grep . && break; "
        "sleep 0.1; done; kill $p; wait $p"
    )
    return ["sh", "-c", start]


def cargo(package: str, program: str) -> Callable[[Path], list[str]]:
    """A program on packages of crates.io, kept when it is built."""

    def prepare(_folder: Path) -> list[str]:
        target = REPOSITORY / "target" / "clients" / package
        build = ["cargo", "build", "--quiet", "--locked", "--target-dir", str(target)]
        outcome = subprocess.run(build, cwd=PROGRAMS / package, capture_output=True, text=True, check=False)
        if outcome.returncode:
            raise Missing("crates.io does not give its packages")
        return [str(target / "debug" / program)]

    return prepare


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
GNLPY = """
from gnlpy.ipvs import IpvsClient
for pool in IpvsClient().get_pools():
    service = pool.service()
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
    Client("pyroute2 0.8", python("pyroute2<0.9,setuptools", PYROUTE2), VIP, quick=True),
    Client("pyroute2 0.9", python("pyroute2>=0.9,setuptools", PYROUTE2), VIP, quick=True),
    Client("gnlpy", python("gnlpy,six,setuptools", GNLPY)),
    Client("Rust tokio: genetlink", cargo("tokio_ipvs", "tokio-ipvs"), MARK),
    Client("Go static: mdlayher", go("mdlayher", "list"), "192.0.2.", quick=True),
    Client("Go static: vishvananda", go("vishvananda", "list"), "192.0.2.", quick=True),
    Client("Go cgo: mdlayher", go("mdlayher", "list", flags=EXTERNAL, CGO_ENABLED="1"), "192.0.2.", quick=True),
    Client("Go cgo, stripped", go("vishvananda", "list", flags=STRIPPED, CGO_ENABLED="1"), "192.0.2."),
    Client("Go 386: mdlayher", go("mdlayher", "list", GOARCH="386"), "192.0.2.", quick=True),
    Client("Go 386: vishvananda", go("vishvananda", "list", GOARCH="386"), "192.0.2."),
    Client("node_exporter", node_exporter, VIP),
    Client("collectd", collectd, VIP),
    Client("netdata", netdata, "ipvs.sockets"),
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

# What neither the distribution nor PyPI nor crates.io has, and by what it is stood for.
NOT_HAD = {
    "moby/ipvs": "its netlink library is vishvananda's, above",
    "google/seesaw": "it links libnl by cgo; programs of Go with the C library in them are above, and so are libnl's own",
}

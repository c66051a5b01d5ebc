"""lvsd under systemd: its configuration, its start, and the sandbox that nothing but a running systemd shows."""

import re

from rigs.fault import Fault
from rigs.machine import addresses
from rigs.machine.checks import say
from rigs.machine.qemu import DEVICES
from rigs.machine.scene import Scene
from rigs.machine.steps.host import check_host
from rigs.machine.steps.nics import NAMES, pci_address

# chown, net_admin, net_raw, ipc_lock.
CAPABILITIES = "0000000000007001"
EXPOSURE_MAX = 3.0
THREADS = "grep -hE '^(Name|VmSize|Cpus_allowed_list):' /proc/[0-9]*/task/*/status 2>/dev/null"


def configuration(workers: int, idle: str, status: str) -> str:
    """lvsd.toml for so many workers, with the NICs of `lvs-nic status`."""
    cores = ", ".join(map(str, range(1, workers + 1)))
    # All processors of the machine share those of this one, so workers sleep.
    text = f"""[eal]
hugepages = "require"
main_core = 0
worker_cores = [{cores}]

[workers]
idle = "{idle}"
idle_sleep_us = 500

[connections]
ipv4_max = 65536
ipv6_max = 16384
"""
    for device, name in zip(DEVICES, NAMES):
        text += f'\n[[device]]\nname = "{device}"\ndpdk = "{pci_address(status, name)}"\n'
    return text


def configure(scene: Scene, idle: str = "sleep") -> None:
    text = configuration(scene.workers, idle, (scene.folder / "nic-status").read_text())
    (scene.folder / "lvsd.toml").write_text(text)
    scene.director.must("cp", "/run/machine/lvsd.toml", "/etc/lvsd/lvsd.toml")


def systemd_does(scene: Scene, verb: str) -> None:
    """Type=notify, so systemctl returns when the sockets are open."""
    director = scene.director
    if not director.type("systemctl", verb, "lvsd").is_ok:
        journal = director.output("journalctl", "-u", "lvsd", "--no-pager", "-n", 40)
        raise Fault(f"systemctl {verb} lvsd failed:\n{journal}")
    # The NICs' links need a moment to come up; neighbours are asked only then.
    scene.checks.until("lvsd runs and the links are up", 30, director.links_are_up)


def start(scene: Scene) -> None:
    director = scene.director
    scene.checks.title("lvsd under systemd")
    configure(scene)
    if director.isolated_cores():
        check_host(scene, [], "apply", "--no-boot")
    else:
        # Without isolation the disk's interrupt may come anywhere, and cannot be moved.
        director.type("lvs-host", "apply", "--no-boot", "--hugepages", scene.settings.hugepages_mb)
    director.must("lvsd", "--check")
    # Twins that outlast the daemon keep their addresses.
    for twin in DEVICES:
        director.must("ip", "tuntap", "add", "dev", twin, "mode", "tap")
    director.must("systemctl", "enable", "lvsd")
    systemd_does(scene, "start")
    add_addresses(scene)
    director.lvsctl("devices")
    say(director.output("journalctl", "-u", "lvsd", "-o", "cat", "--no-pager"))


def add_addresses(scene: Scene) -> None:
    scene.director.twin_has("wan", *addresses.WAN)
    scene.director.twin_has("lan", *addresses.LAN)


def field(status: str, name: str) -> str:
    """A line of /proc/PID/status."""
    found = re.search(rf"^{name}:\s*(\S+)", status, re.M)
    return found[1] if found else ""


def exposure(said: str) -> float | None:
    """From what systemd-analyze security says."""
    found = re.search(r"Overall exposure.*?: ([0-9.]+)", said)
    return float(found[1]) if found else None


def unit(scene: Scene) -> None:
    checks, director = scene.checks, scene.director
    checks.title("the unit")
    status = director.output("cat", f"/proc/{director.pid()}/status")
    checks.equal("system calls are filtered", "2", field(status, "Seccomp"))
    checks.equal("no new privileges", "1", field(status, "NoNewPrivs"))
    checks.equal("capabilities: chown, net_admin, net_raw, ipc_lock", CAPABILITIES, field(status, "CapEff"))
    checks.check("its file system is read-only", not director.succeeds(
        "nsenter", "-t", director.pid(), "-m", "touch", "/etc/lvsd/new"))
    seen = exposure(director.output("systemd-analyze", "security", "--no-pager", "lvsd"))
    checks.check(f"systemd-analyze security says {seen}, at most {EXPOSURE_MAX}", seen is not None and 0 < seen <= EXPOSURE_MAX)
    check_cores(scene)
    checks.check("a NIC in use is not given back",
                 "in use by lvsd" in director.type("lvs-nic", "unbind", "enp1s0").output)


# DPDK's names of its polling threads, up to 23.07 and since.
POLLING = ("rte-worker", "dpdk-worker")


def cores_of_threads(said: str) -> list[tuple[str, str]]:
    """Of each thread that is not the kernel's: its name, and the cores it may use."""
    threads: list[tuple[str, str]] = []
    name, is_user = "", False
    for line in said.splitlines():
        key, _, value = line.partition(":")
        if key == "Name":
            name, is_user = value.strip(), False
        elif key == "VmSize":
            is_user = True
        elif key == "Cpus_allowed_list" and is_user:
            threads.append((name, value.strip()))
    return threads


def check_cores(scene: Scene) -> None:
    """Each worker polls on a core of its own, where no other program may run if it was isolated at boot."""
    threads = cores_of_threads(scene.director.output("sh", "-c", THREADS))
    of_workers = sorted(cores for name, cores in threads if name.startswith(POLLING))
    scene.checks.equal("each worker polls on a core of its own", [str(core) for core in range(1, scene.workers + 1)],
                       of_workers)
    if scene.director.isolated_cores():
        others = {cores for name, cores in threads if not name.startswith(POLLING)}
        scene.checks.equal("and nobody else may run there", {"0"}, others)

"""The machine as a server comes, what lvs-host makes of it, and what it was before."""

import re
import shutil

from rigs.machine.scene import Scene
from rigs.machine.steps.nics import check_refused
from rigs.processes import Word

FIRST_NIC = "0000:01:00.0"


def install(scene: Scene) -> None:
    """The machine's file tree is this one's with a layer of its own: what the package needs is there."""
    scene.checks.title("the package")
    shutil.copy(scene.settings.package, scene.folder / "lvsd.deb")
    scene.director.must("dpkg", "-i", "/run/machine/lvsd.deb")


def bare(scene: Scene) -> None:
    """No IOMMU in use, no hugepages, all cores for everybody."""
    checks, director = scene.checks, scene.director
    cores = f"1-{scene.settings.queues}"
    checks.title("a server as it comes")
    director.must("lvs-nic", "list")
    refusal = check_refused(scene, "a NIC where no IOMMU is in use", "this machine has no IOMMU in use", "enp1s0")
    checks.check("with what to put on the kernel command line",
                 "put `iommu=pt intel_iommu=on` on the kernel command line" in refusal)
    check_refused(scene, "vfio without IOMMU where this kernel has not got it", "this kernel has no no-IOMMU mode",
                  "--no-iommu", "enp1s0")
    check_refused(scene, "a driver that is not there", "the driver igb_uio is not loaded and cannot be",
                  "--driver", "igb_uio", "enp1s0")
    director.must("ip", "address", "add", "198.51.100.1/24", "dev", "enp1s0")
    director.must("ip", "link", "set", "enp1s0", "up")
    director.must("lvs-nic", "bind", "--driver", "uio_pci_generic", "enp1s0")
    checks.check("asked for by name, uio_pci_generic takes a NIC without an IOMMU",
                 director.succeeds("test", "-e", f"/sys/bus/pci/drivers/uio_pci_generic/{FIRST_NIC}"))
    director.must("lvs-nic", "unbind", "enp1s0")
    checks.check("and gives it back", "198.51.100.1/24" in director.output("ip", "address", "show", "dev", "enp1s0"))
    director.output("ip", "address", "flush", "dev", "enp1s0")
    check_host(scene, ["IOMMU", "hugepages node0", "isolated cores", "tickless cores", "RCU callbacks",
                       "transparent hugepages"], "check", "--cores", cores)
    check_host(scene, ["IOMMU", "isolated cores", "tickless cores", "RCU callbacks"], "apply", "--cores", cores)
    scene.qemu.reboot()
    check_host(scene, [], "check", "--cores", cores)
    check_isolated(scene, "isolated from the boot on", cores)


def check_isolated(scene: Scene, words: str, cores: str) -> None:
    scene.checks.equal(f"cores {cores or 'none'} are {words}", cores, scene.director.isolated_cores())


def wrong(said: str, with_interrupts: bool) -> list[str]:
    """What lvs-host finds wrong. Interrupts of NICs that are still the kernel's are not this machine's to move."""
    found = [re.split("  +", line)[1] for line in said.splitlines() if line.startswith("WRONG")]
    return [name for name in found if with_interrupts or name != "interrupts"]


def check_host(scene: Scene, expected: list[str], command: str, *words: Word) -> None:
    """What 'lvs-host' says to be wrong."""
    said = scene.director.type("lvs-host", command, *words, "--hugepages", scene.settings.hugepages_mb).output
    kernels = re.search(r"^enp[12]s0$", scene.director.output("ls", "-1", "/sys/class/net"), re.M)
    scene.checks.equal(f"lvs-host {command}: wrong is {','.join(expected) or 'nothing'}", ",".join(expected),
                       ",".join(wrong(said, with_interrupts=not kernels)))


def revert(scene: Scene) -> None:
    """lvs-host puts back what it found, for now and for the next boot."""
    checks, director = scene.checks, scene.director
    checks.title("the machine as it was")
    director.must("lvs-host", "revert")
    scene.qemu.reboot()
    check_isolated(scene, "isolated", "")
    checks.equal("no hugepage is kept", "0",
                 director.output("cat", "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"))
    checks.check("and both NICs are the kernel's", all(
        director.succeeds("test", "-e", f"/sys/class/net/{name}") for name in ("enp1s0", "enp2s0")))

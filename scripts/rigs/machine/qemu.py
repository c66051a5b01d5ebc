"""The emulated machine, running: qemu with an IOMMU, a management NIC with ssh, and PCI NICs named wan and lan."""

import shutil
import socket
import time
from pathlib import Path

from rigs.fault import Fault
from rigs.machine.build import GUEST, Build
from rigs.machine.checks import say
from rigs.machine.network import SWITCH, Network, has_ended
from rigs.machine.settings import Settings
from rigs.machine.shell import HOST, MANAGEMENT, Shell, ssh
from rigs.processes import run, succeeds, until_true

DEVICES = {"wan": "outside", "lan": "inside"}
# The options of the machine's firmware: VT-d is on, or nothing.
VTD = "-device intel-iommu,intremap=on,device-iotlb=on,caching-mode=on"
IOMMU_WORDS = "intel_iommu=on iommu=pt"
KERNEL_WORDS = ("console=ttyS0 quiet mitigations=off random.trust_cpu=on tsc=reliable no_timer_check panic=-1 net.ifnames=0 "
                "systemd.unit=multi-user.target systemd.show_status=0 nokaslr")
DISK = "4G"
PROMPT = b"(qemu) "


def nic_device(settings: Settings) -> tuple[str, str]:
    """qemu's device for the run's kind of NIC, and its properties."""
    if settings.nic == "virtio-rss":
        return "virtio-net-pci", (",iommu_platform=on,ats=on,disable-legacy=on,mq=on,rss=on,hash=on,rx_queue_size=1024,"
                                  f"vectors={2 * settings.queues + 2}")
    return settings.nic, ""


def tap_queues(settings: Settings) -> int:
    """virtio has as many queues as its tap; the others make queues of one."""
    return settings.queues if settings.nic == "virtio-rss" else 1


def nic_words(settings: Settings) -> list[str]:
    """One PCI NIC for each device, behind a port of its own."""
    words = []
    device, properties = nic_device(settings)
    # Said, it is refused for a tap of one queue.
    queues = f",queues={tap_queues(settings)}" if tap_queues(settings) > 1 else ""
    for index, name in enumerate(DEVICES, 1):
        words += ["-device", f"pcie-root-port,id=port{index},chassis={index},slot={index}",
                  "-netdev", f"tap,id=net{index},ifname=nic-{name}{queues},script=no,downscript=no,vhost=off",
                  "-device", f"{device},netdev=net{index},mac=02:00:00:00:00:0{index},bus=port{index}{properties}"]
    return words


def command(settings: Settings, build: Build, firmware: str, kernel_words: str) -> list[str]:
    """qemu's command line. Behind a bridge lie two more NICs, in one IOMMU group."""
    folder = settings.folder
    words = [*build.qemu(settings.nic), "-machine", "q35,usb=off", "-cpu", "max,vendor=GenuineIntel",
             "-smp", str(settings.queues + 1), "-m", str(settings.memory_mb), "-nodefaults", "-no-user-config",
             "-display", "none", "-no-reboot", "-kernel", str(build.vmlinuz), "-initrd", str(build.initrd),
             "-serial", f"file:{folder}/console"]
    # The IOMMU comes before the NICs.
    words += [*firmware.split(), *nic_words(settings), "-device", "virtio-rng-pci",
              "-monitor", f"unix:{folder}/monitor,server=on,wait=off"]
    words += ["-drive", f"file={folder}/disk,format=raw,if=none,id=disk,cache=unsafe",
              "-device", "virtio-blk-pci,drive=disk,num-queues=1"]
    for tag, options in (("host", "path=/,security_model=none,readonly=on,multidevs=remap"),
                         ("run", f"path={folder},security_model=none")):
        words += ["-fsdev", f"local,id={tag},{options}", "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    words += ["-netdev", "tap,id=management,ifname=management,script=no,downscript=no,vhost=off",
              "-device", "virtio-net-pci,netdev=management,mac=02:00:00:00:00:fe,romfile=",
              "-device", "pcie-pci-bridge,id=bridge,addr=0x1e"]
    for number in (1, 2):
        words += ["-device", f"virtio-net-pci,bus=bridge,addr={number},mac=02:00:00:00:00:1{number},romfile="]
    return [*words, "-append", f"{KERNEL_WORDS} {kernel_words}"]


class Qemu:
    """The one machine of a run, which may have been started by a run before."""

    def __init__(self, settings: Settings, network: Network):
        self.settings, self.network = settings, network
        self.folder = settings.folder
        self.build = Build(settings.cache)
        self.switch = network.host(SWITCH)
        self.shell: Shell | None = None

    @property
    def command_line(self) -> Path:
        """Words on the kernel's command line, which the machine's update-grub writes."""
        return self.folder / "command-line"

    def plug(self) -> None:
        """The host's ends of the machine's NICs, in the namespace where qemu runs."""
        queues = ["multi_queue"] if tap_queues(self.settings) > 1 else []
        for device, lan in DEVICES.items():
            self.switch.ip("tuntap", "add", f"nic-{device}", "mode", "tap", *queues, "vnet_hdr")
            self.switch.ip("link", "set", f"nic-{device}", "master", lan, "up")
        self.switch.ip("tuntap", "add", "management", "mode", "tap", "vnet_hdr")
        self.switch.ip("address", "add", f"{HOST}/30", "dev", "management")
        self.switch.ip("link", "set", "management", "up")

    def boot(self, with_iommu: bool) -> None:
        """A new machine, with an empty disk."""
        self.build.make()
        self.folder.mkdir()
        for name in ("key", "host_key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name)
        # What its init runs in its file tree before systemd starts.
        shutil.copy(GUEST / "prepare", self.folder / "prepare")
        (self.folder / "management").write_text(f"{MANAGEMENT}\n")
        self.command_line.write_text(f"{IOMMU_WORDS if with_iommu else ''}\n")
        run("truncate", "-s", DISK, self.folder / "disk")
        run("mkfs.ext4", "-q", "-O", "^metadata_csum,^has_journal", self.folder / "disk")
        self.plug()
        self.start(VTD if with_iommu else "")

    def start(self, firmware: str) -> None:
        begun = time.monotonic()
        words = self.command_line.read_text().strip()
        process = self.network.start(SWITCH, "machine", *command(self.settings, self.build, firmware, words))

        def answers() -> bool:
            if process.poll() is not None:
                raise Fault(f"qemu has ended:\n{self.network.log(SWITCH, 'machine').read_text()}")
            return succeeds(*ssh(self.switch, self.folder, "true"))

        if not until_true(self.settings.boot_seconds, answers):
            raise Fault(f"the emulated machine does not answer; {self.end_of_console()}")
        self.log_in()
        say(f"booted in {time.monotonic() - begun:.0f} s; {self.shell.run('uname', '-r').output}, "
            f"{self.shell.run('nproc', '--all').output} processors: {words}")

    def log_in(self) -> None:
        self.shell = Shell(self.switch, self.folder)

    def end_of_console(self) -> str:
        """The last lines that the machine has said."""
        lines = (self.folder / "console").read_text(errors="replace").splitlines()[-30:]
        return "the end of its console:\n" + "\n".join(lines)

    def reboot(self) -> None:
        """As its operator would, with VT-d and the command line that the boot loader has by then."""
        pid = self.network.pid_of(SWITCH, "machine")
        say("director$ reboot")
        self.shell.type("systemctl reboot\n")
        if not until_true(120, lambda: has_ended(pid)):
            raise Fault(f"the emulated machine does not shut down; {self.end_of_console()}")
        self.shell.close()
        self.start(VTD)

    def monitor(self, words: str) -> None:
        """A command to qemu, whose hand is on the machine's cables."""
        say(f"qemu$ {words}")
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(30)
            monitor.connect(str(self.folder / "monitor"))
            self.read_prompt(monitor)
            monitor.sendall(f"{words}\n".encode())
            self.read_prompt(monitor)

    @staticmethod
    def read_prompt(monitor: socket.socket) -> None:
        seen = b""
        while not seen.endswith(PROMPT):
            chunk = monitor.recv(4096)
            if not chunk:
                raise Fault("qemu's monitor has hung up")
            seen += chunk

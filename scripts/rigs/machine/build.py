"""The emulated machine's kernel and first file system: Debian's generic kernel, busybox, the modules that NICs need.

Made from Debian packages at the first run, in target/machine; nothing is installed here.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from rigs.fault import Fault
from rigs.processes import Word, run, succeeds

GUEST = Path(__file__).parent / "guest"
MODULES = ("vfio", "vfio_pci", "vfio_iommu_type1", "uio", "uio_pci_generic", "virtio_net", "virtio_pci", "virtio_rng",
           "virtio_blk", "e1000e", "igb", "vmxnet3", "crc32c_generic", "ext4", "9p", "9pnet_virtio", "overlay", "tun", "veth",
           "bridge", "autofs4")
FOLDERS = ("bin", "sbin", "proc", "sys", "dev", "lower", "upper", "root")
BACKPORTS = "deb http://deb.debian.org/debian bookworm-backports main\n"
# Packages that a director on Debian has and that a machine which builds one may lack.
GUEST_PACKAGES = ("driverctl", "ifupdown")


def load(folder: Path, packages: list[str], options: list[Word]) -> None:
    """Debian packages, as files. What apt knows of a mirror may be too old: then once more with what it says now."""
    apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", *options]
    download = subprocess.run([*map(str, apt), "download", *packages], cwd=folder, stderr=subprocess.DEVNULL, check=False)
    if download.returncode:
        try:
            run(*apt, "update")
            run(*apt, "download", *packages, folder=folder)
        except Fault as fault:
            raise Fault(f"no Debian mirror gives {' '.join(packages)}: {fault}") from None


def unpack(folder: Path, packages: list[str], options: list[Word]) -> None:
    """What Debian packages hold, below a folder."""
    begun = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(begun, ignore_errors=True)
    with tempfile.TemporaryDirectory() as loaded:
        load(Path(loaded), packages, options)
        for file in Path(loaded).glob("*.deb"):
            run("dpkg", "-x", file, begun)
    begun.rename(folder)


def kernel_package() -> str:
    """The newest kernel that apt knows; empty if it knows none."""
    found = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=False).stdout
    return newest_kernel(found)


def newest_kernel(depends: str) -> str:
    """From what apt-cache says linux-image-amd64 depends on."""
    found = re.search(r"Depends: (linux-image-[0-9]\S*)", depends)
    return found[1] if found else ""


class Build:
    """Files of a machine, each made once."""

    def __init__(self, cache: Path):
        self.cache = cache
        self.vmlinuz = cache / "vmlinuz"
        self.initrd = cache / "initrd"

    def qemu(self, nic: str) -> list[str]:
        """A qemu that has this kind of NIC. Debian 12's own has no igb: then that of its backports."""
        if not shutil.which("qemu-system-x86_64"):
            raise Fault("qemu is missing: scripts/dev setup installs it")
        if nic != "igb":
            return ["qemu-system-x86_64", "-accel", "tcg,thread=multi"]
        folder, apt = self.cache / "qemu", self.cache / "apt"
        if not folder.exists():
            for path in ("lists/partial", "cache/archives/partial"):
                (apt / path).mkdir(parents=True, exist_ok=True)
            (apt / "sources.list").write_text(BACKPORTS)
            settings = {"Dir::State::Lists": apt / "lists", "Dir::Cache": apt / "cache",
                        "Dir::Etc::sourcelist": apt / "sources.list", "Dir::Etc::sourceparts": "/dev/null"}
            unpack(folder, [f"qemu-system-{part}/bookworm-backports" for part in ("x86", "common", "data")],
                   [word for name, value in settings.items() for word in ("-o", f"{name}={value}")])
        # With several threads it sometimes loses a processor's timer at boot. With one thread it does not.
        return [str(folder / "usr/bin/qemu-system-x86_64"), "-L", str(folder / "usr/share/qemu"),
                "-L", "/usr/share/seabios", "-accel", "tcg,thread=single"]

    def load_guest_packages(self, to: Path) -> None:
        folder = self.cache / "packages"
        if not folder.exists():
            begun = folder.with_name("packages.new")
            shutil.rmtree(begun, ignore_errors=True)
            begun.mkdir(parents=True)
            load(begun, list(GUEST_PACKAGES), [])
            begun.rename(folder)
        for file in folder.glob("*.deb"):
            shutil.copy(file, to)

    def make(self) -> None:
        """vmlinuz and initrd, made anew for another kernel version, another init or another version of this file."""
        self.cache.mkdir(parents=True, exist_ok=True)
        package = kernel_package()
        if not package:
            run("apt-get", "update", "-qq")
            package = kernel_package()
        if not package:
            raise Fault("no Debian mirror has linux-image-amd64")
        kernel = self.cache / package
        if not kernel.exists():
            unpack(kernel, [package], [])
        shutil.copy(next((kernel / "boot").glob("vmlinuz-*")), self.vmlinuz)
        if not is_newer(self.initrd, kernel, GUEST / "init", Path(__file__)):
            self.make_initrd(kernel)

    def make_initrd(self, kernel: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder)
            version = next((kernel / "lib/modules").iterdir()).name
            for name in FOLDERS:
                (tree / name).mkdir()
            copy_modules(kernel, tree, version)
            shutil.copy("/usr/bin/busybox", tree / "bin/busybox")
            shutil.copy(GUEST / "init", tree / "init")
            (tree / "init").chmod(0o755)
            begun = self.initrd.with_name("initrd.new")
            run("sh", "-c", 'cd "$0" && find . | cpio -o -H newc --quiet | gzip -1 >"$1"', tree, begun.resolve())
            begun.rename(self.initrd)


def is_newer(made: Path, *sources: Path) -> bool:
    return made.exists() and all(made.stat().st_mtime >= source.stat().st_mtime for source in sources)


def copy_modules(kernel: Path, tree: Path, version: str) -> None:
    """The wanted modules and all they depend on."""
    source, target = kernel / "lib/modules" / version, tree / "lib/modules" / version
    target.mkdir(parents=True)
    for name in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
        shutil.copy(source / name, target)
    run("depmod", "-b", kernel, version)
    files = set()
    for name in MODULES:
        command = ["modprobe", "-d", str(kernel), "-S", version, "--show-depends", name]
        # A kernel may have one of them built in.
        if succeeds(*command):
            files |= {line.split()[1] for line in run(*command).splitlines() if line.startswith("insmod ")}
    for file in sorted(files):
        to = target / Path(file).resolve().relative_to(source.resolve())
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, to)
    run("depmod", "-b", tree, version)

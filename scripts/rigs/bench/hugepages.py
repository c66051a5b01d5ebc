"""Hugepages of 2 MB for as long as a bench runs."""

from pathlib import Path

from rigs.fault import Fault
from rigs.processes import run, succeeds

PAGE_MB = 2
# Above what lvsd and DPDK are told to take.
SPARE_PAGES = 64


class Hugepages:
    """Reserves what is missing; `__exit__` gives it back."""

    def __init__(self, root: Path = Path("/")):
        self.meminfo = root / "proc/meminfo"
        self.setting = root / "proc/sys/vm/nr_hugepages"
        self.mount_point = root / "dev/hugepages"
        self.before: int | None = None

    def __enter__(self) -> "Hugepages":
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            self.setting.write_text(f"{self.before}\n")

    def count(self, which: str) -> int:
        """HugePages_Free or HugePages_Total."""
        for line in self.meminfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == which:
                return int(value)
        raise Fault("this kernel has no hugepages: /proc/meminfo does not name them")

    def reserve(self, megabytes: int) -> None:
        """Makes sure that so much is free, and that programs can have it."""
        pages = megabytes // PAGE_MB + SPARE_PAGES
        free, total = self.count("HugePages_Free"), self.count("HugePages_Total")
        if free < pages:
            if self.before is None:
                self.before = total
            self.setting.write_text(f"{total - free + pages}\n")
            free = self.count("HugePages_Free")
        if free < pages:
            raise Fault(f"{pages} hugepages of {PAGE_MB} MB are needed and {free} are free: "
                        "end what uses memory, or take fewer flows")
        if not succeeds("mountpoint", "-q", self.mount_point):
            self.mount_point.mkdir(parents=True, exist_ok=True)
            run("mount", "-t", "hugetlbfs", "nodev", self.mount_point)

"""The connection table against hashbrown and DPDK's rte_hash, 1 k to 16 M entries, on large pages; with --details then
alone with all that it does.
"""

import argparse
import json

from rigs.bench.hugepages import Hugepages
from rigs.bench.options import add_json, count
from rigs.bench.rig import need_root
from rigs.processes import run, show

MEMORY_MB = 2_500
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("entries", nargs="*", type=count, metavar="ENTRIES", help="sizes of the table")
    parser.add_argument("--details", action="store_true", help="all that the table does, without its rivals")
    add_json(parser)


def measure(options: argparse.Namespace) -> None:
    need_root()
    contest = ["cargo", "bench", "--quiet", "-p", "lvsd", "--bench", "contest", "--"]
    with Hugepages() as hugepages:
        hugepages.reserve(MEMORY_MB)
        if options.json:
            lines = run(*contest, "--json", *options.entries, environment=LARGE_PAGES).splitlines()
            options.json.write_text(json.dumps([json.loads(line) for line in lines if line], indent=2) + "\n")
        else:
            show(*contest, *options.entries, environment=LARGE_PAGES)
        if options.details:
            show("cargo", "bench", "--quiet", "-p", "lvs-core", "--bench", "table", environment=LARGE_PAGES)

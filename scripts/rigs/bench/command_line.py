"""`scripts/dev bench NAME [OPTIONS]`: which benches there are, and what each understands."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from rigs.bench import capture, compare, cps, instructions, latency, path, schedulers, stages, table, workers


@dataclass(frozen=True)
class Bench:
    """What stands behind a name. `measure` may return an exit status."""

    module: ModuleType
    summary: str
    add_options: Callable[[argparse.ArgumentParser], None] | None = None


BENCHES = {
    "path": Bench(path, "the real lvsd, one worker: ns a packet of established connections, beside dpdk-testpmd"),
    "scale": Bench(path, "the same with 4,000,000 connections: 12 GB of hugepages", path.add_scale_options),
    "cps": Bench(cps, "new connections a second of busy time; the longest pass of the loop meanwhile"),
    "latency": Bench(latency, "p50, p99 and p99.9 of a frame's way there and back at 10, 50 and 90 %% of the load"),
    "capture": Bench(capture, "what lvsctl capture costs a packet: off, on, everything"),
    "stages": Bench(stages, "cycles a packet spends in each stage, from a measuring build"),
    "instructions": Bench(instructions, "instructions a packet costs, by callgrind: no noise"),
    "workers": Bench(workers, "two workers beside one, each with a queue and connections of its own"),
    "table": Bench(table, "the connection table against hashbrown and DPDK's rte_hash"),
    "schedulers": Bench(schedulers, "a new connection in every scheduler, with 10, 100 and 1,000 real servers"),
    "compare": Bench(compare, "a revision and the working tree in turns"),
}


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/dev bench", description="Each prints a table and, with --json FILE, the same figures for machines.",
        epilog="scripts/dev bench NAME --help shows a bench's options. LVSD_BENCH_BIN: a folder with other binaries to "
        "measure; default target/release.")
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, bench in BENCHES.items():
        own = names.add_parser(name, help=bench.summary, description=bench.module.__doc__,
                               formatter_class=argparse.RawDescriptionHelpFormatter)
        (bench.add_options or bench.module.add_options)(own)
    return parser


def main(words: list[str]) -> int:
    options = command_line().parse_args(words)
    return BENCHES[options.name].module.measure(options) or 0

"""Cycles a packet spends in each stage of the worker's loop, from a build that reads the time-stamp counter at the end of
each stage of each burst (feature `stages`); the counter itself costs that build some 2 cycles a packet.
"""

import argparse
import re
import shutil
import time
from pathlib import Path

from rigs.bench import programs
from rigs.bench.figures import Figures
from rigs.bench.options import add_flows, add_json, add_mode
from rigs.bench.rig import Rig
from rigs.fault import Fault
from rigs.processes import Word, show

MEASURED_SECONDS = 3
# What a worker of that build says when it ends.
LINE = re.compile(r"cycles of ([0-9]+) packets by stage: \[(.*?)\] \[(.*?)\]")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_flows(parser, "1000 100000 1000000")
    add_mode(parser)
    add_json(parser)


def cycles_by_stage(log: str) -> dict[str, float]:
    """Cycles that a packet spent in each stage, from lvsd's log."""
    found = LINE.search(log)
    if not found or not int(found[1]):
        raise Fault(f"lvsd does not say how many cycles its stages took:\n{log}")
    names, sums = ([word.strip().strip('"') for word in text.split(",")] for text in (found[2], found[3]))
    return {name: int(total) / int(found[1]) for name, total in zip(names, sums, strict=True)}


def build_measuring(rig: Rig, folder: Path) -> None:
    """Puts a measuring lvsd, and the other programs, into a folder."""
    ours = programs.folder()
    build: list[Word] = [*rig.on_all_cpus(), "cargo", "build", "--release", "--quiet", "-p", "lvsd"]
    try:
        if not programs.are_given():
            show(*build, "--features", "stages")
        for name in ("lvsd", "lvsctl", "feed"):
            shutil.copy(ours / name, folder / name)
    finally:
        # The dependencies are those of the release build, which is put back at once: both stay compiled side by side.
        if not programs.are_given():
            show(*build)


def measure(options: argparse.Namespace) -> None:
    figures = Figures(options.json)
    with Rig() as rig:
        build_measuring(rig, rig.folder)
        rig.binaries = rig.folder
        for flows in options.flows:
            rig.establish(rig.established(options.mode, flows))
            time.sleep(MEASURED_SECONDS)
            rig.stop()
            print(f"{options.mode} tcp in, {flows} connections, cycles a packet:")
            for stage, cycles in cycles_by_stage(rig.log()).items():
                print(f"  {stage:<14} {cycles:>7.1f}")
                figures.add(scenario=f"{options.mode} tcp in", flows=flows, stage=stage, median=round(cycles, 1),
                            unit="cycles/packet")
    figures.write()

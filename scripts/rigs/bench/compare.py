"""Two revisions side by side: REV and the working tree take turns, A B A B, so that what the machine does meanwhile
disturbs both alike. The last line of each is the ratio of rounds that belong together.
"""

import argparse
import shutil
from pathlib import Path

from rigs import REPOSITORY
from rigs.bench import threads
from rigs.bench.figures import Figures
from rigs.bench.options import add_flows, add_json, add_mode, count
from rigs.bench.rig import Rig
from rigs.bench.statistics import paired_ratios, summary
from rigs.processes import run, show

BUILDS = Path("target/bench-compare")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("revision", metavar="REV", help="any name that git knows it by")
    add_flows(parser, "1000 100000")
    add_mode(parser)
    parser.add_argument("--rounds", type=count, default=2, metavar="N", help="turns of each (default 2)")
    add_json(parser)


def build_revision(rig: Rig, commit: str) -> Path:
    """The folder with that revision's lvsd and lvsctl, built once."""
    folder = (BUILDS / commit).resolve()
    if not (folder / "lvsd").exists():
        build = (BUILDS / "build").resolve()
        tree = rig.folder / "tree"
        run("git", "worktree", "add", "--quiet", "--detach", tree, commit)
        try:
            show(*rig.on_all_cpus(), "cargo", "build", "--release", "--quiet", "-p", "lvsd", "-p", "lvs-cli",
                 "--target-dir", build, folder=tree)
        finally:
            run("git", "worktree", "remove", "--force", tree, folder=REPOSITORY)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("lvsctl", "lvsd"):
            shutil.copy(build / "release" / name, folder / name)
    return folder


def measure(options: argparse.Namespace) -> None:
    commit = run("git", "rev-parse", "--short", f"{options.revision}^{{commit}}").strip()
    figures = Figures(options.json)
    with Rig() as rig:
        contestants = {commit: build_revision(rig, commit), "now": rig.binaries}
        for flows in options.flows:
            medians: dict[str, list[float]] = {name: [] for name in contestants}
            for _ in range(options.rounds):
                for name, rig.binaries in contestants.items():
                    rig.establish(rig.established(options.mode, flows))
                    of = threads.windows(rig.worker_thread(), rig.sent)
                    rig.stop()
                    figures.report(f"{name} {options.mode} tcp in", flows, of, "ns/packet")
                    medians[name].append(of.median)
            ratios = paired_ratios(medians[commit], medians["now"])
            figures.report(f"now / {commit}", flows, summary(ratios), "times", digits=3)
    figures.write()

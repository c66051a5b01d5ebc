"""How long a frame is on its way through one worker: over net_memif, there and back, at 10, 50 and 90 % of the load that
the director reaches; beside it the worker's own histogram (from the poll that took a frame to the end of its
transmission), and with testpmd in the director's place what DPDK itself needs at the same loads.

The generator and lvsd's management core share one core, the worker has the other. A generator that cannot keep its pace
(fewer received than the load, none lost) was off its core: the machine was busy, and the tails say so.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from rigs.bench.figures import Figures, table
from rigs.bench.load import Load
from rigs.bench.options import add_json, add_modes, count
from rigs.bench.programs import bench_executable
from rigs.bench.rig import Rig
from rigs.bench.testpmd import Testpmd
from rigs.fault import Fault
from rigs.processes import run, wait_for

PERCENTS = (10, 50, 90)
HEAD = ["scenario", "load", "received", "lost", "p50 us", "p99 us", "p99.9 us", "worker p50 / p99 / p99.9 us"]
MBUFS = 16_383


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flows", type=count, default=1_000, metavar="N", help="connections (default 1000)")
    add_modes(parser, "fullnat")
    parser.add_argument("--idle", choices=("spin", "sleep", "adaptive"), default="spin",
                        help="what the worker does with nothing to do (default spin)")
    parser.add_argument("--no-testpmd", action="store_true", help="without the bound")
    add_json(parser)


def us(nanoseconds: int) -> str:
    return f"{nanoseconds / 1_000:.1f}"


def cells(scenario: str, load: str, result: dict[str, Any], worker: dict[str, int] | None) -> list[str]:
    """A row of the table: medians, with the least and the most of the generator's windows in brackets."""
    row = [scenario, load, f"{round(result['received_pps'][0] / 1_000)} k/s", str(result["lost"][0])]
    for name in ("p50_ns", "p99_ns", "p999_ns"):
        median, least, most = map(us, result[name])
        row.append(f"{median} ({least} – {most})")
    if worker:
        row.append(" / ".join(us(worker[name]) for name in ("p50_ns", "p99_ns", "p999_ns")))
    return row


class Latency:
    """The generator at one end of a memif, whose other end a director or testpmd has."""

    def __init__(self, rig: Rig, options: argparse.Namespace):
        self.rig, self.options = rig, options
        self.figures = Figures(options.json)
        self.table = [HEAD]
        given = os.environ.get("LVSD_BENCH_GENERATOR")
        self.generator = Path(given) if given else bench_executable("lvsd", "latency", *rig.on_all_cpus())
        self.socket = rig.folder / "memif"
        self.device = f"net_memif0,role=server,id=0,socket-abstract=no,socket={self.socket},rsize=10,mac=02:70:63:61:70:00"

    def generate(self, pace: str) -> dict[str, Any]:
        """What the generator saw at that pace, in front of whatever else runs on its core."""
        return json.loads(run("nice", "-n", "-19", self.generator, self.socket, pace, self.options.flows))

    def row(self, scenario: str, load: str, result: dict[str, Any], worker: dict[str, int] | None) -> None:
        row = cells(scenario, load, result, worker)
        self.table.append(row)
        # The table comes at the end, aligned.
        print("  ".join(row), file=sys.stderr)
        self.figures.add(scenario=scenario, load=load, worker=worker, **result)

    def director(self, mode: str, load: str, pace: str) -> int:
        """A row of lvsd's; how many frames a second came back."""
        self.socket.unlink(missing_ok=True)
        self.rig.begin(Load(mode, "udp", 4, self.options.flows, [self.device], idle=self.options.idle))
        wait_for("lvsd has its memif and answers", 60, self.is_ready, pause=0.1)
        first(self.rig.worker_thread())
        result = self.generate(pace)
        self.row(f"{mode} udp", load, result, self.rig.workers()[0].latency)
        self.rig.stop()
        return result["received_pps"][0]

    def is_ready(self) -> bool:
        self.rig.check_alive()
        try:
            return self.socket.is_socket() and bool(self.rig.workers())
        except (Fault, ValueError):
            return False

    def testpmd(self, load: str, pace: str) -> None:
        """A row of testpmd's."""
        self.socket.unlink(missing_ok=True)
        with Testpmd(self.rig, self.device, ["--no-huge", "-m", "512"], MBUFS) as testpmd:
            first(testpmd.forward())
            self.row("testpmd macswap", load, self.generate(pace), None)


def first(thread: Path) -> None:
    """Before all others on its core: whatever else runs on the machine would show in the last hundredth."""
    os.setpriority(os.PRIO_PROCESS, int(thread.name), -19)


def measure(options: argparse.Namespace) -> None:
    with Rig() as rig:
        latency = Latency(rig, options)
        for mode in options.modes:
            most = latency.director(mode, "flood", "max")
            for percent in PERCENTS:
                load, pace = f"{percent} %", str(most * percent // 100)
                latency.director(mode, load, pace)
                if not options.no_testpmd:
                    latency.testpmd(load, pace)
    print(table(latency.table))
    latency.figures.write()

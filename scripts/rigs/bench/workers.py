"""One worker, the other one, both: packets in a microsecond of their time on a CPU. Each has a queue with connections of
its own, as many with one worker as with two. Beside them what two cores do of arithmetic that touches no memory, by turns
with the workers in the same process: less than twice as much means that this machine's cores are not free for it.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from rigs.bench.figures import Figures
from rigs.bench.hugepages import Hugepages
from rigs.bench.load import MB, MBUF_BYTES
from rigs.bench.options import add_flows, add_json, add_modes
from rigs.bench.programs import bench_executable
from rigs.bench.rig import need_root
from rigs.bench.statistics import Summary
from rigs.fault import Fault
from rigs.processes import run

# Row, the program's field, unit. The program gives median, least and most.
ROWS = (
    ("{mode} one worker", "alone", "packets/us"),
    ("{mode} two workers", "both", "packets/us"),
    ("{mode} two for one", "times", "times"),
    ("machine two for one", "machine", "times"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add_flows(parser, "1000 100000 1000000")
    add_modes(parser, "fullnat")
    add_json(parser)


def check_own_connections(result: dict[str, Any]) -> None:
    """Workers that gave each other packets were not measured alone."""
    if result["handed_over"]:
        raise Fault(f"workers handed {result['handed_over']} packets to each other; the figures mean nothing: {result}")


def measure(options: argparse.Namespace) -> None:
    need_root()
    if (os.cpu_count() or 1) < 2:
        raise Fault("two workers need two cores")
    given = os.environ.get("LVSD_BENCH_WORKERS")
    program = Path(given) if given else bench_executable("lvsd", "workers")
    figures = Figures(options.json)
    with Hugepages() as hugepages:
        for mode in options.modes:
            for flows in options.flows:
                hugepages.reserve((2 * flows + 65_536) * MBUF_BYTES // MB + 512)
                result = json.loads(run(program, flows, mode))
                check_own_connections(result)
                for scenario, name, unit in ROWS:
                    figures.report(scenario.format(mode=mode), flows, Summary(*result[name]), unit, digits=2)
    figures.write()

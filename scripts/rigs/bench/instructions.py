"""Instructions a packet costs in the path, counted by callgrind: the same on a busy machine as on a quiet one.

With --hold it fails when a scenario needs more than it is allowed here: what made it dearer must be worth it.
"""

import argparse
import re
import shutil
import subprocess
from pathlib import Path

from rigs.bench.figures import Figures
from rigs.bench.options import add_json
from rigs.bench.programs import bench_executable
from rigs.fault import Fault

# Scenario, and the most instructions it may take: a little more than it took when it was last looked at.
BOUNDS = {
    "fullnat tcp in v4": 410,
    "fullnat tcp out v4": 414,
    "fullnat udp in v4": 398,
    "nat tcp in v4": 410,
    "nat tcp out v4": 414,
    "directrouting tcp in v4": 375,
    "tunnel tcp in v4": 551,
    "fullnat tcp in v6": 444,
    "fullnat tcp in v4 64-workers": 410,
    "fullnat tcp out v4 64-workers": 414,
    "directrouting tcp in v4 64-workers": 375,
    "new fullnat tcp in v4": 2275,
    "new nat tcp in v4": 1975,
    "new directrouting tcp in v4": 1725,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hold", action="store_true", help="fail when a scenario needs more than its bound")
    add_json(parser)


def per_packet(output: str) -> int:
    """From what the program says of its packets, and callgrind of its instructions."""
    packets = re.findall(r"^([0-9]+) packets$", output, re.M)
    collected = re.findall(r"Collected.*?([0-9]+)\s*$", output, re.M)
    if not packets or not collected or not int(packets[-1]):
        raise Fault(f"callgrind counted nothing:\n{output}")
    return round(int(collected[-1]) / int(packets[-1]))


def counted(program: Path, scenario: str) -> int:
    """Instructions that a packet of this scenario takes."""
    done = subprocess.run(["valgrind", "--tool=callgrind", "--toggle-collect=*measured*",
                           "--callgrind-out-file=/dev/null", str(program), "count", *scenario.split()],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise Fault(f"'{scenario}' failed:\n{done.stdout}")
    return per_packet(done.stdout)


def verdict(instructions: int, bound: int) -> str:
    return f"  MORE THAN {bound}" if instructions > bound else ""


def measure(options: argparse.Namespace) -> int:
    if not shutil.which("valgrind"):
        raise Fault("needs valgrind: scripts/dev setup")
    program = bench_executable("lvs-core", "path")
    figures = Figures(options.json)
    too_many = False
    for scenario, bound in BOUNDS.items():
        instructions = counted(program, scenario)
        too_many |= instructions > bound
        print(f"{scenario:<35} {instructions:>6} instructions a packet{verdict(instructions, bound)}", flush=True)
        figures.add(scenario=scenario, median=instructions, bound=bound, unit="instructions/packet")
    figures.write()
    return 1 if options.hold and too_many else 0

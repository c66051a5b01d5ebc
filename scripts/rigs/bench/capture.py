"""What `lvsctl capture` costs a packet: off, on with nothing that matches, on with everything, and off again."""

import argparse
import subprocess

from rigs.bench.figures import Figures
from rigs.bench.options import add_json, count
from rigs.bench.rig import Rig
from rigs.fault import Fault
from rigs.processes import end, wait_for

# Far more than a round captures.
LIMITS = ["--seconds", "600", "-c", "10000000", "--bytes", "4294967296"]
CAPTURES = {
    "nothing matches": ["--addr", "192.0.2.254"],
    "drops only": ["--drop"],
    "every frame, in": ["-Q", "in"],
    "every frame, in and out": [],
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flows", type=count, default=1_000, metavar="N", help="connections (default 1000)")
    add_json(parser)


def measure(options: argparse.Namespace) -> None:
    figures = Figures(options.json)
    with Rig() as rig:
        rig.establish(rig.established("fullnat", options.flows))
        rig.report_packets(figures, "off", options.flows)
        for scenario, words in CAPTURES.items():
            print(f"    {measure_captured(rig, figures, scenario, options.flows, words)}")
        rig.report_packets(figures, "off again", options.flows)
    figures.write()


def measure_captured(rig: Rig, figures: Figures, scenario: str, flows: int, words: list[str]) -> str:
    """One row while lvsctl captures; what lvsctl says of it at the end."""
    file = rig.folder / "out.pcapng"
    capture = subprocess.Popen(rig.lvsctl("capture", *LIMITS, "-w", str(file), *words), stderr=subprocess.PIPE, text=True)
    try:
        # The head of the file is there when the tap is.
        wait_for("lvsctl captures", 30, lambda: file.exists() and file.stat().st_size > 0)
        rig.report_packets(figures, scenario, flows)
    finally:
        status = end(capture)
    said = capture.stderr.read().strip()
    if status:
        raise Fault(f"lvsctl capture failed ({status}): {said}")
    file.unlink()
    return said

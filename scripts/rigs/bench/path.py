"""What one worker of the real lvsd needs for a packet of established connections, the feed included.

`path` goes up to a million connections and shows other modes, protocols and directions besides, beside dpdk-testpmd on
the same file in the same run; `scale` takes four million, and 12 GB of hugepages. Replies of FULLNAT are not among them:
their local ports are not known before (`cargo bench -p lvs-core --bench path`).
"""

import argparse

from rigs.bench import programs
from rigs.bench.feeds import Feeds
from rigs.bench.figures import Figures
from rigs.bench.options import add_flows, add_json, add_modes
from rigs.bench.rig import Rig
from rigs.bench.testpmd import bench_bound

# Scenario, and what makes it another load than data of a client over TCP.
MIXES = {
    "nat tcp out": {"mode": "nat", "servers": 1, "endless": "reply"},
    "nat tcp in+out": {"mode": "nat", "servers": 1, "endless": "both", "frames_per_flow": 2},
    "fullnat udp in": {"mode": "fullnat", "protocol": "udp", "first": "udp", "endless": "udp"},
    "dr udp in": {"mode": "dr", "protocol": "udp", "first": "udp", "endless": "udp"},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    add_flows(parser, "1000 100000 1000000")
    parser.add_argument("--no-mixes", action="store_true", help="only data of clients over TCP")
    add_options_of_both(parser)


def add_scale_options(parser: argparse.ArgumentParser) -> None:
    add_flows(parser, "4000000")
    add_options_of_both(parser)
    parser.set_defaults(no_mixes=True)


def add_options_of_both(parser: argparse.ArgumentParser) -> None:
    add_modes(parser, "fullnat nat dr tunnel")
    parser.add_argument("--no-testpmd", action="store_true", help="without the bound")
    parser.add_argument("--base", type=int, default=0, metavar="FLOW", help="first flow: others than these")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="their packets in another order")
    add_json(parser)


def measure(options: argparse.Namespace) -> None:
    figures = Figures(options.json)
    with Rig(Feeds(programs.folder() / "feed", options.base, options.seed)) as rig:
        for flows in options.flows:
            if not options.no_testpmd:
                bench_bound(rig, figures, flows)
            loads = {f"{mode} tcp in": {"mode": mode} for mode in options.modes}
            for scenario, words in (loads if options.no_mixes else loads | MIXES).items():
                rig.establish(rig.established(flows=flows, **words))
                rig.report_packets(figures, scenario, flows)
                rig.stop()
    figures.write()

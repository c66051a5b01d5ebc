"""New connections a second of one worker's busy time, the feed included.

  create          N distinct first packets from a file that is read as it is played
  create+expire   the same while others, which heard nothing for a second, expire

Beside the longest pass of the loop stands the longest gap that a program meets which only reads the clock and as much
memory, on the worker's CPU, in the worker's place, for as long: that much of it is the machine's. `cargo bench -p lvs-core
--bench path -- passes FLOWS` shows what a pass takes without the machine's part.
"""

import argparse
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from rigs.bench import threads
from rigs.bench.figures import Figures
from rigs.bench.load import Load, replayed
from rigs.bench.options import add_json, add_modes, count
from rigs.bench.rig import Rig, WORKER_CPU
from rigs.bench.statistics import per_second, summary
from rigs.counters import Worker
from rigs.processes import end, until_true

CREATE_ROUNDS = 5
EXPIRE_ROUNDS = 3
SAMPLES_MAX = 400
# More than live at the same time: each lives for a second.
PASSING_FACTOR, PASSING_MAX = 8, 8_000_000


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flows", type=count, default=1_000_000, metavar="N", help="connections (default 1000000)")
    add_modes(parser, "fullnat nat dr")
    add_json(parser)


@dataclass
class Rounds:
    """What the rounds of one row showed."""

    rates: list[int] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)

    def report(self, figures: Figures, mode: str, scenario: str, flows: int) -> None:
        figures.report(f"{mode} {scenario}", flows, summary(self.rates), "conns/s")
        figures.report(f"{mode} longest pass", flows, summary(self.passes), "us")
        figures.report(f"{mode} machine's gap", flows, summary(self.gaps), "us")


@dataclass
class Round:
    """One lvsd with new connections."""

    load: Load
    thread: Path
    begun: float

    @classmethod
    def begin(cls, rig: Rig, mode: str, protocol: str, kind: str, flows: int, udp_sec: int = 300) -> "Round":
        file = rig.folder / "feed.pcap"
        # The worker reads it as it is played and must not wait for a disk; no buffers are needed for it.
        shutil.copyfile(rig.feeds.file(kind, flows, 0), file)
        load = Load(mode, protocol, 4, flows, mbufs_per_flow=0, udp_sec=udp_sec,
                    drivers=[replayed(0, file), replayed(1, rig.feeds.file("ack", 1_000, 1))])
        rig.begin(load)
        return cls(load, rig.undisturbed(), time.monotonic())

    def end(self, rig: Rig, rounds: Rounds, workers: list[Worker]) -> None:
        rounds.passes.append(max(worker.longest_pass_us for worker in workers))
        rounds.gaps.append(longest_gap(rig, self))
        rig.stop()


def longest_gap(rig: Rig, of: Round) -> int:
    """Microseconds between two readings of the clock in the worker's place, as long as the round took so far, while lvsctl
    asks as before."""
    ms = int((time.monotonic() - of.begun) * 1_000) + 1
    reader = subprocess.Popen(
        ["taskset", "-c", str(WORKER_CPU), "chrt", "--fifo", "2", str(rig.binaries / "clock-gaps"), str(ms),
         "--memory-mb", str(of.load.memory_mb)], stdout=subprocess.PIPE, text=True)
    try:
        while reader.poll() is None:
            rig.connections()
        return int(reader.stdout.read())
    finally:
        if reader.poll() is None:
            end(reader)


def busy_rate(workers: list[Worker], on_cpu_ns: int) -> int:
    """Connections in a second of the time on a CPU that was not spent polling in vain."""
    return sum(per_second(worker.scheduler_picks, int(on_cpu_ns * worker.busy_share)) for worker in workers)


@dataclass(frozen=True)
class Sample:
    """What was created and what expired so far, with the worker's time on a CPU."""

    created: int
    expired: int
    on_cpu_ns: int


def rate_while_expiring(samples: list[Sample], flows: int) -> int:
    """From the first sample in which a connection has expired almost to the end of the file."""
    counted = [sample for sample in samples if sample.expired and sample.created < flows * 95 // 100]
    if len(counted) < 2:
        return 0
    first, last = counted[0], counted[-1]
    return per_second(last.created - first.created, last.on_cpu_ns - first.on_cpu_ns)


def create(rig: Rig, mode: str, flows: int) -> Rounds:
    rounds = Rounds()
    for _ in range(CREATE_ROUNDS):
        one = Round.begin(rig, mode, "tcp", "syn", flows)
        rig.await_connections(flows)
        workers, on_cpu_ns = rig.workers(), threads.on_cpu_ns(one.thread)
        rounds.rates.append(busy_rate(workers, on_cpu_ns))
        one.end(rig, rounds, workers)
    return rounds


def create_and_expire(rig: Rig, mode: str, flows: int) -> Rounds:
    rounds = Rounds()
    for _ in range(EXPIRE_ROUNDS):
        one = Round.begin(rig, mode, "udp", "udp", flows, udp_sec=1)
        rig.await_connections(1_000)
        samples: list[Sample] = []
        while len(samples) < SAMPLES_MAX and not (samples and samples[-1].created >= flows * 95 // 100):
            worker, on_cpu_ns = rig.workers()[0], threads.on_cpu_ns(one.thread)
            samples.append(Sample(worker.scheduler_picks, worker.expired, on_cpu_ns))
        # The rest expires while nothing comes.
        until_true(10, lambda: rig.connections() == 0, pause=0.1)
        one.end(rig, rounds, rig.workers())
        rounds.rates.append(rate_while_expiring(samples, flows))
    return rounds


def measure(options: argparse.Namespace) -> None:
    figures = Figures(options.json)
    passing = min(options.flows * PASSING_FACTOR, PASSING_MAX)
    with Rig() as rig:
        for mode in options.modes:
            create(rig, mode, options.flows).report(figures, mode, "tcp create", options.flows)
        for mode in options.modes:
            create_and_expire(rig, mode, passing).report(figures, mode, "udp create+expire", passing)
    figures.write()

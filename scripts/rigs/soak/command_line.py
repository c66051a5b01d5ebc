"""`scripts/dev soak MODE MINUTES`: new connections at full speed through a director whose rules change meanwhile.

It plays the lab of the mode and leaves its network standing. Every other slice of ten seconds the requests come from one
client address, else in turns from 200. In every slice services, weights and servers change and listings are asked for.

One line tells of each slice: requests a second and the longest, requests that failed; SYNs that a server refused in
TIME_WAIT or challenged; SYNs that clients sent again and resets that they sent; FULLNAT connections whose local port had
not rested; the daemon's memory and descriptors, its connections and the packet buffers in use. It fails if a request
failed, if more than one connection in 10,000 met TIME_WAIT, or if memory or descriptors grew.
"""

import argparse
import os
import time
from dataclasses import dataclass

from rigs.bench.options import count
from rigs.fault import Fault
from rigs.soak.changes import Changes
from rigs.soak.ground import CLIENT_COUNTERS, REFUSALS, Ground, counted, standing
from rigs.soak.load import Requests, ask

MODES = ("nat", "fullnat", "dr", "tun")
SLICE_SECONDS = 10
REFUSED_MAX = 1 / 10_000
# After so many slices everything that is taken once is there.
WARM_SLICES = 2
# How much more memory and how many more descriptors a longer listing or another connection to the API may need.
MEMORY_MORE_MB = 32
DESCRIPTORS_MORE = 16


@dataclass
class Slice:
    """What ten seconds carried and cost."""

    requests: Requests
    seconds: float
    changes: int
    refused: int
    syns_again: int
    resets: int
    unrested: int
    memory_mb: int
    descriptors: int
    connections: int
    buffers: int

    HEAD = (f"{'clients':>7} {'req/s':>7} {'longest':>8} {'failed':>6} {'refused':>7} {'SYN again':>9} {'resets':>6} "
            f"{'unrested':>8} {'changes':>7} {'MB':>6} {'fds':>4} {'conns':>8} {'buffers':>7}")

    def line(self, clients: str) -> str:
        rate = self.requests.complete / self.seconds
        failed = self.requests.failed + len(self.requests.broken)
        return (f"{clients:>7} {rate:>7.0f} {self.requests.longest_ms:>6}ms {failed:>6} {self.refused:>7} "
                f"{self.syns_again:>9} {self.resets:>6} {self.unrested:>8} {self.changes:>7} {self.memory_mb:>6} "
                f"{self.descriptors:>4} {self.connections:>8} {self.buffers:>7}")


def totals(ground: Ground) -> dict[str, int]:
    """Counters since the lab's start."""
    workers = ground.listed("workers")
    client = counted(ground.client, CLIENT_COUNTERS)
    return {
        "refused": sum(sum(counted(server, REFUSALS).values()) for server in ground.servers),
        "syns_again": client["TcpExtTCPSynRetrans"],
        "resets": client["TcpOutRsts"],
        "unrested": sum(worker["local_ports_unrested"] for worker in workers),
    }


def slice_of(ground: Ground, is_from_many: bool) -> Slice:
    before, begun = totals(ground), time.monotonic()
    with Changes(ground) as changes:
        requests = ask(ground, SLICE_SECONDS, is_from_many)
    if changes.fault is not None:
        raise changes.fault
    seconds = time.monotonic() - begun
    grown = {name: value - before[name] for name, value in totals(ground).items()}
    connections = sum(worker["conns4"] + worker["conns6"] for worker in ground.listed("workers"))
    ground.forget_requests()
    return Slice(requests, seconds, changes.count, **grown, memory_mb=ground.memory_mb(),
                 descriptors=ground.descriptors(), connections=connections,
                 buffers=ground.listed("buffers")["in_use"])


def complaints(slices: list[Slice]) -> list[str]:
    """What must not be so after all slices."""
    said = [f"a slice had broken runs: {', '.join(one.requests.broken)}" for one in slices if one.requests.broken]
    failed = sum(one.requests.failed for one in slices)
    if failed:
        said.append(f"{failed} requests failed")
    refused, complete = sum(one.refused for one in slices), sum(one.requests.complete for one in slices)
    if refused > complete * REFUSED_MAX:
        said.append(f"{refused} of {complete} connections met TIME_WAIT")
    if len(slices) > WARM_SLICES:
        warm, last = slices[WARM_SLICES - 1], slices[-1]
        for what, more, was, now in (("MB of memory", MEMORY_MORE_MB, warm.memory_mb, last.memory_mb),
                                     ("descriptors", DESCRIPTORS_MORE, warm.descriptors, last.descriptors)):
            if now > was + more:
                said.append(f"{what} grew from {was} to {now}")
    return said


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/dev soak", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES, metavar="MODE", help=" ".join(MODES))
    parser.add_argument("minutes", type=count, metavar="MINUTES", help="how long")
    options = parser.parse_args(words)
    if os.geteuid() != 0:
        raise Fault("needs root for network namespaces")
    slices: list[Slice] = []
    with standing(options.mode) as ground:
        print(Slice.HEAD, flush=True)
        for number in range(options.minutes * 60 // SLICE_SECONDS):
            is_from_many = number % 2 == 1
            slices.append(slice_of(ground, is_from_many))
            print(slices[-1].line("200" if is_from_many else "1"), flush=True)
    said = complaints(slices)
    for complaint in said:
        print(f"soak: {complaint}")
    rates = sorted(one.requests.complete / one.seconds for one in slices)
    longest = max(one.requests.longest_ms for one in slices)
    print(f"{options.mode}, {options.minutes} minutes: {rates[0]:.0f} to {rates[-1]:.0f} requests a second, the longest "
          f"{longest} ms")
    return 1 if said else 0

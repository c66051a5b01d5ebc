"""DPDK's own testpmd on the same frames in the same run: what a director cannot be faster than."""

import re
import subprocess
from pathlib import Path

from rigs.bench import threads
from rigs.bench.figures import Figures
from rigs.bench.load import MB, MBUF_BYTES, MBUFS
from rigs.bench.rig import Rig
from rigs.fault import Fault
from rigs.processes import end, wait_for

THREAD = "(rte|dpdk)-worker"
# What testpmd prints at its prompt when it forwards, and its count of sent packets.
FORWARDS = re.compile("packet forwarding - ")
SENT = re.compile(r"TX-packets: *([0-9]+)")


class Testpmd:
    """testpmd at its prompt; `__exit__` quits it."""

    def __init__(self, rig: Rig, device: str, eal: list[str], mbufs: int):
        self.words = [*rig.on_all_cpus(), "stdbuf", "-oL", "dpdk-testpmd", "--lcores", "0,1", "--no-pci", *eal,
                      "--file-prefix", "lvsd-bench-bound", "--vdev", device, "--", "-i", "--forward-mode=macswap",
                      "--port-topology=loop", f"--total-num-mbufs={mbufs}", "--burst=32"]

    def __enter__(self) -> "Testpmd":
        try:
            self.process = subprocess.Popen(self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.STDOUT, text=True)
        except FileNotFoundError:
            raise Fault("dpdk-testpmd is missing: scripts/dev setup installs it; --no-testpmd does without") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            try:
                # Its further output must not fill the pipe, because nobody reads it.
                self.process.communicate("quit\n", timeout=30)
            except (subprocess.TimeoutExpired, BrokenPipeError):
                end(self.process)

    def type(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def read_until(self, pattern: re.Pattern) -> re.Match:
        """The first further line that holds the pattern."""
        seen = []
        for line in self.process.stdout:
            if found := pattern.search(line):
                return found
            seen.append(line)
        raise Fault(f"dpdk-testpmd has ended:\n{''.join(seen[-20:])}")

    def forward(self) -> Path:
        """Starts forwarding; the thread that does."""
        self.type("start")
        self.read_until(FORWARDS)
        wait_for("dpdk-testpmd has a worker", 30, lambda: self.worker_thread() is not None, pause=0)
        return self.worker_thread()

    def worker_thread(self) -> Path | None:
        return threads.busiest(self.process.pid, THREAD)

    def sent(self) -> int:
        self.type("show port stats all")
        return int(self.read_until(SENT)[1])


def bench_bound(rig: Rig, figures: Figures, flows: int) -> None:
    """What DPDK itself needs for the same frames, twice: with MACs exchanged, and with addresses and ports as well."""
    mbufs = flows + MBUFS
    rig.hugepages.reserve(mbufs * MBUF_BYTES // MB + 256)
    device = f"net_pcap0,rx_pcap={rig.feeds.file('ack', flows, 0)},infinite_rx=1"
    with Testpmd(rig, device, [], mbufs) as testpmd:
        for mode in ("macswap", "5tswap"):
            testpmd.type(f"set fwd {mode}")
            thread = testpmd.forward()
            figures.report(f"testpmd {mode}", flows, threads.windows(thread, testpmd.sent), "ns/packet")
            testpmd.type("stop")

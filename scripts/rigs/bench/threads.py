"""A program's threads and the time that each was on a CPU, from /proc."""

import re
import time
from collections.abc import Callable
from pathlib import Path

from rigs.bench.statistics import Summary, per_packet, summary

PROC = Path("/proc")
WINDOWS = 5
WINDOW_SECONDS = 0.4


def on_cpu_ns(thread: Path) -> int:
    """How long a thread was on a CPU so far."""
    return int((thread / "schedstat").read_text().split()[0])


def busiest(pid: int, pattern: str, proc: Path = PROC) -> Path | None:
    """Of a process's threads whose name matches the one that was on a CPU for longest."""
    best, best_ns = None, -1
    for thread in sorted((proc / str(pid) / "task").glob("*")):
        try:
            name, time_ns = (thread / "comm").read_text().strip(), on_cpu_ns(thread)
        except OSError:
            # It has ended meanwhile.
            continue
        if re.search(pattern, name) and time_ns >= best_ns:
            best, best_ns = thread, time_ns
    return best


def windows(thread: Path, packets: Callable[[], int]) -> Summary:
    """Nanoseconds on a CPU for each packet, in five windows of time."""
    figures = []
    for _ in range(WINDOWS):
        packets_before, ns_before = packets(), on_cpu_ns(thread)
        time.sleep(WINDOW_SECONDS)
        packets_after, ns_after = packets(), on_cpu_ns(thread)
        figures.append(per_packet(ns_after - ns_before, packets_after - packets_before))
    return summary(figures)

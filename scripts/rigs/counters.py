"""What `lvsctl --json` says of lvsd's workers and devices, as far as rigs read it.

A field is looked up when it is asked for, so that a bench can compare with a revision that has not got the others.
"""

from dataclasses import dataclass
from typing import Any

from rigs.fault import Fault


@dataclass(frozen=True)
class Listed:
    """One row of a listing."""

    row: dict[str, Any]

    def field(self, name: str) -> Any:
        if name not in self.row:
            raise Fault(f"lvsctl lists no '{name}' here: are lvsd and lvsctl of the revision that these scripts are of?")
        return self.row[name]


class Worker(Listed):
    """Counters of one worker since its start: a row of `lvsctl --json workers`."""

    @property
    def rx_packets(self) -> int:
        return self.field("rx_packets")

    @property
    def tx_packets(self) -> int:
        return self.field("tx_packets")

    @property
    def connections4(self) -> int:
        return self.field("conns4")

    @property
    def scheduler_picks(self) -> int:
        """New connections for which a scheduler was asked."""
        return self.field("scheduler_picks")

    @property
    def expired(self) -> int:
        return self.field("conns_expired")

    @property
    def handoff_out_packets(self) -> int:
        return self.field("handoff_out_packets")

    @property
    def longest_pass_us(self) -> int:
        return self.field("longest_pass_us")

    @property
    def interrupts(self) -> int:
        return self.field("interrupts")

    @property
    def latency(self) -> dict[str, int]:
        """The worker's own histogram: p50_ns, p99_ns, p999_ns."""
        return self.field("latency")

    @property
    def busy_share(self) -> float:
        """Which part of its time the worker had something to do."""
        busy, idle = self.field("busy_cycles"), self.field("idle_cycles")
        return busy / (busy + idle) if busy + idle else 0.0


class Device(Listed):
    """State of one network device: a row of `lvsctl --json devices`."""

    @property
    def name(self) -> str:
        return self.field("name")

    @property
    def is_up(self) -> bool:
        return self.field("link_up")

    @property
    def rss(self) -> str:
        """What lvsd found out of how the device spreads flows over its queues."""
        return self.field("rss")

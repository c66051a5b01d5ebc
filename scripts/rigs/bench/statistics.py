"""What a bench makes of its samples: medians with the least and the most, and ratios of rounds that belong together."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Samples of one figure."""

    median: float
    least: float
    most: float


def summary(samples: Sequence[float]) -> Summary:
    """Of an even number of samples the lower one of the two in the middle is the median: a value that was measured."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return Summary(ordered[(len(ordered) - 1) // 2], ordered[0], ordered[-1])


def paired_ratios(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """`after / before`, round by round: what slowed the machine down in a round slowed down both of its halves."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} rounds are no pairs")
    return [second / first for first, second in zip(before, after) if first]


def per_packet(nanoseconds: int, packets: int) -> float:
    """Time of one packet; 0 when none came."""
    return nanoseconds / packets if packets else 0.0


def per_second(count: int, nanoseconds: int) -> int:
    """How many fit into a second; 0 when no time passed."""
    return int(count * 1_000_000_000 / nanoseconds) if nanoseconds > 0 else 0

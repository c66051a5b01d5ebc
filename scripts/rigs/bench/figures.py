"""The figures of a bench: lines for its reader as they come, and a file of JSON for machines at the end."""

import json
from pathlib import Path
from typing import Any

from rigs.bench.statistics import Summary


def shown(value: float, digits: int) -> str:
    """Whole numbers as they are, others with so many digits behind the point."""
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


class Figures:
    """Rows so far. `json_file` gets them when the bench ends, if it is named."""

    def __init__(self, json_file: Path | None = None):
        self.json_file = json_file
        self.rows: list[dict[str, Any]] = []

    def report(self, scenario: str, flows: int, of: Summary, unit: str, digits: int = 1) -> None:
        """A line: the median, and the least and the most in brackets."""
        median, least, most = (shown(value, digits) for value in (of.median, of.least, of.most))
        print(f"{scenario:<24} {flows:>9}   {median:>8} {unit}   ({least} – {most})", flush=True)
        self.add(scenario=scenario, flows=flows, median=json.loads(median), min=json.loads(least),
                 max=json.loads(most), unit=unit)

    def add(self, **row: Any) -> None:
        """A row that the bench prints in its own way."""
        self.rows.append(row)

    def write(self) -> None:
        if self.json_file:
            self.json_file.write_text(json.dumps(self.rows, indent=2) + "\n")


def table(rows: list[list[str]]) -> str:
    """Columns below each other, two spaces apart."""
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(max(map(len, rows)))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)

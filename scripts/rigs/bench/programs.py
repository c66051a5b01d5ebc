"""The programs that benches run: what cargo builds, and where it puts it."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from rigs.fault import Fault
from rigs.processes import Word, run, show

RELEASE = Path("target/release")


def folder() -> Path:
    """Where lvsd, lvsctl and the benches' own programs are: LVSD_BENCH_BIN, or what cargo builds for a release."""
    return Path(os.environ.get("LVSD_BENCH_BIN", RELEASE))


def are_given() -> bool:
    """Whether somebody else has built them."""
    return "LVSD_BENCH_BIN" in os.environ


def build() -> None:
    if not are_given():
        show("cargo", "build", "--release", "--quiet", "-p", "lvsd", "-p", "lvs-cli", "-p", "lvs-lab-programs")


def bench_executable(package: str, bench: str, *before: Word) -> Path:
    """A benchmark as an executable, built if it must be; `before` goes in front of the command."""
    lines = run(*before, "cargo", "bench", "--quiet", "-p", package, "--bench", bench, "--no-run",
                "--message-format=json").splitlines()
    return executable_of(lines, bench)


def executable_of(lines: Iterable[str], bench: str) -> Path:
    """The last executable of that name in what cargo says of its artifacts."""
    messages = (json.loads(line) for line in lines if line.startswith("{"))
    found = [message["executable"] for message in messages
             if message.get("executable") and message["target"]["name"] == bench]
    if not found:
        raise Fault(f"cargo has built no benchmark '{bench}'")
    return Path(found[-1])

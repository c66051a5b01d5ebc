"""`python3 -m rigs bench|clients|machine|soak ...`, from any folder: both work in the folder of the repository."""

import os
import signal
import sys
from types import FrameType

from rigs import REPOSITORY
from rigs.bench import command_line as bench
from rigs.clients import command_line as clients
from rigs.fault import Fault
from rigs.machine import command_line as machine
from rigs.soak import command_line as soak

DOORS = {"bench": bench.main, "clients": clients.main, "machine": machine.main, "soak": soak.main}


def leave(number: int, _frame: FrameType | None) -> None:
    """Ends as a program that the signal ended, after everything that must be put back was put back."""
    sys.exit(128 + number)


def main(words: list[str]) -> int:
    if not words or words[0] not in DOORS:
        print("usage: python3 -m rigs bench|clients|machine|soak ...", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
    os.chdir(REPOSITORY)
    try:
        return DOORS[words[0]](words[1:])
    except Fault as fault:
        print(f"{words[0]}: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

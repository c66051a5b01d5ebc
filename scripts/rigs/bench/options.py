"""Options that several benches share."""

import argparse
from pathlib import Path

MODES = ("fullnat", "nat", "dr", "tunnel")


def counts(text: str) -> list[int]:
    """Numbers of flows with spaces between them: "1000 100000"."""
    try:
        numbers = [int(word) for word in text.split()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers above 0; write for example \"1000 100000\"")
    return numbers


def modes(text: str) -> list[str]:
    """Forwarding modes with spaces between them: "fullnat nat"."""
    names = text.split()
    unknown = [name for name in names if name not in MODES]
    if not names or unknown:
        raise argparse.ArgumentTypeError(f"'{' '.join(unknown)}' is no forwarding mode; there are {', '.join(MODES)}")
    return names


def count(text: str) -> int:
    """One number above 0."""
    numbers = counts(text)
    if len(numbers) != 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no single number")
    return numbers[0]


def add_flows(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--flows", type=counts, default=counts(default), metavar="NUMBERS",
                        help=f'connections, several numbers in quotes (default "{default}")')


def add_modes(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--modes", type=modes, default=modes(default), metavar="MODES",
                        help=f'forwarding modes of {" ".join(MODES)}, several in quotes (default "{default}")')


def add_mode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mode", choices=MODES, default="fullnat", help="forwarding mode (default fullnat)")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="the same figures for machines")

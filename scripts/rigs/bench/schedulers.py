"""A new connection in every scheduler, with 10, 100 and 1,000 real servers."""

import argparse

from rigs.bench.options import add_json
from rigs.processes import Word, show


def add_options(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def measure(options: argparse.Namespace) -> None:
    # cargo runs it in the folder of its crate.
    words: list[Word] = ["--json", options.json.resolve()] if options.json else []
    show("cargo", "bench", "--quiet", "-p", "lvs-core", "--bench", "schedulers", "--", *words)

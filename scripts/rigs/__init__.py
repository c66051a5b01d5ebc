"""The rigs of developers: benches that measure lvsd, and the emulated machine that it is tried on.

Nothing but Python's standard library. `python3 -m rigs bench NAME` and `python3 -m rigs machine` are what
`scripts/dev bench` and `scripts/dev machine` call.
"""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

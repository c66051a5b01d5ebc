"""The rigs of developers: benches that measure lvsd, the emulated machine that it is tried on, and long loads.

Nothing but Python's standard library. `python3 -m rigs bench NAME`, `python3 -m rigs machine` and
`python3 -m rigs soak` are what `scripts/dev` calls by these names.
"""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

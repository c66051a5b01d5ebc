"""Benches: each prints a readable table and, with `--json FILE`, the same figures for machines."""

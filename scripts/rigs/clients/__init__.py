"""Real clients of IPVS against lvsd, in every mode of lvs-run: a table of what came of each."""

"""`scripts/dev clients [--quick] [NAME...]`: every client in every mode, as a table.

A cell says who answered. `lvsd`: it did. `refused`: lvs-run did not start the program and said why. `kernel`: the program
ran and did not find what lvsd has, so it talked to somebody else. `-`: the client is not to be had here.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rigs import REPOSITORY
from rigs.clients.catalogue import CLIENTS, MARK, NOT_HAD, Client, Missing
from rigs.clients.director import Director, programs

MODES = ("auto", "preload", "notify")
EXIT_NOT_LED = 5
SECONDS = 60
TABLE = REPOSITORY / "tests" / "ipvs_clients" / "matrix.md"
IN_NAMESPACE = "LVSD_CLIENTS_IN_NAMESPACE"


def cell(director: Director, mode: str, client: Client, command: list[str]) -> str:
    """What came of one client in one mode."""
    led = director.led(mode, command)
    try:
        outcome = subprocess.run(
            led, capture_output=True, text=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    if client.expected in outcome.stdout:
        return "lvsd"
    if outcome.returncode == EXIT_NOT_LED and "is not started" in outcome.stderr:
        return "refused"
    print(f"{client.name}, {mode}: exit {outcome.returncode}\n{outcome.stdout}{outcome.stderr}", file=sys.stderr)
    return "kernel"


def row(director: Director, client: Client) -> list[str]:
    """All modes of one client."""
    with tempfile.TemporaryDirectory(prefix="lvsd-client-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            command = client.prepare(folder)
        except Missing as missing:
            return [f"- ({missing})"] + ["-"] * (len(MODES) - 1)
        return [cell(director, mode, client, command) for mode in MODES]


def measure(clients: list[Client]) -> dict[str, list[str]]:
    """The table."""
    table = {}
    with Director(programs()) as director:
        director.ipvsadm("-A", "-t", MARK, "-s", "rr")
        director.ipvsadm("-a", "-t", MARK, "-r", "198.51.100.1:80", "-m")
        for client in clients:
            table[client.name] = row(director, client)
            print(f"{client.name:28} " + " ".join(f"{found:10}" for found in table[client.name]), flush=True)
    return table


def markdown(table: dict[str, list[str]]) -> str:
    """The table as it is kept in the tree."""
    lines = [
        "# Clients of IPVS on lvsd",
        "",
        "`scripts/dev clients` measures this table and writes it. `lvsd`: lvsd answered. `refused`: lvs-run did not start the",
        "program and said why. `kernel` must not occur: the program did not find what lvsd has.",
        "",
        "| client | " + " | ".join(MODES) + " |",
        "|---|" + "---|" * len(MODES),
    ]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in table.items()]
    lines += ["", "Not run:", ""]
    lines += [f"* {name}: {reason}." for name, reason in NOT_HAD.items()]
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    """Runs in a network namespace of its own."""
    quick = "--quick" in words
    names = [word for word in words if not word.startswith("-")]
    if set(words) - set(names) - {"--quick"}:
        print("usage: scripts/dev clients [--quick] [NAME...]", file=sys.stderr)
        return 2
    chosen = [
        client for client in CLIENTS
        if (client.quick or not quick) and (not names or any(name in client.name for name in names))
    ]
    if IN_NAMESPACE not in os.environ:
        for client in chosen:
            if client.fetch is not None:
                client.fetch()
        again = [sys.executable, "-B", "-m", "rigs", "clients", *words]
        start = "ip link set lo up && exec \"$@\""
        command = ["unshare", "--net", "sh", "-c", start, "sh", *again]
        return subprocess.run(command, env={**os.environ, IN_NAMESPACE: "1"}, check=False).returncode
    table = measure(chosen)
    if not quick and not names:
        TABLE.write_text(markdown(table))
    wrong = [name for name, cells in table.items() if any(found in ("kernel", "hangs") for found in cells)]
    for name in wrong:
        print(f"clients: {name} was not led to lvsd", file=sys.stderr)
    return 1 if wrong else 0

"""New connections at full speed: `ab` beside `ab`, from one client address or in turns from many."""

import re
import subprocess
import threading
import time
from dataclasses import dataclass, field

from rigs.soak.ground import CLIENTS, Ground

PROCESSES = 3
CONCURRENCY = 20
REQUESTS = 2_000
# Longer than SYNs are sent again.
PATIENCE_SECONDS = 60


@dataclass
class Requests:
    """What the clients of one slice saw."""

    complete: int = 0
    failed: int = 0
    # Runs of `ab` that a connection error ended, by what it said.
    broken: list[str] = field(default_factory=list)
    longest_ms: int = 0

    def add(self, report: str, fault: str) -> None:
        def number(pattern: str) -> int:
            match = re.search(pattern, report, re.MULTILINE)
            return int(match.group(1)) if match else 0

        complete = number(r"^Complete requests: +(\d+)")
        self.complete += complete
        self.failed += number(r"^Failed requests: +(\d+)") + number(r"^Non-2xx responses: +(\d+)")
        self.longest_ms = max(self.longest_ms, number(r"^ +100% +(\d+)"))
        if not complete:
            self.broken.append(fault.strip().splitlines()[-1] if fault.strip() else "ab said nothing")


def ask(ground: Ground, seconds: float, is_from_many: bool) -> Requests:
    """Lets clients ask for so long."""
    requests, lock = Requests(), threading.Lock()
    until = time.monotonic() + seconds

    def one(process: int) -> None:
        turn = process
        while time.monotonic() < until:
            address = ground.client_address(1 + turn % CLIENTS if is_from_many else 0)
            command = ground.client.command("ab", "-q", "-s", PATIENCE_SECONDS, "-n", REQUESTS, "-c", CONCURRENCY, "-B",
                                            address, f"http://{ground.vip}:80/")
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            with lock:
                requests.add(done.stdout, done.stderr)
            turn += PROCESSES

    threads = [threading.Thread(target=one, args=(process,)) for process in range(PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return requests

"""Parallel downloads at a trickle until they are released: however long it takes to type meanwhile, they are under way."""

import hashlib
import subprocess
import threading

from rigs.namespaces import Namespace

TRICKLE_BYTES = 20_000
TRICKLE_SECONDS = 1.0
SECONDS_MAX = 300


class Download:
    """One of them: curl, and a thread that reads what it brings."""

    def __init__(self, client: Namespace, url: str, released: threading.Event):
        self.sha256 = ""
        self.released = released
        self.curl = subprocess.Popen(client.command("curl", "-s", "--max-time", SECONDS_MAX, url),
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        digest = hashlib.sha256()
        while chunk := self.curl.stdout.read(TRICKLE_BYTES):
            digest.update(chunk)
            self.released.wait(TRICKLE_SECONDS)
        self.sha256 = digest.hexdigest()


class Downloads:
    """So many at a time, of one file; `__exit__` ends those that still run."""

    def __init__(self, client: Namespace, url: str, count: int):
        self.released = threading.Event()
        self.all = [Download(client, url, self.released) for _ in range(count)]

    def __enter__(self) -> "Downloads":
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        for download in self.all:
            if download.curl.poll() is None:
                download.curl.kill()
            download.curl.wait()

    def whole(self, sha256: str) -> int:
        """Releases them and waits for their ends: how many have brought the whole file."""
        self.released.set()
        for download in self.all:
            download.reader.join()
        return sum(download.sha256 == sha256 for download in self.all)

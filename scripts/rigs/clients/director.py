"""A lvsd of its own for the clients: in a folder, without NICs and hugepages."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from rigs import REPOSITORY
from rigs.fault import Fault

START_SECONDS = 60
STOP_SECONDS = 20


class Director:
    """Runs until the end of the `with`."""

    def __init__(self, programs: Path):
        self.programs = programs
        self._folder = tempfile.TemporaryDirectory(prefix="lvsd-clients-")
        self.folder = Path(self._folder.name)
        # Programs of other users read what lies here.
        self.folder.chmod(0o755)
        self.socket = self.folder / "ipvs.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Director":
        cores = sorted(os.sched_getaffinity(0))
        config = self.folder / "lvsd.toml"
        config.write_text(
            f'[eal]\nhugepages = "never"\nmain_core = {cores[0]}\nworker_cores = [{cores[1 % len(cores)]}]\n'
            f'[workers]\nidle = "sleep"\n[connections]\nipv4_max = 4096\nipv6_max = 4096\n'
            f'keep = false\nstate_dir = "/dev/shm/{self.folder.name}"\n'
            f'[api]\nsocket = "{self.folder}/api.sock"\n[journal]\npath = "{self.folder}/journal"\n'
        )
        log = open(self.folder / "log", "wb")
        self._process = subprocess.Popen(
            [self.programs / "lvsd", "--config", config], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_SECONDS
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Fault(f"lvsd does not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._folder.cleanup()

    def led(self, mode: str, command: list[str]) -> list[str]:
        """A command behind lvs-run."""
        library = self.programs / "liblvs_ipvs.so"
        return [
            str(self.programs / "lvs-run"), "--library", str(library), "--socket", str(self.socket), "--mode", mode, "--",
            *command,
        ]

    def ipvsadm(self, *arguments: str) -> str:
        """What the distribution's ipvsadm prints."""
        command = self.led("preload", ["ipvsadm", *arguments])
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def programs() -> Path:
    """Builds what the clients need, and where it lies."""
    for words in (["-p", "lvsd", "--bin", "lvsd"], ["-p", "lvs-cli"], ["-p", "lvs-preload"]):
        subprocess.run(["cargo", "build", "--quiet", *words], cwd=REPOSITORY, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "debug"

"""Shells on the emulated machine, over ssh."""

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rigs.fault import Fault
from rigs.namespaces import Namespace
from rigs.processes import Word, words_of

PORT = 22
# The machine's address on its management NIC, and that of the tap at its other end.
MANAGEMENT, HOST = "192.0.2.250", "192.0.2.249"


@dataclass(frozen=True)
class Outcome:
    """What a command printed, on standard output and standard error, and its exit status."""

    status: int
    output: str

    @property
    def is_ok(self) -> bool:
        return self.status == 0


def ssh(switch: Namespace, folder: Path, *words: str) -> list[str]:
    """The command line of a login of its own, which takes its time in an emulation."""
    return switch.command(
        "ssh", "-q", "-F", "/dev/null", "-i", folder / "key", "-o", "StrictHostKeyChecking=no",
        "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=30", "-p", PORT,
        f"root@{MANAGEMENT}", *words)


def line_of(words: tuple[Word, ...]) -> str:
    """What is typed: the command, and then its status behind what no text holds."""
    return f'{shlex.join(words_of(words))} </dev/null 2>&1; printf "\\0%d\\n" $?\n'


class Shell:
    """One shell that stays open."""

    def __init__(self, switch: Namespace, folder: Path):
        with (folder / "shell.log").open("w") as log:
            self.process = subprocess.Popen(ssh(switch, folder, "bash"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=log, start_new_session=True)

    def run(self, *words: Word) -> Outcome:
        self.type(line_of(words))
        text, ending = b"", b""
        while b"\0" not in text or not ending.endswith(b"\n"):
            chunk = self.process.stdout.read1()
            if not chunk:
                raise Fault("the emulated machine has hung up")
            text += chunk
            ending = text.partition(b"\0")[2]
        output = text.partition(b"\0")[0].decode(errors="replace")
        return Outcome(int(ending), output.rstrip("\n"))

    def type(self, line: str) -> None:
        """Without waiting for an answer."""
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Fault("the emulated machine has hung up") from None

    def close(self) -> None:
        """What it is closed for may have closed it already."""
        self.process.kill()
        self.process.wait()

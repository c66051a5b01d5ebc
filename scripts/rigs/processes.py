"""Programs that a rig runs: to their end, or beside it until it ends them; and waiting until something is true."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rigs.fault import Fault

Word = str | Path | int


def words_of(command: tuple[Word, ...]) -> list[str]:
    return [str(word) for word in command]


def completed(command: tuple[Word, ...], environment: Mapping[str, str] | None, **settings: Any) -> subprocess.CompletedProcess:
    """A command that has ended. A Fault if there is no such program."""
    words = words_of(command)
    try:
        return subprocess.run(words, env={**os.environ, **(environment or {})}, text=True, errors="replace", check=False,
                              **settings)
    except FileNotFoundError:
        raise Fault(f"{words[0]} is missing: scripts/dev setup installs what is needed") from None


def run(*command: Word, stdin: str = "", environment: Mapping[str, str] | None = None,
        folder: Path | None = None) -> str:
    """What a command prints. A Fault with what it said on standard error if it fails."""
    done = completed(command, environment, input=stdin, capture_output=True, cwd=folder)
    if done.returncode:
        raise Fault(f"`{' '.join(words_of(command))}` failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


def show(*command: Word, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
    """Runs a command whose output is for the reader. A Fault if it fails."""
    done = completed(command, environment, cwd=folder)
    if done.returncode:
        raise Fault(f"`{' '.join(words_of(command))}` failed ({done.returncode})")


def succeeds(*command: Word) -> bool:
    """Whether a command that nobody wants to hear ends with status 0."""
    return completed(command, None, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL).returncode == 0


def until_true(seconds: float, condition: Callable[[], bool], pause: float = 0.05) -> bool:
    """Asks again and again; False when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def wait_for(what: str, seconds: float, condition: Callable[[], bool], pause: float = 0.05) -> None:
    """The same for something that nothing can go on without."""
    if not until_true(seconds, condition, pause):
        raise Fault(f"{what}: still not so after {seconds:g} seconds")


def end(process: subprocess.Popen, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
    """Ends a program by a signal, waits until it is gone, and returns its status; SIGKILL when it will not go."""
    process.send_signal(number)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()

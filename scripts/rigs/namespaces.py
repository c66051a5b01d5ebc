"""Network namespaces and what is typed in them."""

import subprocess
from dataclasses import dataclass

from rigs.processes import Word, run, succeeds, until_true, words_of


@dataclass
class Namespace:
    """A network namespace by its name."""

    name: str

    def create(self) -> None:
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def delete(self) -> None:
        """If it is there. What still runs in it is the caller's to end."""
        if self.exists():
            run("ip", "netns", "delete", self.name)

    def exists(self) -> bool:
        return self.name in names()

    def command(self, *words: Word) -> list[str]:
        """The command line that runs these words here."""
        return ["ip", "netns", "exec", self.name, *words_of(words)]

    def run(self, *words: Word, stdin: str = "") -> str:
        """What a command prints here. A Fault if it fails."""
        return run(*self.command(*words), stdin=stdin)

    def output(self, *words: Word) -> str:
        """What a command prints here, well or not: for those whose failure says as much as their output."""
        return subprocess.run(self.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, check=False).stdout

    def succeeds(self, *words: Word) -> bool:
        return succeeds(*self.command(*words))

    def ip(self, *words: Word) -> None:
        """`ip`, without a process of its own in the namespace."""
        run("ip", "-n", self.name, *words)

    def pids(self) -> list[int]:
        """Processes that run here."""
        return [int(pid) for pid in run("ip", "netns", "pids", self.name).split()]

    def end_processes(self) -> None:
        """What still runs here: asked to end, then ended."""
        for signal in ("TERM", "KILL"):
            pids = self.pids()
            if not pids:
                return
            succeeds("kill", "-s", signal, *pids)
            if until_true(5, lambda: not self.pids()):
                return


def names() -> list[str]:
    """Of all namespaces."""
    return [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip()]

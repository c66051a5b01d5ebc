"""The pcap files that net_pcap replays: made once, kept in target/."""

from dataclasses import dataclass
from pathlib import Path

from rigs.processes import run

FOLDER = Path("target/bench-feeds")


@dataclass
class Feeds:
    """`base` and `seed` say which flows, and in which order their packets come: no figure may depend on either."""

    program: Path
    base: int = 0
    seed: int = 1
    folder: Path = FOLDER

    def path(self, kind: str, flows: int, device: int) -> Path:
        """Where the file of that kind for the net_pcap device of that number is."""
        return self.folder / f"{kind}_{flows}_{device}_{self.base}-{self.seed}.pcap"

    def file(self, kind: str, flows: int, device: int) -> Path:
        """The file, written if it is not there yet."""
        path = self.path(kind, flows, device)
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            begun = path.with_suffix(".pcap.new")
            run(self.program, begun, kind, flows, "--device", device, "--base", self.base, "--seed", self.seed)
            begun.rename(path)
        return path

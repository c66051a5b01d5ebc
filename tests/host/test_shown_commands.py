"""Every lvs-nic and lvs-host that the documents show is one that the scripts understand."""

import contextlib
import io
import re
import unittest

from machine_tree import SCRIPTS, script

ROOT = SCRIPTS.parent


def documents():
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "src/ARCHITECTURE.md"]


def shown(text):
    """Lines of blocks that begin with one of the scripts, and what stands between backquotes of them."""
    return re.findall(r"^ *(lvs-(?:nic|host) [^#\n]*)", text, re.M) + re.findall(r"`(lvs-(?:nic|host) [^`]*)`", text)


class ShownCommands(unittest.TestCase):
    def test_every_command_is_understood(self):
        lines = [(page, line) for page in documents() for line in shown(page.read_text())]
        self.assertGreater(len(lines), 15)
        for page, line in lines:
            name, *words = [word for word in line.split() if word != "…"]
            # What a command wants at least stands for the dots.
            if words[-1] in ("--persist", "bind", "unbind"):
                words.append("eth1")
            if words[-1] == "--hugepages":
                words.append("1024")
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    script(name.removeprefix("lvs-")).command_line().parse_args(words)
            except SystemExit:
                self.fail(f"{page.relative_to(ROOT)}: {line}: {said.getvalue()}")


if __name__ == "__main__":
    unittest.main()

"""Every lvs-nic and lvs-host that README.md types is one that the scripts understand."""

import contextlib
import io
import re
import unittest

from machine_tree import SCRIPTS, script


class Readme(unittest.TestCase):
    def test_every_command_of_the_readme_is_understood(self):
        text = (SCRIPTS.parent / "README.md").read_text()
        lines = re.findall(r"^ *(lvs-(?:nic|host) [^#\n]*)", text, re.M) + re.findall(r"`(lvs-(?:nic|host) [^`]*)`", text)
        self.assertGreater(len(lines), 10)
        for line in lines:
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
                self.fail(f"{line}: {said.getvalue()}")


if __name__ == "__main__":
    unittest.main()

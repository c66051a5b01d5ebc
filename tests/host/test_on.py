"""What scripts/on refuses before it makes or enters a root."""

import os
import subprocess
import unittest
from pathlib import Path

ON = Path(__file__).resolve().parents[2] / "scripts/on"
RELEASES = ("bookworm", "noble", "trixie", "forky")


def run(*words):
    return subprocess.run([ON, *words], capture_output=True, text=True)


class On(unittest.TestCase):
    def test_help_names_every_release(self):
        helped = run("--help")
        self.assertEqual((helped.returncode, helped.stderr), (0, ""))
        for release in RELEASES:
            self.assertIn(release, helped.stdout)

    def test_a_wrong_command_line_is_answered_with_the_usage(self):
        for words in ((), ("buster", "true"), ("../..", "true"), *((release,) for release in RELEASES)):
            refused = run(*words)
            self.assertEqual((refused.returncode, refused.stdout), (2, ""), words)
            self.assertIn("usage: scripts/dev on RELEASE COMMAND", refused.stderr)

    @unittest.skipIf(os.geteuid(), "only root can become nobody")
    def test_others_than_root_are_refused(self):
        refused = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", "bash", "-s", "--", "trixie", "true"],
                                 input=ON.read_text(), capture_output=True, text=True)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("only root can enter another root", refused.stderr)


if __name__ == "__main__":
    unittest.main()

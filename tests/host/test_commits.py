"""scripts/commits on repositories made here: what the rules of CONTRIBUTING.md refuse, and what they let pass."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

COMMITS = Path(__file__).resolve().parents[2] / "scripts/commits"
GOOD = "Count retries\n\nWithout them a lost answer is not seen.\n"


class Commits(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.git("init", "--quiet", "--initial-branch", "main")
        self.commit("Begin\n\nThere was nothing.\n")

    def git(self, *words):
        who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "a"), ("EMAIL", "a@b"))}
        environment = {**os.environ, **who, "GIT_CONFIG_GLOBAL": "/dev/null"}
        return subprocess.run(["git", *words], cwd=self.folder, env=environment, check=True, capture_output=True, text=True)

    def commit(self, message):
        self.git("commit", "--quiet", "--allow-empty", "--cleanup=verbatim", "--message", message)

    def check(self, *words):
        return subprocess.run([COMMITS, *words], cwd=self.folder, capture_output=True, text=True)

    def refused(self, message, because):
        self.commit(message)
        checked = self.check("HEAD~1..HEAD")
        self.assertEqual(checked.returncode, 1, message)
        self.assertIn(because, checked.stderr)

    def test_good_messages_pass(self):
        for message in (GOOD, "path: " + GOOD, "Pass bursts whole\n\nIt is faster.\n", "Address the twin\n\nIt had none.\n"):
            self.commit(message)
        checked = self.check("HEAD~4..HEAD")
        self.assertEqual((checked.returncode, checked.stderr), (0, ""))
        self.assertIn("4 commits", checked.stdout)

    def test_titles(self):
        body = "\n\nA reason.\n"
        self.refused("Count " + "x" * 70 + body, "say it in 72")
        self.refused("Count retries." + body, "full stop")
        for verb in ("Added", "Adding", "Adds"):
            self.refused(f"{verb} retries{body}", "not imperative")
            self.refused(f"path: {verb} retries{body}", "not imperative")
        self.refused("fixup! Count retries" + body, "autosquash")

    def test_bodies(self):
        self.refused("Count retries\n", "no body")
        self.refused("Count retries\nat once\n\nA reason.\n", "second line")
        self.refused("Count retries\n\n" + "long " * 20 + "\n", "break it at 80")
        self.commit("Count retries\n\nSee\nhttps://" + "x" * 90 + "\n    " + "printed " * 12 + "\n")
        self.assertEqual(self.check("HEAD~1..HEAD").returncode, 0)

    def test_a_branch_is_what_main_has_not(self):
        self.commit("bad.\n")
        self.git("switch", "--quiet", "--create", "topic")
        self.commit(GOOD)
        self.assertEqual(self.check().stdout, "1 commits in main..HEAD, 0 faults\n")

    def test_a_range_that_is_none_says_so(self):
        checked = self.check("nowhere..HEAD")
        self.assertEqual(checked.returncode, 2)
        self.assertIn("is no range that git knows", checked.stderr)


if __name__ == "__main__":
    unittest.main()

"""Programs that rigs run, and waiting for what they do."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from rigs.fault import Fault
from rigs.processes import end, run, succeeds, until_true, wait_for


class Processes(unittest.TestCase):
    def test_what_a_command_prints(self):
        self.assertEqual(run("cat", stdin="a\n"), "a\n")
        self.assertEqual(run("sh", "-c", "echo $RIG", environment={"RIG": "here"}), "here\n")
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(Path(run("pwd", "-P", folder=Path(folder)).strip()), Path(folder).resolve())

    def test_a_failure_tells_the_command_its_status_and_what_it_said(self):
        with self.assertRaisesRegex(Fault, r"`sh -c echo no >&2; exit 3` failed \(3\): no"):
            run("sh", "-c", "echo no >&2; exit 3")
        self.assertFalse(succeeds("false"))
        self.assertTrue(succeeds("true"))

    def test_a_program_that_is_not_there_is_named_with_a_cure(self):
        with self.assertRaisesRegex(Fault, "no-such-program is missing: scripts/dev setup"):
            run("no-such-program")

    def test_waiting_ends_when_it_is_so_or_the_time_is_over(self):
        answers = iter([False, False, True])
        self.assertTrue(until_true(60, lambda: next(answers), pause=0))
        self.assertFalse(until_true(0, lambda: False))
        with self.assertRaisesRegex(Fault, "the moon is full: still not so after 0 seconds"):
            wait_for("the moon is full", 0, lambda: False)

    def test_a_program_that_does_not_go_is_killed(self):
        stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
        process = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
        process.stdout.readline()
        self.assertEqual(end(process, seconds=0.1), -9)
        process.stdout.close()


if __name__ == "__main__":
    unittest.main()

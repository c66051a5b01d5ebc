"""What `scripts/dev bench` and `scripts/dev machine` understand, and what they say to the rest."""

import contextlib
import io
import re
import unittest

from rigs import REPOSITORY
from rigs.bench import command_line as bench
from rigs.fault import Fault
from rigs.machine import settings
from rigs.machine.settings import STEPS, parse, select_steps
from rigs.machine.steps import STEPS as PLAYED


def refusal(words):
    """What a bench's command line says to words that it does not take."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            bench.command_line().parse_args(words)
        except SystemExit:
            return said.getvalue()
    return ""


class Benches(unittest.TestCase):
    def options(self, *words):
        return bench.command_line().parse_args(words)

    def test_lists_come_in_quotes(self):
        options = self.options("path", "--flows", "1000 20", "--modes", "nat dr", "--no-testpmd")
        self.assertEqual((options.flows, options.modes, options.no_testpmd), ([1_000, 20], ["nat", "dr"], True))

    def test_what_stands_when_nothing_is_said(self):
        options = self.options("path")
        self.assertEqual((options.flows, options.base, options.seed), ([1_000, 100_000, 1_000_000], 0, 1))
        self.assertFalse(options.no_mixes)
        scale = self.options("scale")
        self.assertEqual((scale.flows, scale.no_mixes), ([4_000_000], True))
        self.assertEqual(self.options("cps").flows, 1_000_000)
        self.assertFalse(self.options("instructions").hold)
        self.assertEqual(self.options("compare", "HEAD").rounds, 2)

    def test_bad_input_is_told_with_what_would_do(self):
        for words, said in (
            (["path", "--flows", "many"], "write for example"),
            (["path", "--flows", "0"], "above 0"),
            (["path", "--modes", "nat proxy"], "'proxy' is no forwarding mode; there are fullnat, nat, dr, tunnel"),
            (["cps", "--flows", "1 2"], "no single number"),
            (["capture", "--modes", "nat"], "--modes"),
            (["compare"], "REV"),
            (["steps"], "stages"),
            ([], "NAME"),
        ):
            self.assertIn(said, refusal(words), words)

    def test_every_bench_has_its_help(self):
        for name, one in bench.BENCHES.items():
            with contextlib.redirect_stdout(io.StringIO()) as said, self.assertRaises(SystemExit):
                bench.command_line().parse_args([name, "--help"])
            self.assertIn(one.module.__doc__.splitlines()[0], said.getvalue())


class Steps(unittest.TestCase):
    def test_every_step_can_be_played(self):
        prepared = [*settings.INSTALLATION, *settings.PREPARATION]
        self.assertEqual(sorted(PLAYED), sorted([*STEPS, *prepared]))

    def test_without_a_list_it_begins_as_a_server_comes(self):
        self.assertEqual(select_steps([], again=False)[:6], ["install", "bare", "refusals", "bind", "start", "unit"])
        self.assertEqual(select_steps([], again=False)[-1], "revert")

    def test_binding_and_the_first_start_come_before_what_is_asked_for(self):
        self.assertEqual(select_steps(["nat", "unbind"], again=False),
                         ["install", "refusals", "bind", "start", "nat", "unbind"])

    def test_what_goes_on_plays_only_what_is_asked_for(self):
        self.assertEqual(select_steps(["nat"], again=True), ["nat"])
        with self.assertRaisesRegex(Fault, "needs the steps"):
            select_steps([], again=True)
        with self.assertRaisesRegex(Fault, "new machine"):
            select_steps(["bare"], again=True)

    def test_what_cannot_be_played(self):
        with self.assertRaisesRegex(Fault, "'spread'; steps are bare unit"):
            select_steps(["spread"], again=False)
        with self.assertRaisesRegex(Fault, "must come first"):
            select_steps(["nat", "bare"], again=False)


class MachineSettings(unittest.TestCase):
    def test_what_stands_when_nothing_is_said(self):
        of = parse([], {})
        self.assertEqual((of.nic, of.workers, of.families, of.queues), ("virtio-rss", 2, (4, 6), 4))
        self.assertFalse(of.keep or of.again or of.clean)

    def test_options_stand_anywhere(self):
        of = parse(["igb", "--family", "4", "nat", "--keep", "dr", "--workers", "4"], {})
        self.assertEqual((of.nic, of.families, of.workers, of.keep), ("igb", (4,), 4, True))
        self.assertEqual(of.steps[-2:], ["nat", "dr"])
        self.assertTrue(parse(["--again", "nat"], {}).keep)

    def test_the_environment_has_numbers(self):
        of = parse(["unit"], {"WORKERS": "1", "MACHINE_QUEUES": "2", "MACHINE_MB": "1024", "MACHINE_PREFIX": "other"})
        self.assertEqual((of.workers, of.queues, of.memory_mb, str(of.folder)), (1, 2, 1_024, "/tmp/other-state/machine"))
        with self.assertRaisesRegex(Fault, "MACHINE_QUEUES=two: a number above 0"):
            parse(["unit"], {"MACHINE_QUEUES": "two"})

    def test_more_workers_than_queues_are_refused(self):
        with self.assertRaisesRegex(Fault, "4 workers need as many queues"):
            parse(["unit"], {"WORKERS": "4", "MACHINE_QUEUES": "2"})

    def test_only_two_kinds_of_nic_spread(self):
        self.assertEqual([parse([nic, "unit"], {}).spreads for nic in settings.NICS], [True, True, False, False])

    def test_taking_away_needs_no_steps(self):
        self.assertTrue(parse(["--clean"], {}).clean)


class Documents(unittest.TestCase):
    def test_every_bench_that_a_document_names_is_there(self):
        named = set()
        for file in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "src/ARCHITECTURE.md"]:
            named |= set(re.findall(r"scripts/dev bench ([a-z]+)", file.read_text()))
        self.assertGreater(len(named), 5)
        self.assertEqual(named - set(bench.BENCHES), set())

    def test_the_developers_door_lists_all_benches_and_steps(self):
        text = " ".join((REPOSITORY / "scripts/dev").read_text().split())
        listed = re.search(r"bench NAME ([a-z |]+) REV", text)[1].split(" | ")
        self.assertEqual(sorted(listed), sorted(bench.BENCHES))
        self.assertIn("steps: " + " ".join(STEPS), text)


if __name__ == "__main__":
    unittest.main()

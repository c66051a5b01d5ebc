"""What benches make of their samples, and how they show it."""

import contextlib
import io
import json
import tempfile
import unittest
from pathlib import Path

from rigs.bench.figures import Figures, table
from rigs.bench.statistics import Summary, paired_ratios, per_packet, per_second, summary


class Statistics(unittest.TestCase):
    def test_the_median_is_a_value_that_was_measured(self):
        self.assertEqual(summary([5, 1, 3]), Summary(3, 1, 5))
        self.assertEqual(summary([4, 1, 3, 2]), Summary(2, 1, 4))
        self.assertEqual(summary([7]), Summary(7, 7, 7))

    def test_no_samples_have_no_median(self):
        with self.assertRaises(ValueError):
            summary([])

    def test_ratios_are_of_rounds_that_belong_together(self):
        # The machine was twice as slow in the second round: both halves of it were.
        self.assertEqual(paired_ratios([100, 200], [90, 180]), [0.9, 0.9])
        with self.assertRaises(ValueError):
            paired_ratios([1, 2], [1])

    def test_a_round_that_measured_nothing_has_no_ratio(self):
        self.assertEqual(paired_ratios([0, 4], [3, 2]), [0.5])

    def test_nothing_per_nothing_is_nothing(self):
        self.assertEqual(per_packet(1_000, 20), 50)
        self.assertEqual(per_packet(1_000, 0), 0)
        self.assertEqual(per_second(3, 2_000_000_000), 1)
        self.assertEqual(per_second(3, 0), 0)


class Rows(unittest.TestCase):
    def test_a_row_is_the_same_for_readers_and_for_machines(self):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as said:
            file = Path(folder) / "figures.json"
            figures = Figures(file)
            figures.report("nat tcp in", 1_000, Summary(51.26, 50.04, 60), "ns/packet")
            figures.report("nat tcp create", 1_000, Summary(3_000_000, 2_000_000, 4_000_000), "conns/s")
            figures.write()
            rows = json.loads(file.read_text())
        self.assertEqual(said.getvalue().splitlines(), [
            "nat tcp in                    1000       51.3 ns/packet   (50.0 – 60)",
            "nat tcp create                1000    3000000 conns/s   (2000000 – 4000000)"])
        self.assertEqual(rows[0], {"scenario": "nat tcp in", "flows": 1_000, "median": 51.3, "min": 50.0, "max": 60,
                                   "unit": "ns/packet"})
        self.assertEqual(rows[1]["median"], 3_000_000)

    def test_without_a_file_nothing_is_written(self):
        Figures().write()

    def test_columns_are_below_each_other(self):
        self.assertEqual(table([["a", "bbb", "c"], ["aaaa", "b"]]), "a     bbb  c\naaaa  b")


if __name__ == "__main__":
    unittest.main()

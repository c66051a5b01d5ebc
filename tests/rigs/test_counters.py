"""What rigs read: listings of lvsctl, what callgrind, cargo and lvsd print, and /proc."""

import json
import tempfile
import unittest
from pathlib import Path

from rigs import REPOSITORY
from rigs.bench import threads
from rigs.bench.cps import Sample, busy_rate, rate_while_expiring
from rigs.bench.hugepages import Hugepages
from rigs.bench.instructions import BOUNDS, per_packet, verdict
from rigs.bench.latency import cells
from rigs.bench.programs import executable_of
from rigs.bench.stages import cycles_by_stage
from rigs.bench.workers import check_own_connections
from rigs.counters import Device, Worker
from rigs.fault import Fault

CALLGRIND = """==77== Callgrind, a call-graph generating cache profiler
==77== For interactive control, run 'callgrind_control -h'.
32000 packets
==77==
==77== Events    : Ir
==77== Collected : 13248000
==77==
==77== I   refs:      13,248,000
"""


def schema_fields(name):
    """Fields of a schema of the API as its own document lists them."""
    document = json.loads((REPOSITORY / "conf/openapi.json").read_text())
    return set(document["components"]["schemas"][name]["properties"])


class Listings(unittest.TestCase):
    def test_every_field_that_is_read_is_one_of_the_api(self):
        class Asked(dict):
            """Remembers which fields it was asked for."""

            def __contains__(self, name):
                asked.add(name)
                return True

            def __getitem__(self, name):
                return 1

        for kind in (Worker, Device):
            asked = set()
            for name, member in vars(kind).items():
                if isinstance(member, property):
                    getattr(kind(Asked()), name)
            self.assertGreater(len(asked), 2)
            self.assertEqual(asked - schema_fields(kind.__name__), set())

    def test_a_field_that_is_not_there_is_named(self):
        with self.assertRaisesRegex(Fault, "'tx_packets'"):
            Worker({"rx_packets": 1}).tx_packets

    def test_the_busy_share_of_one_that_never_polled_is_none(self):
        self.assertEqual(Worker({"busy_cycles": 1, "idle_cycles": 3}).busy_share, 0.25)
        self.assertEqual(Worker({"busy_cycles": 0, "idle_cycles": 0}).busy_share, 0)


class NewConnections(unittest.TestCase):
    def test_a_rate_is_of_busy_time(self):
        worker = Worker({"scheduler_picks": 1_000, "busy_cycles": 1, "idle_cycles": 3})
        self.assertEqual(busy_rate([worker, worker], 4_000_000), 2_000_000)

    def test_a_rate_while_others_expire_is_from_the_first_to_almost_the_end(self):
        samples = [Sample(100, 0, 1), Sample(200, 5, 1_000), Sample(400, 90, 2_000), Sample(990, 95, 9_000)]
        self.assertEqual(rate_while_expiring(samples, 1_000), 200_000_000)
        self.assertEqual(rate_while_expiring(samples[:2], 1_000), 0)


class Said(unittest.TestCase):
    def test_instructions_of_a_packet(self):
        self.assertEqual(per_packet(CALLGRIND), 414)

    def test_callgrind_without_a_count_is_no_figure(self):
        for text in ("32000 packets\n", "==77== Collected : 5\n", CALLGRIND.replace("32000", "0")):
            with self.assertRaisesRegex(Fault, "counted nothing"):
                per_packet(text)

    def test_only_more_than_the_bound_is_too_much(self):
        self.assertEqual(verdict(414, 414), "")
        self.assertEqual(verdict(415, 414), "  MORE THAN 414")
        self.assertEqual(len(BOUNDS), 14)

    def test_the_last_executable_of_that_name_is_the_benchmark(self):
        lines = ["warning: no JSON", '{"reason":"build-finished"}']
        lines += [json.dumps({"executable": f"/{number}", "target": {"name": name}})
                  for number, name in ((1, "path"), (2, "path"), (3, "table"))]
        self.assertEqual(executable_of(lines, "path"), Path("/2"))
        with self.assertRaisesRegex(Fault, "'latency'"):
            executable_of(lines, "latency")

    def test_cycles_of_a_packet_by_stage(self):
        log = 'INFO worker 0: cycles of 200 packets by stage: ["Receive", "Parse"] [7200, 3100]\n'
        self.assertEqual(cycles_by_stage(log), {"Receive": 36, "Parse": 15.5})
        self.assertEqual(cycles_by_stage(log.replace('"', "")), {"Receive": 36, "Parse": 15.5})

    def test_a_build_that_measures_nothing_is_a_fault(self):
        for log in ("lvsd ends", 'cycles of 0 packets by stage: ["Receive"] [0]'):
            with self.assertRaisesRegex(Fault, "stages"):
                cycles_by_stage(log)

    def test_a_row_of_latencies(self):
        result = {"received_pps": [999_600, 1, 2], "lost": [3, 0, 9],
                  **{name: [1_250, 900, 20_000] for name in ("p50_ns", "p99_ns", "p999_ns")}}
        three = "1.2 (0.9 – 20.0)"
        self.assertEqual(cells("nat udp", "50 %", result, None), ["nat udp", "50 %", "1000 k/s", "3", three, three, three])
        worker = {"p50_ns": 100, "p99_ns": 200, "p999_ns": 300}
        self.assertEqual(cells("nat udp", "50 %", result, worker)[-1], "0.1 / 0.2 / 0.3")

    def test_workers_that_gave_each_other_packets_mean_nothing(self):
        check_own_connections({"handed_over": 0})
        with self.assertRaisesRegex(Fault, "mean nothing"):
            check_own_connections({"handed_over": 7})


class Trees(unittest.TestCase):
    """On a tree of files that stands for this machine's."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def thread(self, number, name, time_ns):
        self.write(f"42/task/{number}/comm", f"{name}\n")
        self.write(f"42/task/{number}/schedstat", f"{time_ns} 5 7\n")

    def test_the_busiest_thread_of_that_name(self):
        self.thread(1, "lvsd", 9_000)
        self.thread(2, "rte-worker-1", 100)
        self.thread(3, "rte-worker-2", 300)
        self.write("42/task/4/comm", "rte-worker-3\n")
        found = threads.busiest(42, "(rte|dpdk|lvsd)-worker", self.root)
        self.assertEqual((found.name, threads.on_cpu_ns(found)), ("3", 300))
        self.assertIsNone(threads.busiest(42, "testpmd", self.root))
        self.assertIsNone(threads.busiest(43, "lvsd", self.root))

    def pages(self, total, free):
        self.write("proc/meminfo", f"MemTotal: 1 kB\nHugePages_Total:  {total}\nHugePages_Free:   {free}\n")

    def test_what_is_free_is_not_reserved_again(self):
        self.pages(500, 400)
        setting = self.write("proc/sys/vm/nr_hugepages", "500\n")
        with Hugepages(self.root) as hugepages, self.assertRaises(Fault) as fault:
            # 800 MB are 400 pages, and 64 more.
            hugepages.reserve(800)
        self.assertIn("464 hugepages of 2 MB are needed and 400 are free", str(fault.exception))
        self.assertEqual(setting.read_text(), "500\n", "given back")

    def test_hugepages_are_asked_for_beside_those_in_use(self):
        self.pages(500, 400)
        setting = self.write("proc/sys/vm/nr_hugepages", "500\n")
        hugepages = Hugepages(self.root)
        with self.assertRaises(Fault):
            hugepages.reserve(800)
        self.assertEqual(setting.read_text(), "564\n")

    def test_a_kernel_without_hugepages(self):
        self.write("proc/meminfo", "MemTotal: 1 kB\n")
        with self.assertRaisesRegex(Fault, "has no hugepages"):
            Hugepages(self.root).reserve(1)


if __name__ == "__main__":
    unittest.main()

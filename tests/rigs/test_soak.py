"""What a soak reads of `ab`, and what it complains about."""

import unittest

from rigs.soak.command_line import Slice, complaints
from rigs.soak.ground import CLIENTS, Ground
from rigs.soak.load import Requests

REPORT = """Complete requests:      2000
Failed requests:        3
Percentage of the requests served within a certain time (ms)
  99%     20
 100%   1034 (longest request)
"""


def sliced(**changed):
    figures = {"refused": 0, "syns_again": 0, "resets": 0, "unrested": 0, "memory_mb": 200, "descriptors": 40,
               "connections": 9, "buffers": 9}
    requests = changed.pop("requests", Requests(complete=20_000, longest_ms=40))
    return Slice(requests, 10.0, 4, **{**figures, **changed})


class Soak(unittest.TestCase):
    def test_requests_of_all_runs_are_added_up(self):
        requests = Requests()
        requests.add(REPORT, "")
        requests.add(REPORT.replace("1034", "88"), "")
        self.assertEqual((requests.complete, requests.failed, requests.longest_ms, requests.broken), (4_000, 6, 1_034, []))

    def test_a_run_that_an_error_ended_says_which(self):
        requests = Requests()
        requests.add("", "apr_socket_recv: Connection reset by peer (104)\n")
        self.assertEqual(requests.broken, ["apr_socket_recv: Connection reset by peer (104)"])

    def test_every_client_has_an_address_of_its_own(self):
        self.assertEqual(len({Ground.client_address(number) for number in range(CLIENTS + 1)}), CLIENTS + 1)

    def test_a_good_soak_has_no_complaint(self):
        self.assertEqual(complaints([sliced()] * 20), [])

    def test_what_must_not_be_is_named(self):
        for bad, said in ((sliced(requests=Requests(complete=9, failed=1)), "1 requests failed"),
                          (sliced(requests=Requests(broken=["reset"])), "reset"),
                          (sliced(refused=90), "90 of 80000 connections met TIME_WAIT"),
                          (sliced(memory_mb=260), "MB of memory grew from 200 to 260"),
                          (sliced(descriptors=90), "descriptors grew from 40 to 90")):
            slices = [sliced(), sliced(), sliced(), bad]
            self.assertIn(said, "; ".join(complaints(slices)))

    def test_the_line_has_the_columns_of_the_head(self):
        self.assertEqual(len(sliced().line("200")), len(Slice.HEAD))


if __name__ == "__main__":
    unittest.main()

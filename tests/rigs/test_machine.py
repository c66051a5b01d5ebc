"""What steps of the emulated machine make of what programs say there."""

import io
import shlex
import unittest
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

from rigs.fault import Fault
from rigs.machine.addresses import FAMILIES
from rigs.machine.checks import Checks
from rigs.machine.director import Director, server_rows
from rigs.machine.shell import Outcome, Shell, line_of
from rigs.machine.steps import daemon, host, nics
from rigs.machine.traffic import alternates, failed_requests

LISTING = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  198.51.100.80:80 rr
  -> 192.0.2.12:80                Masq    1      2          0
  -> 192.0.2.11:80                Masq    3      5          7
"""
CONNECTIONS = """IPVS connection entries
pro expire state       source             virtual            destination
TCP 14:59  ESTABLISHED 198.51.100.2:40000 198.51.100.80:80   192.0.2.11:80
TCP 01:59  FIN_WAIT    198.51.100.2:40001 198.51.100.80:80   192.0.2.12:80
TCP 14:59  ESTABLISHED 198.51.100.2:40002 198.51.100.80:443  192.0.2.12:443
"""


class Answering(Director):
    """Prints what it was given for a command, by the command's last word."""

    name = "director"

    def __init__(self, **answers):
        self.answers = answers

    def run(self, *words):
        text = self.answers.get(str(words[-1]))
        return Outcome(1, "no such thing") if text is None else Outcome(0, text)


class Told(unittest.TestCase):
    def told(self, *calls):
        checks, said = Checks(), io.StringIO()
        with redirect_stdout(said):
            for name, *words in calls:
                getattr(checks, name)(*words)
            status = checks.verdict()
        return said.getvalue().splitlines(), status

    def test_a_run_without_failures(self):
        lines, status = self.told(("check", "it is so", True), ("equal", "same", "a", "a"), ("within", "few", 1, 3, 2),
                                  ("until", "at once", 0, lambda: True))
        self.assertEqual(lines[:4], ["ok    it is so", "ok    same", "ok    few (2)", "ok    at once"])
        self.assertEqual((lines[-1], status), ("machine: all 4 checks are ok", 0))

    def test_a_failure_tells_what_was_seen(self):
        lines, status = self.told(("equal", "same", "a", "b"), ("within", "few", 1, 3, 9), ("until", "never", 0, lambda: False))
        self.assertEqual(lines[:3], ["FAIL  same: expected 'a', saw 'b'", "FAIL  few (9): expected 1 to 3", "FAIL  never"])
        self.assertEqual((lines[-1], status), ("machine: 3 of 3 checks failed", 1))


class Typed(unittest.TestCase):
    def test_a_command_comes_to_the_machine_as_it_was_said(self):
        line = line_of(("sh", "-c", "echo $HOME 'x y'", 7))
        command = line.removesuffix(' </dev/null 2>&1; printf "\\0%d\\n" $?\n')
        self.assertEqual(shlex.split(command), ["sh", "-c", "echo $HOME 'x y'", "7"])

    def shell(self, *chunks):
        shell = Shell.__new__(Shell)
        shell.process = mock.Mock(**{"stdout.read1.side_effect": chunks})
        return shell

    def test_an_answer_may_come_in_pieces(self):
        outcome = self.shell(b"one\ntw", b"o\n\0", b"1", b"27\n").run("ls")
        self.assertEqual(outcome, Outcome(127, "one\ntwo"))
        self.assertFalse(outcome.is_ok)

    def test_a_machine_that_hangs_up_is_a_fault(self):
        with self.assertRaisesRegex(Fault, "hung up"):
            self.shell(b"half", b"").run("ls")

    def test_what_nothing_can_go_on_without_fails_by_name(self):
        with redirect_stdout(io.StringIO()) as said, self.assertRaisesRegex(Fault, r"`ip link` failed on director \(1\)"):
            Answering().must("ip", "link")
        self.assertEqual(said.getvalue(), "director$ ip link\nno such thing\n")


class Listings(unittest.TestCase):
    web = FAMILIES[4].web

    def test_servers_and_their_weights_in_order(self):
        director = Answering(**{self.web: LISTING})
        self.assertEqual(director.servers(self.web), ["192.0.2.11:80=3", "192.0.2.12:80=1"])
        self.assertEqual(director.active_connections(self.web), 7)
        self.assertEqual(server_rows("no such service"), [])

    def test_established_connections_of_the_service_alone(self):
        self.assertEqual(Answering(**{"-Lnc": CONNECTIONS}).established(self.web), 1)

    def test_devices_of_a_director_that_does_not_answer(self):
        self.assertEqual(Answering().devices(), [])
        self.assertFalse(Answering().links_are_up())
        up = Answering(devices='[{"name": "wan", "link_up": true}, {"name": "lan", "link_up": true}]')
        self.assertTrue(up.links_are_up())
        self.assertEqual(up.device("lan").name, "lan")
        self.assertIsNone(up.device("dmz"))

    def test_service_names_have_brackets_where_they_need_them(self):
        self.assertEqual((FAMILIES[6].web, FAMILIES[6].server(2)), ("[2001:db8:1::80]:80", "[2001:db8:2::12]:80"))
        self.assertEqual(FAMILIES[6].url, "http://[2001:db8:1::80]:80")


class Said(unittest.TestCase):
    def test_a_refusal_has_a_cause_and_a_cure(self):
        said = "lvs-nic: enp4s1: its IOMMU group 7 also holds enp4s2\n  cure: name both"
        self.assertTrue(nics.is_refusal(said, "its IOMMU group .* also holds"))
        self.assertFalse(nics.is_refusal(said, "carries an ssh session"))
        self.assertFalse(nics.is_refusal(said.splitlines()[0], "also holds"))

    def test_addresses_are_compared_without_what_changes_by_itself(self):
        text = ("2: enp1s0    inet 198.51.100.1/24 scope global enp1s0\\       valid_lft forever preferred_lft forever\n"
                "198.51.100.0/24 proto kernel scope link src 198.51.100.1 linkdown\n\n")
        self.assertEqual(nics.settled(text), "enp1s0    inet 198.51.100.1/24 scope global enp1s0\n"
                                             "198.51.100.0/24 proto kernel scope link src 198.51.100.1")

    def test_interrupts_count_once_the_nics_are_not_the_kernels(self):
        said = "ok     IOMMU  on  on\nWRONG  hugepages node0  0  512\nWRONG  interrupts  1-4  0\n"
        self.assertEqual(host.wrong(said, with_interrupts=False), ["hugepages node0"])
        self.assertEqual(host.wrong(said, with_interrupts=True), ["hugepages node0", "interrupts"])

    def test_threads_of_users_and_their_cores(self):
        said = ("Name:\tkthreadd\nCpus_allowed_list:\t0-2\n"
                "Name:\trte-worker-1\nVmSize:\t100 kB\nCpus_allowed_list:\t1\n"
                "Name:\tlvsd\nVmSize:\t100 kB\nCpus_allowed_list:\t0\n")
        self.assertEqual(daemon.cores_of_threads(said), [("rte-worker-1", "1"), ("lvsd", "0")])

    def test_fields_of_a_process_and_its_exposure(self):
        self.assertEqual(daemon.field("Name:\tlvsd\nSeccomp:\t2\nSeccomp_filters:\t1\n", "Seccomp"), "2")
        self.assertEqual(daemon.field("", "Seccomp"), "")
        self.assertEqual(daemon.exposure("→ Overall exposure level for lvsd.service: 2.4 OK 🙂"), 2.4)
        self.assertIsNone(daemon.exposure("Failed to connect to bus"))

    def test_servers_take_turns_or_do_not(self):
        self.assertTrue(alternates(["rs1", "rs2"] * 5))
        self.assertTrue(alternates(["rs2", "rs1"] * 5))
        self.assertFalse(alternates(["rs1", "rs2"] * 4 + ["rs2", "rs1"]))
        self.assertFalse(alternates(["rs1", ""] * 5))
        self.assertFalse(alternates(["rs1", "rs2"]))

    def test_a_crowd_without_a_failure(self):
        report = "Complete requests:      200\nFailed requests:        0\n"
        self.assertFalse(failed_requests(report, 200))
        for wrong in (report.replace("200", "199"), report.replace(" 0", " 1"), report + "Non-2xx responses: 3\n", ""):
            self.assertTrue(failed_requests(wrong, 200))

    def test_the_files_of_the_guest_are_there(self):
        guest = Path(nics.__file__).resolve().parents[1] / "guest"
        self.assertEqual(sorted(file.name for file in guest.iterdir()), ["init", "prepare"])


if __name__ == "__main__":
    unittest.main()

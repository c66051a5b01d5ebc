"""The files that rigs write: configurations of directors and of nginx, the machine's interfaces, qemu's command line."""

import tempfile
import tomllib
import unittest
from pathlib import Path
from unittest import mock

from rigs import REPOSITORY
from rigs.bench.feeds import Feeds
from rigs.bench.load import Load, configuration, replayed
from rigs.machine import beside, qemu
from rigs.machine.build import MODULES, is_newer, newest_kernel
from rigs.machine.settings import Settings
from rigs.machine.steps import daemon, outages
from rigs.machine.steps.pair import deploy_keepalived
from rigs.fault import Fault

NIC_STATUS = """IOMMU: in use
0000:01:00.0  vfio-pci  enp1s0  1af4:1041
0000:02:00.0  vfio-pci  enp2s0  1af4:1041
"""


class BenchConfiguration(unittest.TestCase):
    def read(self, **words):
        load = Load(**{"mode": "nat", "protocol": "tcp", "servers": 4, "flows": 1_000, "drivers": ["net_null0"], **words})
        return load, tomllib.loads(configuration(load, Path("/folder")))

    def test_it_has_what_the_load_needs(self):
        load, text = self.read(drivers=[replayed(0, Path("/a")), replayed(1, Path("/b"), for_ever=True)], udp_sec=1)
        self.assertEqual(text["eal"]["mbufs"], 1_000 + 131_072)
        self.assertEqual(text["eal"]["memory_mb"], load.memory_mb)
        self.assertEqual(text["connections"]["ipv4_max"], 2_149)
        self.assertEqual(text["timeouts"]["udp_sec"], 1)
        self.assertEqual(text["device"], [
            {"name": "feed0", "dpdk": "net_pcap0,rx_pcap=/a"},
            {"name": "feed1", "dpdk": "net_pcap1,rx_pcap=/b,infinite_rx=1"}])
        service = text["service"][0]
        self.assertNotIn("local_addresses", service)
        self.assertEqual([server["address"] for server in service["real_server"]],
                         [f"198.18.100.{number}" for number in (1, 2, 3, 4)])

    def test_fullnat_is_nat_with_local_addresses(self):
        service = self.read(mode="fullnat")[1]["service"][0]
        self.assertEqual(len(service["local_addresses"]), 100)
        self.assertEqual({server["mode"] for server in service["real_server"]}, {"nat"})
        self.assertEqual(self.read(mode="tunnel")[1]["service"][0]["real_server"][0]["mode"], "tunnel")

    def test_a_file_that_is_read_as_it_is_played_needs_no_mbufs(self):
        self.assertEqual(self.read(mbufs_per_flow=0)[0].mbufs, 131_072)

    def test_a_feed_is_named_by_all_that_makes_it_another(self):
        names = {Feeds(Path("feed"), base, seed).path(kind, flows, device)
                 for base in (0, 1) for seed in (1, 2) for kind in ("syn", "ack") for flows in (1, 2) for device in (0, 1)}
        self.assertEqual(len(names), 32)

    def test_a_feed_is_written_once_and_only_whole(self):
        with tempfile.TemporaryDirectory() as folder:
            feeds = Feeds(Path("feed"), folder=Path(folder))

            def write(_program, file, *_words):
                file.write_text("frames")

            with mock.patch("rigs.bench.feeds.run", side_effect=write) as run:
                first, second = feeds.file("syn", 5, 0), feeds.file("syn", 5, 0)
            self.assertEqual((run.call_count, first, first.read_text()), (1, second, "frames"))
            with mock.patch("rigs.bench.feeds.run", side_effect=Fault("no room")), self.assertRaises(Fault):
                feeds.file("ack", 5, 0)
            self.assertFalse(feeds.path("ack", 5, 0).exists())


class MachineFiles(unittest.TestCase):
    def test_the_machines_own_configuration(self):
        text = tomllib.loads(daemon.configuration(2, "adaptive", NIC_STATUS))
        self.assertEqual(text["eal"]["worker_cores"], [1, 2])
        self.assertEqual(text["workers"]["idle"], "adaptive")
        self.assertEqual(text["device"], [{"name": "wan", "dpdk": "0000:01:00.0"}, {"name": "lan", "dpdk": "0000:02:00.0"}])

    def test_the_configuration_beside_it(self):
        text = tomllib.loads(beside.configuration(Path("/folder"), 3, 2))
        self.assertEqual(text["eal"]["worker_cores"], [1, 0, 1])
        self.assertEqual(text["workers"]["count"], 3)
        self.assertEqual([device["name"] for device in text["device"]], ["wan", "lan"])
        self.assertIn("qpairs=3", text["device"][1]["dpdk"])

    def test_the_twins_come_at_boot_with_their_addresses(self):
        lines = outages.interfaces().splitlines()
        self.assertEqual(lines[:5], ["auto wan", "iface wan inet manual", "    pre-up ip tuntap add dev wan mode tap",
                                     "    up ip link set wan up", "    up ip address add 198.51.100.1/24 dev wan"])
        self.assertIn("    up ip address add 2001:db8:2::1/64 dev lan nodad", lines)

    def test_the_machine_takes_the_documents_own_keepalived_conf(self):
        document = (REPOSITORY / "docs/deploy.md").read_text()
        master, backup = (deploy_keepalived(document, priority) for priority in (150, 100))
        self.assertTrue(master.startswith("global_defs"))
        self.assertIn("real_server 192.0.2.11 80 {", master)
        self.assertEqual(master.replace("priority 150", "priority 100"), backup)
        self.assertNotIn("```", master)
        with self.assertRaisesRegex(Fault, "global_defs"):
            deploy_keepalived("```\nipvsadm -Ln\n```\n", 100)

    def test_the_init_loads_only_modules_that_the_initrd_has(self):
        init = (REPOSITORY / "scripts/rigs/machine/guest/init").read_text()
        loaded = next(line for line in init.splitlines() if line.startswith("for module in "))
        self.assertEqual(set(loaded.removeprefix("for module in ").removesuffix("; do").split()) - set(MODULES), set())

    def test_the_newest_kernel_is_what_debian_depends_on(self):
        self.assertEqual(newest_kernel("linux-image-amd64\n  Depends: linux-image-6.1.0-57-amd64\n"),
                         "linux-image-6.1.0-57-amd64")
        self.assertEqual(newest_kernel(""), "")

    def test_what_is_older_than_its_sources_is_made_anew(self):
        with tempfile.TemporaryDirectory() as folder:
            made, source = Path(folder) / "made", Path(folder) / "source"
            source.touch()
            self.assertFalse(is_newer(made, source))
            made.touch()
            self.assertTrue(is_newer(made, source))
            source.touch()
            with mock.patch.object(Path, "stat", lambda path: mock.Mock(st_mtime=path == source)):
                self.assertFalse(is_newer(made, source))


class QemuCommand(unittest.TestCase):
    def words(self, **settings):
        build = mock.Mock(vmlinuz=Path("/v"), initrd=Path("/i"), **{"qemu.return_value": ["qemu"]})
        return qemu.command(Settings(**settings), build, qemu.VTD, "isolcpus=1-2")

    def test_rss_has_a_queue_for_each_worker_and_a_vector_for_each_direction(self):
        words = " ".join(self.words(queues=2))
        self.assertIn("tap,id=net1,ifname=nic-wan,queues=2,", words)
        self.assertIn("vectors=6", words)
        self.assertIn("-smp 3 ", words)

    def test_other_nics_are_given_no_number_of_queues(self):
        words = " ".join(self.words(nic="igb"))
        self.assertNotIn("queues=4", words)
        self.assertIn("igb,netdev=net2,mac=02:00:00:00:00:02,bus=port2 ", words)

    def test_the_iommu_comes_before_the_nics(self):
        words = self.words()
        self.assertLess(words.index("intel-iommu,intremap=on,device-iotlb=on,caching-mode=on"),
                        words.index("pcie-root-port,id=port1,chassis=1,slot=1"))
        self.assertTrue(words[-1].endswith(" isolcpus=1-2"))


if __name__ == "__main__":
    unittest.main()

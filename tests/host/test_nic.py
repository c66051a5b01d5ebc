"""scripts/nic on a tree of files: every refusal, and binding and giving back with what the NIC had."""

import json
import os
import tempfile
import unittest

from machine_tree import TreeCase, raised_nowhere, script, watch

nic = script("nic")
raised = watch(nic.Refusal)

ADDRESS_ETH1 = json.dumps([{
    "ifname": "eth1", "flags": ["BROADCAST", "UP"], "mtu": 9000, "address": "02:00:00:00:00:01",
    "addr_info": [
        {"family": "inet", "local": "198.51.100.1", "prefixlen": 24, "scope": "global"},
        {"family": "inet6", "local": "2001:db8::1", "prefixlen": 64, "scope": "global"},
        {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"},
        {"family": "inet", "local": "198.51.100.77", "prefixlen": 24, "scope": "global", "dynamic": True},
    ],
}])
ROUTES_4 = """198.51.100.0/24 proto kernel scope link src 198.51.100.1
local 198.51.100.1 table local proto kernel scope host src 198.51.100.1
203.0.113.0/24 via 198.51.100.254 proto static metric 7
198.18.0.0/15 proto static scope link
"""


class Tree(nic.Machine):
    """The machine under test: binding is what the kernel does on writes to unbind, driver_override, drivers_probe."""

    def __init__(self, case):
        super().__init__(case.root)
        self.case = case
        self.writes = 0
        self.refuses = set()
        self.refuses_writes = None
        self.appears_as = {}

    def run(self, *command):
        return self.case.answer(command, nic.Refusal)

    def write(self, text, *parts):
        path = self.path(*parts)
        self.writes += 1
        if text == self.refuses_writes:
            raise nic.Refusal(f"the kernel refused {text!r} in {path}: Invalid argument", "dmesg | tail says why")
        if path.name == "unbind":
            device = self.path("/sys/bus/pci/devices", text)
            (device / "driver").unlink()
            for interface in device.glob("net/*"):
                interface.rmdir()
        elif path.name == "drivers_probe":
            device = self.path("/sys/bus/pci/devices", text)
            wanted = (device / "driver_override").read_text().strip() or self.case.native[text]
            if not (device / "driver").is_symlink() and wanted not in self.refuses:
                (device / "driver").symlink_to(f"../../drivers/{wanted}")
                if wanted not in nic.DPDK_DRIVERS:
                    (device / "net" / self.appears_as.get(text, self.case.names[text])).mkdir(parents=True)
        else:
            path.write_text(f"{text}\n")


class NicCase(TreeCase):
    """A server with two igb NICs in IOMMU groups of their own; eth0 has the default route."""

    def setUp(self):
        super().setUp()
        self.native, self.names = {}, {}
        self.nic("0000:01:00.0", "eth0", "igb", group="1")
        self.nic("0000:02:00.0", "eth1", "igb", group="2")
        self.file("/proc/cpuinfo", "vendor_id : GenuineIntel")
        for module in ("vfio_pci", "vfio_iommu_type1"):
            self.folder(f"/sys/module/{module}")
        for driver in ("vfio-pci", "igb"):
            self.folder(f"/sys/bus/pci/drivers/{driver}")
        self.answers = {
            "ip -4 -o route show default": "default via 192.0.2.1 dev eth0 proto static",
            "ip -6 -o route show default": "",
            "ss ": "",
            "ip -j -d address show dev eth1": ADDRESS_ETH1,
            "ip -4 -o route show table all dev eth1": ROUTES_4,
            "ip -6 -o route show table all dev eth1": "fe80::/64 proto kernel metric 256\n",
            "ip link set": "", "ip address add": "", "ip -4 route add": "", "ip -6 route add": "",
        }
        self.machine = Tree(self)

    def nic(self, address, interface, driver, group=None, pci_class="0x020000"):
        device = f"/sys/bus/pci/devices/{address}"
        self.file(f"{device}/class", pci_class)
        self.file(f"{device}/vendor", "0x8086")
        self.file(f"{device}/device", "0x10c9")
        self.file(f"{device}/numa_node", "-1")
        self.file(f"{device}/driver_override", "")
        if driver:
            self.link(f"{device}/driver", f"../../drivers/{driver}")
        if interface:
            self.folder(f"{device}/net/{interface}")
            self.folder(f"/sys/class/net/{interface}")
        if group:
            self.link(f"{device}/iommu_group", f"../../../kernel/iommu_groups/{group}")
            self.folder(f"/sys/kernel/iommu_groups/{group}/devices/{address}")
        self.native[address], self.names[address] = driver, interface

    def nic_command(self, *words):
        return self.outputs(nic.main, list(words), self.machine)

    def driver(self, address):
        return self.machine.link_name("/sys/bus/pci/devices", address, "driver")

    def bound_and_polled_by(self, program, descriptor):
        """Binds eth1, whose device a program with pid 4711 then holds open."""
        self.nic_command("bind", "eth1")
        self.file("/proc/4711/comm", program)
        self.link(f"/proc/4711/fd/{descriptor}", "/dev/vfio/2")

    def refused(self, *words):
        """A refusal: exit code 1, both NICs with their kernel driver, nothing written down. Returns the message."""
        code, _, err = self.nic_command(*words)
        self.assertEqual(code, 1)
        self.assertIn("cure: ", err)
        self.assertEqual(self.driver("0000:01:00.0"), "igb")
        self.assertFalse(list(self.root.glob("var/lib/lvsd/nic/*")))
        return err


class Refusals(NicCase):
    def test_the_nic_with_the_default_route_is_refused(self):
        self.assertIn("eth0 (0000:01:00.0) carries the default route", self.refused("bind", "eth0"))

    def test_an_ipv6_default_route_counts_as_well(self):
        self.answers["ip -6 -o route show default"] = "default via fe80::1 dev eth1 proto ra"
        self.assertIn("carries the default route", self.refused("bind", "eth1"))

    def test_a_default_route_over_a_vlan_of_a_bond_of_the_nic_counts_as_well(self):
        self.folder("/sys/class/net/eth1/upper_bond0")
        self.folder("/sys/class/net/bond0/upper_bond0.7")
        self.answers["ip -4 -o route show default"] = "default via 192.0.2.1 dev bond0.7"
        self.assertIn("carries the default route", self.refused("bind", "eth1"))

    def test_the_nic_of_an_ssh_session_is_refused(self):
        self.answers["ss "] = "0 0 [::ffff:198.51.100.1]:22 [::ffff:198.51.100.9]:50123"
        self.answers["ip -o route get 198.51.100.9"] = "198.51.100.9 dev eth1 src 198.51.100.1"
        self.assertIn("carries an ssh session (198.51.100.9 to 198.51.100.1)", self.refused("bind", "eth1"))

    def test_the_operators_own_session_is_seen_by_its_environment(self):
        os.environ["SSH_CONNECTION"] = "198.51.100.9 50123 198.51.100.1 2222"
        self.addCleanup(os.environ.pop, "SSH_CONNECTION")
        self.answers["ip -o route get 198.51.100.9"] = "198.51.100.9 dev eth1 src 198.51.100.1"
        self.assertIn("carries an ssh session", self.refused("bind", "eth1"))

    def test_a_group_with_another_device_is_refused_and_the_cure_is_both_in_one_call(self):
        self.nic("0000:02:00.1", "eth2", "igb", group="2")
        err = self.refused("bind", "eth1")
        self.assertIn("IOMMU group 2 also holds 0000:02:00.1 (driver igb)", err)
        self.assertIn("nic bind 0000:02:00.0 0000:02:00.1", err)

    def test_bridges_and_driverless_devices_of_the_group_do_not_matter(self):
        self.nic("0000:02:1f.0", None, "pcieport", group="2", pci_class="0x060400")
        self.nic("0000:02:00.1", None, None, group="2")
        self.assertEqual(self.nic_command("bind", "eth1")[0], 0)

    def test_without_an_iommu_the_message_has_the_kernel_command_line(self):
        for nic_folder in self.root.glob("sys/kernel/iommu_groups/*/devices/*"):
            nic_folder.rmdir()
        for path in self.root.glob("sys/kernel/iommu_groups/*"):
            (path / "devices").rmdir()
            path.rmdir()
        err = self.refused("bind", "eth1")
        self.assertIn("no IOMMU in use", err)
        self.assertIn("iommu=pt intel_iommu=on", err)
        self.assertIn("--driver uio_pci_generic", err)
        self.file("/proc/cpuinfo", "vendor_id : AuthenticAMD")
        self.assertIn("iommu=pt amd_iommu=on", self.refused("bind", "eth1"))
        self.assertIn("no no-IOMMU mode", self.refused("bind", "eth1", "--no-iommu"))

    def test_no_iommu_mode_is_switched_on_only_by_its_flag(self):
        (self.root / "sys/bus/pci/devices/0000:02:00.0/iommu_group").unlink()
        self.file(nic.NOIOMMU, "N")
        self.refused("bind", "eth1")
        self.assertEqual(self.text(nic.NOIOMMU), "N")
        self.assertEqual(self.nic_command("bind", "eth1", "--no-iommu")[0], 0)
        self.assertEqual(self.text(nic.NOIOMMU), "1")

    def test_a_driver_that_cannot_be_loaded_is_refused(self):
        (self.root / "sys/module/vfio_pci").rmdir()
        self.answers["modprobe vfio-pci"] = nic.Refusal("modprobe: FATAL: Module vfio-pci not found", "-")
        self.assertIn("the driver vfio-pci is not loaded and cannot be", self.refused("bind", "eth1"))

    def test_vfios_iommu_module_is_loaded_beside_it(self):
        (self.root / "sys/module/vfio_iommu_type1").rmdir()
        self.answers["modprobe vfio_iommu_type1"] = ""
        self.assertEqual(self.nic_command("bind", "eth1")[0], 0)
        self.assertIn("modprobe vfio_iommu_type1", self.commands)

    def test_names_that_mean_no_pci_nic_are_refused(self):
        self.folder("/sys/class/net/lo")
        self.nic("0000:05:00.0", None, "nvme", pci_class="0x010802")
        self.assertIn("there is no such interface", self.refused("bind", "eth9"))
        self.assertIn("is not a PCI NIC", self.refused("bind", "lo"))
        self.assertIn("no such PCI device", self.refused("bind", "0000:07:00.0"))
        self.assertIn("is no network device", self.refused("bind", "05:00.0"))

    def test_one_refusal_among_several_devices_binds_none(self):
        self.refused("bind", "eth1", "eth0")
        self.assertEqual(self.driver("0000:02:00.0"), "igb")

    def test_a_driver_that_does_not_take_the_nic_gives_it_back(self):
        self.machine.refuses.add("vfio-pci")
        self.assertIn("vfio-pci did not take it", self.refused("bind", "eth1"))
        self.assertEqual(self.driver("0000:02:00.0"), "igb")
        self.assertEqual(self.text("/sys/bus/pci/devices/0000:02:00.0/driver_override"), "")

    def test_a_nic_in_use_by_a_program_is_not_unbound(self):
        self.bound_and_polled_by("lvsd", 7)
        code, _, err = self.nic_command("unbind", "eth1")
        self.assertEqual(code, 1)
        self.assertIn("in use by lvsd (pid 4711)", err)
        self.assertEqual(self.driver("0000:02:00.0"), "vfio-pci")

    def test_persistence_without_driverctl_is_refused_before_anything_is_bound(self):
        self.answers["driverctl"] = nic.Refusal("the command driverctl is missing", "install it")
        self.assertIn("driverctl is missing", self.refused("bind", "eth1", "--persist"))


    def test_a_driver_that_is_missing_though_its_module_is_loaded_is_refused(self):
        (self.root / "sys/bus/pci/drivers/vfio-pci").rmdir()
        self.assertIn("is not there even with its module loaded", self.refused("bind", "eth1"))

    def test_a_nic_that_a_program_polls_is_not_bound_to_another_driver(self):
        self.bound_and_polled_by("testpmd", 9)
        code, _, err = self.nic_command("bind", "0000:02:00.0", "--driver", "uio_pci_generic")
        self.assertEqual(code, 1)
        self.assertIn("in use by testpmd (pid 4711)", err)
        self.assertEqual(self.driver("0000:02:00.0"), "vfio-pci")

    def test_a_bound_nic_that_was_pulled_out_is_named_with_the_file_that_remembers_it(self):
        self.file("/var/lib/lvsd/nic/0000:09:00.0.json", '{"interface": "eth9", "driver": "igb"}')
        code, _, err = self.nic_command("unbind", "eth9")
        self.assertEqual(code, 1)
        self.assertIn("eth9: was 0000:09:00.0, and that device is gone", err)
        self.assertIn("/var/lib/lvsd/nic/0000:09:00.0.json", err)

    def test_a_record_that_cannot_be_read_is_named(self):
        self.nic_command("bind", "eth1")
        self.file("/var/lib/lvsd/nic/0000:02:00.0.json", "{")
        code, _, err = self.nic_command("unbind", "0000:02:00.0")
        self.assertEqual(code, 1)
        self.assertIn("0000:02:00.0.json cannot be read as JSON", err)
        self.assertEqual(self.driver("0000:02:00.0"), "vfio-pci")

    def test_an_interface_that_does_not_come_back_is_told_and_its_record_kept(self):
        self.nic_command("bind", "eth1")
        self.native["0000:02:00.0"] = "igb_uio"
        nic.SECONDS_TO_APPEAR, usual = 0.1, nic.SECONDS_TO_APPEAR
        self.addCleanup(setattr, nic, "SECONDS_TO_APPEAR", usual)
        code, _, err = self.nic_command("unbind", "0000:02:00.0")
        self.assertEqual(code, 1)
        self.assertIn("no interface appeared within 0.1 s", err)
        self.assertTrue((self.root / "var/lib/lvsd/nic/0000:02:00.0.json").exists())

    def test_a_kernel_that_refuses_the_binding_gets_the_nic_back(self):
        self.machine.refuses_writes = "vfio-pci"
        self.assertIn("the kernel refused 'vfio-pci'", self.refused("bind", "eth1"))
        self.assertEqual(self.driver("0000:02:00.0"), "igb")

    def test_only_root_binds(self):
        os.geteuid, usual = lambda: 1000, os.geteuid
        self.addCleanup(setattr, os, "geteuid", usual)
        code, _, err = self.outputs(nic.main, ["bind", "eth1"])
        self.assertEqual((code, err), (1, "lvs-nic: only root can bind and unbind\n"))


class TheKernelItself(unittest.TestCase):
    """Commands and files as they are, not those of the tree."""

    def refusal(self, call, *arguments):
        with self.assertRaises(nic.Refusal) as raised:
            call(*arguments)
        return raised.exception

    def test_a_missing_command_is_named_with_its_cure(self):
        refusal = self.refusal(nic.Machine().run, "no-such-command")
        self.assertEqual(refusal.what, "the command no-such-command is missing")
        self.assertIn("install", refusal.cure)

    def test_a_command_that_fails_is_quoted(self):
        self.assertIn("`ls /no-such` failed: ", self.refusal(nic.Machine().run, "ls", "/no-such").what)

    def test_a_write_that_the_kernel_refuses_is_told_in_its_words(self):
        refusal = self.refusal(nic.Machine().write, "x", "/proc/version")
        self.assertIn("the kernel refused 'x' in /proc/version: ", refusal.what)

    def test_a_write_that_waits_for_a_program_is_given_up(self):
        nic.SECONDS_TO_LET_GO, usual = 0.2, nic.SECONDS_TO_LET_GO
        self.addCleanup(setattr, nic, "SECONDS_TO_LET_GO", usual)
        with tempfile.TemporaryDirectory() as folder:
            os.mkfifo(f"{folder}/unbind")
            refusal = self.refusal(nic.Machine().write, "x", folder, "unbind")
        self.assertIn("the kernel does not let go", refusal.what)
        self.assertIn("stop the program", refusal.cure)


class Binding(NicCase):
    def test_bind_and_unbind_bring_back_name_mtu_addresses_and_routes(self):
        code, out, err = self.nic_command("bind", "eth1")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("0000:02:00.0: eth1: igb -> vfio-pci", out)
        self.assertEqual(self.driver("0000:02:00.0"), "vfio-pci")
        self.machine.appears_as["0000:02:00.0"] = "eth5"
        (self.root / "sys/class/net/eth1").rmdir()
        self.commands.clear()
        code, out, err = self.nic_command("unbind", "eth1")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("vfio-pci -> igb, eth1 restored", out)
        self.assertEqual([line for line in self.commands if line.startswith("ip ")], [
            "ip link set eth5 down",
            "ip link property del dev eth5 altname eth1",
            "ip link set eth5 name eth1",
            "ip link set eth1 mtu 9000",
            "ip link set eth1 up",
            "ip address add 198.51.100.1/24 dev eth1",
            "ip address add 2001:db8::1/64 dev eth1 nodad",
            "ip -4 route add 198.18.0.0/15 proto static scope link dev eth1",
            "ip -4 route add 203.0.113.0/24 via 198.51.100.254 proto static metric 7 dev eth1",
        ])
        self.assertFalse(list(self.root.glob("var/lib/lvsd/nic/*")))

    def unbind_with_the_name_taken(self, alias):
        self.nic_command("bind", "eth1")
        self.machine.appears_as["0000:02:00.0"] = "eth5"
        mark = self.file("/sys/class/net/eth1/ifalias", alias)

        def delete():
            mark.unlink()
            mark.parent.rmdir()
            return ""

        self.answers["ip link delete eth1"] = delete
        code, out, err = self.nic_command("unbind", "0000:02:00.0")
        self.assertEqual((code, err), (0, ""))
        return out

    def test_unbind_takes_the_name_from_a_twin_that_lvsd_left(self):
        out = self.unbind_with_the_name_taken("kernel twin of lvsd at /run/lvsd/api.sock, MAC 02:00:00:00:00:01, MTU 1500")
        self.assertIn("eth1 restored", out)

    def test_unbind_takes_the_name_from_nobody_else(self):
        out = self.unbind_with_the_name_taken("my uplink")
        self.assertIn("eth5 restored", out)
        self.assertNotIn("ip link delete eth1", self.commands)

    def test_binding_twice_changes_nothing_and_keeps_what_was_written_down(self):
        self.nic_command("bind", "eth1")
        before = self.text("/var/lib/lvsd/nic/0000:02:00.0.json")
        code, out, _ = self.nic_command("bind", "0000:02:00.0")
        self.assertEqual(code, 0)
        self.assertIn("is bound to vfio-pci already", out)
        self.assertEqual(self.text("/var/lib/lvsd/nic/0000:02:00.0.json"), before)

    def test_unbinding_what_the_kernel_has_does_nothing(self):
        code, out, _ = self.nic_command("unbind", "eth1")
        self.assertEqual(code, 0)
        self.assertIn("nothing to do", out)

    def test_bifurcated_nics_stay_with_their_driver(self):
        self.nic("0000:03:00.0", "eth3", "mlx5_core", group="3")
        code, out, _ = self.nic_command("bind", "eth3")
        self.assertEqual(code, 0)
        self.assertIn("stays with mlx5_core", out)
        self.assertEqual(self.driver("0000:03:00.0"), "mlx5_core")

    def test_without_an_iommu_uio_pci_generic_takes_a_nic_when_it_is_named(self):
        (self.root / "sys/bus/pci/devices/0000:02:00.0/iommu_group").unlink()
        self.folder("/sys/module/uio_pci_generic")
        self.folder("/sys/bus/pci/drivers/uio_pci_generic")
        self.assertEqual(self.nic_command("bind", "eth1", "--driver", "uio_pci_generic")[0], 0)
        self.assertEqual(self.driver("0000:02:00.0"), "uio_pci_generic")

    def test_what_cannot_be_restored_is_told_and_the_rest_is_restored(self):
        self.nic_command("bind", "eth1")
        self.answers["ip -4 route add 198.18.0.0/15"] = nic.Refusal("`ip route add` failed: Network is unreachable", "-")
        self.commands.clear()
        code, out, err = self.nic_command("unbind", "eth1")
        self.assertEqual(code, 0)
        self.assertIn("eth1: `ip route add` failed: Network is unreachable", err)
        self.assertIn("eth1 restored", out)
        self.assertIn("ip -4 route add 203.0.113.0/24 via 198.51.100.254 proto static metric 7 dev eth1", self.commands)

    def test_a_dry_run_checks_and_binds_nothing(self):
        code, out, _ = self.nic_command("bind", "--dry-run", "eth1")
        self.assertEqual(code, 0)
        self.assertIn("would go igb -> vfio-pci", out)
        self.assertEqual(self.driver("0000:02:00.0"), "igb")

    def test_persistence_is_driverctls_and_touches_no_nic_that_is_bound_already(self):
        self.answers |= {"driverctl --help": "usage"}
        self.nic_command("bind", "eth1")
        self.assertRegex(self.nic_command("status")[1], r"0000:02:00\.0 .* no +free for lvsd")
        writes = self.machine.writes
        self.nic_command("bind", "--persist", "0000:02:00.0")
        self.assertEqual(self.machine.writes, writes)
        self.assertEqual(self.text("/etc/driverctl.d/pci-0000:02:00.0"), "vfio-pci")
        self.assertRegex(self.nic_command("status")[1], r"0000:02:00\.0 .* vfio-pci +free for lvsd")
        self.nic_command("unbind", "eth1")
        self.assertFalse((self.root / "etc/driverctl.d/pci-0000:02:00.0").exists())

    def test_a_nic_that_only_the_next_boot_would_bind_is_forgotten_by_unbind(self):
        self.file("/etc/driverctl.d/pci-0000:02:00.0", "vfio-pci")
        code, out, _ = self.nic_command("unbind", "eth1")
        self.assertEqual(code, 0)
        self.assertIn("0000:02:00.0: will not be bound at boot any more", out)
        self.assertFalse((self.root / "etc/driverctl.d/pci-0000:02:00.0").exists())
        self.assertEqual((self.machine.writes, self.driver("0000:02:00.0")), (0, "igb"))

    def test_list_says_of_each_nic_what_speaks_against_it(self):
        code, out, _ = self.nic_command("list")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"0000:01:00\.0 +eth0 +igb +1 +-1 +8086:10c9 +cannot be bound: .*default route")
        self.assertRegex(out, r"0000:02:00\.0 +eth1 +igb +2 +-1 +8086:10c9 +can be bound")

    def test_status_names_what_each_bound_nic_was(self):
        self.assertEqual(self.nic_command("status")[1], "no NIC is bound\n")
        self.nic_command("bind", "eth1")
        self.assertRegex(self.nic_command("status")[1], r"0000:02:00\.0 +vfio-pci +eth1 \(igb\) +no +free for lvsd")


class Whole(unittest.TestCase):
    """Last, by its name."""

    def test_each_refusal_of_the_script_was_seen(self):
        self.assertEqual(raised_nowhere("nic", "Refusal", raised), [])


if __name__ == "__main__":
    unittest.main()

"""scripts/host on a tree of files: every finding, what apply writes, and that revert puts it back."""

import os
import unittest

from machine_tree import TreeCase, raised_nowhere, script, watch

host = script("host")
raised = watch(host.Fault)

CPU = "/sys/devices/system/cpu"
PAGES = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"


class Tree(host.Machine):
    """A machine whose update-grub is written down instead of run; a hugepage file may give less than asked."""

    def __init__(self, root):
        super().__init__(root)
        self.ran = []
        self.succeeds = True
        self.most_pages = None

    def run(self, *command):
        self.ran.append(" ".join(command))
        return self.succeeds

    def write(self, name, text):
        if name.endswith("nr_hugepages") and self.most_pages is not None:
            text = str(min(int(text), self.most_pages))
        super().write(name, text)


class HostCase(TreeCase):
    """Four cores of one node, two for workers (2 and 3), on which everything is right."""

    def setUp(self):
        super().setUp()
        self.file("/proc/cmdline", "quiet intel_iommu=on iommu=pt isolcpus=managed_irq,domain,2-3 nohz_full=2-3 rcu_nocbs=2-3")
        self.file("/proc/cpuinfo", "vendor_id : GenuineIntel")
        self.file("/proc/mounts", "hugetlbfs /dev/hugepages hugetlbfs rw 0 0")
        self.folder("/sys/kernel/iommu_groups/0")
        self.file(PAGES, "512")
        self.file("/sys/devices/system/node/node0/cpulist", "0-3")
        self.file(f"{CPU}/online", "0-3")
        self.file(f"{CPU}/isolated", "2-3")
        self.file(f"{CPU}/nohz_full", "2-3")
        for core in range(4):
            self.file(f"{CPU}/cpu{core}/cpufreq/scaling_governor", "performance")
            self.file(f"{CPU}/cpu{core}/topology/thread_siblings_list", f"{core}")
        self.interrupt(24, "0-1")
        self.file("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
        self.file("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc")
        self.file("/proc/sys/kernel/numa_balancing", "0")
        self.file("/proc/sys/kernel/nmi_watchdog", "0")
        self.file("/etc/lvsd/lvsd.toml", "[eal]\nmain_core = 0\nworker_cores = [2, 3]")
        self.machine = Tree(self.root)

    def interrupt(self, number, affinity):
        self.file(f"/proc/irq/{number}/smp_affinity_list", affinity)
        self.file(f"/proc/irq/{number}/effective_affinity_list", affinity)

    def host_command(self, *words):
        return self.outputs(host.main, list(words), self.machine)

    def wrong(self):
        """Names of the wrong findings."""
        code, out, _ = self.host_command("check")
        names = [line[7:].split("  ")[0] for line in out.splitlines() if line.startswith("WRONG")]
        self.assertEqual(code, 1 if names else 0)
        return names


class Check(HostCase):
    def test_a_right_machine_has_no_finding(self):
        self.assertEqual(self.wrong(), [])

    def test_each_fault_is_found_by_its_name(self):
        faults = [
            ("IOMMU", lambda: (self.root / "sys/kernel/iommu_groups/0").rmdir()),
            ("hugepages node0", lambda: self.file(PAGES, "511")),
            ("hugetlbfs", lambda: self.file("/proc/mounts", "proc /proc proc rw 0 0")),
            ("isolated cores", lambda: self.file(f"{CPU}/isolated", "3")),
            ("tickless cores", lambda: self.file(f"{CPU}/nohz_full", "")),
            ("RCU callbacks", lambda: self.file("/proc/cmdline", "quiet")),
            ("interrupts", lambda: self.interrupt(25, "0-3")),
            ("irqbalance", lambda: self.file("/proc/88/comm", "irqbalance")),
            ("governor", lambda: self.file(f"{CPU}/cpu3/cpufreq/scaling_governor", "schedutil")),
            ("hyper-threads", lambda: self.file(f"{CPU}/cpu2/topology/thread_siblings_list", "0,2")),
            ("transparent hugepages", lambda: self.file(host.THP, "[always] madvise never")),
            ("clock", lambda: self.file("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet")),
            ("kernel.numa_balancing", lambda: self.file("/proc/sys/kernel/numa_balancing", "1")),
            ("kernel.nmi_watchdog", lambda: self.file("/proc/sys/kernel/nmi_watchdog", "1")),
        ]
        every = {one.name for one in host.look(self.machine, host.Wish([2, 3], 0, 1024, 2048))}
        # These two have tests of their own.
        self.assertEqual(every, {name for name, _ in faults} | {"cores", "NUMA"})
        expected = []
        for name, spoil in faults:
            spoil()
            expected.append(name)
            self.assertEqual(set(self.wrong()), set(expected), name)

    def test_a_nic_on_a_node_without_workers_is_found(self):
        self.file("/sys/devices/system/node/node1/cpulist", "4-7")
        self.file(PAGES.replace("node0", "node1"), "512")
        self.folder("/sys/bus/pci/drivers/vfio-pci/0000:81:00.0")
        self.file("/sys/bus/pci/devices/0000:81:00.0/numa_node", "1")
        self.assertEqual(self.wrong(), ["NUMA"])

    def test_a_nic_that_knows_no_node_is_no_finding(self):
        self.folder("/sys/bus/pci/drivers/vfio-pci/0000:01:00.0")
        self.file("/sys/bus/pci/devices/0000:01:00.0/numa_node", "-1")
        self.assertEqual(self.wrong(), [])

    def test_irqbalance_that_keeps_off_worker_cores_is_right(self):
        self.file("/proc/88/comm", "irqbalance")
        self.file("/etc/default/irqbalance", 'IRQBALANCE_BANNED_CPULIST="2-3"')
        self.assertEqual(self.wrong(), [])

    def test_workers_without_named_cores_are_those_behind_the_main_core(self):
        self.file("/etc/lvsd/lvsd.toml", "[workers]\ncount = 2")
        self.assertIn("isolated cores", self.wrong())

    def test_cores_that_do_not_exist_stop_apply_with_the_key_to_correct(self):
        self.file("/etc/lvsd/lvsd.toml", "[eal]\nworker_cores = [2, 9]")
        self.assertIn("cores", self.wrong())
        code, _, err = self.host_command("apply")
        self.assertEqual(code, 2)
        self.assertIn("worker_cores", err)
        self.assertFalse((self.root / "var/lib/lvsd").exists())

    def test_a_configuration_that_is_not_toml_is_named(self):
        self.file("/etc/lvsd/lvsd.toml", "[eal\n")
        code, _, err = self.host_command("check")
        self.assertEqual(code, 2)
        self.assertIn("/etc/lvsd/lvsd.toml", err)


    def test_cores_that_are_no_list_are_refused_with_an_example(self):
        code, _, err = self.host_command("check", "--cores", "two")
        self.assertEqual((code, err), (2, "lvs-host: --cores two: not a list of cores such as 2,4-7\n"))

    def test_findings_that_no_file_cures_say_what_to_do_by_hand(self):
        self.file("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet")
        self.file("/proc/88/comm", "irqbalance")
        (self.root / "sys/kernel/iommu_groups/0").rmdir()
        _, out, _ = self.host_command("check")
        for line in ("clock: dmesg | grep -i tsc", "irqbalance: IRQBALANCE_BANNED_CPULIST=2-3", "IOMMU: VT-d or AMD-Vi"):
            self.assertIn(f"\n{line}", out)

    def test_each_finding_says_why_it_matters(self):
        for finding in host.look(self.machine, host.Wish([2, 3], 0, 1024, 2048)):
            self.assertGreater(len(finding.why), 10, finding.name)


class Apply(HostCase):
    def spoil(self):
        self.file("/proc/cmdline", "quiet")
        self.file(PAGES, "0")
        self.file(f"{CPU}/cpu2/cpufreq/scaling_governor", "schedutil")
        self.file("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never")
        self.file("/proc/sys/kernel/nmi_watchdog", "1")
        self.interrupt(25, "0-3")
        for name in ("isolated", "nohz_full"):
            self.file(f"{CPU}/{name}", "")
        (self.root / "sys/kernel/iommu_groups/0").rmdir()

    def test_apply_changes_now_and_for_the_next_boot_and_prints_each_change(self):
        self.spoil()
        _, out, _ = self.host_command("apply")
        self.assertIn(f"{PAGES}: 0 -> 512", out)
        self.assertEqual(self.text(PAGES), "512")
        self.assertEqual(self.text("/proc/irq/25/smp_affinity_list"), "0-1")
        self.assertEqual(self.text("/proc/irq/24/smp_affinity_list"), "0-1")
        self.assertEqual(self.text(f"{CPU}/cpu2/cpufreq/scaling_governor"), "performance")
        self.assertEqual(self.text("/proc/sys/kernel/nmi_watchdog"), "0")
        self.assertIn('GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX intel_iommu=on iommu=pt isolcpus=managed_irq,domain,2-3 '
                      'nohz_full=2-3 rcu_nocbs=2-3 irqaffinity=0-1"', self.text(host.GRUB))
        self.assertIn("kernel.nmi_watchdog = 0", self.text(host.SYSCTL))
        self.assertIn(f"w {PAGES} - - - - 512", self.text(host.TMPFILES))
        self.assertEqual(self.machine.ran, ["update-grub"])

    def test_a_second_apply_changes_nothing_and_keeps_what_was_first(self):
        self.spoil()
        self.host_command("apply")
        files = {name: self.text(name) for name in (host.STATE, host.GRUB, host.SYSCTL, host.TMPFILES)}
        self.file("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
        self.host_command("apply")
        self.assertEqual(files, {name: self.text(name) for name in files})

    def test_other_cores_replace_the_words_of_the_first_apply(self):
        self.spoil()
        self.host_command("apply")
        self.host_command("apply", "--cores", "3")
        self.assertIn("nohz_full=3 ", self.text(host.GRUB))
        self.assertNotIn("nohz_full=2-3", self.text(host.GRUB))

    def test_huge_pages_of_a_gigabyte_are_asked_of_the_next_boot(self):
        self.file("/proc/cmdline", "quiet")
        self.file(PAGES.replace("2048", "1048576"), "0")
        self.host_command("apply", "--page", "1G", "--hugepages", "2048")
        self.assertIn("hugepagesz=1G hugepages=2", self.text(host.GRUB))

    def test_fewer_pages_than_asked_are_a_finding_after_apply(self):
        self.file(PAGES, "0")
        self.machine.most_pages = 300
        code, out, _ = self.host_command("apply")
        self.assertEqual(code, 1)
        self.assertRegex(out, r"WRONG +hugepages node0 +300 of 2M +512 of 2M")

    def test_a_dry_run_writes_nothing(self):
        self.spoil()
        code, out, _ = self.host_command("apply", "--dry-run")
        self.assertEqual(code, 0)
        self.assertIn("would become", out)
        self.assertEqual(self.text(PAGES), "0")
        self.assertFalse((self.root / "var/lib/lvsd").exists())
        self.assertFalse((self.root / host.GRUB.lstrip("/")).exists())

    def test_no_boot_leaves_the_next_boot_alone(self):
        self.spoil()
        self.host_command("apply", "--no-boot")
        self.assertEqual(self.text(PAGES), "512")
        self.assertFalse((self.root / host.GRUB.lstrip("/")).exists())

    def test_revert_puts_every_file_back(self):
        self.spoil()
        before = {path: path.read_text() for path in self.root.rglob("*") if path.is_file()}
        self.host_command("apply")
        code, out, _ = self.host_command("revert")
        self.assertEqual(code, 0)
        after = {path: path.read_text() for path in self.root.rglob("*") if path.is_file()}
        before[self.root / host.THP.lstrip("/")] = "always\n"
        self.assertEqual(before, after)
        self.assertIn("nothing was applied", self.host_command("revert")[1])

    def test_interrupts_of_an_earlier_boot_are_neither_put_back_nor_remembered(self):
        self.spoil()
        self.file(host.BOOT, "first")
        place = "/proc/irq/25/smp_affinity_list"
        self.host_command("apply")
        self.file(host.BOOT, "second")
        self.file(place, "1")
        _, out, _ = self.host_command("revert")
        self.assertEqual(self.text(place), "1")
        self.assertNotIn("/proc/irq/", out)
        self.assertIn("transparent_hugepage", out)
        for boot, affinity in (("third", "0-3"), ("fourth", "0-2")):
            self.file(host.BOOT, boot)
            self.interrupt(25, affinity)
            self.host_command("apply")
        self.host_command("revert")
        self.assertEqual(self.text(place), "0-2")

    def test_an_amd_machine_gets_amds_words(self):
        self.spoil()
        self.file("/proc/cpuinfo", "vendor_id : AuthenticAMD")
        self.host_command("apply")
        self.assertIn("amd_iommu=on iommu=pt", self.text(host.GRUB))

    def test_an_interrupt_that_moves_only_when_it_next_comes_is_right_once_it_was_moved(self):
        self.spoil()
        for number in (24, 25):
            self.file(f"/proc/irq/{number}/smp_affinity_list", "0-1")
        self.assertRegex(self.host_command("check")[1], r"interrupts +none on worker cores")

    def test_an_interrupt_that_cannot_be_moved_is_told_and_the_rest_is_done(self):
        self.spoil()
        place = self.root / "proc/irq/25/smp_affinity_list"
        place.unlink()
        place.mkdir()
        _, _, err = self.host_command("apply")
        self.assertIn("could not: /proc/irq/25/smp_affinity_list: Is a directory", err)
        self.assertEqual(self.text("/proc/sys/kernel/nmi_watchdog"), "0")

    def test_without_update_grub_the_words_are_for_the_operators_hand(self):
        self.spoil()
        self.machine.succeeds = False
        _, _, err = self.host_command("apply")
        self.assertIn(f"put the words of {host.GRUB} on the kernel command line by hand", err)

    def test_only_root_applies_and_reverts(self):
        os.geteuid, usual = lambda: 1000, os.geteuid
        self.addCleanup(setattr, os, "geteuid", usual)
        for command in ("apply", "revert"):
            code, _, err = self.outputs(host.main, [command])
            self.assertEqual((code, err), (1, "lvs-host: only root can change the machine\n"))


class Whole(unittest.TestCase):
    """Last, by its name."""

    def test_each_fault_of_the_script_was_seen(self):
        self.assertEqual(raised_nowhere("host", "Fault", raised), [])


if __name__ == "__main__":
    unittest.main()

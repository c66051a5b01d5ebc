"""The bench rig: the real lvsd with one worker in a network namespace of its own, fed by net_pcap.

Figures are divided by the time the worker's thread was on a CPU (/proc/PID/task/TID/schedstat), because wall-clock
figures mean little on a shared machine.
"""

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rigs.bench import programs, threads
from rigs.bench.feeds import Feeds
from rigs.bench.figures import Figures
from rigs.bench.hugepages import Hugepages
from rigs.bench.load import Load, configuration, replayed
from rigs.counters import Worker
from rigs.fault import Fault
from rigs.namespaces import Namespace
from rigs.processes import end, run, until_true, wait_for

SCRIPT_CPU = 0
WORKER_CPU = 1
WORKER_THREAD = "(rte|dpdk|lvsd)-worker"
RT_RUNTIME = Path("/proc/sys/kernel/sched_rt_runtime_us")
START_SECONDS = 90
# Data may come before the first packet of its flow: the kernel would refuse it, and lvsd close the connection.
DEAF = 'table inet bench { chain input { type filter hook input priority 0; iifname "feed*" drop; }; }'


def need_root() -> None:
    if os.geteuid() != 0:
        raise Fault("needs root for a network namespace and hugepages")


class Rig:
    """One lvsd at a time. `__exit__` ends it and puts back what the rig changed."""

    def __init__(self, feeds: Feeds | None = None):
        self.binaries = programs.folder()
        self.feeds = feeds or Feeds(self.binaries / "feed")
        self.namespace = Namespace("lvsd-bench")
        self.lvsd: subprocess.Popen | None = None
        self.cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        self.rt_runtime: str | None = None
        self.left = ExitStack()

    def __enter__(self) -> "Rig":
        need_root()
        with ExitStack() as left:
            # In memory: nothing that is measured waits for a disk.
            self.folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
            left.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.hugepages = left.enter_context(Hugepages())
            left.callback(self.disturb_again)
            left.callback(self.namespace.delete)
            left.callback(self.stop)
            programs.build()
            # CPU 1 is the worker's alone: this program and what it starts stay away from it.
            os.sched_setaffinity(0, {SCRIPT_CPU})
            # A sample that waits for a neighbour is of another instant than its time.
            os.setpriority(os.PRIO_PROCESS, 0, -19)
            self.left = left.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.left.close()

    def on_all_cpus(self) -> list[str]:
        """What goes in front of a command that may run on every CPU."""
        return ["taskset", "-c", self.cpus]

    def begin(self, load: Load) -> None:
        """Starts lvsd with this load."""
        self.make_network()
        can_keep = "--forget-state" in run(self.binaries / "lvsd", "--help")
        (self.folder / "lvsd.toml").write_text(configuration(load, self.folder, can_keep))
        self.hugepages.reserve(load.memory_mb)
        with (self.folder / "lvsd.log").open("w") as log:
            self.lvsd = subprocess.Popen(
                [*self.on_all_cpus(), "ip", "netns", "exec", self.namespace.name, str(self.binaries / "lvsd"),
                 "--config", str(self.folder / "lvsd.toml")], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        if self.lvsd is not None:
            end(self.lvsd)
            self.lvsd = None

    def make_network(self) -> None:
        """The devices' kernel twins, made beforehand with the neighbours and the routes that forwarding needs."""
        net = self.namespace
        net.delete()
        net.create()
        net.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for number in range(2):
            net.ip("tuntap", "add", "dev", f"feed{number}", "mode", "tap")
            net.ip("link", "set", f"feed{number}", "address", f"02:70:63:61:70:0{number}", "up")
        net.ip("addr", "add", "198.18.0.254/16", "dev", "feed0")
        net.ip("addr", "add", "198.18.0.1/32", "dev", "feed0")
        neighbours = {"198.18.0.253": "02:00:00:00:c1:00"}
        neighbours |= {f"198.18.100.{server}": f"02:00:00:00:05:0{server}" for server in range(1, 5)}
        for address, mac in neighbours.items():
            net.ip("neigh", "add", address, "lladdr", mac, "dev", "feed0", "nud", "permanent")
        net.ip("route", "add", "default", "via", "198.18.0.253")
        net.run("nft", "-f", "-", stdin=DEAF)

    def log(self) -> str:
        return (self.folder / "lvsd.log").read_text()

    def lvsctl(self, *words: str) -> list[str]:
        """The command line of lvsctl with these words."""
        return [str(self.binaries / "lvsctl"), "--socket", str(self.folder / "api.sock"), *words]

    def listing(self) -> list[dict]:
        return json.loads(run(*self.lvsctl("--json", "workers")))

    def workers(self) -> list[Worker]:
        return [Worker(row) for row in self.listing()]

    def connections(self) -> int:
        """How many there are now; none while lvsd does not answer yet."""
        try:
            return sum(worker.connections4 for worker in self.workers())
        except (Fault, ValueError):
            return 0

    def sent(self) -> int:
        return sum(worker.tx_packets for worker in self.workers())

    def check_alive(self) -> None:
        if self.lvsd is None or self.lvsd.poll() is not None:
            raise Fault(f"lvsd has ended:\n{self.log()}")

    def await_connections(self, flows: int) -> None:
        """Until all but a hundredth are there."""
        def are_there() -> bool:
            self.check_alive()
            return self.connections() >= flows * 99 // 100

        # It looks without a pause, because what is measured next begins as soon as they are there.
        if not until_true(START_SECONDS, are_there, pause=0):
            raise Fault(f"lvsd has {self.connections()} of {flows} connections:\n{self.log()}")

    def worker_thread(self) -> Path:
        """The busiest one's folder in /proc; a worker is there soon after lvsd was started."""
        found: list[Path] = []

        def is_there() -> bool:
            self.check_alive()
            thread = threads.busiest(self.lvsd.pid, WORKER_THREAD)
            found.extend([thread] if thread else [])
            return bool(found)

        wait_for("lvsd has a worker", START_SECONDS, is_there, pause=0)
        return found[0]

    def undisturbed(self) -> Path:
        """Lets nothing but the kernel interrupt the worker, as on a machine with isolated cores; returns its thread."""
        if self.rt_runtime is None:
            self.rt_runtime = RT_RUNTIME.read_text()
            RT_RUNTIME.write_text("-1\n")
        thread = self.worker_thread()
        os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(1))
        return thread

    def disturb_again(self) -> None:
        if self.rt_runtime is not None:
            RT_RUNTIME.write_text(self.rt_runtime)

    def establish(self, load: Load) -> None:
        """Starts lvsd and waits until all of the load's connections are there."""
        self.begin(load)
        self.await_connections(load.flows)

    def established(self, mode: str, flows: int, protocol: str = "tcp", servers: int = 4, first: str = "syn",
                    endless: str = "ack", frames_per_flow: int = 1) -> Load:
        """A load of connections that a file's first packets begin, and whose further ones come again and again."""
        return Load(mode, protocol, servers, flows, mbufs_per_flow=frames_per_flow, drivers=[
            replayed(0, self.feeds.file(first, flows, 0)), replayed(1, self.feeds.file(endless, flows, 1), for_ever=True)])

    def report_packets(self, figures: Figures, scenario: str, flows: int) -> None:
        """What each packet that leaves takes of the worker's time."""
        figures.report(scenario, flows, threads.windows(self.worker_thread(), self.sent), "ns/packet")

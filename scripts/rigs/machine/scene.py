"""Everything that a step works with: the network, the machine and its director, the client, and what was checked."""

from pathlib import Path

from rigs.machine import addresses
from rigs.machine.addresses import Family
from rigs.machine.checks import Checks
from rigs.machine.director import GuestDirector
from rigs.machine.network import Network
from rigs.machine.qemu import Qemu
from rigs.machine.servers import Servers
from rigs.machine.settings import Settings
from rigs.machine.traffic import Client

ROUTER_SYSCTLS = {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}
# Less on its way than a receive queue holds: where qemu spreads frames itself and a queue is full, it stops reading that
# tap's queue and waits for a kick of the other one, for ever.
CLIENT_SYSCTLS = {"net.ipv4.tcp_rmem": "4096 65536 262144"}


class Scene:
    """One run."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.checks = Checks()
        self.network = Network(settings)
        self.servers = Servers(self.network)
        self.qemu = Qemu(settings, self.network)
        self.director = GuestDirector(self.qemu)
        self.client = Client(settings, self.network, self.servers, self.checks)
        # The workers of the lvsd that runs. The step 'workers' changes their number for a while.
        self.workers = settings.workers

    @property
    def folder(self) -> Path:
        """Shared with the machine, where it is /run/machine."""
        return self.settings.folder

    @property
    def families(self) -> list[Family]:
        return [addresses.FAMILIES[version] for version in self.settings.families]

    def begin(self, with_iommu: bool) -> None:
        """A new network with a new machine in its middle."""
        self.network.begin()
        for lan in ("outside", "inside"):
            self.network.new_lan(lan)
        self.network.new_host("client")
        self.network.plug("client", "eth0", "outside")
        self.network.address("client", "eth0", *addresses.CLIENT)
        self.network.set_sysctls("client", CLIENT_SYSCTLS)
        self.network.new_host("router")
        self.network.set_sysctls("router", ROUTER_SYSCTLS)
        for lan, of_router in (("outside", addresses.ROUTER_OUTSIDE), ("inside", addresses.ROUTER_INSIDE)):
            self.network.plug("router", lan, lan)
            self.network.address("router", lan, *of_router)
        self.servers.begin()
        self.qemu.boot(with_iommu)

    def resume(self) -> None:
        """What a run before has left."""
        self.qemu.log_in()

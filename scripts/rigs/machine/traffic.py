"""Traffic of the client, with what must be seen of it."""

import re

from rigs.machine.addresses import SERVERS, Family
from rigs.machine.checks import Checks, say
from rigs.machine.downloads import Downloads
from rigs.machine.network import Network
from rigs.machine.servers import Servers
from rigs.machine.settings import Settings

PAGES = 10
CROWD = 20
# Ports of one crowd, from the first on; after so many crowds those of the first come again.
PORTS, PORT_FIRST, PORT_RANGES = 1_000, 16_000, 48


def failed_requests(report: str, count: int) -> bool:
    """Whether ab tells of anything but so many complete requests."""
    return not (re.search(rf"^Complete requests: +{count}$", report, re.M)
                and re.search(r"^Failed requests: +0$", report, re.M)) or "Non-2xx" in report


def alternates(pages: list[str]) -> bool:
    """Whether two servers take turns, from whichever on."""
    return len(pages) == PAGES and set(pages) == set(SERVERS) and all(
        one != next_one for one, next_one in zip(pages, pages[1:]))


class Client:
    """Programs on the host 'client'."""

    def __init__(self, settings: Settings, network: Network, servers: Servers, checks: Checks):
        self.settings, self.servers, self.checks = settings, servers, checks
        self.network = network
        self.host = network.host("client")

    def page(self, family: Family, seconds: float = 10) -> str:
        """What a fresh connection brings; empty when nothing does."""
        return self.host.output("curl", "-s", "--max-time", seconds, f"{family.url}/").strip()

    def is_answered(self, family: Family, seconds: float = 10) -> bool:
        """Whether a page comes, from whichever server."""
        return self.page(family, seconds) in SERVERS

    def pages_come(self, sentence: str, family: Family, seconds: float = 60) -> None:
        self.checks.until(sentence, seconds, lambda: self.is_answered(family))

    def has_ports_of_its_own(self) -> None:
        """A director that sees no replies keeps a connection that its client closed for two minutes, and what that client
        sends from the same port goes the old way, whatever the service's mode is by then (conn_reuse_mode 1, as in the
        kernel). A crowd in a new mode therefore comes from other ports than those before."""
        file = self.settings.folder / "crowds"
        crowds = int(file.read_text()) if file.exists() else 0
        file.write_text(str(crowds + 1))
        first = PORT_FIRST + crowds % PORT_RANGES * PORTS
        self.network.set_sysctls("client", {"net.ipv4.ip_local_port_range": f"{first} {first + PORTS - 1}"})

    def check_alternates(self, family: Family, workers: int) -> None:
        """With rr two servers take turns; of several workers each has turns of its own."""
        pages = [self.page(family) for _ in range(PAGES)]
        seen = " ".join(pages)
        if workers == 1 or alternates(pages):
            self.checks.check(f"rr alternates: {seen}", alternates(pages))
        else:
            of_first = pages.count(SERVERS[0]) if set(pages) <= set(SERVERS) else 0
            self.checks.within(f"rr is even over {workers} workers ({seen})", 3, 7, of_first)

    def crowd(self, family: Family, requests: int) -> str:
        """What ab says of a crowd of short requests."""
        return self.host.output("ab", "-q", "-s", 30, "-n", requests, "-c", CROWD, f"{family.url}/")

    def check_crowd(self, family: Family) -> None:
        """Not one of its requests may fail."""
        requests = self.settings.requests
        say(f"client$ ab -n {requests} -c {CROWD} {family.url}/")
        report = self.crowd(family, requests)
        rate = re.search(r"^Requests per second: +([0-9.]+)", report, re.M)
        self.checks.check(f"ab -n {requests} -c {CROWD}: none failed, {rate[1] if rate else 0} a second",
                          not failed_requests(report, requests), f"\n{report}")

    def check_download(self, family: Family) -> None:
        """The big file is the same at both ends."""
        with Downloads(self.host, f"{family.url}/files/big", 1) as downloads:
            whole = downloads.whole(self.servers.sha256("big"))
        self.checks.equal(f"download of {self.servers.size_mb('big')}M: same sha256", 1, whole)

    def downloads(self, family: Family, count: int) -> Downloads:
        return Downloads(self.host, f"{family.url}/files/part", count)

    def check_downloads(self, downloads: Downloads) -> None:
        """All of them come to their end unharmed."""
        count = len(downloads.all)
        self.checks.equal(f"{count} parallel downloads are whole", count, downloads.whole(self.servers.sha256("part")))

    def pings(self, address: str) -> bool:
        return self.host.succeeds("ping", "-c", 3, "-i", 0.2, "-W", 2, "-q", address)

    def knows(self, address: str, mac: str) -> bool:
        """Whether the client's neighbour entry of an address is this one."""
        return bool(mac) and mac in self.host.output("ip", "neigh", "show", address)

"""Who has which address: documentation addresses all of them, one network for every mode.

  client, router ── outside ── wan [machine] lan ── inside ── rs1, rs2, router
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Addresses that the round of a step in one family works with."""

    version: int
    vip: str
    servers: tuple[str, str]
    local: str

    @property
    def web(self) -> str:
        """The web service on the VIP as ipvsadm names it."""
        return f"{in_url(self.vip)}:80"

    def server(self, number: int) -> str:
        """The web service of a real server, from 1, as ipvsadm names it."""
        return f"{in_url(self.servers[number - 1])}:80"

    @property
    def url(self) -> str:
        return f"http://{in_url(self.vip)}:80"


def in_url(address: str) -> str:
    """As URLs, service names and listings write it."""
    return f"[{address}]" if ":" in address else address


FAMILIES = {
    4: Family(4, "198.51.100.80", ("192.0.2.11", "192.0.2.12"), "192.0.2.100"),
    6: Family(6, "2001:db8:1::80", ("2001:db8:2::11", "2001:db8:2::12"), "2001:db8:2::100"),
}
WAN = ("198.51.100.1/24", "198.51.100.80/32", "2001:db8:1::1/64", "2001:db8:1::80/128")
LAN = ("192.0.2.1/24", "192.0.2.100/32", "2001:db8:2::1/64", "2001:db8:2::100/128")
CLIENT = ("198.51.100.2/24", "2001:db8:1::2/64")
ROUTER_OUTSIDE = ("198.51.100.254/24", "2001:db8:1::fe/64")
ROUTER_INSIDE = ("192.0.2.254/24", "2001:db8:2::fe/64")
# Real servers' default routes, by what stands at their end.
GATEWAYS = {
    "director": ("192.0.2.1", "2001:db8:2::1"),
    "router": ("192.0.2.254", "2001:db8:2::fe"),
    "none": (),
}
SERVERS = ("rs1", "rs2")


def own(number: int) -> dict[str, tuple[str, ...]]:
    """What a director of the pair has on its twins beside VRRP's addresses."""
    return {
        "wan": (f"198.51.100.1{number}/24", f"2001:db8:1::1{number}/64"),
        "lan": (f"192.0.2.{number}0/24", f"2001:db8:2::{number}0/64"),
    }

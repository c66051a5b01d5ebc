"""Directors, and what their operator types there: shown as typed, with what it prints."""

import json
import re
from typing import Any

from rigs.counters import Device, Worker
from rigs.fault import Fault
from rigs.machine.checks import say
from rigs.machine.network import no_detection
from rigs.machine.qemu import Qemu
from rigs.machine.shell import Outcome
from rigs.processes import Word, words_of


def server_rows(listing: str) -> list[list[str]]:
    """Of a listing of ipvsadm the rows of real servers, as words."""
    rows = [line.split() for line in listing.splitlines()]
    return [row for row in rows if row[:1] == ["->"] and row[1] != "RemoteAddress:Port"]


class Director:
    """A host with lvsd and the tools. Subclasses say how a command gets there."""

    name: str

    def run(self, *words: Word) -> Outcome:
        raise NotImplementedError

    def output(self, *words: Word) -> str:
        """What a command prints, well or not."""
        return self.run(*words).output

    def succeeds(self, *words: Word) -> bool:
        return self.run(*words).is_ok

    def type(self, *words: Word) -> Outcome:
        """Shown as typed, with what it prints; it may fail."""
        say(f"{self.name}$ {' '.join(words_of(words))}")
        outcome = self.run(*words)
        if outcome.output:
            say(outcome.output)
        return outcome

    def must(self, *words: Word) -> str:
        """Typed, and nothing can go on without it."""
        outcome = self.type(*words)
        if not outcome.is_ok:
            raise Fault(f"`{' '.join(words_of(words))}` failed on {self.name} ({outcome.status})")
        return outcome.output

    def ipvsadm(self, *words: Word) -> str:
        return self.must("ipvsadm", *words)

    def lvsctl(self, *words: Word) -> str:
        return self.must("lvsctl", *words)

    def twin_has(self, device: str, *addresses: str) -> None:
        """Gives the device's kernel twin its addresses, as an operator would, and lets it forward."""
        self.must("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for address in addresses:
            self.must("ip", "addr", "add", address, "dev", device, *no_detection(address))

    def listing(self, *words: Word) -> list[dict[str, Any]]:
        """`lvsctl --json` of what is listed so; empty while lvsd does not answer."""
        outcome = self.run("lvsctl", "--json", *words)
        return json.loads(outcome.output) if outcome.is_ok else []

    def workers(self) -> list[Worker]:
        return [Worker(row) for row in self.listing("workers")]

    def devices(self) -> list[Device]:
        return [Device(row) for row in self.listing("devices")]

    def device(self, name: str) -> Device | None:
        return next((device for device in self.devices() if device.name == name), None)

    def links_are_up(self) -> bool:
        return [device.is_up for device in self.devices()] == [True, True]

    def servers(self, service: str) -> list[str]:
        """Real servers of a TCP service with their weights: "192.0.2.11:80=1"."""
        return sorted(f"{row[1]}={row[3]}" for row in server_rows(self.output("ipvsadm", "-Ln", "-t", service)))

    def active_connections(self, service: str) -> int:
        return sum(int(row[4]) for row in server_rows(self.output("ipvsadm", "-Ln", "-t", service)))

    def established(self, service: str) -> int:
        """Connections of a TCP service in that state."""
        rows = [line.split() for line in self.output("ipvsadm", "-Lnc").splitlines()]
        return sum(row[2] == "ESTABLISHED" for row in rows if len(row) > 4 and row[4] == service)

    def rules(self) -> list[str]:
        return sorted(self.output("ipvsadm", "-Sn").splitlines())

    def sync_daemons(self) -> str:
        return " ".join(self.output("ipvsadm", "-L", "--daemon").split())

    def has_address(self, address: str, device: str) -> bool:
        return bool(self.output("ip", "-o", "addr", "show", "dev", device, "to", address))

    def mac(self, device: str) -> str:
        found = re.fullmatch("[0-9a-f:]{17}", self.output("cat", f"/sys/class/net/{device}/address"))
        return found[0] if found else ""


class GuestDirector(Director):
    """The emulated machine, where the package is installed."""

    name = "director"

    def __init__(self, qemu: Qemu):
        self.qemu = qemu

    def run(self, *words: Word) -> Outcome:
        return self.qemu.shell.run(*words)

    def pid(self) -> str:
        """Of the lvsd that runs; empty while none does."""
        return self.output("pidof", "lvsd")

    def isolated_cores(self) -> str:
        """As the kernel says."""
        return self.output("cat", "/sys/devices/system/cpu/isolated")

"""What an operator does meanwhile: changes of rules, listings, servers that come and go. None of it may cost a request."""

import itertools
import threading

from rigs.fault import Fault
from rigs.soak.ground import Ground

PAUSE_SECONDS = 1.0
# How long requests to a server of weight 0 may still run.
DRAIN_SECONDS = 3.0


class Changes:
    """Changes one after the other, in a thread of their own while its block runs."""

    def __init__(self, ground: Ground):
        self.ground = ground
        self.ended = threading.Event()
        self.fault: Fault | None = None
        self.count = 0
        self.thread = threading.Thread(target=self.run)

    def __enter__(self) -> "Changes":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def run(self) -> None:
        try:
            for change in itertools.cycle([self.another_service, self.other_weight, self.listings, self.server_goes]):
                change()
                self.count += 1
                if self.ended.wait(PAUSE_SECONDS):
                    return
        except Fault as fault:
            self.fault = fault

    def another_service(self) -> None:
        service = f"tcp:{self.ground.vip}:8888"
        self.ground.on_director("lvsctl", "service", "add", service, "--scheduler", "wlc")
        self.ground.on_director("lvsctl", "service", "delete", service)

    def other_weight(self) -> None:
        for weight in (7, 1):
            self.edit_last_server(weight)

    def listings(self) -> None:
        for words in (["list"], ["workers"], ["drops"], ["status"]):
            self.ground.on_director("lvsctl", *words)
        self.ground.on_director("ipvsadm", "-Ln", "--stats")

    def server_goes(self) -> None:
        """Takes its connections off, goes and comes again."""
        server = self.edit_last_server(0)
        self.ended.wait(DRAIN_SECONDS)
        address, method = server["config"]["server"], self.method_of(server)
        vip = f"{self.ground.vip}:80"
        self.ground.on_director("ipvsadm", "-d", "-t", vip, "-r", address)
        self.ground.on_director("ipvsadm", "-a", "-t", vip, "-r", address, method, "-w", "1")

    def edit_last_server(self, weight: int) -> dict:
        server = self.ground.listed("list", self.ground.service)["servers"][-1]
        self.ground.on_director("ipvsadm", "-e", "-t", f"{self.ground.vip}:80", "-r", server["config"]["server"],
                                self.method_of(server), "-w", str(weight))
        return server

    @staticmethod
    def method_of(server: dict) -> str:
        return {"Route": "-g", "Tunnel": "-i"}.get(server["forward"], "-m")

"""Real programs at the ends of the network: nginx on the real servers, with files to download."""

import hashlib
import os
from pathlib import Path

from rigs import REPOSITORY
from rigs.machine import addresses
from rigs.machine.network import Network
from rigs.processes import wait_for

MB = 1 << 20
FILES = {"big": 20 * MB, "part": 4 * MB}
NGINX = """daemon off;
user nobody nogroup;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp/p; fastcgi_temp_path {folder}/temp/f;
    uwsgi_temp_path {folder}/temp/u; scgi_temp_path {folder}/temp/s;
    default_type text/plain;
    server {{
        listen 80 backlog=4096; listen [::]:80 backlog=4096;
        location = / {{ return 200 "{host}\\n"; }}
        location /files/ {{ alias {files}/; }}
    }}
}}
"""


def program(name: str) -> Path:
    """One of the labs' own programs."""
    return Path(os.environ.get("LAB_PROGRAMS", REPOSITORY / "target/debug")) / name


class Servers:
    """The real servers, rs1 and rs2."""

    def __init__(self, network: Network):
        self.network = network
        self.files = network.state / "files"

    def begin(self) -> None:
        self.files.mkdir()
        for name, size in FILES.items():
            (self.files / name).write_bytes(os.urandom(size))
        for number, host in enumerate(addresses.SERVERS, 1):
            self.network.new_host(host)
            self.network.plug(host, "eth0", "inside")
            self.network.address(host, "eth0", f"192.0.2.1{number}/24", f"2001:db8:2::1{number}/64")
            self.start_nginx(host)

    def start_nginx(self, host: str) -> None:
        """Pages that say which server it is, and files to download."""
        folder = self.network.state / f"nginx-{host}"
        (folder / "temp").mkdir(parents=True)
        for path in (folder, folder / "temp"):
            path.chmod(0o777)
        configuration = folder / "nginx.conf"
        configuration.write_text(NGINX.format(folder=folder, files=self.files, host=host))
        self.network.start(host, "nginx", "nginx", "-e", folder / "error.log", "-p", folder, "-c", configuration)
        wait_for(f"nginx listens on {host}", 10, lambda: bool(self.network.host(host).output("ss", "-Hlnt", "sport = :80")))

    def size_mb(self, name: str) -> int:
        return (self.files / name).stat().st_size // MB

    def sha256(self, name: str) -> str:
        return hashlib.sha256((self.files / name).read_bytes()).hexdigest()

    def gateway_is(self, whom: str) -> None:
        """Where the real servers send what is not of their network: director, router, or nowhere ('none')."""
        for host in addresses.SERVERS:
            self.network.gateway(host, *addresses.GATEWAYS[whom])

    def have_vip(self) -> None:
        """The VIP on their lo, never announced."""
        for host in addresses.SERVERS:
            if addresses.FAMILIES[4].vip in self.network.host(host).output("ip", "addr", "show", "dev", "lo"):
                continue
            self.network.set_sysctls(host, {"net.ipv4.conf.all.arp_ignore": 1, "net.ipv4.conf.all.arp_announce": 2})
            for family, length in ((4, 32), (6, 128)):
                self.network.address(host, "lo", f"{addresses.FAMILIES[family].vip}/{length}")

    def has_tunnel(self, host: str) -> bool:
        return self.network.host(host).succeeds("ip", "link", "show", "tunl")

    def end_tunnels(self) -> None:
        """Each takes what comes to it in a tunnel."""
        for host in addresses.SERVERS:
            if not self.has_tunnel(host):
                self.network.start(host, "tunnel", program("tunnel-endpoint"), "--interface", "tunl")
        for host in addresses.SERVERS:
            wait_for(f"{host} ends its tunnel", 30, lambda of=host: self.has_tunnel(of))

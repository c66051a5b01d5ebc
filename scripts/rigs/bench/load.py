"""What one lvsd of a bench carries, and its lvsd.toml."""

from dataclasses import dataclass
from pathlib import Path

MBUF_BYTES = 2_500
CONNECTION_BYTES = 200
MB = 1 << 20
# Beside those that hold a replayed file.
MBUFS = 131_072
LOCAL_ADDRESSES = 100


@dataclass
class Load:
    """A forwarding mode, real servers, connections and the devices that bring them."""

    mode: str
    protocol: str
    servers: int
    flows: int
    # The argument of DPDK for each device: a driver with its arguments.
    drivers: list[str]
    # net_pcap keeps a file that it replays for ever in mbufs.
    mbufs_per_flow: int = 1
    udp_sec: int = 300
    idle: str = "spin"

    @property
    def mbufs(self) -> int:
        return self.flows * self.mbufs_per_flow + MBUFS

    @property
    def memory_mb(self) -> int:
        return self.mbufs * MBUF_BYTES // MB + self.flows * CONNECTION_BYTES // MB + 256


def replayed(number: int, file: Path, for_ever: bool = False) -> str:
    """A device that brings the frames of a file, once or again and again."""
    return f"net_pcap{number},rx_pcap={file}" + (",infinite_rx=1" if for_ever else "")


def configuration(load: Load, folder: Path, can_keep: bool = True) -> str:
    """The text of lvsd.toml; sockets and journal lie in the folder. Every lvsd begins without connections: one that
    can keep them is told not to; earlier revisions do not know the keys."""
    keep = f'keep = false\nstate_dir = "/dev/shm/{folder.name}-state"\n' if can_keep else ""
    text = f"""[eal]
hugepages = "require"
memory_mb = {load.memory_mb}
main_core = 0
worker_cores = [1]
mbufs = {load.mbufs}
[workers]
idle = "{load.idle}"
[connections]
ipv4_max = {load.flows + load.flows // 8 + 1024}
ipv6_max = 1024
{keep}[timeouts]
udp_sec = {load.udp_sec}
[api]
socket = "{folder}/api.sock"
[journal]
path = "{folder}/journal"
"""
    for number, driver in enumerate(load.drivers):
        text += f'[[device]]\nname = "feed{number}"\ndpdk = "{driver}"\n'
    text += f'[[service]]\nprotocol = "{load.protocol}"\naddress = "198.18.0.1"\nport = 80\nscheduler = "rr"\n'
    if load.mode == "fullnat":
        addresses = ", ".join(f'"198.18.200.{host}"' for host in range(1, LOCAL_ADDRESSES + 1))
        text += f"local_addresses = [{addresses}]\n"
    # FULLNAT is NAT with local addresses.
    mode = "nat" if load.mode == "fullnat" else load.mode
    for server in range(1, load.servers + 1):
        text += f'[[service.real_server]]\naddress = "198.18.100.{server}"\nport = 80\nmode = "{mode}"\nweight = 1\n'
    return text

"""Every forwarding mode, over each family: pages, a crowd and a download, and which worker had what of it."""

from rigs.counters import Worker
from rigs.fault import Fault
from rigs.machine import addresses
from rigs.machine.addresses import Family
from rigs.machine.checks import say
from rigs.machine.scene import Scene
from rigs.machine.steps.daemon import configure, systemd_does
from rigs.processes import until_true

RSS_SAYS = ('[ $(journalctl -u lvsd -o cat | grep -c '
            '"wan.* receive queues, but all flows come by one of them") = 1 ]')
INTERRUPTS_SAY = 'journalctl -u lvsd -o cat | grep "its interrupts wake workers that sleep"'


def nat(scene: Scene) -> None:
    serve(scene, "nat")


def fullnat(scene: Scene) -> None:
    serve(scene, "fullnat")


def dr(scene: Scene) -> None:
    serve(scene, "dr")


def tun(scene: Scene) -> None:
    serve(scene, "tun")


def add_service(scene: Scene, mode: str, family: Family) -> None:
    """The web service with both real servers in this mode, and what the network needs for it."""
    director, servers = scene.director, scene.servers
    gateways = {"nat": "director", "fullnat": "none", "dr": "router", "tun": "router"}
    servers.gateway_is(gateways[mode])
    if mode in ("dr", "tun"):
        servers.have_vip()
    if mode == "tun":
        servers.end_tunnels()
    director.ipvsadm("-A", "-t", family.web, "-s", "rr")
    if mode == "fullnat":
        director.lvsctl("local-address", "set", f"tcp:{family.web}", family.local)
    option = {"nat": "-m", "fullnat": "-m", "dr": "-g", "tun": "-i"}[mode]
    for number in (1, 2):
        director.ipvsadm("-a", "-t", family.web, "-r", family.server(number), option)


def serve(scene: Scene, mode: str) -> None:
    for family in scene.families:
        scene.checks.title(f"{mode} over IPv{family.version}, {scene.workers} worker(s)")
        scene.client.has_ports_of_its_own()
        add_service(scene, mode, family)
        scene.client.pages_come(f"{mode}: pages come", family)
        before = scene.director.workers()
        scene.client.check_alternates(family, scene.workers)
        scene.client.check_crowd(family)
        scene.client.check_download(family)
        check_shares(scene, mode, before, scene.director.workers())
        scene.director.ipvsadm("-Ln")
        scene.director.ipvsadm("-C")


def check_shares(scene: Scene, mode: str, before: list[Worker], after: list[Worker]) -> None:
    """With RSS every worker has its share, and only NAT's replies need a handoff; without it workers give each other their
    shares."""
    if not len(before) == len(after) == scene.workers:
        raise Fault(f"lvsctl lists {len(before)}, then {len(after)} of {scene.workers} workers")
    begun, handed_off = [], []
    for number, (was, now) in enumerate(zip(before, after)):
        begun.append(now.scheduler_picks - was.scheduler_picks)
        handed_off.append(now.handoff_out_packets - was.handoff_out_packets)
        say(f"worker {number}: {now.rx_packets - was.rx_packets} frames received, {begun[-1]} connections begun, "
            f"{handed_off[-1]} frames handed off")
    if scene.workers == 1:
        return
    even = scene.settings.requests // scene.workers
    scene.checks.check(f"{mode}: each worker has at least a third of its even share", 3 * min(begun) >= even)
    if scene.settings.spreads:
        if mode != "nat":
            scene.checks.equal(f"{mode}: nothing is handed off", 0, sum(handed_off))
        scene.checks.until(f"{mode}: lvsd sees that flows are spread by RSS", 10, lambda: rss_is(scene, "rss"))


def rss_is(scene: Scene, state: str) -> bool:
    """What lvsd found out of how the NIC with the clients spreads flows."""
    wan = scene.director.device("wan")
    return wan is not None and wan.rss == state


def rss(scene: Scene) -> None:
    """A NIC with several queues that brings all by one: crowds without a single loud flow among them, until lvsd has seen
    it."""
    if scene.settings.spreads:
        return
    family = addresses.FAMILIES[4]
    scene.checks.title("a NIC that does not spread flows")
    scene.client.has_ports_of_its_own()
    add_service(scene, "dr", family)

    def a_crowd_shows_it() -> bool:
        scene.client.crowd(family, 4 * scene.settings.requests)
        return until_true(5, lambda: rss_is(scene, "none"))

    scene.checks.until("lvsd notices that all flows come by one queue", 120, a_crowd_shows_it)
    scene.checks.check("and says so once", scene.director.succeeds("sh", "-c", RSS_SAYS))
    scene.director.lvsctl("devices")
    scene.director.ipvsadm("-C")


def restart(scene: Scene, idle: str = "sleep") -> None:
    configure(scene, idle)
    systemd_does(scene, "restart")


def workers(scene: Scene) -> None:
    """The same with other numbers of workers."""
    configured = scene.workers
    for count in (1, 2, 4):
        if count == configured or count > scene.settings.queues:
            continue
        scene.workers = count
        scene.checks.title(f"{count} worker(s)")
        restart(scene)
        scene.checks.equal(f"{count} worker(s) run", count, len(scene.director.workers()))
        serve(scene, "fullnat")
        serve(scene, "nat")
    scene.workers = configured
    restart(scene)


def interrupts(scene: Scene) -> None:
    """Workers that sleep until a NIC interrupts."""
    scene.checks.title("receive interrupts")
    restart(scene, idle="adaptive")
    scene.checks.check("lvsd says what wakes its workers", scene.director.succeeds("sh", "-c", INTERRUPTS_SAY))
    serve(scene, "fullnat")
    counts = [worker.interrupts for worker in scene.director.workers()]
    said = " ".join(map(str, counts))
    # If all frames come by one queue, only one worker is woken. qemu's e1000e never interrupts for a queue.
    if scene.settings.spreads:
        scene.checks.check(f"every worker was woken: {said} times", bool(counts) and min(counts) > 0)
    else:
        say(f"note  workers were woken {said} times")
    restart(scene)

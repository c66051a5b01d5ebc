#!/usr/bin/env python3
"""Uses generic netlink in one way and prints what came: `netlink_probe.py WAY`.

Every way is one that a program may use on a kernel with IPVS. `ok` is printed for an answer of the family IPVS.
"""
import asyncio
import errno
import os
import select
import socket
import struct
import sys
import threading

GENERIC, CONTROL, DUMP = 16, 16, 0x300
SOL_NETLINK, CAP_ACK, EXT_ACK, STRICT, ADD_MEMBERSHIP = 270, 10, 11, 12, 1


def attribute(kind, payload):
    return struct.pack("HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def request(kind, command, body=b"", flags=1, sequence=1):
    body = struct.pack("BBH", command, 1, 0) + body
    return struct.pack("IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def get_family(name="IPVS", **more):
    return request(CONTROL, 3, attribute(2, name.encode() + b"\0"), **more)


def opened(kind=socket.SOCK_RAW):
    netlink = socket.socket(socket.AF_NETLINK, kind, GENERIC)
    netlink.bind((0, 0))
    return netlink


def messages(datagram):
    while len(datagram) >= 16:
        length, kind, flags, sequence, port = struct.unpack_from("IHHII", datagram)
        yield kind, flags, sequence, port, datagram[16:length]
        datagram = datagram[(length + 3) & ~3:]


def attributes(payload):
    while len(payload) >= 4:
        length, kind = struct.unpack_from("HH", payload)
        yield kind & 0x3FFF, payload[4:length]
        payload = payload[(max(length, 4) + 3) & ~3:]


def verdict(datagram):
    kind, _, _, _, body = next(messages(datagram))
    if kind == 2:
        return errno.errorcode[-struct.unpack_from("i", body)[0]]
    found = dict(attributes(body[4:]))
    name = found[2].rstrip(b"\0").decode()
    return "ok" if name == "IPVS" else name


def answer(netlink):
    return verdict(netlink.recv(65536))


def epoll():
    netlink, poller = opened(), select.epoll()
    netlink.setblocking(False)
    poller.register(netlink.fileno(), select.EPOLLIN | select.EPOLLET)
    netlink.send(get_family())
    assert poller.poll(5), "the poller never hears"
    return answer(netlink)


def poll():
    netlink, poller = opened(), select.poll()
    poller.register(netlink.fileno(), select.POLLIN)
    netlink.send(get_family())
    assert poller.poll(5000)
    return answer(netlink)


def selects():
    netlink = opened()
    netlink.send(get_family())
    assert select.select([netlink], [], [], 5)[0]
    return answer(netlink)


def waiting_thread():
    netlink, heard = opened(), []
    thread = threading.Thread(target=lambda: heard.append(answer(netlink)))
    thread.start()
    netlink.send(get_family())
    thread.join(5)
    return heard[0]


def asyncio_datagrams():
    async def ask():
        heard = asyncio.get_running_loop().create_future()

        class Protocol(asyncio.DatagramProtocol):
            def datagram_received(self, data, _address):
                heard.set_result(data)

        netlink = opened(socket.SOCK_DGRAM)
        netlink.setblocking(False)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Protocol, sock=netlink)
        transport.sendto(get_family())
        return verdict(await asyncio.wait_for(heard, 5))

    return asyncio.run(ask())


def copies():
    netlink = opened()
    before = socket.socket(fileno=os.dup(netlink.fileno()))
    netlink.send(get_family())
    return answer(before)


def write_and_read():
    netlink = opened()
    os.write(netlink.fileno(), get_family())
    return verdict(os.read(netlink.fileno(), 65536))


def writev_and_readv():
    netlink, bytes_ = opened(), get_family()
    os.writev(netlink.fileno(), [bytes_[:16], bytes_[16:]])
    head, rest = bytearray(16), bytearray(65536)
    length = os.readv(netlink.fileno(), [head, rest])
    return verdict(bytes(head + rest)[:length])


def sendmsg_and_recvmsg():
    netlink = opened()
    netlink.sendmsg([get_family()], [], 0, (0, 0))
    data, _, _, name = netlink.recvmsg(65536)
    assert name == (0, 0), name
    return verdict(data)


def recvfrom():
    netlink = opened()
    netlink.sendto(get_family(), (0, 0))
    data, name = netlink.recvfrom(65536)
    assert name == (0, 0), name
    return verdict(data)


def peeked():
    netlink = opened()
    netlink.send(get_family())
    length = netlink.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
    assert length > 100, length
    return answer(netlink)


def splice():
    netlink = opened()
    out, into = os.pipe()
    os.write(into, get_family())
    os.splice(out, netlink.fileno(), 4096)
    return answer(netlink)


def forked():
    netlink = opened()
    if os.fork() == 0:
        netlink.send(get_family())
        os._exit(0)
    os.wait()
    return answer(netlink)


def inherited():
    netlink = opened()
    if len(sys.argv) > 2:
        netlink = socket.socket(fileno=int(sys.argv[2]))
        netlink.sendto(get_family(), (0, 0))
        data, name = netlink.recvfrom(65536)
        assert name == (0, 0) and netlink.family == socket.AF_NETLINK, (name, netlink)
        return verdict(data)
    os.set_inheritable(netlink.fileno(), True)
    os.execv(sys.executable, [sys.executable, sys.argv[0], "inherited", str(netlink.fileno())])


def types():
    found = []
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
        netlink = opened(kind)
        for _ in range(2):
            copy = socket.socket(fileno=os.dup(netlink.fileno()))
            found.append((copy.family, copy.type, copy.proto) == (socket.AF_NETLINK, kind, GENERIC))
            netlink.send(get_family())
            answer(netlink)
    return "ok" if all(found) else found


def names():
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, GENERIC)
    assert netlink.getsockname() == (0, 0), netlink.getsockname()
    netlink.bind((os.getpid() + (5 << 22), 0))
    other = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, GENERIC)
    try:
        other.bind((os.getpid() + (5 << 22), 0))
        return "two sockets of one name"
    except OSError as error:
        assert error.errno == errno.EADDRINUSE, error
    other.bind((0, 0))
    assert netlink.getpeername() == (0, 0) and other.getsockname() != netlink.getsockname()
    netlink.send(get_family())
    data = netlink.recv(65536)
    port = next(messages(data))[3]
    assert port == netlink.getsockname()[0], (port, netlink.getsockname())
    return verdict(data)


def options():
    netlink = opened()
    for option in (CAP_ACK, EXT_ACK, STRICT):
        assert netlink.getsockopt(SOL_NETLINK, option) == 0
        netlink.setsockopt(SOL_NETLINK, option, 1)
        assert netlink.getsockopt(SOL_NETLINK, option) == 1, option
    for call in (lambda: netlink.setsockopt(SOL_NETLINK, 77, 1), lambda: netlink.getsockopt(SOL_NETLINK, 77)):
        try:
            call()
            return "an option that there is not"
        except OSError as error:
            assert error.errno == errno.ENOPROTOOPT, error
    netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    assert netlink.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 131072
    netlink.send(get_family())
    return answer(netlink)


def families():
    netlink, found = opened(), []
    netlink.send(request(CONTROL, 3, flags=1 | DUMP))
    while True:
        for kind, _, _, _, body in messages(netlink.recv(65536)):
            if kind == 3:
                return "ok" if found.count("IPVS") == 1 and "nlctrl" in found else found
            found.append(dict(attributes(body[4:]))[2].rstrip(b"\0").decode())


def policy():
    netlink, commands, types_ = opened(), 0, {}
    netlink.send(request(CONTROL, 10, attribute(2, b"IPVS\0"), flags=1 | DUMP))
    while True:
        for kind, _, _, _, body in messages(netlink.recv(65536)):
            if kind == 3:
                return "ok" if commands == 16 and types_ == {1: 13, 2: 13, 3: 13, 4: 4, 5: 4, 6: 4} else types_
            if kind == 2:
                return errno.errorcode[-struct.unpack_from("i", body)[0]]
            found = dict(attributes(body[4:]))
            commands += 9 in found
            for _, index in attributes(found.get(8, b"")):
                for number, description in attributes(index):
                    types_[number] = struct.unpack("I", dict(attributes(description))[1])[0]


def several():
    netlink = opened()
    netlink.send(get_family("nlctrl"))
    assert answer(netlink) == "nlctrl"
    netlink.send(get_family())
    assert answer(netlink) == "ok"
    netlink.send(get_family("nlctrl"))
    assert answer(netlink) == "nlctrl"
    netlink.send(get_family())
    return answer(netlink)


def batch():
    netlink = opened()
    netlink.send(get_family() + get_family(sequence=2))
    return [answer(netlink), answer(netlink)][1]


def empty():
    netlink = opened()
    try:
        netlink.send(b"")
    except OSError:
        pass
    netlink.send(get_family())
    return answer(netlink)


def members():
    netlink = opened()
    netlink.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, 16)
    netlink.send(get_family())
    return answer(netlink)


def kept():
    """What the kernel keeps as it was given: forwarding methods, and timeout and netmask without persistence."""
    netlink = opened()
    netlink.send(get_family())
    family = struct.unpack("H", dict(attributes(next(messages(netlink.recv(65536)))[4][4:]))[1])[0]

    def ask(command, body, flags=5):
        netlink.send(request(family, command, body, flags=flags))
        found = []
        while True:
            for kind, _, _, _, payload in messages(netlink.recv(65536)):
                if kind in (2, 3):
                    status = struct.unpack_from("i", payload)[0] if kind == 2 else 0
                    assert status == 0, errno.errorcode[-status]
                    return found
                found.append(dict(attributes(next(attributes(payload[4:]))[1])))

    def number(kind, value):
        return attribute(kind, struct.pack("I", value))

    short = [attribute(kind, struct.pack("H", value)) for kind, value in ((1, socket.AF_INET), (2, socket.IPPROTO_TCP))]
    key = b"".join(short) + attribute(3, socket.inet_aton("192.0.2.9")) + attribute(4, struct.pack("!H", 99))
    options = attribute(6, b"rr\0") + attribute(7, struct.pack("II", 0, 0xFFFFFFFF)) + number(8, 7) + number(9, 0)
    ask(1, attribute(1, key + options))
    service = next(found for found in ask(4, b"", 1 | DUMP) if found[3][:4] == socket.inet_aton("192.0.2.9"))
    assert struct.unpack("II", service[8] + service[9]) == (7, 0), service
    for method in (1, 4):
        server = attribute(1, socket.inet_aton(f"198.51.100.{method}")) + attribute(2, struct.pack("!H", 80))
        limits = number(3, method) + number(4, 1) + number(5, 0) + number(6, 0)
        ask(5, attribute(1, key) + attribute(2, server + limits))
    methods = sorted(struct.unpack("I", found[3])[0] for found in ask(8, attribute(1, key), 1 | DUMP))
    assert methods == [1, 4], methods
    listing = open("/proc/net/ip_vs").read()
    assert "C6336401:0050      Local " in listing and "C6336404:0050      Masq " in listing, listing
    ask(3, attribute(1, key))
    return "ok"


WAYS = [
    epoll, poll, selects, waiting_thread, asyncio_datagrams, copies, write_and_read, writev_and_readv,
    sendmsg_and_recvmsg, recvfrom, peeked, splice, forked, inherited, types, names, options, families, policy, several,
    batch, empty, members, kept,
]

if __name__ == "__main__":
    if len(sys.argv) < 2:
        print(" ".join(way.__name__ for way in WAYS))
    else:
        print(next(way for way in WAYS if way.__name__ == sys.argv[1])())

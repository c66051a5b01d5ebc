#!/usr/bin/env python3
"""A mail server that takes HELO and QUIT: what a check asks and a client says first.

usage: smtp_server.py PORT NAME FILE

While FILE exists it greets with 421, as a mail server does that has no service to offer.
"""

import os
import socket
import socketserver
import sys

PORT, NAME, CLOSED = int(sys.argv[1]), sys.argv[2], sys.argv[3]
ANSWERS = {b"HELO": f"250 {NAME}", b"EHLO": f"250 {NAME}", b"NOOP": "250 2.0.0 ok"}


class Session(socketserver.StreamRequestHandler):
    """One client, from the greeting to QUIT."""

    def say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")

    def handle(self) -> None:
        if os.path.exists(CLOSED):
            self.say(f"421 {NAME} has no service")
            return
        self.say(f"220 {NAME} ready")
        for line in self.rfile:
            command = line[:4].upper()
            if command == b"QUIT":
                self.say("221 2.0.0 bye")
                return
            self.say(ANSWERS.get(command, "502 5.5.1 not here"))


class Server(socketserver.ThreadingTCPServer):
    """Both families on one socket."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


Server(("::", PORT), Session).serve_forever()

"""The switch between the lab's namespaces: a process of its own that sees every packet.

Started inside the switch's namespace with ``python -I switch.py``; imports nothing of ours.  It
takes commands as JSON lines on stdin and answers each with one on stdout; it ends with its stdin.

    {"id": 1, "do": "open", "ports": {"n1": ["p0", "02:00:0a:4d:01:01"], ...}, "seed": 7}
    {"id": 2, "do": "shape", "links": [["n1", "n2"]], "cut": true, "delay_ms": 0, ...}
    {"id": 3, "do": "counters"}

Needed because a kernel without netem cannot delay, lose, double, reorder or corrupt by itself.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import select
import socket
import struct
import time
from typing import Any

_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_IGNORE_OUTGOING = 23
_ETHERNET_HEADER = 14
_BUFFER_SIZE = 8 << 20
_FRAME_SIZE_MAX = 65_600
_BATCH = 64  # frames taken from one port before the others have their turn


class Link:
    """One direction between two ends: its rules and what has come of them."""

    def __init__(self, out: socket.socket, seed: str) -> None:
        self.out = out
        self.chance = random.Random(seed)  # of its own: other links' traffic changes nothing here
        self.rules: dict[str, Any] = {}
        self.is_plain = True
        self.is_cut = False
        self.free_at = 0.0  # when the rate has let the last packet through
        self.last_due = 0.0  # packets leave in order unless held back on purpose
        self.last_number = 0  # the newest packet that has gone out
        self.waiting = 0
        self.counters = dict.fromkeys(
            (
                "received", "forwarded", "forwarded_bytes", "cut", "lost", "overrun", "delayed",
                "duplicated", "corrupted", "reordered",
            ),
            0,
        )  # fmt: skip

    def shape(self, rules: dict[str, Any]) -> None:
        """Follow other rules from now on; what waits already leaves when it was to leave."""
        self.rules = rules
        self.is_cut = rules["cut"]
        self.is_plain = not any(
            rules[name]
            for name in (
                "cut", "delay_ms", "jitter_ms", "loss", "duplicate", "reorder", "corrupt",
                "rate_bits",
            )
        )  # fmt: skip

    def send(self, frame: bytes, number: int) -> None:
        """Let a packet out."""
        counters = self.counters
        if self.is_cut:
            counters["cut"] += 1
            return
        try:
            self.out.send(frame)
        except (BlockingIOError, OSError):
            counters["overrun"] += 1
            return
        counters["forwarded"] += 1
        counters["forwarded_bytes"] += len(frame)
        if number < self.last_number:
            counters["reordered"] += 1
        else:
            self.last_number = number


class Switch:
    """All ports and links."""

    def __init__(self) -> None:
        self.sockets: dict[int, tuple[socket.socket, str]] = {}
        self.links: dict[tuple[str, str], Link] = {}
        self.routes: dict[tuple[str, bytes], Link] = {}  # from where, to which MAC address
        self.due: list[tuple[float, int, Link, bytes, int]] = []
        self.ticket = 0
        self.strays = 0
        self.input = b""

    def open(self, ports: dict[str, list[str]], seed: int) -> None:
        """Listen on the interfaces and know who is where."""
        by_name = {}
        for name, (interface, _) in ports.items():
            port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            port.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_SIZE)
            port.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            port.bind((interface, _ETH_P_ALL))
            port.setblocking(False)
            by_name[name] = port
            self.sockets[port.fileno()] = (port, name)
        for source in ports:
            for target, (_, mac) in ports.items():
                if source != target:
                    link = Link(by_name[target], f"{seed} {source} {target}")
                    self.links[source, target] = link
                    self.routes[source, bytes.fromhex(mac.replace(":", ""))] = link

    def take(self, link: Link, frame: bytes, now: float) -> None:
        """Decide about one packet."""
        self.ticket += 1
        number = self.ticket
        counters = link.counters
        counters["received"] += 1
        if link.is_plain and link.last_due <= now:
            link.send(frame, number)
            return
        if link.is_cut:
            counters["cut"] += 1
            return
        rules, chance = link.rules, link.chance
        if link.is_plain:  # behind those that still wait
            self._wait(link, frame, number, link.last_due)
            return
        if rules["loss"] and chance.random() < rules["loss"]:
            counters["lost"] += 1
            return
        if rules["corrupt"] and chance.random() < rules["corrupt"]:
            changed = bytearray(frame)
            # Exactly one byte: the checksum of IP or TCP always notices.
            place = chance.randrange(_ETHERNET_HEADER, len(frame))
            changed[place] ^= chance.randrange(1, 256)
            frame = bytes(changed)
            counters["corrupted"] += 1
        due = now
        if rules["rate_bits"]:
            begin = max(now, link.free_at)
            if (begin - now) * rules["rate_bits"] / 8 > rules["queue_bytes"]:
                counters["overrun"] += 1
                return
            due = link.free_at = begin + len(frame) * 8 / rules["rate_bits"]
        delay_ms = rules["delay_ms"]
        if rules["jitter_ms"]:
            delay_ms += chance.uniform(-rules["jitter_ms"], rules["jitter_ms"])
        due = max(due + max(delay_ms, 0.0) / 1000, link.last_due)
        if rules["reorder"] and chance.random() < rules["reorder"]:
            self._wait(link, frame, number, due + rules["reorder_ms"] / 1000)
        else:
            link.last_due = due
            self._go(link, frame, number, due, now)
        if rules["duplicate"] and chance.random() < rules["duplicate"]:
            counters["duplicated"] += 1
            self._go(link, frame, number, due, now)

    def _go(self, link: Link, frame: bytes, number: int, due: float, now: float) -> None:
        if due <= now:
            link.send(frame, number)
        else:
            self._wait(link, frame, number, due)

    def _wait(self, link: Link, frame: bytes, number: int, due: float) -> None:
        self.ticket += 1
        link.counters["delayed"] += 1
        heapq.heappush(self.due, (due, self.ticket, link, frame, number))

    def run(self) -> None:
        """Forward until stdin ends."""
        while True:
            # select, as epoll waits for whole milliseconds: too coarse for the delays here.
            timeout = max(0.0, self.due[0][0] - time.perf_counter()) if self.due else None
            ready, _, _ = select.select([0, *self.sockets], [], [], timeout)
            for fd in ready:
                if fd == 0:
                    if not self._command():
                        return
                else:
                    self._receive(*self.sockets[fd])
            now = time.perf_counter()
            while self.due and self.due[0][0] <= now:
                _, _, link, frame, number = heapq.heappop(self.due)
                link.send(frame, number)

    def _receive(self, port: socket.socket, name: str) -> None:
        for _ in range(_BATCH):
            try:
                frame = port.recv(_FRAME_SIZE_MAX)
            except (BlockingIOError, OSError):
                return
            link = self.routes.get((name, frame[:6]))
            if link is None:
                self.strays += 1
            else:
                self.take(link, frame, time.perf_counter())

    # -- commands -------------------------------------------------------------------------------

    def _command(self) -> bool:
        data = os.read(0, 1 << 16)
        self.input += data
        *lines, self.input = self.input.split(b"\n")
        for line in lines:
            request = json.loads(line)
            try:
                answer = self._do(request)
            except (OSError, KeyError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            os.write(1, json.dumps({"id": request["id"], **answer}).encode() + b"\n")
        return bool(data)

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        verb = request["do"]
        if verb == "open":
            self.open(request["ports"], request["seed"])
        elif verb == "shape":
            links = [self.links[source, target] for source, target in request["links"]]
            for link in links:
                link.shape(request)
        elif verb == "counters":
            return {
                "links": [[*ends, link.counters] for ends, link in self.links.items()],
                "strays": self.strays,
                "missed": sum(self._missed(port) for port, _ in self.sockets.values()),
            }
        else:
            return {"error": f"unknown command {verb}"}
        return {}

    def _missed(self, port: socket.socket) -> int:
        # Reading it sets the kernel's counter back; whoever asks adds up.
        raw = port.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        return int(struct.unpack("II", raw)[1])


if __name__ == "__main__":
    os.nice(-10)  # busy nodes are not to make the wire slow
    Switch().run()

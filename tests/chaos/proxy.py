"""A proxy in front of PostgreSQL that does to connections what networks do."""

from __future__ import annotations

import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Literal

from tests.fix_postgres import Proxy

COMMIT_ANSWER = b"C\0\0\0\x0bCOMMIT\0"
"""CommandComplete of COMMIT (PostgreSQL's manual, "Message Formats")."""

HELD = 0.1
"""The share of connections that are held open, and not cut: each costs a time-out."""


@dataclass(frozen=True)
class Fault:
    """What happens to a connection once ``after`` bytes went ``way`` since the fault was due.

    ``cut`` closes it towards both ends, in the middle of a message. ``hold`` keeps it open, and
    lets nothing more through in either direction.
    """

    kind: Literal["cut", "hold"]
    way: Literal["up", "down"]
    """``up`` is towards the server."""
    after: int


class FaultyProxy(Proxy):
    """Works off ``faults``, one after the other, then only forwards; delays by ``delay`` seconds.

    ``lose_commits`` connections are cut when the server answers a COMMIT: the answer is lost.
    """

    def __init__(self, dsn: str) -> None:
        self.faults: deque[Fault] = deque()
        self.done: list[Fault] = []
        self.lose_commits = 0
        self.commits_lost = 0
        self.delay = 0.0
        self._bytes = {"up": 0, "down": 0}
        """Since the fault in front is due. Guarded by ``_counting``, as is all above."""
        self._counting = threading.Lock()
        self._held: set[frozenset[socket.socket]] = set()
        super().__init__(dsn)

    def refuse(self) -> None:
        """Cut all connections, and refuse new ones as a server does that does not run."""
        address = self._listener.getsockname()
        for each in list(self._sockets):
            _close(each)
        self._sockets.clear()
        self._address = address

    def take_again(self) -> None:
        self._listener = socket.create_server(self._address)
        self._sockets.append(self._listener)
        self._spawn(self._accept)

    def _accept(self) -> None:
        listener = self._listener
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            upstream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                upstream.connect(self._target)
            except OSError:  # the server does not run
                _close(client)
                upstream.close()
                continue
            self._sockets += [client, upstream]
            self._spawn(self._forward, client, upstream)
            self._spawn(self._forward, upstream, client)

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        way: Literal["up", "down"] = "down" if source.family == socket.AF_UNIX else "up"
        pair = frozenset({source, sink})
        with suppress(OSError):
            while data := source.recv(65536):
                self._forwarding.wait(timeout=60)
                if self.delay:
                    threading.Event().wait(self.delay)  # the network is slow: this is the fault
                if pair in self._held:
                    continue
                let_through, fault = self._apply(way, data)
                if let_through:
                    sink.sendall(let_through)
                if fault == "cut":
                    break
                if fault == "hold":
                    self._held.add(pair)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _apply(self, way: Literal["up", "down"], data: bytes) -> tuple[bytes, str | None]:
        with self._counting:
            if way == "down" and self.lose_commits and COMMIT_ANSWER in data:
                self.lose_commits -= 1
                self.commits_lost += 1
                return b"", "cut"
            if not self.faults:
                return data, None
            fault = self.faults[0]
            before = self._bytes[way]
            self._bytes[way] = before + len(data)
            if fault.way != way or self._bytes[way] < fault.after:
                return data, None
            self.done.append(self.faults.popleft())
            self._bytes = {"up": 0, "down": 0}
            return data[: fault.after - before], fault.kind


def random_faults(random: Random, count: int) -> list[Fault]:
    """Make ``count`` faults at bytes of any message, the first ones of a connection included."""
    return [
        Fault(
            "hold" if random.random() < HELD else "cut",
            way,
            round(10 ** random.uniform(0, 4.7 if way == "up" else 3.2)),
        )
        for way in random.choices(("up", "down"), k=count)
    ]


def _close(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()

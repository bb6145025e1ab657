"""What all peers have in common that are programs of others: processes, and a client library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

from bench.peers import clients
from bench.peers.servers import Servers
from bench.window import Stream, run_window

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from bench.measured import Measured


class LibrarySends(Protocol):
    """Sends through a client library, from so many tasks."""

    def __call__(
        self, port: int, body_size: int, *, task_count: int, seconds: float, warm_up_seconds: float
    ) -> Coroutine[None, None, Measured]:
        """See `Peer.send_by_library`; *port* is that of the leader."""
        ...


class LibraryConsume(Protocol):
    """Has a client library hand messages over."""

    def __call__(
        self, port: int, body_size: int, *, count: int, seconds: float
    ) -> Coroutine[None, None, Measured]:
        """See `Peer.consume_by_library`."""
        ...


class ForeignPeer(ABC):
    """See `Peer`. A subclass starts its servers and speaks their protocol."""

    package: ClassVar[str]  # what the client library is imported as
    library_sends: ClassVar[LibrarySends]
    library_consume: ClassVar[LibraryConsume]

    def __init__(self, folder: Path, *, body_size: int) -> None:
        self.body_size = body_size
        self.servers = Servers(folder)

    @property
    @abstractmethod
    def port(self) -> int:
        """Where the server is that takes messages."""

    @abstractmethod
    def streams(self, in_flight: int) -> list[Stream]:
        """Return connections that share *in_flight* sends."""

    def send(self, *, in_flight: int, seconds: float, warm_up_seconds: float) -> Measured:
        """See `Peer`."""
        streams = self.streams(in_flight)
        try:
            return run_window(
                streams, in_flight=in_flight, seconds=seconds, warm_up_seconds=warm_up_seconds
            )
        finally:
            for stream in streams:
                stream.socket.close()

    def send_by_library(
        self, *, task_count: int, seconds: float, warm_up_seconds: float
    ) -> Measured:
        """See `Peer`."""
        clients.need(self.package)
        sends = type(self).library_sends(
            self.port,
            self.body_size,
            task_count=task_count,
            seconds=seconds,
            warm_up_seconds=warm_up_seconds,
        )
        return clients.run(sends)

    def consume_by_library(self, *, count: int, seconds: float) -> Measured:
        """See `Peer`."""
        clients.need(self.package)
        consume = type(self).library_consume
        return clients.run(consume(self.port, self.body_size, count=count, seconds=seconds))

    def cpu_seconds(self) -> float:
        """See `Peer`."""
        return self.servers.cpu_seconds()

    def rss(self) -> int:
        """See `Peer`."""
        return self.servers.rss()

    def close(self) -> None:
        """See `Peer`."""
        self.servers.stop()

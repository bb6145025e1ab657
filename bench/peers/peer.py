"""What a peer is to the comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from bench.measured import Measured


class Peer(Protocol):
    """One broker with three replicas, running.

    Its constructor takes the folder for its files, which it makes, and the size of bodies; it
    raises `MissingProgramError` when the peer is not installed and `LoadError` when it will not
    start.
    """

    name: str
    durability: str  # what its acks stand on
    library: str  # of Python, through which programs use it
    is_emptied: bool  # what is read is gone

    def __init__(self, folder: Path, *, body_size: int) -> None:
        """Start it."""
        ...

    def send(self, *, in_flight: int, seconds: float, warm_up_seconds: float) -> Measured:
        """Keep so many single sends under way over plain sockets.

        Raises:
            LoadError: one was refused, or nothing comes back.
        """
        ...

    def consume(self, *, count: int, seconds: float) -> Measured:
        """Read *count* messages from the beginning, or for so long, over a plain socket.

        Raises:
            LoadError: nothing comes.
        """
        ...

    def send_by_library(
        self, *, task_count: int, seconds: float, warm_up_seconds: float
    ) -> Measured:
        """Have so many tasks send through the client library, each one message after another.

        Raises:
            MissingClientError: it is not installed.
        """
        ...

    def consume_by_library(self, *, count: int, seconds: float) -> Measured:
        """Have the client library hand over *count* messages, or those of so many seconds.

        Raises:
            MissingClientError: it is not installed.
            LoadError: nothing comes.
        """
        ...

    def cpu_seconds(self) -> float:
        """Return the processor time that its servers have spent."""
        ...

    def rss(self) -> int:
        """Return the memory of its largest server, mapped files not counted, in bytes."""
        ...

    def close(self) -> None:
        """End its processes."""
        ...

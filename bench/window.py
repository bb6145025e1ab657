"""A closed loop over plain sockets: so many sends under way, each answer lets the next one go.

The same loop for every peer, so that what differs is the peer: what to write for a number of
sends, and how many of them an answer's bytes settle.
"""

from __future__ import annotations

import contextlib
import itertools
import select
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bench import wire
from bench.measured import LoadError, Measured

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator, Sequence

_SILENCE_SECONDS = 15.0


class Stream(Protocol):
    """One connection of a peer's protocol."""

    @property
    def socket(self) -> socket.socket:
        """The connection, blocking."""
        ...

    def encode(self, count: int) -> bytes:
        """Return the bytes of *count* sends."""
        ...

    def settle(self, data: bytes) -> int:
        """Return how many sends these bytes acknowledge, in the order they were sent.

        Raises:
            LoadError: one was refused.
        """
        ...


def connect(port: int) -> socket.socket:
    """Return a connection to a port of this machine that gives up after a long silence."""
    return wire.connect("127.0.0.1", port, silence_seconds=_SILENCE_SECONDS)


def run_window(
    streams: Sequence[Stream], *, in_flight: int, seconds: float, warm_up_seconds: float
) -> Measured:
    """Keep *in_flight* sends under way, shared out evenly, then wait for all answers.

    Raises:
        LoadError: a send was refused, or no answer comes.
    """
    shares = [in_flight // len(streams)] * len(streams)
    shares[0] += in_flight - sum(shares)
    under_way: list[deque[tuple[float, int]]] = [deque() for _ in streams]
    latencies: list[tuple[float, int]] = []
    began = perf_counter()
    counting_from, until = began + warm_up_seconds, began + warm_up_seconds + seconds
    counted = answered = waiting = 0
    for stream, share, sent in zip(streams, shares, under_way, strict=True):
        sent.append((perf_counter(), share))
        waiting += share
        stream.socket.sendall(stream.encode(share))
    with contextlib.closing(_answering(streams)) as answering:
        while waiting:
            number = next(answering)
            stream = streams[number]
            settled = stream.settle(wire.receive(stream.socket))
            if not settled:
                continue
            now = perf_counter()
            answered += settled
            waiting -= settled
            is_counting = counting_from <= now < until
            _take_first(under_way[number], settled, now, latencies if is_counting else None)
            if is_counting:
                counted += settled
            if now < until:
                under_way[number].append((now, settled))
                waiting += settled
                stream.socket.sendall(stream.encode(settled))
    return Measured.of(
        message_count=counted,
        seconds=seconds,
        latencies=_spread(latencies),
        written_count=answered,
    )


def _answering(streams: Sequence[Stream]) -> Generator[int, None, None]:
    """Yield the number of one stream after another on which something has arrived.

    Where there is only one the next receive waits for it.
    """
    if len(streams) == 1:
        yield from itertools.repeat(0)
    with select.epoll() as poll:
        numbers = {}
        for number, stream in enumerate(streams):
            numbers[stream.socket.fileno()] = number
            poll.register(stream.socket, select.EPOLLIN)
        while ready := poll.poll(_SILENCE_SECONDS, len(streams)):
            for fd, _ in ready:
                yield numbers[fd]
    raise LoadError(f"no answer for {_SILENCE_SECONDS:g} s")


def _take_first(
    sent: deque[tuple[float, int]],
    count: int,
    now: float,
    latencies: list[tuple[float, int]] | None,
) -> None:
    while count:
        at, left = sent.popleft()
        taken = min(left, count)
        count -= taken
        if left > taken:
            sent.appendleft((at, left - taken))
        if latencies is not None:
            latencies.append((now - at, taken))


def _spread(latencies: list[tuple[float, int]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    if not latencies:
        return np.zeros(0)
    pairs = np.array(latencies)
    return np.repeat(pairs[:, 0], pairs[:, 1].astype(np.int64))

"""Sends at a fixed rate, whatever the answers do: an open loop.

A closed loop waits while the broker stands still, and so measures a pause once; users do not wait.
Here each send has its moment, and its latency counts from that moment, not from when it could be
written ("coordinated omission", Gil Tene).
"""

from __future__ import annotations

import select
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from bench import wire
from bench.measured import LoadError, Measured
from bench.raw_load import acknowledged_opaques
from dledger.remoting.connection import Connection

if TYPE_CHECKING:
    import socket

    from bench.frames import FrameRing

_SILENCE_SECONDS = 10.0


def run_sends_at(
    connected: socket.socket,
    ring: FrameRing,
    *,
    rate: float,
    seconds: float,
    warm_up_seconds: float,
) -> Measured:
    """Send *rate* messages a second, then wait for all answers.

    What counts are the messages whose moment lies behind the warm-up. When the nodes do not keep
    up the latencies say so: they grow as long as the load goes on.

    Raises:
        LoadError: a send was refused, or no answer comes.
    """
    connection = Connection()
    count = int(rate * (seconds + warm_up_seconds))
    first_counted = int(rate * warm_up_seconds)
    first_opaque = ring.next_opaque
    moments = np.arange(count) / rate
    answered_at = np.zeros(count)
    sent = answered = 0
    began = last_heard = perf_counter()
    connected.setblocking(False)
    rest: list[memoryview] = []  # of the ring: nothing is taken from it until that is written
    while answered < count:
        if not rest and (due := min(int((perf_counter() - began) * rate) + 1, count) - sent) > 0:
            due = min(due, ring.frame_count)
            rest = ring.take(due)
            sent += due
        rest = _write(connected, rest)
        wait = _SILENCE_SECONDS
        if not rest and sent < count:
            wait = max(0.0, float(moments[sent]) - (perf_counter() - began))
        readable, _, _ = select.select([connected], [connected] if rest else [], [], wait)
        now = perf_counter()
        if not readable:
            if now - last_heard > _SILENCE_SECONDS and answered < sent:
                raise LoadError(f"no answer for {_SILENCE_SECONDS:g} s")
            continue
        last_heard = now
        connection.receive_data(wire.receive(connected))
        for command in connection.commands():
            opaques = acknowledged_opaques(command) - first_opaque
            answered_at[opaques] = now - began
            answered += len(opaques)
    wire.limit_silence(connected, _SILENCE_SECONDS)
    latencies = (answered_at - moments)[first_counted:]
    spent = float(answered_at.max()) - warm_up_seconds
    return Measured.of(
        message_count=count - first_counted,
        seconds=max(spent, seconds),
        latencies=latencies,
        written_count=count,
    )


def _write(connected: socket.socket, views: list[memoryview]) -> list[memoryview]:
    """Write as much as the socket takes now; return the rest."""
    while views:
        try:
            written = connected.send(views[0])
        except BlockingIOError:
            break
        views = [views[0][written:], *views[1:]] if written < len(views[0]) else views[1:]
    return views

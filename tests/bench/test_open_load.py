"""An open loop counts a pause for everybody who would have waited in it."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time

from bench.frames import FrameRing
from bench.open_load import run_sends_at
from dledger.remoting.command import FLAG_GROUPED, Command
from dledger.remoting.connection import Connection
from dledger.remoting.frame import encode_frame

_ACK = struct.Struct(">IiiqQ")
_PAUSE_SECONDS = 0.2


def _answer(connected: socket.socket, pause_at: int) -> None:
    connection = Connection()
    seen = 0
    while data := connected.recv(1 << 16):
        connection.receive_data(data)
        acks = b""
        for command in connection.commands():
            seen += 1
            if seen == pause_at:
                time.sleep(_PAUSE_SECONDS)
            acks += _ACK.pack(command.opaque, 0, 0, 0, 0)
        if acks:
            answer = Command(0, 1 | FLAG_GROUPED, 0, body=acks)
            connected.sendall(b"".join(encode_frame(answer)))


def test_a_pause_is_in_the_latency_of_every_send_that_was_due_in_it():
    near, far = socket.socketpair()
    thread = threading.Thread(target=_answer, args=(far, 100))
    thread.start()
    ring = FrameRing(
        topic="t",
        queue_count=1,
        body_size=10,
        batch_count=1,
        producer_id=1,
        chance=random.Random(1),
        frame_count_min=1,
    )
    measured = run_sends_at(near, ring, rate=1000, seconds=0.5, warm_up_seconds=0.0)
    near.close()
    thread.join()
    far.close()
    assert measured.written_count == 500
    # 200 of 500 sends were due while nobody answered, and 50 of these waited for three quarters of
    # it. A closed loop would have one long latency among 500, which is no 99th percentile.
    assert measured.p99 > _PAUSE_SECONDS * 1000 * 0.75

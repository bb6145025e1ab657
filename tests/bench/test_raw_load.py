"""The loads over a plain socket take every answer that says a message is written."""

from __future__ import annotations

import random
import socket

import pytest

from bench import wire
from bench.frames import FrameRing
from bench.measured import LoadError
from bench.raw_load import _RingStream, acknowledged_opaques
from broker.protocol.bodies import ACK
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import FLAG_GROUPED, FLAG_RESPONSE, Command
from dledger.remoting.connection import Connection
from dledger.remoting.frame import encode_frame


def test_a_forwarded_send_is_answered_by_itself():
    answer = Command(ResponseCode.SUCCESS.value, FLAG_RESPONSE, opaque=7)

    assert acknowledged_opaques(answer).tolist() == [7]


def test_a_refused_send_ends_the_load():
    answer = Command(ResponseCode.SYSTEM_BUSY.value, FLAG_RESPONSE, opaque=7, remark="too much")

    with pytest.raises(LoadError, match="too much"):
        acknowledged_opaques(answer)


def test_a_peer_that_is_silent_for_too_long_or_gone_ends_the_load():
    near, far = socket.socketpair()
    with near, far:
        wire.limit_silence(near, 0.01)
        with pytest.raises(LoadError, match="no answer"):
            wire.receive(near)
        far.sendall(b"late")
        assert wire.receive(near) == b"late"
        far.close()
        with pytest.raises(LoadError, match="closed"):
            wire.receive(near)


@pytest.mark.parametrize("counts", [[1] * 25, [3, 1, 8, 1, 1, 5, 6]])
def test_frames_are_numbered_alike_one_by_one_and_many_at_a_time(counts):
    def ring():
        return FrameRing(
            topic="t",
            queue_count=4,
            body_size=10,
            batch_count=2,
            producer_id=7,
            chance=random.Random(1),
            frame_count_min=8,
            frame_count_max=8,
        )

    ringing, connection = ring(), Connection()
    for count in counts:
        for view in ringing.take(count):
            connection.receive_data(view)
    found = connection.commands()

    assert [command.opaque for command in found] == list(range(25))
    assert [command.ext_fields["queueId"] for command in found] == [n % 4 for n in range(25)]
    assert [command.ext_fields["sequence"] for command in found] == [n // 4 * 2 for n in range(25)]


@pytest.mark.parametrize("code", [ResponseCode.SUCCESS, ResponseCode.SYSTEM_BUSY])
def test_acks_of_many_connections_are_counted_one_by_one(code):
    near, far = socket.socketpair()
    with near, far:
        stream = _RingStream(near, None)
        rows = [ACK.pack(7, 0, 1, 2, 3), ACK.pack(8, int(code), 1, 2, 3)]
        frames = [
            b"".join(encode_frame(Command(0, FLAG_RESPONSE | FLAG_GROUPED, body=body)))
            for body in (*rows, b"".join([rows[0], *rows]))
        ]

        assert stream.settle(frames[0]) == 1
        for frame in frames[1:]:
            if code is ResponseCode.SUCCESS:
                assert stream.settle(frame) in (1, 3)
            else:
                with pytest.raises(LoadError, match="code 2"):
                    stream.settle(frame)

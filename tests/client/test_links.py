"""What one connection makes of the bytes that come, however they are cut."""

from __future__ import annotations

import random

import pytest
import trio

from broker.client.links import Links
from broker.protocol.bodies import ACK_SIZE, Ack, encode_acks
from broker.testing.memory_network import MemoryNetwork
from dledger.remoting.command import FLAG_GROUPED, FLAG_RESPONSE, Command
from dledger.remoting.frame import encode_frame

COUNT = 300
LEVELS = ("majority/async", "majority/sync", "all/sync")


def frames(chance):
    """Return frames with acks of the requests 1 to `COUNT`, and the acks."""
    acks = [
        Ack(
            opaque,
            chance.choice((0, 0, 0, 0, 15)),
            opaque % 4,
            chance.getrandbits(40),
            chance.getrandbits(50),
            LEVELS[opaque // 150],
        )
        for opaque in range(1, COUNT + 1)
    ]
    found, at = [], 0
    while at < COUNT:
        count = chance.choice((1, 1, 1, 1, 5))
        part = [ack for ack in acks[at : at + count] if ack.durability == acks[at].durability]
        at += len(part)
        body = encode_acks(part)
        found.append(
            b"".join(
                encode_frame(
                    Command(
                        0,
                        FLAG_RESPONSE | FLAG_GROUPED,
                        ext_fields={"durability": part[0].durability},
                        body=body,
                    )
                )
            )
        )
    return found, acks


@pytest.mark.parametrize("seed", range(6))
async def test_acks_are_told_in_their_order_however_their_frames_are_cut(
    seed, nursery, autojump_clock
):
    chance = random.Random(seed)
    network = MemoryNetwork()
    listener = await network.listen("127.0.0.1", 0)
    links = Links(
        network=network,
        nursery=nursery,
        connect_timeout=1.0,
        on_lost=lambda _link, error: pytest.fail(str(error)),
    )
    link = links[f"127.0.0.1:{listener.port}"]
    told = []
    for _ in range(COUNT):
        link.submit(Command(1), told.append)
    stream = await listener.accept()
    await stream.receive_some()
    found, acks = frames(chance)
    while found:
        piece = b"".join(found.pop(0) for _ in range(min(len(found), chance.choice((1, 1, 1, 3)))))
        while piece:  # mostly whole, sometimes cut in the head or behind it
            size = chance.choice((len(piece), len(piece), len(piece), 3, 20, len(piece) - 28))
            stream.send_now([piece[:size]])
            piece = piece[size:]
            await trio.sleep(0.001)
    stream.send_now([])
    await trio.sleep(0.01)
    assert told == acks
    assert [answer.durability for answer in told] == [ack.durability for ack in acks]


async def ask_once(nursery):
    """Return a link with one request under way, what it is told, and the other end."""
    network = MemoryNetwork()
    listener = await network.listen("127.0.0.1", 0)
    links = Links(
        network=network, nursery=nursery, connect_timeout=1.0, on_lost=lambda *_args: None
    )
    link = links[f"127.0.0.1:{listener.port}"]
    told = []
    link.submit(Command(1), told.append)
    stream = await listener.accept()
    return link, told, stream


async def test_an_ack_of_nothing_that_was_asked_is_passed_over(nursery, autojump_clock):
    link, told, stream = await ask_once(nursery)
    for opaque in (77, 78, 1, 1):
        head = Command(0, FLAG_RESPONSE | FLAG_GROUPED, ext_fields={"durability": "all/sync"})
        head.body = encode_acks([Ack(opaque, 0, 1, 2, 3)])
        stream.send_now(encode_frame(head))
        await trio.sleep(0.001)
    assert told == [Ack(1, 0, 1, 2, 3, "all/sync")]
    assert link.is_open


async def test_an_answer_as_long_as_an_ack_is_none(nursery, autojump_clock):
    """Seed 20012: an offset was asked for over a connection that had brought no ack, in vain."""
    _, told, stream = await ask_once(nursery)
    answer = Command(0, FLAG_RESPONSE, 1)
    missing = ACK_SIZE - len(encode_frame(answer)[0])
    answer.body = b"x" * missing
    (frame,) = encode_frame(answer)
    assert len(frame) == ACK_SIZE
    stream.send_now([frame])
    await trio.sleep(0.001)
    assert [(found.opaque, bytes(found.body)) for found in told] == [(1, b"x" * missing)]

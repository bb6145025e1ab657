"""Scenarios of sending: whatever a client sends arrives as it was sent.

Each goes on sending through the middle; what was acknowledged is read by our own client, and what
only the clients themselves can undo (delays, compression) by theirs.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from tests.interop.case import ENOUGH, INTERVAL, ZLIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.interop.case import Case, Reading
    from tests.interop.clients import Client

DELAY_SECONDS = 5.0  # level 2


@contextlib.asynccontextmanager
async def _sent(case: Case, **told: Any) -> AsyncIterator[tuple[Client, Reading]]:
    """Send through the middle; yield the producer that has ended, and what is being read."""
    order = {"tag": "apples", "keys": "k1 k2", "endless": "m", "interval": INTERVAL, **told}
    async with case.read() as reading:
        async with case.run("producer", **order) as producer:
            await producer.until("sends", lambda client: len(client.sent) >= ENOUGH)
            await case.middle()
            count = len(producer.sent)
            await producer.until("more", lambda client: len(client.sent) >= count + ENOUGH)
            await producer.sends_no_more()
        case.tell_sends(producer)
        yield producer, reading


async def _arrives(case: Case, **told: Any) -> tuple[Client, Reading]:
    async with _sent(case, **told) as (producer, reading):
        await reading.until_there(producer.sent)
        if case.is_calm or (case.scenario == "sync" and not case.has_single_name):
            assert case.facts["failed"] == "0", case.facts
        if case.is_calm:
            case.same(reading.bodies, producer.sent)
        else:
            case.facts["twice"] = str(len(reading.bodies) - len(set(reading.bodies)))
        assert {(message.tag, message.keys) for message in reading.messages} == {
            ("apples", ("k1", "k2"))
        }
        ids = {message.properties["UNIQ_KEY"] for message in reading.messages}
        assert len(ids) >= len(set(reading.bodies))
    return producer, reading


async def sync(case: Case) -> None:
    """One after another; an answer tells its place."""
    producer, _ = await _arrives(case)
    assert len({event["id"] for event in producer.of("sent")}) == len(producer.sent)


async def asynchronous(case: Case) -> None:
    """With a callback."""
    await _arrives(case, how="async")


async def oneway(case: Case) -> None:
    """Nothing is acknowledged: over a killed leader some may be lost, and are counted."""
    if case.is_calm:
        await _arrives(case, how="oneway")
        return
    async with _sent(case, how="oneway") as (producer, reading):
        # The last ones may go to the dead node until the client asks for a new route.
        late = set(producer.sent[-20:])
        await reading.until("some of the last", lambda reading: late & set(reading.bodies))
        await reading.until_quiet()
    lost = set(producer.sent) - set(reading.bodies)
    case.facts["lost, not acknowledged"] = f"{len(lost)} of {len(producer.sent)}"
    del case.facts["without an ack"]


async def batch(case: Case) -> None:
    """Five in one request are five messages."""
    await _arrives(case, how="batch")


async def ordered(case: Case) -> None:
    """By a key: one queue, in order; what fails is sent again, as whoever wants an order must."""
    _, reading = await _arrives(case, how="ordered", key=7, insist=True)
    queues = {message.queue_id for message in reading.messages}
    bodies = list(dict.fromkeys(reading.bodies))  # the first of each
    numbers = [int(body[1:]) for body in bodies]
    if case.is_calm:
        assert len(queues) == 1
        assert numbers == sorted(numbers)
    case.facts["queues"] = str(len(queues))
    case.facts["in order"] = "yes" if numbers == sorted(numbers) else "no"


async def compressed(case: Case) -> None:
    """What is long is compressed by the sender, and decompressed by whoever reads it."""
    async with case.run("consumer") as consumer:
        producer, reading = await _arrives(case, padding=20_000, interval=0.1)
        await consumer.until(
            "all", lambda client: len(set(client.bodies)) >= len(set(reading.bodies))
        )
    spoiled = reading.twice_compressed
    assert not spoiled or case.kind.compresses_in_place
    if spoiled:
        case.facts["sent again, compressed twice"] = str(len(spoiled))
    plain = [message for message in reading.messages if not message.body.startswith(ZLIB)]
    assert {len(message.body.rstrip(b"x")) + 20_000 for message in plain} >= {20_002}
    assert {body.rstrip("x") for body in consumer.bodies} >= set(producer.sent) - spoiled


async def delayed(case: Case) -> None:
    """Nothing comes early, and everything comes."""
    async with case.run("consumer") as consumer:
        told = {"delay_level": 2, "delay_ms": int(DELAY_SECONDS * 1000)}
        async with _sent(case, **told) as (producer, _):
            await case.until_consumed(producer.sent, consumer)
        sent = {
            body: event["seen"] - event["seconds"]
            for event in producer.of("sent")
            for body in event["bodies"]
        }
        waits = [
            event["seen"] - sent[event["body"]]
            for event in consumer.of("got")
            if event["body"] in sent
        ]
        case.facts["came after"] = f"{min(waits):.1f} to {max(waits):.1f} s"
        # Told of at both ends by processes that share two cores.
        assert min(waits) > DELAY_SECONDS - 1.0
        case.same([body for body in consumer.bodies if body in sent], producer.sent)


PRODUCING = {
    "sync": sync,
    "async": asynchronous,
    "oneway": oneway,
    "batch": batch,
    "ordered": ordered,
    "compressed": compressed,
    "delayed": delayed,
}

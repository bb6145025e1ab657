"""What tests of stock clients do with a group besides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

import broker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.process.kit import ProcessGroup

SECONDS = 45.0
QUEUES = 4  # of the topic that `produced` sends to


def servers(group: ProcessGroup) -> str:
    """Return the name servers' addresses as RocketMQ's clients take them: every node is one."""
    return ";".join(group.addresses)


async def topic(group: ProcessGroup, name: str, *, queues: int) -> None:
    """Create a topic that every node knows of."""
    async with broker.connect(group.addresses) as mq:
        await mq.admin.create_topic(name, queues)
    await group.settled()


async def there(group: ProcessGroup, name: str) -> None:
    """Wait until a topic exists."""
    async with broker.connect(group.addresses) as mq:
        while name not in {item.topic for item in await mq.admin.list_topics()}:  # noqa: ASYNC110
            await trio.sleep(0.05)


async def produced(group: ProcessGroup, topic: str, bodies: Sequence[str], **kinds: Any) -> None:
    """Send *bodies* with our own client, evenly over the queues."""
    async with broker.connect(group.addresses) as mq, mq.producer() as producer:
        for number, body in enumerate(bodies):
            await producer.send(topic, body.encode(), queue=number % QUEUES, **kinds)


async def consumed(group: ProcessGroup, topic: str, *, count: int) -> list[Any]:
    """Read *count* messages with our own client."""
    messages: list[Any] = []
    with trio.fail_after(SECONDS):
        async with (
            broker.connect(group.addresses) as mq,
            mq.consumer("checkers", topic) as consumer,
        ):
            async for message in consumer:
                messages.append(message)
                if len(messages) == count:
                    break
    return messages

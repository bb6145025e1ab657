"""What tests of stock clients do with a group besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import broker

if TYPE_CHECKING:
    from tests.process.kit import ProcessGroup


def servers(group: ProcessGroup) -> str:
    """Return the name servers' addresses as RocketMQ's clients take them: every node is one."""
    return ";".join(group.addresses)


async def topic(group: ProcessGroup, name: str, *, queues: int) -> None:
    """Create a topic."""
    async with broker.connect(group.addresses) as mq:
        await mq.admin.create_topic(name, queues)

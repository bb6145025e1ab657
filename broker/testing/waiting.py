"""Waiting for a node of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from broker.node import Node


async def until_serving(node: Node) -> None:
    """Return once *node* leads and takes messages; nothing tells of that, so it is asked."""
    while not node.queue.is_open:  # noqa: ASYNC110
        await trio.sleep(0.001)

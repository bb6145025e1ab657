"""The fixture for pytest-trio; see `broker.testing.plugin`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_trio import trio_fixture  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.testing.virtual import MemoryBroker


@trio_fixture  # type: ignore[untyped-decorator] # pytest-trio has no types
async def virtual_broker() -> AsyncIterator[MemoryBroker]:
    """A broker in memory, in the test's own event loop."""
    from broker.testing.virtual import memory_broker

    async with memory_broker() as memory:
        yield memory

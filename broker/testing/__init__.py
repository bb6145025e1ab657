"""Brokers for the tests of those who use one: a real one, and one in memory under virtual time.

With this package installed, pytest knows two fixtures (`broker.testing.plugin`):

    def test_orders(broker_server):             # a real single-node broker in a temporary folder
        with broker.sync.connect(broker_server.address) as mq:
            mq.send("orders", b"hello")

    async def test_timeouts(virtual_broker, autojump_clock):    # pytest-trio; takes no time at all
        async with virtual_broker.connect() as mq:
            ...

Without pytest, `BrokerServer` and `memory_broker` are context managers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.testing.server import BrokerServer
    from broker.testing.virtual import MemoryBroker, memory_broker

__all__ = ["BrokerServer", "MemoryBroker", "memory_broker"]

_HOMES = {
    "BrokerServer": "broker.testing.server",
    "MemoryBroker": "broker.testing.virtual",
    "memory_broker": "broker.testing.virtual",
}


def __getattr__(name: str) -> object:
    """Load a name when it is first used: pytest loads this package in every run (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'broker.testing' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value

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

from broker.testing.server import BrokerServer
from broker.testing.virtual import MemoryBroker, memory_broker

__all__ = ["BrokerServer", "MemoryBroker", "memory_broker"]

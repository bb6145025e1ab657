"""Groups of brokers and name servers on one network, under virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.brokers import Brokers
from tests.fakes.name_server import ADDRESS, PORT, FakeNameServer


@pytest.fixture
def make_group(nursery_of_brokers):
    """Return what makes a group that registers with the name server; it is not running yet."""
    made: list[Brokers] = []

    def make(name: str = "orders", count: int = 3, **settings: Any) -> Brokers:
        nameserver = {"addresses": ADDRESS, **settings.pop("nameserver", {})}
        group = Brokers(
            nursery_of_brokers,
            count,
            group=name,
            cluster=settings.pop("cluster", "shop"),
            beside=made[0] if made else None,
            port_shift=100 * len(made),
            nameserver=nameserver,
            **settings,
        )
        made.append(group)
        return group

    return make


@pytest.fixture
def make_name_server(nursery_of_brokers):
    """Return what makes a name server beside a group; it is not running yet."""

    def make(beside: Brokers, *, port: int = PORT, **settings: Any) -> FakeNameServer:
        server = FakeNameServer(nursery_of_brokers, beside, port=port)
        server.settings = settings
        return server

    return make


@pytest.fixture
async def place(make_group, make_name_server):
    """A group of three, and the name server that it has registered with."""
    group = make_group()
    server = make_name_server(group)
    await server.start()
    await group.start()
    await group.leader()
    await server.until_registered(3)
    return group, server


@pytest.fixture
async def lone(make_group, make_name_server):
    """A name server that nobody has registered with."""
    server = make_name_server(make_group())
    await server.start()
    return server

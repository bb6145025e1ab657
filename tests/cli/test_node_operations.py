"""What an operator does to a node of a group that is slow, or refuses; it is a stand-in."""

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from broker.cli import node_operations
from broker.cli.ask import GroupView
from broker.client.errors import NoBrokerError, RequestFailedError
from tests.cli.test_status import answer_of

TOO_SLOW = "n1 did not take over in time"


class Group:
    """The lead is with n2, and n1 takes it over once it has been asked for often enough."""

    def __init__(self, failure_count):
        self.failures_left = failure_count
        self.leader = "n2"

    async def ask(self, servers):
        await trio.lowlevel.checkpoint()
        answers = [answer_of(name, leader=self.leader) for name in ("n1", "n2", "n3")]
        return GroupView(answers=tuple(answers))

    @asynccontextmanager
    async def open(self, servers):
        yield SimpleNamespace(admin=SimpleNamespace(transfer_leadership=self.transfer))

    async def transfer(self):
        await trio.sleep(2)
        if self.failures_left:
            self.failures_left -= 1
            raise RequestFailedError(TOO_SLOW, code=1)
        self.leader = "n1"


@pytest.fixture
def make_group(monkeypatch):
    def make(failure_count):
        group = Group(failure_count)
        monkeypatch.setattr(node_operations, "ask_group", group.ask)
        monkeypatch.setattr(node_operations, "open_client", group.open)
        return group

    return make


async def test_a_successor_that_is_too_slow_is_given_another_try(make_group, autojump_clock):
    make_group(failure_count=2)

    told = await node_operations.drain_node(["memory:9877"], "n2")

    assert told.startswith("n2 may be stopped: n1 leads in term 3, n1 and n3 have everything")


async def test_what_kept_it_from_handing_over_is_told(make_group, autojump_clock):
    make_group(failure_count=100)

    with pytest.raises(NoBrokerError, match=rf"n2 must not be .* hand over the lead: {TOO_SLOW}"):
        await node_operations.drain_node(["memory:9877"], "n2")


async def test_a_node_that_is_silent_is_named(make_group, autojump_clock, monkeypatch):
    @asynccontextmanager
    async def open_silent(network, host, port):
        await trio.sleep_forever()
        yield

    make_group(failure_count=0)
    monkeypatch.setattr(node_operations, "open_remoting_client", open_silent)
    with pytest.raises(NoBrokerError, match="n3 has not answered within 3 s"):
        await node_operations._set_log_level(["memory:9877"], "n3", "debug")

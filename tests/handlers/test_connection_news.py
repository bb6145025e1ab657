"""What a node tells the leader of its clients' connections comes through, or is told again."""

from __future__ import annotations

import pytest
import trio

from broker.handlers.clients import TELL_AGAIN_SECONDS
from broker.protocol.request_code import RequestCode
from tests.fakes.nodes import until
from tests.handlers.readers import members, readers

GOES_AGAIN_SECONDS = TELL_AGAIN_SECONDS + 1


def close_link_behind(node, code, monkeypatch):
    """Close a node's connection to the leader once, behind its first request of *code*."""
    forwarder = node.running.forwarder
    submit = forwarder._submit
    closed = []

    def submit_and_close(client, session, command):
        submit(client, session, command)
        if command.code == code and not closed:
            closed.append(client)
            client.close()

    monkeypatch.setattr(forwarder, "_submit", submit_and_close)
    return closed


async def test_a_new_leader_is_told_again_who_is_connected_when_that_was_lost(
    autojump_clock, three, monkeypatch
):
    """A consumer that lost its connection to the leader was taken out, though it had another."""
    dead = await three.leader()
    follow = three.others(dead)
    async with readers(three, *[("c1", node) for node in follow]) as connections:
        for connection in connections:
            await connection.beat()
        closed = [close_link_behind(node, RequestCode.HEART_BEAT, monkeypatch) for node in follow]
        await dead.kill()
        leader = await three.leader()
        await trio.sleep(GOES_AGAIN_SECONDS)
        assert any(closed)
        connections[follow.index(leader)].caller.client.close()
        await trio.sleep(1)
        assert members(three, leader, "readers") == ["c1"]


@pytest.mark.parametrize("seconds", [1, 4])
async def test_a_leader_that_was_away_is_told_who_is_gone(autojump_clock, three, seconds):
    """Behind 3 s nobody told it: whoever had died meanwhile kept its queues for two minutes."""
    leader = await three.leader()
    here, _ = three.others(leader)
    async with readers(three, ("c2", leader)) as (stays,):
        await stays.beat()
        async with readers(three, ("c1", here)) as (goes,):
            await goes.beat()
            three.wires.cut(leader.name, here.name)
        await trio.sleep(seconds)
        three.wires.heal(leader.name, here.name)
        await trio.sleep(2 * GOES_AGAIN_SECONDS)
        assert await three.leader() is leader
        assert members(three, leader, "readers") == ["c2"]


async def test_who_is_here_again_is_not_told_as_gone_once_more(autojump_clock, three):
    leader = await three.leader()
    here, _ = three.others(leader)
    news = here.running.clients._news
    async with readers(three, ("c1", here)) as (comes,):
        await comes.beat()
        news._lose_again("c1", "readers")
        await trio.sleep(GOES_AGAIN_SECONDS)
        assert members(three, leader, "readers") == ["c1"]
        assert not news._untold


async def test_of_who_is_gone_it_is_not_told_that_it_is_here(autojump_clock, three, monkeypatch):
    """That waited for a leader: who had died meanwhile seemed to have another connection."""
    leader = await three.leader()
    here, _ = three.others(leader)
    news, told = here.running.clients._news, []
    async with readers(three, ("c1", here)) as (goes,):
        await goes.beat()
        with monkeypatch.context() as patch:
            patch.setattr(here.running.forwarder, "take", lambda *asked: told.append(asked))
            news._tell_anew()
            news.leader_changed()
        ((session, _),) = told
        assert not session.closed
    await until("it is gone", lambda: session.closed)

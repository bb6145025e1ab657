"""One message after another, to real nodes."""

import sys

import pytest

import broker
from dledger.remoting.readiness import HotSockets
from tests.process.kit import ProcessGroup

pytestmark = [pytest.mark.process, pytest.mark.slow]


async def test_answers_are_taken_in_the_sender_s_own_turn(tmp_path, monkeypatch):
    """With a trio that has changed all would work as before, and nobody would notice."""
    settled = []
    wait_in_place = HotSockets.wait_in_place

    def wait(self, task, what, now):
        wait_in_place(self, task, what, now)
        settled.append(what.is_settled)

    monkeypatch.setattr(HotSockets, "wait_in_place", wait)
    async with ProcessGroup(tmp_path, count=1) as group:
        await group.leader()
        async with broker.connect(group.addresses) as client, client.producer() as producer:
            sent = [await producer.send("t", b"%d" % number, queue=0) for number in range(100)]

    assert [result.queue_offset for result in sent] == list(range(100))
    assert len({result.unique_id for result in sent}) == 100
    # Elsewhere than on Linux sockets are read by tasks.
    assert sum(settled) >= 10 or sys.platform != "linux"

"""Members of a group in real processes: one leaves, one is killed, and so is the leader."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import trio

import broker
from tests.process.kit import SECONDS, ProcessGroup

pytestmark = [pytest.mark.process, pytest.mark.slow]

MEMBER = """
import json, signal, sys
import broker.sync

addresses, group, topic = sys.argv[1:]
ends = []  # not by an exception, which may come when a message is told of and not yet done with
signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
with broker.sync.connect(addresses) as mq, mq.consumer(group, topic, auto_commit=False) as consumer:
    print(json.dumps(mq.client_id), flush=True)
    while not ends:
        message = consumer.get(0.05)
        if message is not None:
            with message:
                print(json.dumps(message.body.decode()), flush=True)
"""


class Member:
    """One of them, and what it has dealt with."""

    def __init__(self, group: ProcessGroup, nursery: trio.Nursery) -> None:
        self.lines: list[str] = []
        self.process: trio.Process | None = None
        self._addresses = ",".join(group.addresses)
        self._nursery = nursery

    async def start(self) -> None:
        command = [sys.executable, "-c", MEMBER, self._addresses, "readers", "work"]
        self.process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        self._nursery.start_soon(self._listen)
        await until(lambda: self.lines)

    async def _listen(self) -> None:
        rest = b""
        async with self.process.stdout:
            async for piece in self.process.stdout:
                *lines, rest = (rest + piece).split(b"\n")
                self.lines += map(json.loads, lines)

    @property
    def bodies(self) -> set[str]:
        return set(self.lines[1:])


async def until(holds):
    with trio.fail_after(SECONDS):
        while not holds():  # noqa: ASYNC110 - other processes have no events
            await trio.sleep(0.02)


async def test_members_come_and_go_and_every_message_is_dealt_with(tmp_path):
    sent = []
    async with (
        ProcessGroup(tmp_path) as group,
        broker.connect(group.addresses, group_timeout=SECONDS) as mq,
        mq.producer(send_timeout=SECONDS) as producer,
        trio.open_nursery() as nursery,
    ):
        await mq.admin.create_topic("work", 4)

        is_over = False
        sender_ended = trio.Event()

        async def send_always():
            while not is_over:
                body = f"m{len(sent)}"
                await producer.send("work", body.encode(), queue=len(sent) % 4)
                sent.append(body)
                await trio.sleep(0.005)
            sender_ended.set()

        one, other, third = (Member(group, nursery) for _ in range(3))
        await one.start()
        await other.start()
        nursery.start_soon(send_always)
        await until(lambda: one.bodies and other.bodies)
        leader = await group.leader()
        await trio.to_thread.run_sync(leader.kill)
        await group.leader()
        counts = len(one.bodies), len(other.bodies)
        await until(lambda: len(one.bodies) > counts[0] and len(other.bodies) > counts[1])
        other.process.terminate()
        assert await other.process.wait() == 0
        await third.start()
        await until(lambda: third.bodies)
        one.process.kill()
        await one.process.wait()
        count = len(sent)
        await until(lambda: len(sent) > count + 40 and {*sent[count:][:40]} <= third.bodies)
        is_over = True
        await sender_ended.wait()  # a message may be on its way, and is to be dealt with as well
        await until(lambda: one.bodies | other.bodies | third.bodies >= set(sent))
        third.process.terminate()
        await third.process.wait()
        committed = [
            await mq.admin.committed_offset("readers", "work", queue) for queue in range(4)
        ]
        ends = [await mq.admin.max_offset("work", queue) for queue in range(4)]
        assert committed == ends
        nursery.cancel_scope.cancel()

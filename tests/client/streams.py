"""A stream of sends, and what has become of it."""

from __future__ import annotations

import itertools

import trio

import broker
from broker.protocol.request_code import RequestCode


def sends_of(node):
    return [c for c in node.requests if c.code == RequestCode.SEND_BATCH_MESSAGE]


class Stream:
    """Sends numbered messages to one queue, each from a task of its own, one each 5 ms."""

    def __init__(self, producer, count, interval=0.005):
        self.producer = producer
        self.count = count
        self.interval = interval
        self.acked = {}
        self.failed = {}
        self.acked_at = []

    async def run(self):
        async with trio.open_nursery() as nursery:
            for number in range(self.count):
                nursery.start_soon(self.send, number)
                await trio.sleep(self.interval)

    async def send(self, number):
        try:
            self.acked[number] = await self.producer.send("orders", b"%06d" % number, queue=0)
        except broker.ClientError as error:
            self.failed[number] = error
        else:
            self.acked_at.append(trio.current_time())

    @property
    def longest_gap(self):
        times = sorted(self.acked_at)
        return max(later - sooner for sooner, later in itertools.pairwise(times))


def assert_stored_once_and_in_order(group, count):
    assert group.bodies("orders")[0] == [b"%06d" % number for number in range(count)]

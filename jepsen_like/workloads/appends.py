"""W1 and W5: idempotent sends of unique values to several queues, over every change of lead.

Some ask for a level of durability of their own.  One that is acknowledged with less than a majority
has by default may be lost: its outcome is unknown, and the note ``early`` says what it was told.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from broker.client.errors import (
    ClientError,
    LessDurableError,
    NotWrittenError,
    OutcomeUnknownError,
)
from broker.errors import BrokerError

if TYPE_CHECKING:
    from broker.client.acks import Acks, Flush
    from broker.client.producer import Producer
    from jepsen_like.history import History
    from jepsen_like.workloads.load import Clients

TOPIC = "t"
ACKS: tuple[Acks | None, ...] = (None, "leader", "majority", "all")
FLUSHES: tuple[Flush | None, ...] = (None, "sync", "async")


class Appends:
    """Producers with several lanes each; a lane sends one value after another."""

    def __init__(self, clients: Clients, history: History) -> None:
        self.clients = clients
        self.history = history
        self._end = trio.Event()
        self.retried = 0  # requests sent again
        self._values = 0
        self._chance = random.Random(f"{clients.load.seed} appends")

    @property
    def is_over(self) -> bool:
        """Whether nothing new is sent any more."""
        return self._end.is_set()

    def finish(self) -> None:
        """Send nothing new; what is under way comes to its end, and then `run` does."""
        self._end.set()

    async def run(self) -> None:
        """Keep all producers going until `finish`."""
        async with trio.open_nursery() as nursery:
            for number in range(self.clients.load.producer_count):
                nursery.start_soon(self._produce, number)

    async def _produce(self, number: int) -> None:
        """One producer after another: they crash and others take their place."""
        load = self.clients.load
        chance = random.Random(f"{load.seed} producer {number}")
        while not self.is_over:
            life = chance.expovariate(1 / load.client_crash_mean)
            # A crash: nothing is flushed, nobody waits for answers.
            with trio.move_on_after(0.5 + life):
                async with self.clients.client("producer", chance) as client:
                    producer = client.producer(
                        send_timeout=load.send_timeout,
                        batch_count_max=load.batch_count_max,
                        inflight_max=chance.choice((1, 2, 5)),
                    )
                    try:
                        async with producer, trio.open_nursery() as nursery:
                            for _ in range(load.lane_count):
                                lane = random.Random(chance.getrandbits(64))
                                nursery.start_soon(self._send_along, producer, lane)
                    finally:
                        self.retried += producer.stats.retried

    async def _send_along(self, producer: Producer, chance: random.Random) -> None:
        load = self.clients.load
        pause = load.producer_count * load.lane_count / load.send_rate
        process = self.history.new_process()
        while True:
            with trio.move_on_after(chance.expovariate(1 / pause)):
                await self._end.wait()
            if self.is_over:
                return
            if not await self._send_one(producer, process, chance):
                process = self.history.new_process()

    async def _send_one(self, producer: Producer, p: int, chance: random.Random) -> bool:
        """Send one value; whether the process may go on."""
        history = self.history
        self._values += 1
        value = f"c-{self._values}"
        queue = chance.randrange(self.clients.load.queue_count)
        size = chance.randrange(self.clients.load.body_size_max + 1)
        share = self.clients.load.level_share
        acks: Acks | None = None
        flush: Flush | None = None
        if share and chance.random() < share:
            acks, flush = chance.choice(ACKS), chance.choice(FLUSHES)
        history.add(p, "invoke", "send", k=queue, v=value)
        try:
            body = f"{value} ".encode().ljust(size, b"x")
            tag = tag_of(value) if self.clients.load.picks else None
            result = await producer.send(TOPIC, body, queue=queue, tag=tag, acks=acks, flush=flush)
        except LessDurableError as error:
            result = error.result
            # Less than was asked for, after a while: not on disk is not what others rely on.
            flush = "async"
        except trio.Cancelled:
            history.add(p, "info", "send", k=queue, v=value, err="client crashed")
            raise
        except OutcomeUnknownError as error:
            history.add(p, "info", "send", k=queue, v=value, err=str(error))
            return False
        except NotWrittenError as error:
            history.add(p, "fail", "send", k=queue, v=value, err=str(error))
            return True
        except (ClientError, BrokerError) as error:
            # The topic's queues were not found out: the value never left.
            history.add(p, "fail", "send", k=queue, v=value, err=f"{type(error).__name__}: {error}")
            return True
        # A duplicate whose place is forgotten is acknowledged without one.
        offset = result.queue_offset if result.queue_offset >= 0 else None
        if (acks or flush) and not _holds(result.durability, flush):
            told = result.durability
            history.note("early", k=queue, v=value, o=offset, err=told)
            history.add(p, "info", "send", k=queue, v=value, err=f"acknowledged as {told}")
            return False
        history.add(p, "ok", "send", k=queue, v=value, o=offset)
        return True


def _holds(durability: str, flush: str | None) -> bool:
    """Return whether an ack promises as much as one that nobody asks anything else of."""
    copies, _, disks = durability.partition("/")
    return copies in ("majority", "all") and (disks == "sync" or flush != "async")


def tag_of(value: str) -> str | None:
    """Return the tag that a value of this workload has in runs with tags; None for all others."""
    kind, _, number = value.partition("-")
    if kind != "c" or not number.isdigit():
        return None
    return ("Aa", "BB", "C", "C")[int(number) % 4]  # the first two have the same hash


def value_of(body: bytes | memoryview) -> str:
    """Return the value that a body carries, or one that nobody sent where the rest is damaged."""
    value, _, rest = bytes(body).partition(b" ")
    return value.decode("latin-1") + ("?" if rest.strip(b"x") else "")

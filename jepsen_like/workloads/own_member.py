"""One member of a consumer group that is a client of the project's own library.

It tells the same things as `jepsen_like.workloads.member`, so that the same is asked of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from broker.client.consumer_options import MemberTimes
from broker.client.errors import ClientError
from broker.client.session import TrioSession
from broker.errors import BrokerError
from jepsen_like.workloads.appends import value_of
from jepsen_like.workloads.member import TIMES_MAX, WORK_TOPIC, fails_of

if TYPE_CHECKING:
    import random

    from broker.client.connect import Client
    from broker.client.consumer import Consumer
    from broker.client.membership import Membership
    from broker.client.message import Message
    from jepsen_like.history import History
    from jepsen_like.workloads.load import StockClients
    from jepsen_like.workloads.member import Kind

BEAT_SECONDS = 2.0
COMMIT_EVERY = 15  # messages
FAIL_SHARE = 0.1  # of messages read in order fail in their block, and come at once again
SLOW_SHARE = 0.1  # of messages take long


class _HandlerError(Exception):
    """The block of a message has failed."""


class Named(NamedTuple):
    """Stands where a member of the other make has its client."""

    client_id: str


class OwnMember:
    """A consumer in a process of its own; it comes back when its client gives up."""

    def __init__(
        self,
        kind: Kind,
        client_id: str,
        *,
        clients: StockClients,
        history: History,
        chance: random.Random,
    ) -> None:
        """Make one that is in no group yet."""
        self.kind = kind
        self.client = Named(client_id)
        self._clients = clients
        self._history = history
        self._chance = chance
        self._process = history.new_process()
        self._mq: Client | None = None
        self._leaving = trio.Event()
        self._left = trio.Event()

    async def run(self) -> None:
        """Consume until cancelled, which is a crash, or until it has left."""
        kind, chance = self.kind, self._chance
        belief = kind.lock_seconds / 2
        times = MemberTimes(heartbeat=BEAT_SECONDS, balance=belief / 2, lock=belief)
        try:
            while not self._left.is_set():
                client = self._clients.member_client(
                    "own member", chance, client_id=self.client.client_id, times=times
                )
                try:
                    async with client as mq:
                        self._mq = mq
                        consumer = mq.consumer(
                            kind.group,
                            WORK_TOPIC,
                            ordered=kind.is_ordered,
                            retries_max=None if kind.is_ordered else TIMES_MAX,
                            auto_commit=False,
                            commit_interval=chance.choice((0.2, 1.0)),
                            poll_wait=chance.choice((0.5, 3.0)),
                        )
                        await self._live(mq, consumer)
                except (ClientError, BrokerError) as error:
                    self._history.note("reader", err=f"{type(error).__name__}: {error}")
                    await trio.sleep(0.1)
        finally:
            self._mq = None
            self._history.add(self._process, "ok", "gone", g=kind.group, v=self.client.client_id)

    async def leave(self) -> None:
        """End in peace."""
        self._leaving.set()
        await self._left.wait()

    async def list_members(self) -> list[str] | None:
        """Return who is in the group, as the broker says; None: it said nothing."""
        if self._mq is None:
            return None
        member = _membership(self._mq)._groups.get(self.kind.group)  # noqa: SLF001
        if member is None:
            return None
        p = self._history.new_process()
        value = [self.client.client_id, None]
        self._history.add(p, "invoke", "list", g=self.kind.group, v=value)
        try:
            found: list[str] = await member._ask_members()  # noqa: SLF001
        except (ClientError, BrokerError) as error:
            self._history.add(p, "fail", "list", g=self.kind.group, v=value, err=str(error))
            return None
        except trio.Cancelled:
            self._history.add(p, "info", "list", g=self.kind.group, v=value, err="client crashed")
            raise
        self._history.add(p, "ok", "list", g=self.kind.group, v=[*value, found])
        return found

    async def _live(self, mq: Client, consumer: Consumer) -> None:
        history, group, client_id = self._history, self.kind.group, self.client.client_id
        p = history.new_process()
        async with consumer:
            if self.kind.is_ordered:  # which groups read in order is told by their locks
                history.add(history.new_process(), "ok", "lock", g=group, v=[client_id, [], []])
            await self._read(consumer)
            history.add(p, "invoke", "quit", g=group, v=[client_id, None])
        is_certain = not _membership(mq)._leaving  # noqa: SLF001
        history.add(p, "ok" if is_certain else "info", "quit", g=group, v=[client_id, None])
        self._left.set()

    async def _read(self, consumer: Consumer) -> None:
        count = 0
        while not self._leaving.is_set():
            message = await consumer.get(0.2)
            if message is None:
                continue
            try:
                async with message:
                    await self._deal_with(message)
            except _HandlerError:
                pass
            count += 1
            if count % COMMIT_EVERY == 0:
                await consumer.commit()
                self._tell_commits(consumer)

    async def _deal_with(self, message: Message) -> None:
        kind, chance = self.kind, self._chance
        value, times = value_of(message.body), message.reconsume_times
        assert message.progress is not None
        topic = message.progress.reader.topic
        what = [topic, message.queue_offset, value, times]
        self._history.add(self._process, "ok", "got", g=kind.group, k=message.queue_id, v=what)
        if chance.random() < SLOW_SHARE:
            await trio.sleep(chance.uniform(0.01, 0.2))
        if kind.is_ordered:
            if chance.random() < FAIL_SHARE:
                raise _HandlerError
        elif kind.fails and times < fails_of(value):
            self._history.add(
                self._process, "ok", "failed", g=kind.group, v=[value, times, message.position]
            )
            message.retry(level=1)

    def _tell_commits(self, consumer: Consumer) -> None:
        """Write down how far the group has come for certain, in the queues of this member."""
        for progress in consumer._readings.prefetch.progresses:  # noqa: SLF001
            place = [progress.reader.topic, progress.reader.queue_id, progress.committed]
            p = self._history.new_process()
            value = [self.client.client_id, place]
            self._history.add(p, "invoke", "advance", g=self.kind.group, v=value)
            self._history.add(p, "ok", "advance", g=self.kind.group, v=value)


def _membership(mq: Client) -> Membership:
    """Return what *mq*, a client under trio, is a member of."""
    session = mq._opened()  # noqa: SLF001 - nothing public says it
    assert isinstance(session, TrioSession)
    return session._groups.first.membership  # noqa: SLF001

"""Queues that the broker has locked for this client, so that nobody else of the group reads them.

Source: RocketMQ ``RebalanceImpl.lock`` and ``ProcessQueue.isLockExpired``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from broker.protocol.locks import LockedQueue, LockRequest, decode_locked, encode_lock_request
from broker.protocol.request_code import RequestCode
from dledger.remoting.command import Command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.client.requests import Requests

Place = tuple[str, int]  # topic and queue


class GroupLocks:
    """The locks of one member."""

    def __init__(
        self, requests: Requests, *, client_id: str, group: str, lock_seconds: float
    ) -> None:
        """Hold none.

        Args:
            requests: the way to the leader.
            client_id: whose locks.
            group: in which no other member gets them.
            lock_seconds: how long a lock is believed in, from when it was asked for.
        """
        self._requests = requests
        self._client_id = client_id
        self._group = group
        self._lock_seconds = lock_seconds
        self._until: dict[Place, float] = {}  # trio seconds

    @property
    def held(self) -> set[Place]:
        """What was locked when that was last asked for."""
        return set(self._until)

    def until(self, topic: str, queue: int) -> float:
        """Return when the lock of a queue cannot be believed in any more, in trio seconds."""
        return self._until.get((topic, queue), float("-inf"))

    async def take(self, wanted: Iterable[Place]) -> set[Place]:
        """Ask for locks, new ones and those held; return which of them are held now.

        Raises:
            NoBrokerError: nobody said; those held are as they were.
        """
        queues = self._named(wanted)
        if not queues:
            return set()
        began = trio.current_time()
        answer = await self._ask(RequestCode.LOCK_BATCH_MQ, queues)
        assert not isinstance(answer.body, list), "received bodies are one buffer"
        locked = {(queue.topic, queue.queue_id) for queue in decode_locked(answer.body)}
        for queue in queues:
            place = (queue.topic, queue.queue_id)
            if place in locked:
                self._until[place] = began + self._lock_seconds
            else:
                self._until.pop(place, None)
        return locked

    async def free(self, places: Iterable[Place]) -> None:
        """Let others have queues.

        Raises:
            NoBrokerError: nobody could be told.
        """
        queues = self._named(places)
        if not queues:
            return
        await self._ask(RequestCode.UNLOCK_BATCH_MQ, queues)
        for queue in queues:
            self._until.pop((queue.topic, queue.queue_id), None)

    async def _ask(self, code: RequestCode, queues: tuple[LockedQueue, ...]) -> Command:
        body = encode_lock_request(
            LockRequest(client_id=self._client_id, group=self._group, queues=queues)
        )
        return await self._requests.ask_leader(
            lambda: Command(code.value, body=body), f"{code.name} of group {self._group}"
        )

    @staticmethod
    def _named(places: Iterable[Place]) -> tuple[LockedQueue, ...]:
        return tuple(LockedQueue("", topic, queue) for topic, queue in sorted(places))

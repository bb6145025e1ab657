"""Which consumer of a group reads a queue in order, alone; the same on every node.

lock.take  {group, client, queues: [[topic, queue id, holder before], ...],
            asked: [{node id: seconds, ...}, ...]}
lock.free  {group, client, queues: [[topic, queue id], ...], wanted_by: [client, ...]}

A queue is taken only from whom the command names ("" for nobody): of two that want a lock that is
free or has run out the first in the log gets it, and the other is told so.  Who asks again for what
it has takes it from itself: so the next leader knows, too, by which nodes each queue was asked for
and when (see `broker.groups.lock_paths`).  How long a lock holds is a matter of time, and time is
the leader's: see `broker.handlers.locks`.

Who was refused a queue before is named when it is free: each node tells those connected to it.
RocketMQ's clients ask again after 20 s otherwise.  Who asked while that was on its way is named by
a command behind it, which frees nothing.

Source: RocketMQ ``RebalanceLockManager``, which keeps this in the memory of each broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from broker.metadata.state_machine import MetadataCommand
from broker.metadata.subscription_groups import GROUP_DELETE
from broker.metadata.topics import TOPIC_DELETE

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

LOCK_TAKE = "lock.take"
LOCK_FREE = "lock.free"

NOBODY = ""

# How a queue was asked for by who has its lock: when last, by the node where that came in, in
# seconds of that node's monotonic clock.
Asked = dict[str, float]


class QueueLock(NamedTuple):
    """What is locked: one queue, for one group."""

    group: str
    topic: str
    queue_id: int


def take_locks(
    client_id: str,
    group: str,
    wanted: Mapping[QueueLock, str],
    asked: Mapping[QueueLock, Asked] | None = None,
) -> MetadataCommand:
    """Return the command that gives a client queues of its group.

    Args:
        client_id: of the client.
        group: its group.
        wanted: by lock, whom it is taken from.
        asked: by lock, what has to be remembered of how it was asked for.
    """
    locks = sorted(wanted)
    queues = [[lock.topic, lock.queue_id, wanted[lock]] for lock in locks]
    args: dict[str, Any] = {"group": group, "client": client_id, "queues": queues}
    if asked is not None:
        args["asked"] = [dict(asked[lock]) for lock in locks]
    return MetadataCommand(LOCK_TAKE, args)


def free_locks(
    client_id: str, group: str, locks: Iterable[QueueLock], wanted_by: Iterable[str] = ()
) -> MetadataCommand:
    """Return the command that takes queues back from a client.

    Args:
        client_id: of the client.
        group: its group.
        locks: what it gives back.
        wanted_by: clients of the group that have asked for some of that in vain.
    """
    queues = [[lock.topic, lock.queue_id] for lock in sorted(locks)]
    args: dict[str, Any] = {"group": group, "client": client_id, "queues": queues}
    if waiting := sorted(set(wanted_by)):
        args["wanted_by"] = waiting
    return MetadataCommand(LOCK_FREE, args)


class QueueLocks:
    """All locks, on this node."""

    name = "queue_locks"

    def __init__(
        self,
        *,
        topics: Container[str] | None = None,
        group_exists: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Begin with nothing locked.

        Args:
            topics: those that exist; queues of others are left aside. None: all do.
            group_exists: whether there is a group of that name; others lock nothing.
        """
        self._topics = topics
        self._group_exists = group_exists
        self._holders: dict[QueueLock, str] = {}
        self._asked: dict[QueueLock, Asked] = {}
        self._wanted_by: set[tuple[str, str]] = set()

    def __len__(self) -> int:
        return len(self._holders)

    def all(self) -> list[QueueLock]:
        """Return what is locked, sorted."""
        return sorted(self._holders)

    def holder(self, lock: QueueLock) -> str:
        """Return the client that has a lock; `NOBODY` when none has."""
        return self._holders.get(lock, NOBODY)

    def asked(self) -> dict[QueueLock, Asked]:
        """Return how each lock was asked for; without those of which that is not written."""
        return {lock: dict(asked) for lock, asked in self._asked.items()}

    def take_wanted_by(self) -> set[tuple[str, str]]:
        """Return who wanted what was given back since this was last asked: group and client."""
        found, self._wanted_by = self._wanted_by, set()
        return found

    @property
    def appliers(self) -> Mapping[str, Callable[[Mapping[str, Any]], int]]:
        """What applies each kind of command; the result is how many locks changed hands."""
        return {LOCK_TAKE: self._take, LOCK_FREE: self._free}

    @property
    def followers(self) -> Mapping[str, Callable[[Mapping[str, Any]], None]]:
        """See `StatePart`: what is gone needs no locks."""
        return {
            TOPIC_DELETE: lambda args: self._drop(lambda lock: lock.topic == args["topic"]),
            GROUP_DELETE: lambda args: self._drop(lambda lock: lock.group == args["group"]),
        }

    def snapshot(self) -> list[Any]:
        """Return a row for each lock, sorted: group, topic, queue, holder, how it was asked for."""
        return [
            [*lock, self._holders[lock], dict(sorted(self._asked.get(lock, {}).items()))]
            for lock in sorted(self._holders)
        ]

    def restore(self, snapshot: list[Any] | None) -> None:
        """Become what `snapshot` was taken of; None: no locks.

        Raises:
            ValueError, TypeError: *snapshot* is none.
        """
        holders, asked = {}, {}
        for group, topic, queue_id, client_id, *more in snapshot or []:
            _check(group, client_id, topic, queue_id)
            lock = QueueLock(group, topic, queue_id)
            holders[lock] = client_id
            if more and (found := _as_asked(*more)):  # older states have none
                asked[lock] = found
        self._holders, self._asked = holders, asked

    def _take(self, args: Mapping[str, Any]) -> int:
        group, client_id = args["group"], args["client"]
        # It may have been on its way when its group was deleted, or a topic: nobody would free it.
        is_known = self._group_exists(group)
        taken = 0
        queues = args["queues"]
        for (topic, queue_id, before), found in zip(
            queues, args.get("asked", [{}] * len(queues)), strict=True
        ):
            _check(group, client_id, topic, queue_id)
            asked = _as_asked(found)
            lock = QueueLock(group, topic, queue_id)
            if self.holder(lock) == before and is_known and self._is_there(topic):
                self._holders[lock] = client_id
                self._asked.pop(lock, None)
                if asked:
                    self._asked[lock] = asked
                taken += 1
        return taken

    def _free(self, args: Mapping[str, Any]) -> int:
        group, client_id = args["group"], args["client"]
        freed = 0
        for topic, queue_id in args["queues"]:
            _check(group, client_id, topic, queue_id)
            lock = QueueLock(group, topic, queue_id)
            if self.holder(lock) == client_id:
                del self._holders[lock]
                self._asked.pop(lock, None)
                freed += 1
        for waiting in args.get("wanted_by", ()):  # older commands have none
            if type(waiting) is not str:
                raise ValueError(f"{waiting!r:.200} is no client")
            self._wanted_by.add((group, waiting))
        return freed

    def _is_there(self, topic: str) -> bool:
        return self._topics is None or topic in self._topics

    def _drop(self, is_gone: Callable[[QueueLock], bool]) -> None:
        for lock in [lock for lock in self._holders if is_gone(lock)]:
            del self._holders[lock]
            self._asked.pop(lock, None)


def _check(group: object, client_id: object, topic: object, queue_id: object) -> None:
    """Raise `ValueError` unless these are names and a number."""
    if {type(group), type(client_id), type(topic)} != {str} or type(queue_id) is not int:
        raise ValueError(f"{(group, client_id, topic, queue_id)!r:.200} is no lock")


def _as_asked(found: object) -> Asked:
    """Return what a command or a state says of it; raise `ValueError` if that is nothing."""
    if not isinstance(found, dict) or any(
        (type(node), type(at)) != (str, float) for node, at in found.items()
    ):
        raise ValueError(f"{found!r:.200} does not tell how a lock was asked for")
    return found

"""LOCK_BATCH_MQ and UNLOCK_BATCH_MQ: queues that one consumer of a group reads alone, in order.

A lock holds for a minute after it was last asked for, by the leader's clock; clients ask each 20 s
and believe in theirs for 30 s.  Each of these requests is an entry of the log: an old leader can
say no more that a lock holds, and a new one, which gives each lock its full time, knows how it was
asked for: two never hold one.  Each node notes when a request came in, so that a late one undoes
nothing: see `broker.groups.lock_paths`.

Source: RocketMQ ``RebalanceLockManager``, ``AdminBrokerProcessor.lockBatchMQ``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from broker.groups.lock_paths import Arrival, LockPaths
from broker.groups.locks import NOBODY, Asked, QueueLock, free_locks, take_locks
from broker.handlers.bounded import drop_oldest
from broker.handlers.forward import FORWARDED
from broker.handlers.registry import answer, handles
from broker.message.limits import check_group, check_group_characters, check_group_not_reserved
from broker.protocol.locks import LockedQueue, decode_lock_request, encode_locked
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command, response

ARRIVED_AT = "arrivedAt"  # seconds of the clock of the node that the client asked
_BEFORE_ALL = -1.0  # when a request came in that is older than another, nobody knows by how much
_LATEST_MAX = 16_384  # clients in groups of which is known by which connection they asked last
# Queues of which is known who was refused them, how many each, and how many bytes of their ids a
# command may name when they are free; who is one too many asks again by itself.
_WANTED_MAX = 4096
_WANTED_BY_MAX = 16
_NAMED_SIZE_MAX = 1024

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from broker.groups.locks import QueueLocks
    from broker.handlers.commands import Commands
    from broker.handlers.group_gate import GroupGate
    from broker.metadata.topics import Topics
    from broker.protocol.locks import LockRequest
    from dledger.clock import Clock
    from dledger.remoting.server import Session


class LockHandlers:
    """The family of queue locks, on the serving leader."""

    def __init__(
        self,
        *,
        commands: Commands,
        locks: QueueLocks,
        topics: Topics,
        gate: GroupGate,
        clock: Clock,
        when_current: Callable[[Session, Command, Callable[[], None]], None],
        lock_seconds: float,
        node_id: str,
        members: Container[str],
        is_serving: Callable[[], bool],
        forward: Callable[[Session, Command], None],
    ) -> None:
        """Make the family.

        Args:
            commands: proposes what is asked for and answers.
            locks: who holds what.
            topics: what queues there are.
            gate: knows which groups there are.
            clock: measures how long a lock was not asked for.
            when_current: calls back once this node has proved that it leads.
            lock_seconds: for how long a lock holds that is not asked for again.
            node_id: this node.
            members: the ids of all nodes.
            is_serving: whether it is the leader and lags behind nobody.
            forward: hands a request to the leader.
        """
        self._commands = commands
        self._locks = locks
        self._topics = topics
        self._gate = gate
        self._clock = clock
        self._when_current = when_current
        self._lock_seconds = lock_seconds
        self._node_id = node_id
        self._members = members
        self._is_serving = is_serving
        self._forward = forward
        self._paths = LockPaths(clock, lock_seconds=lock_seconds)
        # By client and group, the session it asked by last; oldest first.
        self._latest: dict[tuple[str, str], int] = {}
        self._deadlines: dict[QueueLock, float] = {}
        self._changing: set[QueueLock] = set()  # on their way to another holder, or to none
        # Who was refused each, and has not got it since: they are told when it is free.  Who was
        # refused last comes last, in both.
        self._wanted_by: dict[QueueLock, dict[str, None]] = {}

    def began_to_serve(self) -> None:
        """Give every lock its full time: when it was last asked for only the last leader knew."""
        self._changing.clear()
        self._paths.begin(self._locks.asked())
        deadline = self._clock.now() + self._lock_seconds
        self._deadlines = dict.fromkeys(self._locks.all(), deadline)

    @handles(RequestCode.LOCK_BATCH_MQ)
    def lock(self, session: Session, command: Command) -> None:
        """Lock the queues that are free, and answer which of those asked for the client has."""
        request = decode_lock_request(cast("bytes", command.body))
        self._check(request)
        arrival = self._arrival(session, command, request)
        if not self._is_serving():
            self._forward(session, command)
            return
        self._gate.check_exists(request.group)  # who locks has sent a heartbeat: it made the group
        now = self._clock.now()
        wanted, kept = {}, {}
        asked: dict[QueueLock, Asked] = {}
        for queue in request.queues:
            lock = self._lock_of(request, queue)
            holder = self._locks.holder(lock)
            if lock in self._changing:
                self._note_refused(lock, request.client_id)
                continue  # who had it is too late, and so is who comes now
            if holder == request.client_id:
                self._deadlines[lock] = now + self._lock_seconds
                kept[lock] = holder
                asked[lock] = self._paths.asked(lock, arrival)
            elif self._is_there(queue) and (
                holder == NOBODY or self._deadlines.get(lock, 0.0) < now
            ):
                wanted[lock] = holder
                asked[lock] = {arrival.node_id: arrival.at}
            elif holder != NOBODY:
                self._note_refused(lock, request.client_id)

        def reply() -> Command:
            held = []
            for queue in request.queues:
                lock = self._lock_of(request, queue)
                # Not what was on its way when this came, though it is the client's by now: that it
                # was asked for by this way is nowhere written down.
                is_held = self._locks.holder(lock) == request.client_id
                if lock in asked and is_held and lock not in self._changing:
                    held.append(queue)
                    if lock in wanted:
                        self._deadlines[lock] = self._clock.now() + self._lock_seconds
                        self._paths.forget(lock)  # whose it was
                        self._note_given(lock, request.client_id)
                        self._paths.asked(lock, arrival)
            return response(command, int(ResponseCode.SUCCESS), body=encode_locked(held))

        def tell() -> None:
            answer(session, command, reply())
            if not session.closed:
                session.flush_soon()

        if asked:
            change = take_locks(request.client_id, request.group, kept | wanted, asked)

            def ended() -> None:
                self._changing.difference_update(wanted)

            def finish(_: object) -> Command:
                ended()
                return reply()

            self._commands.propose(session, command, change, finish, ended)
            self._changing.update(wanted)
        else:
            self._when_current(session, command, tell)

    @handles(RequestCode.UNLOCK_BATCH_MQ)
    def unlock(self, session: Session, command: Command) -> None:
        """Free the queues that the client holds, and has not asked for since."""
        request = decode_lock_request(cast("bytes", command.body))
        self._check(request)
        arrival = self._arrival(session, command, request)
        if not self._is_serving():
            self._forward(session, command)
            return
        locks = {self._lock_of(request, queue) for queue in request.queues}
        # What is on its way already needs nothing: somebody else takes it, or this is asked again.
        held = {
            lock
            for lock in locks - self._changing
            if self._locks.holder(lock) == request.client_id and self._paths.may_free(lock, arrival)
        }

        def ended() -> None:
            self._changing.difference_update(held)

        waiting = self._refused(held)
        waiting.pop(request.client_id, None)

        def finish(_: object) -> Command:
            ended()
            late = self._refused(held)  # while it was on its way
            for lock in held:
                self._deadlines.pop(lock, None)
                self._paths.forget(lock)
                self._wanted_by.pop(lock, None)
            if named := _bounded(client for client in late if client not in waiting):
                change = free_locks(request.client_id, request.group, (), named)
                self._commands.announce(change)
            return response(command, int(ResponseCode.SUCCESS))

        if held:
            change = free_locks(request.client_id, request.group, held, _bounded(waiting))
            self._commands.propose(session, command, change, finish, ended)
            self._changing.update(held)  # until then a lock that is asked for is not there
        else:
            answer(session, command, response(command, int(ResponseCode.SUCCESS)))

    def _refused(self, locks: Iterable[QueueLock]) -> dict[str, None]:
        """Return who was refused some of *locks*; of each, who was refused last comes last."""
        return {client: None for lock in sorted(locks) for client in self._wanted_by.get(lock, ())}

    def _note_refused(self, lock: QueueLock, client_id: str) -> None:
        waiting = self._wanted_by.pop(lock, {})
        waiting.pop(client_id, None)
        waiting[client_id] = None
        self._wanted_by[lock] = waiting
        drop_oldest(waiting, _WANTED_BY_MAX)
        drop_oldest(self._wanted_by, _WANTED_MAX)

    def _note_given(self, lock: QueueLock, client_id: str) -> None:
        waiting = self._wanted_by.get(lock, {})
        waiting.pop(client_id, None)
        if not waiting:
            self._wanted_by.pop(lock, None)

    def _arrival(self, session: Session, command: Command, request: LockRequest) -> Arrival:
        """Return where and when a request came in from its client; noted at the first node."""
        node_id = command.ext_fields.get(FORWARDED)
        if not isinstance(node_id, str) or node_id not in self._members:
            node_id = self._node_id  # who asks may have written anything
        at = command.ext_fields.get(ARRIVED_AT)
        if not isinstance(at, float):
            at = self._clock.now() if self._is_latest(session, request) else _BEFORE_ALL
            command.ext_fields[ARRIVED_AT] = at
        return Arrival(node_id, at)

    def _is_latest(self, session: Session, request: LockRequest) -> bool:
        """Whether a request comes by the connection that its client opened last.

        One that it has given up may be read behind it, by a node that was stopped for a while.
        Another client, of another group, may go by the same id.
        """
        asker = request.client_id, request.group
        last = self._latest.pop(asker, 0)
        self._latest[asker] = max(last, session.session_id)
        drop_oldest(self._latest, _LATEST_MAX)
        return session.session_id >= last

    def _is_there(self, queue: LockedQueue) -> bool:
        config = self._topics.get(queue.topic)
        return config is not None and 0 <= queue.queue_id < config.read_queue_count

    @staticmethod
    def _check(request: LockRequest) -> None:
        check_group(request.group)
        check_group_characters(request.group)
        check_group_not_reserved(request.group)

    @staticmethod
    def _lock_of(request: LockRequest, queue: LockedQueue) -> QueueLock:
        return QueueLock(request.group, queue.topic, queue.queue_id)


def _bounded(clients: Iterable[str]) -> list[str]:
    """Return as many of *clients*, the last ones first, as a command may name."""
    named, size = [], 0
    for client in reversed(list(clients)):
        client_size = len(client.encode())
        if size + client_size <= _NAMED_SIZE_MAX:
            size += client_size
            named.append(client)
    return named

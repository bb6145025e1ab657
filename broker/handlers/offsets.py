"""Offsets of queues and of consumer groups.

What a group has committed and where a queue ends are answered by the leader after it has proved
that it still leads: a deposed one would tell offsets that have moved on since.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from broker.errors import OffsetsResetError
from broker.handlers.forward import FORWARDED
from broker.handlers.registry import answer, error_response, handles, stock_client_host
from broker.handlers.until_dispatched import UntilDispatched
from broker.message.limits import check_group
from broker.metadata.consumer_offsets import commit_offsets
from broker.protocol.headers import (
    OffsetEpoch,
    OffsetResponse,
    QueryConsumerOffsetRequest,
    QueueRequest,
    UpdateConsumerOffsetRequest,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.errors import NotLeaderError
from dledger.remoting.command import FLAG_ONEWAY, Command, response

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.handlers.forward import Forwarder
    from broker.handlers.group_gate import GroupGate
    from broker.handlers.reset_news import ResetNews
    from broker.metadata.consumer_offsets import ConsumerOffsets
    from broker.metadata.topics import Topics
    from broker.store.append_queue import AppendQueue
    from broker.store.derived import DerivedState
    from broker.store.reader import Reader
    from dledger.clock import Clock
    from dledger.errors import LedgerError
    from dledger.remoting.server import Session
    from dledger.server import LedgerServer


class OffsetHandlers:
    """The family of offsets."""

    def __init__(
        self,
        *,
        ledger: LedgerServer,
        derived: DerivedState,
        reader: Reader,
        queue: AppendQueue,
        topics: Topics,
        offsets: ConsumerOffsets,
        gate: GroupGate,
        forwarder: Forwarder,
        news: ResetNews,
        is_serving: Callable[[], bool],
        clock: Clock,
        log_size: Callable[[], int],
        young_size_max: int,
    ) -> None:
        self._ledger = ledger
        self._derived = derived
        self._reader = reader
        self._queue = queue
        self._topics = topics
        self._offsets = offsets
        self._gate = gate
        self._forwarder = forwarder
        self._news = news
        self._is_serving = is_serving
        self._clock = clock
        self._log_size = log_size
        self._young_size_max = young_size_max
        self.waiting: UntilDispatched[Callable[[], None]] = UntilDispatched()

    @handles(RequestCode.GET_MAX_OFFSET, on_leader=True)
    def max_offset(self, session: Session, command: Command) -> None:
        """Answer the offset the queue's next message gets; nothing acknowledged is beyond it."""
        header = QueueRequest.decode(command.ext_fields)
        self._topics.check_queue(header.topic, header.queue_id)

        def tell() -> None:
            offset = self._derived.next_queue_offset(header.topic, header.queue_id)
            answer(session, command, _offset_response(command, offset))
            session.flush_soon()

        self.when_current(session, command, tell)

    @handles(RequestCode.GET_MIN_OFFSET)
    def min_offset(self, session: Session, command: Command) -> None:
        """Answer the first offset this node still has."""
        header = QueueRequest.decode(command.ext_fields)
        self._topics.check_queue(header.topic, header.queue_id)
        offset = self._reader.min_offset(header.topic, header.queue_id)
        answer(session, command, _offset_response(command, offset))

    @handles(RequestCode.QUERY_CONSUMER_OFFSET)
    def query(self, session: Session, command: Command) -> None:
        """Answer what a group has committed for a queue; QUERY_NOT_FOUND where it has nothing."""
        header = QueryConsumerOffsetRequest.decode(command.ext_fields)
        group, topic = header.consumer_group, header.topic
        if FORWARDED not in command.ext_fields:
            self._news.asked(session, group, topic, header.queue_id)
        if not self._is_serving():
            self._forwarder.take(session, command)
            return
        is_stock = stock_client_host(session, command) is not None

        def tell() -> None:
            offset = self._offsets.get(group, topic, header.queue_id)
            if offset is None and is_stock and self._is_young(topic, header.queue_id):
                offset = 0
            epoch = self._offsets.epoch(group, topic) or None
            if offset is None:
                reply = response(
                    command,
                    int(ResponseCode.QUERY_NOT_FOUND),
                    "nothing is committed there yet",
                    OffsetEpoch(offset_epoch=epoch).encode() if epoch else {},
                )
            else:
                reply = _offset_response(command, offset, epoch)
            answer(session, command, reply)
            session.flush_soon()

        self.when_current(session, command, tell)

    def _is_young(self, topic: str, queue_id: int) -> bool:
        """Return whether a new group of RocketMQ's clients begins with a queue's first message.

        They would begin behind the last one, and lose what was sent before they came.
        Source: RocketMQ ``ConsumerManageProcessor.queryConsumerOffset``: while the first message is
        there, and in memory.
        """
        return (
            self._reader.min_offset(topic, queue_id) <= 0
            and self._log_size() <= self._young_size_max
        )

    @handles(RequestCode.UPDATE_CONSUMER_OFFSET)
    def update(self, session: Session, command: Command) -> None:
        """Commit a group's offset; answered when it is in the log of a majority."""
        header = UpdateConsumerOffsetRequest.decode(command.ext_fields)
        if header.commit_offset < 0:
            # ali-ons commits -1 for queues it has never consumed.
            answer(session, command, response(command, int(ResponseCode.SUCCESS)))
            return
        group, topic = header.consumer_group, header.topic
        if header.offset_epoch is None and FORWARDED not in command.ext_fields:
            epoch = self._news.epoch_of_commit(
                session, group, topic, header.queue_id, header.commit_offset
            )
            if epoch is not None:
                command.ext_fields["offsetEpoch"] = epoch
                header = replace(header, offset_epoch=epoch)
        if not self._is_serving():
            self._forwarder.take(session, command)
            return
        self._topics.check_queue(topic, header.queue_id)
        check_group(group)
        self._gate.check_use(group)
        if header.offset_epoch is not None and stock_client_host(session, command) is not None:
            if header.offset_epoch < self._offsets.epoch(group, topic):
                # It names no epoch itself and could do nothing about it; it will hear of the reset.
                answer(session, command, response(command, int(ResponseCode.SUCCESS)))
                return
        else:
            self.check_epoch(group, topic, header.offset_epoch)

        def done(_: int, error: LedgerError | None) -> None:
            if isinstance(error, NotLeaderError) and not session.closed:
                self._forwarder.hold_again(session, command)
                return
            reply = (
                response(command, int(ResponseCode.SUCCESS))
                if error is None
                else error_response(command, error)
            )
            answer(session, command, reply)
            if not session.closed:
                session.flush_soon()

        self._queue.put_command(
            commit_offsets(
                header.consumer_group,
                header.topic,
                {header.queue_id: header.commit_offset},
                epoch=header.offset_epoch,
                at_ms=self._clock.wall_ms(),
            ),
            done,
        )

    def check_epoch(self, group: str, topic: str, epoch: int | None) -> None:
        """Raise `OffsetsResetError` when a consumer that began in *epoch* has to ask again.

        None: it knows nothing of epochs.
        """
        if epoch is not None and epoch < (now := self._offsets.epoch(group, topic)):
            raise OffsetsResetError(
                f"the offsets of group {group!r} in topic {topic!r} were reset; ask where it goes "
                "on now",
                epoch=now,
            )

    def commit_along(
        self,
        session: Session,
        group: str,
        topic: str,
        queue_id: int,
        offset: int,
        epoch: int | None,
    ) -> None:
        """Commit an offset that came with a pull; nobody waits for the outcome.

        Raises:
            InvalidMessageError: no group can have that name.
        """
        check_group(group)
        self._gate.check_use(group)
        if epoch is None:
            epoch = self._news.epoch_of_commit(session, group, topic, queue_id, offset)
            if epoch is not None and epoch < 0:
                return
        known = self._offsets.get(group, topic, queue_id)
        if known is not None and known >= offset:
            return
        if self._queue.is_open:
            self._queue.put_command(
                commit_offsets(
                    group, topic, {queue_id: offset}, epoch=epoch, at_ms=self._clock.wall_ms()
                ),
                lambda _index, _error: None,
            )
            return
        header = UpdateConsumerOffsetRequest(
            consumer_group=group,
            topic=topic,
            queue_id=queue_id,
            commit_offset=offset,
            offset_epoch=epoch,
        )
        self._forwarder.take(
            session,
            Command(
                int(RequestCode.UPDATE_CONSUMER_OFFSET),
                FLAG_ONEWAY,
                ext_fields=header.encode(),
            ),
        )

    def when_current(self, session: Session, command: Command, tell: Callable[[], None]) -> None:
        """Call *tell* once this node has proved that it leads and has taken in enough."""

        def tell_open() -> None:
            if not session.closed:
                tell()

        def proved(leads: bool) -> None:
            if not leads:
                if not session.closed:
                    self._forwarder.hold_again(session, command)
                return
            if self._derived.dispatched_index >= needed:
                tell_open()
            else:
                self.waiting.append((needed, tell_open))

        needed = self._ledger.committed_index
        self._ledger.request_barrier(proved)

    def dispatched(self) -> None:
        """Answer what waited for dispatch to come so far."""
        if not self.waiting:
            return
        for tell in self.waiting.take(self._derived.dispatched_index):
            tell()


def _offset_response(command: Command, offset: int, epoch: int | None = None) -> Command:
    header = OffsetResponse(offset=offset, offset_epoch=epoch)
    return response(command, int(ResponseCode.SUCCESS), None, header.encode())

"""Putting a consumer group elsewhere: to an end, a time, an offset, or some messages on or back.

The places are looked up at one moment on the leader, and one entry of the log takes the group there
in all queues at once.  It begins a new epoch of the group's offsets: consumers that began before
hear of it at their next pull or commit, and nothing they commit counts any more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.errors import HeaderError, TopicNotFoundError
from broker.handlers.bounded import drop_oldest
from broker.handlers.registry import answer, error_response, handles
from broker.message.limits import check_group
from broker.metadata.consumer_offsets import reset_offsets
from broker.protocol.admin_bodies import QueuePlace, encode_reset
from broker.protocol.descriptions import OffsetReset, QueueReset, encode_body
from broker.protocol.headers import ResetOffsetRequest, ResetOffsetsRequest
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.errors import LedgerError
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.handlers.commands import Commands
    from broker.handlers.group_gate import GroupGate
    from broker.handlers.queue_state import QueueStates
    from broker.metadata.consumer_offsets import ConsumerOffsets
    from broker.metadata.topics import Topics
    from dledger.clock import Clock
    from dledger.remoting.server import Session

PLACES = ("earliest", "latest", "time", "offset", "shift")
# For so long RocketMQ's consumers stand still when they are told of a reset.
# Source: ``MQClientInstance.resetOffset``.
STANDSTILL_SECONDS = 10.0
REMEMBERED_MAX = 1000  # resets by time; the oldest are forgotten first
LATEST_MS = -1  # as a timestamp. Source: RocketMQ ``Broker2Client.resetOffset``


class _Recent(NamedTuple):
    """A reset by time, whose request may come again under another broker name."""

    until: float  # seconds of the clock
    epoch: int  # that it began
    body: bytes  # of its answer


class OffsetResetHandlers:
    """The family of resets, on the serving leader."""

    def __init__(
        self,
        *,
        commands: Commands,
        gate: GroupGate,
        offsets: ConsumerOffsets,
        topics: Topics,
        states: QueueStates,
        clock: Clock,
        when_current: Callable[[Session, Command, Callable[[], None]], None],
        group_name: str,
    ) -> None:
        """Make the family.

        Args:
            commands: proposes what is asked for and answers.
            gate: knows which groups there are.
            offsets: what groups have committed.
            topics: what exists.
            states: looks at queues.
            clock: says when a reset was.
            when_current: calls back once this node has proved that it leads and lags behind
                nothing acknowledged.
            group_name: of the broker group: RocketMQ's name of the broker.
        """
        self._commands = commands
        self._gate = gate
        self._offsets = offsets
        self._topics = topics
        self._states = states
        self._clock = clock
        self._when_current = when_current
        self._group_name = group_name
        self._recent: dict[ResetOffsetRequest, _Recent] = {}

    @handles(RequestCode.RESET_CONSUMER_OFFSETS, on_leader=True)
    def reset(self, session: Session, command: Command) -> None:
        """Put a group elsewhere, or with *dryRun* say where that would be."""
        header = ResetOffsetsRequest.decode(command.ext_fields)
        if header.to not in PLACES:
            raise HeaderError(f"{header.to[:40]!r}; use one of {', '.join(PLACES)}", field="to")
        group, topic = header.consumer_group, header.topic
        self._check(group, topic, header.queue_id)

        def made(changes: list[QueueReset], epoch: int, *, is_dry_run: bool) -> Command:
            described = OffsetReset(
                group=group,
                topic=topic,
                is_dry_run=is_dry_run,
                epoch=epoch,
                queues=tuple(changes),
            )
            body = encode_body(described)
            return response(command, int(ResponseCode.SUCCESS), body=body)

        def current() -> None:
            changes = self._changes(group, topic, header.queue_id, header.to, header.value)
            if header.dry_run:
                epoch = self._offsets.epoch(group, topic)
                answer(session, command, made(changes, epoch, is_dry_run=True))
                session.flush_soon()
                return
            self._propose(
                session, command, group, topic, changes,
                lambda epoch: made(changes, epoch, is_dry_run=False), header.request_id,
            )  # fmt: skip

        self._when_known(session, command, current)

    @handles(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, on_leader=True)
    def reset_by_time(self, session: Session, command: Command) -> None:
        """Put a group at a time, as RocketMQ's tools ask for it; its consumers need not be online.

        mqadmin asks once for each broker name of a route, and here all of them are one broker: what
        is asked again while consumers stand still for the first is answered with what that did.

        Source: RocketMQ ``Broker2Client.resetOffset``: without *isForce* only ever backwards.
        """
        header = ResetOffsetRequest.decode(command.ext_fields)
        group, topic = header.group, header.topic
        self._check(group, topic, header.queue_id)
        if (known := self._recent_answer(header)) is not None:
            answer(session, command, response(command, int(ResponseCode.SUCCESS), body=known))
            return

        def current() -> None:
            if header.offset >= 0:
                to, value = "offset", header.offset
            elif header.timestamp == LATEST_MS:
                to, value = "latest", 0
            else:
                to, value = "time", header.timestamp
            changes = self._changes(group, topic, header.queue_id, to, value)
            if not header.is_force:
                changes = [item for item in changes if item.after < item.before or item.before < 0]

            def finish(epoch: int) -> Command:
                body = encode_reset(
                    {
                        QueuePlace(topic, self._group_name, item.queue_id): item.after
                        for item in changes
                    }
                )
                self._remember(header, epoch, body)
                return response(command, int(ResponseCode.SUCCESS), body=body)

            self._propose(session, command, group, topic, changes, finish)

        self._when_known(session, command, current)

    def _recent_answer(self, header: ResetOffsetRequest) -> bytes | None:
        """Return what the same request was answered a moment ago, if its reset is the last one."""
        known = self._recent.get(header)
        if known is None or known.until <= self._clock.now():
            return None
        epoch = self._offsets.epoch(header.group, header.topic)
        return known.body if known.epoch == epoch else None

    def _remember(self, header: ResetOffsetRequest, epoch: int, body: bytes) -> None:
        self._recent.pop(header, None)
        until = self._clock.now() + STANDSTILL_SECONDS
        self._recent[header] = _Recent(until, epoch, body)
        drop_oldest(self._recent, REMEMBERED_MAX)

    def _when_known(self, session: Session, command: Command, current: Callable[[], None]) -> None:
        def tell() -> None:
            if session.closed:
                return
            try:
                current()
                self._commands.seal()  # the proof came by itself: no pass over requests ends here
            except (HeaderError, TopicNotFoundError, LedgerError) as error:
                answer(session, command, error_response(command, error))
                session.flush_soon()

        self._when_current(session, command, tell)

    def _propose(
        self,
        session: Session,
        command: Command,
        group: str,
        topic: str,
        changes: list[QueueReset],
        finish: Callable[[int], Command],
        request_id: int | None = None,
    ) -> None:
        wanted = reset_offsets(
            group,
            topic,
            {item.queue_id: item.after for item in changes},
            at_ms=self._clock.wall_ms(),
        )

        def heard(result: Any) -> Command:  # noqa: ANN401 - what `ConsumerOffsets` made of it
            # Older versions remembered the epoch alone of a reset; it may lie in a snapshot.
            epoch, queues = result if isinstance(result, list) else (result, ())
            self._heard(epoch, topic)
            # An earlier attempt at the same request may have been applied in its stead, and have
            # found a queue shorter.
            put_at = dict(queues)
            changes[:] = [
                replace(item, after=put_at.get(item.queue_id, item.after)) for item in changes
            ]
            return finish(epoch)

        self._commands.propose(session, command, wanted.only_once(request_id), heard)

    @staticmethod
    def _heard(epoch: int, topic: str) -> None:
        if not epoch:  # somebody deleted it a moment before
            raise TopicNotFoundError(f"topic {topic!r} does not exist; nothing was reset")

    def _check(self, group: str, topic: str, queue_id: int) -> None:
        check_group(group)
        config = self._topics.existing(topic)
        if not -1 <= queue_id < config.read_queue_count:
            raise TopicNotFoundError(f"topic {topic!r} has no queue {queue_id} to read")
        self._gate.check_use(group)

    def _changes(
        self, group: str, topic: str, queue_id: int, to: str, value: int
    ) -> list[QueueReset]:
        config = self._topics.existing(topic)
        queue_ids = range(config.read_queue_count) if queue_id < 0 else (queue_id,)
        changes = []
        for number in queue_ids:
            first, end = self._states.ends(topic, number)
            before = self._offsets.get(group, topic, number)
            if to == "earliest":
                after = first
            elif to == "latest":
                after = end
            elif to == "time":
                after = self._states.offset_at(topic, number, value)
            elif to == "offset":
                after = value
            else:
                after = (first if before is None else before) + value
            changes.append(
                QueueReset(
                    queue_id=number,
                    before=-1 if before is None else before,
                    after=min(max(after, first), end),
                    min_offset=first,
                    max_offset=end,
                )
            )
        return changes

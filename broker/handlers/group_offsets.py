"""What RocketMQ's tools ask about the offsets of groups, beyond how far one has come.

Every node answers from what it has applied; what changes offsets is for the leader.

Source: RocketMQ ``AdminBrokerProcessor``, ``ConsumerOffsetManager``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.delivery.schedule import PROGRESS_GROUP
from broker.errors import InvalidMessageError
from broker.handlers.registry import answer, handles
from broker.message.delay import SCHEDULE_TOPIC
from broker.message.limits import check_group, is_reserved_group
from broker.metadata.consumer_offsets import reset_offsets
from broker.protocol.admin_bodies import QueuePlace, compact
from broker.protocol.admin_headers import (
    AllConsumeStatsRequest,
    CloneOffsetsRequest,
    CorrectionOffsetsRequest,
    TimeSpansRequest,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from broker.groups.consumers import Consumers
    from broker.handlers.changes import Changes
    from broker.handlers.group_gate import GroupGate
    from broker.handlers.group_progress import GroupProgress
    from broker.handlers.queue_state import QueueStates
    from broker.metadata.consumer_offsets import ConsumerOffsets
    from broker.metadata.topics import Topics
    from dledger.clock import Clock
    from dledger.remoting.server import Session

QUEUES_MAX = 20_000  # told at once, some 0.2 s
_NEVER = (1 << 63) - 1  # as an offset: nothing there is to be corrected


class GroupOffsetHandlers:
    """The family of tables of offsets, and of copies of them."""

    def __init__(
        self,
        *,
        changes: Changes,
        gate: GroupGate,
        offsets: ConsumerOffsets,
        consumers: Consumers,
        topics: Topics,
        states: QueueStates,
        progress: GroupProgress,
        clock: Clock,
        group_name: str,
        address: str,
    ) -> None:
        """Make the family.

        Args:
            changes: proposes what is asked for and answers.
            gate: knows which groups there are.
            offsets: what groups have committed.
            consumers: who is in which group.
            topics: what exists.
            states: looks at queues.
            progress: knows how far groups have come.
            clock: the time.
            group_name: of the broker group: RocketMQ's name of the broker.
            address: of this node for clients.
        """
        self._changes = changes
        self._gate = gate
        self._offsets = offsets
        self._consumers = consumers
        self._topics = topics
        self._states = states
        self._progress = progress
        self._clock = clock
        self._group_name = group_name
        self._address = address

    # -- tables ---------------------------------------------------------------------------------

    @handles(RequestCode.GET_ALL_CONSUMER_OFFSET)
    def all_offsets(self, session: Session, command: Command) -> None:
        """Answer what all groups have committed. Source: ``ConsumerOffsetSerializeWrapper``."""
        found = {
            f"{topic}@{group}": self._offsets.queues_of(group, topic)
            for group, topic in self._offsets.groups()
            if not is_reserved_group(group)
        }
        _answer_json(session, command, {"offsetTable": found})

    @handles(RequestCode.GET_ALL_DELAY_OFFSET)
    def delay_offsets(self, session: Session, command: Command) -> None:
        """Answer how far each delay level is delivered.

        Source: RocketMQ ``DelayOffsetSerializeWrapper``.
        """
        delivered = self._offsets.queues_of(PROGRESS_GROUP, SCHEDULE_TOPIC)
        found = {queue_id + 1: offset for queue_id, offset in sorted(delivered.items())}
        _answer_json(session, command, {"offsetTable": found})

    @handles(RequestCode.GET_BROKER_CONSUME_STATS, on_leader=True)
    def all_stats(self, session: Session, command: Command) -> None:
        """Answer how far all groups have come. Source: RocketMQ ``ConsumeStatsList``."""
        header = AllConsumeStatsRequest.decode(command.ext_fields)
        count = sum(len(self._offsets.queues_of(*key)) for key in self._offsets.groups())
        if count > QUEUES_MAX:
            raise InvalidMessageError(
                f"groups have committed something in {count} queues, and at most {QUEUES_MAX} are "
                "told at once; ask for one group at a time (GET_CONSUME_STATS)"
            )
        total = 0
        rows = []
        for group in self._gate.names():
            found = [
                self._progress.in_topic(group, topic)
                for topic in self._offsets.topics_of(group)
                if not header.is_order or self._topics.existing(topic).order
            ]
            if found:
                total += sum(
                    queue.max_offset - max(queue.committed, 0)
                    for topic in found
                    for queue in topic.queues
                )
                rows.append(f"{{{compact(group)}:[{self._progress.stats_body(found)}]}}")
        body = (
            f'{{"brokerAddr":{compact(self._address)},"consumeStatsList":[{",".join(rows)}],'
            f'"totalDiff":{total}}}'
        )
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body.encode()))

    @handles(RequestCode.QUERY_CONSUME_TIME_SPAN)
    def time_spans(self, session: Session, command: Command) -> None:
        """Answer from when to when each queue's messages are, and how far a group is behind."""
        header = TimeSpansRequest.decode(command.ext_fields)
        config = self._topics.existing(header.topic)
        now = self._clock.wall_ms()
        spans = []
        for queue_id in range(config.write_queue_count):
            first, end = self._states.ends(header.topic, queue_id)
            committed = self._offsets.get(header.group, header.topic, queue_id) or 0
            oldest = self._states.store_time(header.topic, queue_id, first)
            consumed = self._states.store_time(header.topic, queue_id, committed - 1)
            place = QueuePlace(header.topic, self._group_name, queue_id)
            waiting = self._states.store_time(header.topic, queue_id, max(committed, first))
            spans.append(
                {
                    "consumeTimeStamp": consumed if committed > 0 else oldest,
                    "delayTime": max(now - waiting, 0) if committed < end else 0,
                    "maxTimeStamp": self._states.store_time(header.topic, queue_id, end - 1),
                    "messageQueue": place.to_json(),
                    "minTimeStamp": oldest,
                }
            )
        _answer_json(session, command, {"consumeTimeSpanSet": spans})

    @handles(RequestCode.QUERY_CORRECTION_OFFSET)
    def correction_offsets(self, session: Session, command: Command) -> None:
        """Answer in each queue of a topic where the group is that is furthest behind.

        A queue in which *compareGroup* itself is further behind has nothing to correct.
        Source: RocketMQ ``AdminBrokerProcessor.queryCorrectionOffset``.
        """
        header = CorrectionOffsetsRequest.decode(command.ext_fields)
        left_out = {name.strip() for name in header.filter_groups.split(",")}
        found: dict[int, int] = {}
        for group, topic in self._offsets.groups():
            if topic != header.topic or group in left_out or is_reserved_group(group):
                continue
            for queue_id, offset in self._offsets.queues_of(group, topic).items():
                first, _ = self._states.ends(topic, queue_id)
                if offset >= first:
                    found[queue_id] = min(offset, found.get(queue_id, offset))
        compared = self._offsets.queues_of(header.compare_group, header.topic)
        for queue_id, offset in compared.items():
            if found.get(queue_id, _NEVER) > offset:
                found[queue_id] = _NEVER
        _answer_json(session, command, {"correctionOffsets": found})

    # -- copies ---------------------------------------------------------------------------------

    @handles(RequestCode.CLONE_GROUP_OFFSET, on_leader=True)
    def clone(self, session: Session, command: Command) -> None:
        """Put a group where another one is; its consumers follow, as after any reset.

        Source: RocketMQ ``AdminBrokerProcessor.cloneGroupOffset``.
        """
        header = CloneOffsetsRequest.decode(command.ext_fields)
        source, target = header.src_group, header.dest_group
        self._gate.check_exists(source)
        check_group(target)
        self._gate.check_use(target)
        topics = [header.topic] if header.topic else self._offsets.topics_of(source)
        if header.topic:
            self._topics.existing(header.topic)
        if not header.offline and (consumers := self._consumers.of(source)):
            read = {item.topic for data in consumers.values() for item in data.subscriptions}
            topics = [topic for topic in topics if topic in read]
        at_ms = self._clock.wall_ms()
        self._changes.propose(
            session,
            command,
            [
                reset_offsets(target, topic, queues, at_ms=at_ms)
                for topic in topics
                if (queues := self._offsets.queues_of(source, topic))
            ],
        )


def _answer_json(session: Session, command: Command, value: object) -> None:
    body = compact(value).encode()
    answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

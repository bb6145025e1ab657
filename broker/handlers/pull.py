"""PULL_MESSAGE: records from the mapped log, at once or as soon as there are any.

Every node answers from what it has committed itself; a follower may therefore lag behind, but
never shows what could still be taken back.  What it has dropped the leader may still have, as disks
differ: it hands such a pull on instead of sending the consumer past it.

A pull with a tag filter reads on over what it does not want: the hashes of a queue's tags are one
column.  It is held at the end of the queue, and what arrives and does not match moves it on; a
client hears how far before it has missed much, so that it can commit what it does not want.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from broker.delivery.hold import HeldPull, PullHold
from broker.errors import (
    BrokerError,
    InvalidFilterError,
    NoPermissionError,
    TopicNotFoundError,
)
from broker.handlers.registry import answer, error_response, handles, open_requests_of
from broker.message.store_hosts import goes_by_store_hosts, with_store_host
from broker.message.tags import parse_tag_expression, tags_codes
from broker.protocol.headers import (
    PERM_READ,
    PULL_FLAG_SUBSCRIPTION,
    PullMessageRequest,
    PullMessageResponse,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.store.reader import PullStatus
from dledger.errors import LedgerBusyError
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.handlers.group_gate import GroupGate
    from broker.message.model import HostAddress
    from broker.metadata.topics import Topics
    from broker.metrics.pulled import PulledPlaces
    from broker.metrics.traffic import Traffic
    from broker.store.reader import PullResult, Reader
    from broker.store.topic_rates import TopicRates
    from dledger.clock import Clock
    from dledger.entry import Buffer
    from dledger.remoting.server import Session

COUNT_MAX = 4096  # records in one answer
SIZE_DEFAULT = 1024 * 1024  # bytes in one answer when the client names no bound
EXPRESSION_SIZE_KEPT = 1024  # characters; longer ones are parsed each time
SIZE_MAX = 12 * 1024 * 1024  # leaves room for the rest of a 16 MiB frame
# Messages a held pull may pass over before its client hears of it: what is looked at again when
# the client ends meanwhile.  A round trip for so many is next to nothing.
PASSED_OVER_MAX = 1000


class PullHandlers:
    """The family of pulls."""

    def __init__(
        self,
        *,
        reader: Reader,
        topics: Topics,
        clock: Clock,
        hold_ms_max: int,
        held_max: int,
        commit_offset: Callable[[Session, str, str, int, int, int | None], None],
        is_serving: Callable[[], bool],
        gate: GroupGate,
        check_epoch: Callable[[str, str, int | None], None],
        traffic: Traffic,
        rates: TopicRates,
        pulled: PulledPlaces,
        forward: Callable[[Session, Command], None],
        host: HostAddress,
    ) -> None:
        """Make the family.

        Args:
            reader: finds records by queue offset.
            topics: what exists.
            clock: measures how long pulls wait.
            hold_ms_max: longest time a pull waits, whatever its client asks for.
            held_max: most pulls that wait at once.
            commit_offset: takes (session, group, topic, queue, offset, epoch) that came along
                with a pull.
            is_serving: whether this node is the leader and lags behind nobody.
            gate: knows which groups may consume.
            check_epoch: complains of a consumer whose group was put elsewhere meanwhile.
            traffic: counts what is handed out.
            rates: the same, over the last minutes.
            pulled: takes note of how far consumers are.
            forward: takes what only the leader may answer.
            host: this broker's address, for who gives messages back to whom their records name.
        """
        self._reader = reader
        self._topics = topics
        self._clock = clock
        self._hold_ms_max = hold_ms_max
        self._commit_offset = commit_offset
        self._is_serving = is_serving
        self._gate = gate
        self._check_epoch = check_epoch
        self._traffic = traffic
        self._rates = rates
        self._pulled = pulled
        self._forward = forward
        self._host = host
        self.hold = PullHold(clock, count_max=held_max, answer=self._answer_held)
        self.message_count = 0

    @handles(RequestCode.PULL_MESSAGE)
    def pull(self, session: Session, command: Command) -> None:
        """Answer a pull, or hold it when it finds nothing and may wait."""
        header = PullMessageRequest.decode(command.ext_fields)
        self._check(header)
        self._gate.check_pull(session, header.consumer_group)
        if header.commits_offset and header.commit_offset >= 0:
            self._commit_offset(
                session,
                header.consumer_group,
                header.topic,
                header.queue_id,
                header.commit_offset,
                header.offset_epoch,
            )
        wanted = _wanted(header)
        result = self._read(header, wanted)
        if result.status is PullStatus.OFFSET_TOO_SMALL and not self._is_serving():
            self._forward(session, command)
            return
        if (
            self._may_come(result)
            and header.may_suspend
            and header.suspend_timeout_millis > 0
            # Its client is told how far it has come, and waits there.
            and result.status is not PullStatus.NO_MATCHED_MESSAGE
        ):
            if self.hold.is_full:
                raise LedgerBusyError(
                    f"{self.hold.count} pulls wait for messages, the limit is pulls_held_max = "
                    f"{self.hold.count_max}; ask again later, or another node"
                )
            wait_ms = min(header.suspend_timeout_millis, self._hold_ms_max)
            self._hold(
                session,
                _without_what_is_read(command),
                replace(
                    header,
                    consumer_group=self._gate.known_name(header.consumer_group)
                    or self._traffic.shared_name(header.consumer_group),
                    subscription=None,
                    expression_type=None,
                    broker_name=None,
                ),
                deadline=self._clock.now() + wait_ms / 1000,
                tags_codes=wanted,
                begin_offset=header.queue_offset,
            )
            return
        answer(session, command, self._response(command, header, result))

    def look_again(self, topic: str) -> None:
        """Look again at the pulls that wait for *topic*: it is gone, or a group was put elsewhere.

        Which of them have to be told, the check of each says.
        """
        self.hold.wake(self.hold.keys_of(topic))

    def _check(self, header: PullMessageRequest) -> None:
        config = self._topics.existing(header.topic)
        if not config.perm & PERM_READ:
            raise NoPermissionError(
                f"topic {header.topic!r} may not be read (perm {config.perm}); allow it first"
            )
        if not 0 <= header.queue_id < config.read_queue_count:
            raise TopicNotFoundError(
                f"queue {header.queue_id} is not one of the {config.read_queue_count} readable "
                f"queues of topic {header.topic!r}"
            )
        self._check_epoch(header.consumer_group, header.topic, header.offset_epoch)

    def _hold(
        self,
        session: Session,
        command: Command,
        header: PullMessageRequest,
        *,
        deadline: float,
        tags_codes: frozenset[int] | None,
        begin_offset: int,
    ) -> None:
        self._pulled.note(
            self._gate.known_name(header.consumer_group),
            header.topic,
            header.queue_id,
            header.queue_offset,
        )
        if (known := open_requests_of(session)) is not None:
            known.hold(command)
        self.hold.add(
            HeldPull(
                session=session,
                command=command,
                header=header,
                key=(header.topic, header.queue_id),
                queue_offset=header.queue_offset,
                deadline=deadline,
                tags_codes=tags_codes,
                begin_offset=begin_offset,
            )
        )

    def _read(
        self, header: PullMessageRequest, tags_codes: frozenset[int] | None = None
    ) -> PullResult:
        size_max = header.max_msg_bytes or SIZE_DEFAULT
        return self._reader.get_messages(
            header.topic,
            header.queue_id,
            header.queue_offset,
            count_max=max(1, min(header.max_msg_nums, COUNT_MAX)),
            size_max=max(1, min(size_max, SIZE_MAX)),
            tags_codes=tags_codes,
        )

    def _may_come(self, result: PullResult) -> bool:
        """Return whether nothing is wrong with the offset and a message may still arrive there.

        Beyond the end of the queue that is so on a node that may lag: a consumer sent back to
        such a node's end would be given everything up to its own offset a second time.
        """
        if result.status is PullStatus.OFFSET_TOO_LARGE:
            return not self._is_serving()
        if result.status is PullStatus.NO_MATCHED_MESSAGE:
            return result.next_offset >= result.max_offset
        return result.status in {PullStatus.NO_NEW_MESSAGE, PullStatus.NO_MESSAGE_IN_QUEUE}

    def _response(
        self, command: Command, header: PullMessageRequest, result: PullResult
    ) -> Command:
        code, remark = _CODES[result.status]
        next_offset = result.next_offset
        if result.message_count:
            self.message_count += result.message_count
            self._pulled.note(
                self._gate.known_name(header.consumer_group),
                header.topic,
                header.queue_id,
                result.next_offset,
            )
            self._traffic.serve(
                header.topic,
                header.consumer_group,
                messages=result.message_count,
                size=result.size,
            )
            self._rates.pulled(
                header.topic,
                header.consumer_group,
                result.message_count,
                result.size,
                now_ms=self._clock.wall_ms(),
            )
        if self._may_come(result) and result.status is not PullStatus.NO_MATCHED_MESSAGE:
            code, remark = ResponseCode.PULL_NOT_FOUND, ""
            next_offset = header.queue_offset
        views: list[Buffer] = list(result.views)
        if views and goes_by_store_hosts(command):
            views = [with_store_host(view, self._host) for view in views]
        return response(
            command,
            int(code),
            remark.format(result=result) or None,
            PullMessageResponse(
                suggest_which_broker_id=0,
                next_begin_offset=next_offset,
                min_offset=result.min_offset,
                max_offset=result.max_offset,
            ).encode(),
            views,
        )

    def _answer_held(self, pull: HeldPull, is_late: bool) -> None:
        session, command, header = pull.session, pull.command, pull.header
        try:
            self._check(header)
            result = self._read(header, pull.tags_codes)
        except BrokerError as error:
            answer(session, command, error_response(command, error))
            session.flush()
            return
        if self._may_come(result) and not is_late:
            if result.status is PullStatus.NO_MATCHED_MESSAGE:
                header = replace(header, queue_offset=result.next_offset)
            if header.queue_offset - pull.begin_offset < PASSED_OVER_MAX:
                self._hold(
                    session,
                    command,
                    header,
                    deadline=pull.deadline,
                    tags_codes=pull.tags_codes,
                    begin_offset=pull.begin_offset,
                )
                return
        answer(session, command, self._response(command, header, result))
        session.flush()


def _wanted(header: PullMessageRequest) -> frozenset[int] | None:
    """Return the hashes of the tags that a pull wants; None for all messages.

    Source: RocketMQ ``PullMessageProcessor``, ``ExpressionMessageFilter``.

    Raises:
        InvalidFilterError: the expression is none, or of a kind this version does not know.
    """
    if not header.sys_flag & PULL_FLAG_SUBSCRIPTION:
        return None
    if header.expression_type not in (None, "", "TAG"):
        raise InvalidFilterError(
            f"expressions of type {str(header.expression_type)[:40]!r} are not supported; filter "
            "by tags (TAG)"
        )
    expression = header.subscription
    if expression is None or len(expression) > EXPRESSION_SIZE_KEPT:
        return _codes_of(expression)
    return _kept_codes_of(expression)


def _codes_of(expression: str | None) -> frozenset[int] | None:
    tags = parse_tag_expression(expression)
    return None if tags is None else tags_codes(tags)


# A held pull keeps its codes, and thousands of consumers have the same few expressions.
_kept_codes_of = lru_cache(maxsize=1024)(_codes_of)


def _without_what_is_read(command: Command) -> Command:
    """Return what is needed to answer *command*, which may have come with megabytes.

    A hundred thousand of them may be held.
    """
    return Command(
        command.code,
        command.flag,
        command.opaque,
        language=command.language,
        version=command.version,
        serialization=command.serialization,
    )


_CODES = {
    PullStatus.FOUND: (ResponseCode.SUCCESS, ""),
    PullStatus.NO_NEW_MESSAGE: (ResponseCode.PULL_NOT_FOUND, ""),
    PullStatus.NO_MESSAGE_IN_QUEUE: (ResponseCode.PULL_NOT_FOUND, ""),
    PullStatus.NO_MATCHED_MESSAGE: (ResponseCode.PULL_RETRY_IMMEDIATELY, ""),
    PullStatus.OFFSET_TOO_SMALL: (
        ResponseCode.PULL_OFFSET_MOVED,
        "the offset lies before the first one kept, {result.min_offset}: older messages are gone",
    ),
    PullStatus.OFFSET_TOO_LARGE: (
        ResponseCode.PULL_OFFSET_MOVED,
        "the offset lies behind the queue's end, {result.max_offset}",
    ),
}

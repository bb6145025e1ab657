"""Requests of RocketMQ's clients that are handed to a second leader, as the first died with them.

RocketMQ's clients know no "outcome unknown".  They are told code 1, and make of it what they like:
Java's fails a send with a callback or a queue of its own choice, and the C++ core forgets a message
that it could not give back, and a queue lock that it could not release.  So the node that handed
such a request on waits for the next leader and hands it on again.  Most of them may be done twice.
A send, or a message given back, goes with the index before which it cannot lie (`SENT_AFTER`);
whoever leads now takes in all that is in the log, and looks whether it is behind that already: the
leader may be the same, only the link to it broke, and the first attempt still be on its way to its
disk.  It is told by its unique key: one that has none is given it by the node that hands it on.
And by when it was born: RocketMQ's clients give a message that is sent twice the same key.

A leader that is deposed and lives on does the same with what its own clients asked of it.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, cast

from broker.delivery.schedule import PROGRESS_GROUP
from broker.handlers.bounded import drop_oldest
from broker.handlers.registry import stock_client_host
from broker.handlers.until_dispatched import UntilDispatched
from broker.message.codec import BORN_TIMESTAMP_OFFSET, RECONSUME_TIMES_OFFSET
from broker.message.delay import DELAY_LEVELS_MS, SCHEDULE_TOPIC
from broker.message.properties import (
    NAME_VALUE_SEPARATOR,
    REAL_TOPIC,
    UNIQUE_KEY,
    find_property,
)
from broker.metadata.consumer_offsets import commit_offsets
from broker.protocol.request_code import RequestCode
from broker.store.commit_log import Receipt
from broker.store.record_finder import FoundRecord, record_at
from broker.store.runs import UNIT_SIZE
from dledger.errors import LedgerBusyError, LedgerFullError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.handlers.forward import Forwarder
    from broker.store.append_queue import AppendQueue
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.log_view import LogView
    from dledger.errors import LedgerError
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session

# On a send that is handed on again: the last index committed when it was handed on at first.
SENT_AFTER = "sentAfterIndex"
# On a send that is handed on: the unique key of its first message, should that have none.
GIVEN_KEY = "uniqueKeyGiven"
_IS_READY = "isReady"  # on this node only: everything before it is taken in
_BEHIND = "isBehind"  # likewise: and with it the try of that number of the same
SEND_CODES = frozenset(
    {RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE}
)
REPEATED_CODES = frozenset(
    {
        *SEND_CODES,
        RequestCode.QUERY_CONSUMER_OFFSET,
        RequestCode.UPDATE_CONSUMER_OFFSET,  # an offset never falls
        RequestCode.SEARCH_OFFSET_BY_TIMESTAMP,
        RequestCode.GET_MAX_OFFSET,
        RequestCode.GET_MIN_OFFSET,
        RequestCode.HEART_BEAT,
        RequestCode.UNREGISTER_CLIENT,
        RequestCode.CONSUMER_SEND_MSG_BACK,
        RequestCode.GET_CONSUMER_LIST_BY_GROUP,
        RequestCode.LOCK_BATCH_MQ,  # a lock is its holder's already
        RequestCode.UNLOCK_BATCH_MQ,
    }
)
# Messages of one queue that are looked at: as many as come while nobody answers, and few enough not
# to keep the others waiting.  What lies further back is written a second time.
_LOOKED_AT_MAX = 4096
_AT_A_TIME = 128
_UNIT = struct.Struct(">qi8x")
_PASSED_MAX = 16_384  # requests that came again; of those before them all is in the log by now


def may_be_repeated(session: Session, command: Command) -> bool:
    """Return whether *command* may be handed to another leader, its outcome unknown."""
    return command.code in REPEATED_CODES and stock_client_host(session, command) is not None


def can_be_told_apart(command: Command) -> bool:
    """Return whether a send that this node began has a unique key by which it is found again."""
    if command.code not in SEND_CODES or GIVEN_KEY in command.ext_fields:
        return True
    properties = command.ext_fields.get("i", command.ext_fields.get("properties"))
    return isinstance(properties, str) and f"{UNIQUE_KEY}{NAME_VALUE_SEPARATOR}" in properties


class EarlierTries:
    """What of a send is in the log already."""

    def __init__(
        self,
        *,
        log: LogView,
        queues: ConsumeQueues,
        queue: AppendQueue,
        forwarder: Forwarder,
        dispatched_index: Callable[[], int],
    ) -> None:
        """Make what looks, on the serving leader.

        Args:
            log: what is looked in.
            queues: by which messages are found.
            queue: where an earlier try may still be.
            forwarder: takes a request back when this node leads no more.
            dispatched_index: tells how far the log is taken in.
        """
        self._log = log
        self._queues = queues
        self._queue = queue
        self._forwarder = forwarder
        self._dispatched_index = dispatched_index
        self.waiting: UntilDispatched[tuple[Session, Command]] = UntilDispatched()
        # By what is asked, which of the tries of it was the last to be let pass; oldest first.
        self._passed: dict[int, int] = {}
        self._pass_count = 0

    def must_wait(self, session: Session, command: Command) -> bool:
        """Return whether an earlier try of *command* may be in the log and not be found yet.

        Then it comes back by `take_ready`, once everything before it is taken in.  Two nodes may
        have handed on the same: what one of them wrote meanwhile is behind that.

        Raises:
            NotLeaderError: this node serves no longer.
            OutcomeUnknownError: nothing can be written now.
        """
        fields = command.ext_fields
        if SENT_AFTER not in fields:
            return False
        asked = _what_is_asked(command)
        last = self._passed.get(asked, 0)
        if fields.pop(_IS_READY, False) is True and fields.pop(_BEHIND, 0) == last:
            self._pass_count += 1
            self._passed.pop(asked, None)
            self._passed[asked] = self._pass_count
            drop_oldest(self._passed, _PASSED_MAX)
            return False
        fields[_BEHIND] = last

        def done(index: int, error: LedgerError | None) -> None:
            if error is None:
                self.waiting.append((index, (session, command)))
            elif not session.closed:
                self._forwarder.hold_again(session, command)

        # It changes nothing, and comes behind all that was taken before.
        behind_all = commit_offsets(PROGRESS_GROUP, SCHEDULE_TOPIC, {})
        try:
            self._queue.put_command(behind_all, done)
        except (LedgerBusyError, LedgerFullError) as error:
            # This try is not written; that none is, nobody may say.
            raise OutcomeUnknownError(f"whether an earlier try was written: {error}") from error
        return True

    def take_ready(self) -> list[tuple[Session, Command]]:
        """Return the requests that may be handled now."""
        if not self.waiting:
            return []
        ready = self.waiting.take(self._dispatched_index())
        for _, command in ready:
            command.ext_fields[_IS_READY] = True
        return [(session, command) for session, command in ready if not session.closed]

    def find(
        self,
        command: Command,
        *,
        topic: str,
        queue_ids: Iterable[int],
        unique_key: str,
        times: int,
        born_ms: int,
        real_topic: str = "",
    ) -> Receipt | None:
        """Return where a message is, if *command* was handed on before.

        Args:
            command: the request.
            topic: where it goes.
            queue_ids: to one of which queues.
            unique_key: of the message.
            times: how often it was given back, which its unique key survives.
            born_ms: when its sender made it; 0: it did not say.
            real_topic: where it goes when it has waited; "" when its unique key says enough.
        """
        after = command.ext_fields.get(SENT_AFTER)
        if not isinstance(after, int):
            return None
        base, last = self._log.base, self._log.end_index
        position_min = self._log.point_at(min(max(after, base.index), last)).position
        key, real = unique_key.encode(), real_topic.encode()

        def is_it(record: FoundRecord) -> bool:
            view, properties = record.view, record.encoded_properties
            return (
                _number_at(view, RECONSUME_TIMES_OFFSET, 4) == times
                and born_ms in (0, _number_at(view, BORN_TIMESTAMP_OFFSET, 8))
                and find_property(properties, UNIQUE_KEY.encode()) == key
                and (not real or find_property(properties, REAL_TOPIC.encode()) == real)
            )

        for queue_id in queue_ids:
            found = self._find_in(topic, queue_id, position_min, is_it)
            if found is not None:
                return found
        return None

    def _find_in(
        self, topic: str, queue_id: int, position_min: int, is_it: Callable[[FoundRecord], bool]
    ) -> Receipt | None:
        queue = self._queues.get(topic, queue_id)
        if queue is None:
            return None
        end = queue.max_offset
        lowest = max(queue.min_offset, end - _LOOKED_AT_MAX)
        while end > lowest:
            begin = max(lowest, end - _AT_A_TIME)
            units = queue.units_from(begin, unit_count_max=end - begin)
            for offset in range(end - 1, begin - 1, -1):
                position, _ = _UNIT.unpack_from(units, (offset - begin) * UNIT_SIZE)
                if position < position_min:
                    return None
                record = record_at(self._log, self._queues, position)
                if record is not None and is_it(record):
                    return Receipt(queue_id, offset, position)
            end = begin
        return None

    def find_waiting(
        self, command: Command, *, real_topic: str, unique_key: str, times: int, born_ms: int
    ) -> Receipt | None:
        """Return where a message waits, or has waited, as `find`; at whichever level.

        One for a time of its own has less left to wait by now than when it was sent at first.
        """
        return self.find(
            command,
            topic=SCHEDULE_TOPIC,
            queue_ids=range(len(DELAY_LEVELS_MS)),
            unique_key=unique_key,
            times=times,
            born_ms=born_ms,
            real_topic=real_topic,
        )


def _number_at(record: memoryview, at: int, size: int) -> int:
    return int.from_bytes(record[at : at + size], "big", signed=True)


def _what_is_asked(command: Command) -> int:
    """Return a number that is the same for all tries of a request, and for few others."""
    fields = command.ext_fields
    named = (fields.get(name) for name in (GIVEN_KEY, "i", "properties", "group", "offset"))
    return hash((command.code, zlib.crc32(cast("bytes", command.body)), *map(str, named)))


def given_key(command: Command) -> str | None:
    """Return the unique key that the node gave which handed a send on; None: none did."""
    key = command.ext_fields.get(GIVEN_KEY)
    return key if isinstance(key, str) and key else None

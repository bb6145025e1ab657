"""Requests of RocketMQ's clients that are handed to a second leader, as the first died with them.

RocketMQ's clients know no "outcome unknown".  They are told code 1, and make of it what they like:
Java's fails a send with a callback or a queue of its own choice, and the C++ core forgets a message
that it could not give back, and a queue lock that it could not release.  So the node that handed
such a request on waits for the next leader and hands it on again.  Most of them may be done twice.
A send, or a message given back, goes with the index before which it cannot lie (`SENT_AFTER`);
whoever leads now has taken in all that its predecessors left, and looks whether it is behind that
already.  It is told by its unique key: one that has none is given it by the node that hands it on.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from broker.handlers.registry import stock_client_host
from broker.message.codec import RECONSUME_TIMES_OFFSET
from broker.message.delay import DELAY_LEVELS_MS, SCHEDULE_TOPIC
from broker.message.properties import REAL_TOPIC, UNIQUE_KEY, find_property
from broker.protocol.request_code import RequestCode
from broker.store.commit_log import Receipt
from broker.store.record_finder import record_at
from broker.store.runs import UNIT_SIZE

if TYPE_CHECKING:
    from broker.store.consume_queues import ConsumeQueues
    from broker.store.log_view import LogView
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session

# On a send that is handed on again: the last index committed when it was handed on at first.
SENT_AFTER = "sentAfterIndex"
# On a send that is handed on: the unique key of its first message, should that have none.
GIVEN_KEY = "uniqueKeyGiven"
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


def may_be_repeated(session: Session, command: Command) -> bool:
    """Return whether *command* may be handed to another leader, its outcome unknown."""
    return command.code in REPEATED_CODES and stock_client_host(session, command) is not None


class EarlierTries:
    """What of a send is in the log already."""

    def __init__(self, *, log: LogView, queues: ConsumeQueues) -> None:
        """Look in *log* by *queues*, on a leader that has taken in what its predecessors left."""
        self._log = log
        self._queues = queues

    def find(
        self,
        command: Command,
        *,
        topic: str,
        queue_id: int,
        unique_key: str,
        times: int,
        real_topic: str = "",
    ) -> Receipt | None:
        """Return where a message is, if *command* was handed on before.

        Args:
            command: the request.
            topic: where it goes.
            queue_id: to which queue.
            unique_key: of the message.
            times: how often it was given back, which its unique key survives.
            real_topic: where it goes when it has waited; "" when its unique key says enough.
        """
        after = command.ext_fields.get(SENT_AFTER)
        queue = self._queues.get(topic, queue_id)
        if not isinstance(after, int) or queue is None:
            return None
        base, last = self._log.base, self._log.end_index
        position_min = self._log.point_at(min(max(after, base.index), last)).position
        key, end = unique_key.encode(), queue.max_offset
        lowest = max(queue.min_offset, end - _LOOKED_AT_MAX)
        while end > lowest:
            begin = max(lowest, end - _AT_A_TIME)
            units = queue.units_from(begin, unit_count_max=end - begin)
            for offset in range(end - 1, begin - 1, -1):
                position, _ = _UNIT.unpack_from(units, (offset - begin) * UNIT_SIZE)
                if position < position_min:
                    return None
                record = record_at(self._log, self._queues, position)
                if (
                    record is not None
                    and _times_of(record.view) == times
                    and key == find_property(record.encoded_properties, UNIQUE_KEY.encode())
                    and (
                        not real_topic
                        or real_topic.encode()
                        == find_property(record.encoded_properties, REAL_TOPIC.encode())
                    )
                ):
                    return Receipt(queue_id, offset, position)
            end = begin
        return None

    def find_waiting(
        self, command: Command, *, real_topic: str, unique_key: str, times: int
    ) -> Receipt | None:
        """Return where a message waits, or has waited, as `find`; at whichever level.

        One for a time of its own has less left to wait by now than when it was sent at first.
        """
        if SENT_AFTER not in command.ext_fields:
            return None
        for queue_id in range(len(DELAY_LEVELS_MS)):
            found = self.find(
                command,
                topic=SCHEDULE_TOPIC,
                queue_id=queue_id,
                unique_key=unique_key,
                times=times,
                real_topic=real_topic,
            )
            if found is not None:
                return found
        return None


def _times_of(record: memoryview) -> int:
    at = RECONSUME_TIMES_OFFSET
    return int.from_bytes(record[at : at + 4], "big", signed=True)


def given_key(command: Command) -> str | None:
    """Return the unique key that the node gave which handed a send on; None: none did."""
    key = command.ext_fields.get(GIVEN_KEY)
    return key if isinstance(key, str) and key else None

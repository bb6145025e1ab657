"""QUERY_MESSAGE: messages by their key, found through the key index.

A query takes turns: the index is searched in a thread, and what it found is looked at on the event
loop, a few records at a time, as only there the log cannot go from under it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.errors import InvalidMessageError
from broker.handlers.registry import answer, error_response, handles
from broker.message import properties as names
from broker.message.properties import find_property
from broker.protocol.headers import QueryMessageRequest, QueryMessageResponse
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.store.index_keys import key_hash, keys_of
from broker.store.index_search import IndexSearch, SearchRange
from broker.store.record_finder import record_at
from dledger.errors import LedgerBusyError, LedgerError
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from broker.handlers.caught_up import CaughtUp
    from broker.metadata.topics import Topics
    from broker.store.derived import DerivedState
    from broker.store.log_view import LogView
    from broker.store.record_finder import FoundRecord
    from dledger.entry import Buffer
    from dledger.remoting.server import Session
    from dledger.store.disk import Disk
    from dledger.worker import Worker

logger = logging.getLogger(__name__)

COUNT_MAX = 64  # records in one answer. Source: RocketMQ MessageStoreConfig.maxMsgsNumBatch
SIZE_MAX = 12 * 1024 * 1024  # bytes in one answer: leaves room for the rest of a 16 MiB frame
QUERIES_MAX = 64  # that wait at once; one more is told that this node is busy
_RECORDS_PER_TURN = 32
_POSITION_MAX = (1 << 63) - 1


@dataclass(slots=True, kw_only=True)
class _Query:
    session: Session
    command: Command
    header: QueryMessageRequest
    search: IndexSearch
    found: list[FoundRecord] = field(default_factory=list)  # newest first
    size: int = 0


class QueryHandlers:
    """The family of one that looks for keys."""

    def __init__(
        self,
        *,
        log: LogView,
        derived: DerivedState,
        topics: Topics,
        disk: Disk,
        worker: Worker,
        caught_up: CaughtUp,
    ) -> None:
        """Make the family.

        Args:
            log: the records.
            derived: key index and consume queues.
            topics: what exists.
            disk: where the files of the index are.
            worker: runs searches; used by nobody else.
            caught_up: where queries wait for what is committed already.
        """
        self._log = log
        self._derived = derived
        self._topics = topics
        self._disk = disk
        self._worker = worker
        self._caught_up = caught_up
        self.waiting_count = 0

    @handles(RequestCode.QUERY_MESSAGE)
    def query(self, session: Session, command: Command) -> None:
        """Begin to look for the newest messages with a key."""
        header = QueryMessageRequest.decode(command.ext_fields)
        self._topics.existing(header.topic)
        if not header.key:
            raise InvalidMessageError("key is empty; no message has an empty key")
        self._caught_up.when(session, command, lambda: self._begin(session, command, header))

    def _begin(self, session: Session, command: Command, header: QueryMessageRequest) -> None:
        if self.waiting_count >= QUERIES_MAX:
            raise LedgerBusyError(
                f"{QUERIES_MAX} queries by key are under way on this node; ask again in a moment"
            )
        before = header.before_position
        wanted = SearchRange(
            key_hash(header.topic, header.key),
            header.begin_timestamp,
            header.end_timestamp,
            _POSITION_MAX if before is None else before,
        )
        query = _Query(
            session=session,
            command=command,
            header=header,
            search=IndexSearch(self._disk, self._derived.key_index, wanted),
        )
        self.waiting_count += 1
        self._search(query)

    def _search(self, query: _Query) -> None:
        """Have the index searched for some more, then look at them."""
        positions: list[int] = []

        def work() -> None:
            positions.extend(query.search.next_positions(_RECORDS_PER_TURN))

        def done(failure: BaseException | None) -> None:
            if isinstance(failure, Exception):
                if not isinstance(failure, LedgerError):
                    logger.error("query by key: %r", failure, exc_info=failure)
                self._end(query, error_response(query.command, failure))
            elif failure is not None:
                raise failure
            elif query.session.closed:
                self.waiting_count -= 1
            elif self._look_at(query, positions) or not query.search.has_more:
                self._end(query, self._response(query))
            else:
                self._search(query)

        self._worker.submit(work, done)

    def _look_at(self, query: _Query, positions: list[int]) -> bool:
        """Take the records that have the key; return whether the answer is full."""
        header = query.header
        wanted = min(max(header.max_num, 1), COUNT_MAX)
        for position in positions:
            record = record_at(self._log, self._derived.queues, position)
            if record is None or not _is_wanted(record, header):
                continue
            if query.found and query.size + len(record.view) > SIZE_MAX:
                return True
            query.found.append(record)
            query.size += len(record.view)
            if len(query.found) == wanted:
                return True
        return False

    def _response(self, query: _Query) -> Command:
        index = self._derived.key_index
        ext_fields = QueryMessageResponse(
            index_last_update_timestamp=index.last_timestamp_ms,
            index_last_update_phyoffset=max(index.last_position, 0),
        ).encode()
        if not query.found:
            return response(
                query.command,
                int(ResponseCode.QUERY_NOT_FOUND),
                f"no message of topic {query.header.topic} that is kept here has key "
                f"{query.header.key!r:.100} and was stored in that time",
                ext_fields,
            )
        views: list[Buffer] = [record.view for record in reversed(query.found)]
        return response(query.command, int(ResponseCode.SUCCESS), None, ext_fields, views)

    def _end(self, query: _Query, reply: Command) -> None:
        self.waiting_count -= 1
        answer(query.session, query.command, reply)
        if not query.session.closed:
            query.session.flush_soon()


def _is_wanted(record: FoundRecord, header: QueryMessageRequest) -> bool:
    if (
        record.topic != header.topic
        or not header.begin_timestamp <= record.store_timestamp_ms <= header.end_timestamp
    ):
        return False
    key = header.key.encode("utf-8", "surrogatepass")
    if header.is_unique_key:
        return find_property(record.encoded_properties, names.UNIQUE_KEY.encode()) == key
    return key in keys_of(record.encoded_properties)

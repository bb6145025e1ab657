"""What the entries of a log hold: messages, producer marks, metadata commands; and whether it fits.

`ContentCheck` is fed every entry of a log in order and keeps score: records whose checksum, place
or queue offset is wrong, and messages that a producer's marks show to be there twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack

from broker.errors import CorruptRecordError
from broker.message.batch import MARK_MAGIC, MARK_SIZE, ProducerMark, decode_mark
from broker.message.codec import decode_record
from dledger.entry import EntryKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.cli.log_check import StoredEntry
    from broker.message.model import StoredMessage

CHANNEL_RECORDS = 0
CHANNEL_COMMANDS = 1

_PROBLEMS_MAX = 20  # kept; more are only counted


def read_records(entry: StoredEntry) -> Iterator[ProducerMark | StoredMessage]:
    """Yield the producer marks and messages of an entry of channel 0, in their order.

    Raises:
        CorruptRecordError: the body is not records back to back.
    """
    body = entry.body
    offset = 0
    number = 0
    while offset < len(body):
        if int.from_bytes(body[offset + 4 : offset + 8], "big") == MARK_MAGIC:
            yield decode_mark(body, offset)
            offset += MARK_SIZE
            continue
        message = decode_record(body, offset, record=number)
        yield message
        offset += message.size
        number += 1


def read_commands(entry: StoredEntry) -> list[tuple[str, Any]]:
    """Return the metadata commands of an entry of channel 1, each with its arguments.

    Raises:
        CorruptRecordError: the body is no list of commands.
    """
    try:
        commands = msgpack.unpackb(entry.body)
        if isinstance(commands, list) and commands and isinstance(commands[0], str):
            commands = [commands]
        return [(str(kind), arguments) for kind, arguments in commands]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptRecordError(
            f"no metadata commands: {error}", record=0, field="body"
        ) from error


@dataclass(slots=True)
class ContentCheck:
    """Counts of one log, and what is wrong in it."""

    entry_count: int = 0
    noop_count: int = 0
    message_count: int = 0
    command_count: int = 0
    terms: set[int] = field(default_factory=set)
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)  # the first ones
    # (topic, queue id) -> the next queue offset
    queues: dict[tuple[str, int], int] = field(default_factory=dict)
    # (producer id, topic, queue id) -> the next sequence
    producers: dict[tuple[int, str, int], int] = field(default_factory=dict)

    def add(self, entry: StoredEntry) -> None:
        """Take in the next entry."""
        header = entry.header
        self.entry_count += 1
        self.terms.add(header.term)
        if header.kind == EntryKind.NOOP:
            self.noop_count += 1
            return
        try:
            if header.channel == CHANNEL_RECORDS:
                self._add_records(entry)
            elif header.channel == CHANNEL_COMMANDS:
                self.command_count += len(read_commands(entry))
        except CorruptRecordError as error:
            self._note(f"entry {header.index}: {error}")

    def _add_records(self, entry: StoredEntry) -> None:
        index = entry.header.index
        position = entry.header.position + entry.header.size - entry.header.body_size
        mark: ProducerMark | None = None  # whose first message has not come yet
        for item in read_records(entry):
            if isinstance(item, ProducerMark):
                mark = item
                position += MARK_SIZE
                continue
            self.message_count += 1
            if item.position != position:
                self._note(
                    f"entry {index}: the record at position {position} claims {item.position}"
                )
            position += item.size
            self._add_to_queue(index, item)
            if mark is not None:
                self._add_mark(index, item.topic, mark)
                mark = None

    def _add_to_queue(self, index: int, message: StoredMessage) -> None:
        queue = (message.topic, message.queue_id)
        expected = self.queues.get(queue, message.queue_offset)
        if message.queue_offset != expected:
            self._note(
                f"entry {index}: {message.topic}, queue {message.queue_id} goes on with offset "
                f"{message.queue_offset}, expected {expected}"
            )
        self.queues[queue] = message.queue_offset + 1

    def _add_mark(self, index: int, topic: str, mark: ProducerMark) -> None:
        producer_id, first, count, queue_id = mark
        producer = (producer_id, topic, queue_id)
        expected = self.producers.get(producer, first)
        if first < expected:
            self._note(
                f"entry {index}: {topic}, queue {queue_id}: messages {first} to "
                f"{min(expected, first + count) - 1} of producer {producer_id:x} are written twice"
            )
        self.producers[producer] = max(expected, first + count)

    def _note(self, problem: str) -> None:
        self.problem_count += 1
        if len(self.problems) < _PROBLEMS_MAX:
            self.problems.append(problem)

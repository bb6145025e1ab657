"""What may go wrong with messages, sorted by what the caller may do next.

The ledger's own errors (`dledger.errors`) pass through the broker unchanged.
"""

from __future__ import annotations


class BrokerError(Exception):
    """Base class; never raised itself."""


class InvalidMessageError(BrokerError):
    """The message breaks a limit or a rule: sending it again will not help; the text says which."""


class InvalidTopicError(InvalidMessageError):
    """The topic's name is not one: wrong characters or too long."""


class InvalidFilterError(BrokerError):
    """No filter: write tags as in ``"A || B"``, or ``"*"`` for all messages."""


class CorruptRecordError(BrokerError):
    """Bytes that should be commit-log records are none.

    *record* counts from 0 inside the buffer; *field* is the name of the field that is wrong.
    """

    def __init__(self, message: str, *, record: int, field: str) -> None:
        super().__init__(f"record {record}, field {field}: {message}")
        self.record = record
        self.field = field


class HeaderError(BrokerError):
    """A request or response lacks a header field, or the field is of the wrong kind.

    *field* is its name on the wire.
    """

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(f"field {field}: {message}")
        self.field = field


class TopicNotFoundError(BrokerError):
    """No such topic, or no such queue of it: create the topic or ask for another queue."""


class GroupNotFoundError(BrokerError):
    """No such consumer group, and it is not created by being used: create it first."""


class OffsetsResetError(BrokerError):
    """The group's offsets were reset: ask where it goes on now. Nothing was done.

    *epoch* is the one the reset began.
    """

    def __init__(self, message: str, *, epoch: int) -> None:
        super().__init__(message)
        self.epoch = epoch


class OffsetTooSmallError(BrokerError):
    """Retention has already removed that queue offset: go on at *min_offset*."""

    def __init__(self, message: str, *, min_offset: int) -> None:
        super().__init__(message)
        self.min_offset = min_offset


class SequenceError(BrokerError):
    """A producer's sequence number does not follow the last one: nothing was appended."""


class UnknownProducerError(SequenceError):
    """The producer's past is no longer known: take a new producer id, or risk duplicates."""


class OutOfOrderSequenceError(SequenceError):
    """An earlier message of the producer is missing, or its sequence went back halfway."""


class NoPermissionError(BrokerError):
    """The topic does not allow that: change its permission, or use another topic."""

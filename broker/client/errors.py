"""What may go wrong in a client, sorted by what the caller may do next.

Errors about the content of a message (`InvalidMessageError`, `InvalidTopicError`) and about a topic
(`TopicNotFoundError`, `NoPermissionError`) are those of `broker.errors`.
"""

from __future__ import annotations

from broker.errors import BrokerError, InvalidMessageError


class ClientError(BrokerError):
    """Base class of what only a client meets; never raised itself."""


class NotWrittenError(ClientError):
    """The message is not in the log and never will be: sending it again cannot duplicate it."""


class OutcomeUnknownError(ClientError):
    """The message may be in the log, or may still get there: sending it again can duplicate it."""


class MessageRefusedError(InvalidMessageError, NotWrittenError):
    """The broker refused this message for its content; the text holds the broker's remark."""


class NoBrokerError(ClientError):
    """No node of the group could be reached, or none of them leads, until the time was up."""


class RequestFailedError(ClientError):
    """A node refused a request; *code* is its response code, the text holds its remark."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class CorruptAnswerError(ClientError):
    """Every node asked sent records that fail their checks: compare the logs of the nodes."""


class ClosedError(ClientError):
    """The client, producer or consumer is closed: open another one."""

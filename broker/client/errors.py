"""What may go wrong in a client, sorted by what the caller may do next.

Errors about the content of a message (`InvalidMessageError`, `InvalidTopicError`) and about a topic
(`TopicNotFoundError`, `NoPermissionError`) are those of `broker.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BrokerError, InvalidMessageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.client.results import SendResult

USE_WITH = "use it inside 'async with', or 'with' of broker.sync"  # of what was not opened


class ClientError(BrokerError):
    """Base class of what only a client meets; never raised itself."""


class NotWrittenError(ClientError):
    """The message is not in the log and never will be: sending it again cannot duplicate it."""


class OutcomeUnknownError(ClientError):
    """The message may be in the log, or may still get there: sending it again can duplicate it."""


class LessDurableError(ClientError):
    """The message is stored, but not kept as well as was asked for in time: do not send it again.

    *result* says where it is, and what it had reached; more of it may follow by itself.
    """

    def __init__(self, message: str, *, result: SendResult) -> None:
        super().__init__(message)
        self.result = result


class MessageRefusedError(InvalidMessageError, NotWrittenError):
    """The broker refused this message for its content; the text holds the broker's remark."""


class NoBrokerError(ClientError):
    """No node of the group could be reached, or none of them leads, until the time was up."""


class SeveralGroupsError(ClientError):
    """A name server was named, with several broker groups behind it, and one has to be chosen."""


class OffsetFileError(ClientError):
    """The file of a broadcasting consumer's offsets is damaged, another's, or cannot be written."""


class RequestFailedError(ClientError):
    """A node refused a request; *code* is its response code, the text holds its remark."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class CorruptAnswerError(ClientError):
    """Every node asked sent records that fail their checks: compare the logs of the nodes."""


class ClosedError(ClientError):
    """The client, producer or consumer is closed, or not open yet: open one."""


class CorruptBodyError(ClientError):
    """The body is compressed and cannot be unpacked: go on with the next message."""


class MissingExtraError(ClientError, ImportError):
    """A package is not installed that this takes; the text says which one to install."""


class SendManyError(ClientError):
    """Some messages of one `send_many` are not acknowledged.

    *results* has for each message that was taken, in order, its `SendResult` or its own error,
    which says whether it may be sent again.  When the topic itself was the trouble, the last one is
    that error, and nothing was taken after it.
    """

    def __init__(self, topic: str, results: Sequence[SendResult | Exception]) -> None:
        self.topic = topic
        self.results = list(results)
        failed = self.failed
        number, first = next(iter(failed.items()))
        super().__init__(
            f"topic {topic}: {len(failed)} of {len(self.results)} messages are not acknowledged; "
            f"the first of them is number {number}: {type(first).__name__}: {first}"
        )

    @property
    def failed(self) -> dict[int, Exception]:
        """The errors, by the number of their message, counted from 0."""
        return {
            number: result
            for number, result in enumerate(self.results)
            if isinstance(result, Exception)
        }

    @property
    def acknowledged(self) -> dict[int, SendResult]:
        """The results of the others, by the number of their message."""
        return {
            number: result
            for number, result in enumerate(self.results)
            if not isinstance(result, Exception)
        }

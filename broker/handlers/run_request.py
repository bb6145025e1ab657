"""Sends that were gathered, as they wait for their entry, and their acks as rows of one array."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from broker.handlers.registry import begin_each, begin_many, end_many
from broker.handlers.send_answers import SendRequest
from broker.protocol.bodies import ACK, ACK_SIZE
from broker.protocol.request_code import RequestCode
from broker.store.columns import COLUMN_MIN
from broker.store.commit_log import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.handlers.send_answers import SendAnswers
    from broker.store.columns import IntArray
    from dledger.durability import Durability
    from dledger.errors import LedgerError
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session

_CODE = int(RequestCode.SEND_BATCH_MESSAGE)

# Rows of grouped acks, as `broker.protocol.bodies` describes them.
_ACK_ROW = np.dtype(
    [
        ("opaque", ">u4"),
        ("code", ">i4"),
        ("queue_id", ">i4"),
        ("queue_offset", ">i8"),
        ("position", ">i8"),
    ]
)
assert _ACK_ROW.itemsize == ACK_SIZE


class RunRequest:
    """Gathered sends that wait for their entry."""

    __slots__ = (
        "_answers",
        "_begun",
        "_charged",
        "_commands",
        "_level",
        "_opaques",
        "_record_counts",
        "_send_sizes",
        "_session",
        "_topic",
    )

    def __init__(
        self,
        answers: SendAnswers,
        session: Session,
        commands: Callable[[], list[Command]],
        *,
        opaques: list[int] | IntArray,
        topic: str,
        level: Durability,
        size: int,
        record_counts: list[int] | None,
        send_sizes: list[int] | IntArray,
    ) -> None:
        """Make it.

        Args:
            answers: takes what they are told.
            session: who sent them.
            commands: returns them, for answers that have to be given one by one.
            opaques: of each.
            topic: of all.
            level: of durability that was asked for.
            size: bytes of the records of all.
            record_counts: how many records each has; None: one.
            send_sizes: bytes of the records of each.
        """
        self._answers = answers
        self._topic = topic
        self._level = level
        self._session = session
        self._commands = commands
        self._opaques = opaques
        self._record_counts = record_counts
        self._send_sizes = send_sizes
        self._begun = begin_many(session)
        self._charged = size

    def charge(self) -> None:
        """Count what they take against their connection, until they are answered."""
        self._session.charge(self._charged)

    def release(self) -> None:
        """Count them no longer."""
        self._session.release(self._charged)

    def succeeded(self, receipt: Receipt, reached: Durability) -> None:
        """See `Put`: the records of the sends lie back to back, in their order."""
        self.release()
        if not reached.covers(self._level):
            self._tell_each(receipt, reached)
            return
        end_many(self._session, _CODE, self._begun, count=len(self._opaques))
        if self._record_counts is None and len(self._opaques) < COLUMN_MIN:
            rows = self._few_rows(receipt)
        else:
            rows = self._rows(receipt)
        self._answers.add_acks(self._session, rows, reached)

    def _tell_each(self, receipt: Receipt, reached: Durability) -> None:
        """Answer each send by itself: it has to hear why it did not get what it asked for."""
        queue_id, queue_offset, position = receipt
        counts = self._record_counts or [1] * len(self._opaques)
        commands = self._commands()
        begin_each(self._session, commands, self._begun)
        for command, count, size in zip(commands, counts, self._sizes, strict=True):
            request = SendRequest(
                self._answers, self._session, command, None, self._topic, self._level
            )
            request.succeeded(Receipt(queue_id, queue_offset, position), reached)
            queue_offset += count
            position += size

    @property
    def _sizes(self) -> list[int]:
        sizes = self._send_sizes
        return sizes if isinstance(sizes, list) else sizes.tolist()

    def _few_rows(self, receipt: Receipt) -> bytes:
        queue_id, queue_offset, position = receipt
        pack = ACK.pack
        rows = []
        opaques = self._opaques if isinstance(self._opaques, list) else self._opaques.tolist()
        for opaque, size in zip(opaques, self._sizes, strict=True):
            rows.append(pack(opaque, 0, queue_id, queue_offset, position))
            queue_offset += 1
            position += size
        return b"".join(rows)

    def _rows(self, receipt: Receipt) -> bytes:
        count = len(self._opaques)
        queue_id, queue_offset, position = receipt
        rows = np.zeros(count, _ACK_ROW)
        rows["opaque"] = self._opaques
        rows["queue_id"] = queue_id
        if self._record_counts is None:
            rows["queue_offset"] = np.arange(queue_offset, queue_offset + count)
        else:
            rows["queue_offset"] = queue_offset + starts_of(self._record_counts)
        rows["position"] = position + starts_of(self._send_sizes)
        return rows.tobytes()

    def failed(self, error: LedgerError) -> None:
        """See `Put`."""
        self.release()
        commands = self._commands()
        begin_each(self._session, commands, self._begun)
        for command in commands:
            self._answers.refuse(self._session, command, error)


def starts_of(lengths: list[int] | IntArray) -> IntArray:
    """Return where each of *lengths* laid end to end begins."""
    array = np.asarray(lengths, np.int64)
    return array.cumsum() - array

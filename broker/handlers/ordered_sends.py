"""The sends of a run of frames, those of one queue together, as columns.

They come as they were sent, to some queues in turn; each queue's part is one chunk.  What is the
same for all is found, and what is taken out of columns is taken, once and not for each queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from broker.store.columns import IntArray
    from dledger.remoting.command import Command
    from dledger.remoting.server import FrameRun

_NARROW = 1 << 16


class OrderedSends:
    """A run in order.

    Attributes:
        each: records of each send.
        sizes: bytes of each record.
        send_sizes: bytes of the records of each send.
        opaques: of each send.
        queue_ids: of each send; None: that of the first, for all.
        sequences: the producer's number of the first record of each; None as well.
    """

    __slots__ = (
        "_order", "_places", "_run", "_steps", "each", "opaques", "queue_ids", "send_sizes",
        "sequences", "sizes",
    )  # fmt: skip

    def __init__(self, run: FrameRun, order: IntArray | None, sizes: IntArray) -> None:
        """Put them in order.

        Args:
            run: the sends as they came.
            order: their numbers, one queue's behind the other's; None: they have one queue.
            sizes: of the records of each as they came, a row each.
        """
        queue_ids, sequences = run.columns.get("queueId"), run.columns.get("sequence")
        self._run = run
        self._order = order
        self.each = sizes.shape[1]
        self.opaques, self.send_sizes = run.opaques, run.body_sizes
        if order is not None:
            self.opaques, self.send_sizes = self.opaques[order], self.send_sizes[order]
            sizes = sizes[order]
            queue_ids = None if queue_ids is None else queue_ids[order]
            sequences = None if sequences is None else sequences[order]
        self.sizes = sizes.reshape(-1)
        self.queue_ids, self.sequences = queue_ids, sequences
        self._steps = None if sequences is None else sequences[1:] - sequences[:-1] == self.each
        self._places = self.send_sizes.cumsum()  # where each would end, laid end to end

    def follow(self, begin: int, end: int) -> bool:
        """Return whether the sequences of sends *begin* to *end* leave no gap."""
        return self._steps is not None and bool(self._steps[begin : end - 1].all())

    def bodies(self, begin: int, end: int) -> Bodies:
        """Return the records of sends *begin* to *end*."""
        before = int(self._places[begin - 1]) if begin else 0
        return Bodies(self._run, self._rows(begin, end), int(self._places[end - 1]) - before)

    def commands(self, begin: int, end: int) -> list[Command]:
        """Return sends *begin* to *end* by themselves."""
        return self._run.commands(self._rows(begin, end))

    def _rows(self, begin: int, end: int) -> IntArray | None:
        return None if self._order is None else self._order[begin:end]


class Bodies:
    """The bodies of some requests of a run; see `Scattered`.

    What was received is kept until they are answered, as they may have to be handed on. Copied out
    of it at once they would lie in memory twice while they wait for room in the log, which under
    more load than it can take is nearly all the time.
    """

    __slots__ = ("_rows", "_run", "_size")

    def __init__(self, run: FrameRun, rows: IntArray | None, size: int) -> None:
        self._run = run
        self._rows = rows
        self._size = size

    def __len__(self) -> int:
        return self._size

    def tobytes(self) -> bytes:
        """See `Scattered`."""
        return self._run.bodies(self._rows)


def order_of(queue_ids: IntArray) -> IntArray:
    """Return the numbers of requests, those of one queue together and in their order."""
    if int(queue_ids.max()) < _NARROW:
        queue_ids = queue_ids.astype(np.uint16)  # numpy sorts these without comparing them
    return np.argsort(queue_ids, kind="stable")
